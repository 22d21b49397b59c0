"""The synthetic world of camera and radar, written as a data set of a published layout."""

from __future__ import annotations

import sys
from pathlib import Path

from boxwright.synthetic.fusion_world import FusionWorldSettings
from boxwright.synthetic.nuscenes_write import write_nuscenes


def convert_synthetic(
    out: str | Path,
    *,
    scenes: int = 10,
    seed: int = 0,
    key_frames: int = 8,
    width: int = 1600,
    version: str = "v1.0-mini",
) -> FusionWorldSettings:
    """Write scenes as a nuScenes root.

    Args:
        out: a new or an empty folder.
        scenes: how many.
        seed: of the world.
        key_frames: of each scene, at 2 Hz.
        width: of the images; their height is 9/16 of it.
        version: name of the folder of tables.

    Returns:
        what was written.

    Raises:
        UserError: the folder holds something, or a number is out of range.
    """
    settings = FusionWorldSettings(
        scenes=scenes, seed=seed, key_frames=key_frames, width=width, height=round(width * 9 / 16), version=version
    )
    write_nuscenes(Path(out), settings, on_progress=_tell)
    return settings


def _tell(done: int, total: int) -> None:
    print(f"\r{done}/{total} scenes", end="\n" if done == total else "", file=sys.stderr, flush=True)
