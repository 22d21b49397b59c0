"""Verbs of nuScenes data: check a root, convert it to COCO style, make a synthetic one."""

import sys
from pathlib import Path

from boxwright.centerfusion.settings import FusionCheckConfig, NuscenesConfig, SyntheticConfig


def check(config: FusionCheckConfig) -> int:
    """List every problem of a nuScenes root; return 1 if there is one, else 0."""
    from boxwright.nuscenes.check import check_nuscenes

    return check_nuscenes(config.data, config.version, allow_missing=config.allow_missing)


def convert(config: NuscenesConfig) -> list[Path]:
    """Write the COCO style of the published CenterFusion; return the files."""
    from boxwright.nuscenes.convert import convert_nuscenes

    written: list[Path] = []
    for file, images, boxes in convert_nuscenes(
        config.source, config.target, config.version, sweeps=config.sweeps, allow_missing=config.allow_missing
    ):
        print(f"{file}: {images} images, {boxes} annotations")
        written.append(file)
    return written


def make(config: SyntheticConfig) -> Path:
    """Write a nuScenes root of a synthetic world; return its folder."""
    from boxwright.synthetic.nuscenes_root import write_nuscenes
    from boxwright.synthetic.world import WorldSettings

    def show(done: int, total: int) -> None:
        print(f"\r{done}/{total} scenes", end="\n" if done == total else "", file=sys.stderr, flush=True)

    # Images are 9/16 as high as wide, as those of nuScenes are.
    made = WorldSettings(height=round(config.width * 9 / 16), **config.model_dump(exclude={"format", "out"}))
    write_nuscenes(Path(config.out), made, on_progress=show)
    train = made.scenes - made.num_val
    print(f"{made.scenes} scenes (train {train}, val {made.num_val}) of {made.key_frames} key frames, six cameras each")
    print(f"written to {config.out}")
    return Path(config.out)
