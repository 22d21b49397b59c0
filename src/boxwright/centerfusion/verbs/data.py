"""Verbs of nuScenes data: check a root, convert it to COCO style, make a synthetic one; what the others open."""

import sys
from collections.abc import Sequence
from pathlib import Path

from boxwright.centerfusion.settings import (
    USUAL_VERSION,
    FusionCheckConfig,
    FusionConfig,
    FusionInferenceConfig,
    NuscenesConfig,
    SyntheticConfig,
)
from boxwright.nuscenes.index import NuscenesIndex, doubtful_cameras, open_nuscenes
from boxwright.nuscenes.split import splits_there
from boxwright.nuscenes.tables import version_of
from boxwright.terminal import counted, raw, say_once


def open_root(config: FusionConfig | FusionInferenceConfig) -> NuscenesIndex:
    """Open the index of the version that settings name, made first where there is none; name doubtful cameras."""
    root = Path(config.data).expanduser()
    version = version_of(root, config.version, USUAL_VERSION)
    index = open_nuscenes(root, version, allow_missing=config.allow_missing)
    for doubt in doubtful_cameras(index):
        say_once(doubt)
    return index


def choose_split(index: NuscenesIndex, named: str, usual: Sequence[str]) -> str:
    """Choose a split of a version: the named one, else the first usual one that is there.

    Args:
        usual: names in the order of preference; the first is that of mini versions alone.
    """
    usual = usual if index.folder.name.endswith("mini") else usual[1:]
    there = splits_there(index.scenes, index.folder)
    return named or next((name for name in usual if name in there), usual[0])


def check(config: FusionCheckConfig) -> int:
    """List every problem of a nuScenes root; return 1 if there is one, else 0."""
    from boxwright.nuscenes.check import check_nuscenes

    return check_nuscenes(config.data, config.version, allow_missing=config.allow_missing)


def convert(config: NuscenesConfig) -> list[Path]:
    """Write the COCO style of the published CenterFusion; return the files."""
    from boxwright.nuscenes.convert import convert_nuscenes

    written: list[Path] = []
    version = version_of(Path(config.source).expanduser(), config.version, "v1.0-mini")
    for file, images, boxes in convert_nuscenes(
        config.source, config.target, version, sweeps=config.sweeps, allow_missing=config.allow_missing
    ):
        print(f"{file}: {counted(images, 'image')}, {counted(boxes, 'annotation')}")
        written.append(file)
    return written


def make(config: SyntheticConfig) -> Path:
    """Write a nuScenes root of a synthetic world; return its folder."""
    from boxwright.synthetic.nuscenes_root import OWN_SPLITS, write_nuscenes
    from boxwright.synthetic.world import WorldSettings

    def show(done: int, total: int) -> None:
        print(f"\r{done}/{total} scenes", end="\n" if done == total else "", file=raw(sys.stderr), flush=True)

    # Images are 9/16 as high as wide, as those of nuScenes are.
    made = WorldSettings(height=round(config.width * 9 / 16), **config.model_dump(exclude={"format", "out"}))
    write_nuscenes(Path(config.out), made, on_progress=show)
    train = made.scenes - made.num_val
    print(
        f"{counted(made.scenes, 'scene')} (train {train}, val {made.num_val}) of "
        f"{counted(made.key_frames, 'key frame')}, six cameras each"
    )
    print(f"written to {config.out}")
    print(f"the nuscenes-devkit keeps train and val for its own scenes: there, take {OWN_SPLITS}train, {OWN_SPLITS}val")
    return Path(config.out)
