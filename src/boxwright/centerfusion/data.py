"""Which split of a nuScenes root a verb works on, where the user has named none."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from boxwright.centerfusion.settings import FusionConfig
from boxwright.errors import UserError
from boxwright.nuscenes.index import NuscenesIndex, open_nuscenes
from boxwright.nuscenes.split import EVERYTHING, NuscenesSplit, splits_there


def open_root(data: str, version: str, *, allow_missing: bool) -> NuscenesIndex:
    """Open the index of a version of a root; make it first where there is none."""
    return open_nuscenes(Path(data).expanduser(), version, allow_missing=allow_missing)


def train_split_of(index: NuscenesIndex, named: str) -> str:
    """Choose the split to train on: the named one, else mini_train or train, whichever the version has."""
    return named or _first_there(index, ("mini_train", "train"))


def val_split_of(index: NuscenesIndex, named: str) -> str:
    """Choose the split to measure on: the named one, else mini_val, val or test, whichever the version has."""
    return named or _first_there(index, ("mini_val", "val", "test"))


def _first_there(index: NuscenesIndex, names: Sequence[str]) -> str:
    """Choose the first of some splits that a version has; the first name is that of a mini version."""
    there = splits_there(index.scenes, index.folder)
    if index.folder.name.endswith("mini"):
        return next((name for name in names if name in there), names[0])
    return next((name for name in names[1:] if name in there), names[1])


def num_sweeps(config: FusionConfig) -> int:
    """Return how many sweeps of each radar a network is given."""
    return 0 if config.no_radar else config.radar.sweeps


def open_scene(index: NuscenesIndex, scene: str, num_sweeps: int) -> NuscenesSplit:
    """Open the images of one scene.

    Args:
        index: of a version.
        scene: its name; empty: the first one.
        num_sweeps: of each radar.

    Raises:
        UserError: there is no such scene.
    """
    name = scene or index.scenes[0]
    if name not in index.scenes:
        near = difflib.get_close_matches(name, index.scenes, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(index.scenes[:10])}"
        raise UserError(f"--scene {name}: {index.folder} has no such scene{hint}")
    return NuscenesSplit(index, EVERYTHING, num_sweeps, (name,))
