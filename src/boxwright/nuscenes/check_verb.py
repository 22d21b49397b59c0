"""`boxwright check` of a nuScenes version: every missing or damaged file, then what the version holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from boxwright.data.index import Problem
from boxwright.errors import UserError
from boxwright.nuscenes.check import problems_of
from boxwright.nuscenes.index import NuscenesIndex, open_nuscenes
from boxwright.nuscenes.layout import BIKE_RACK
from boxwright.nuscenes.splits import scenes_of_split, splits_there
from boxwright.nuscenes.structures import CLASS_NAMES
from boxwright.nuscenes.tables import versions_of


def check_nuscenes(data: str, version: str = "", *, allow_missing: bool = False) -> int:
    """Read all tables, images and radar sweeps of a version, list what is wrong, say what is there.

    Args:
        data: nuScenes root.
        version: folder of its tables; empty: the only one that there is.
        allow_missing: files that are not there are listed, but are no fault.

    Returns:
        1 if training would fail or leave something out, else 0.

    Raises:
        UserError: the version is not there, a table is missing or damaged, or a token points nowhere.
    """
    there = versions_of(Path(data).expanduser())
    if not version and len(there) > 1:
        raise UserError(f"{data} has several versions: name one with --version ({', '.join(there)})")
    index = open_nuscenes(data, version or "".join(there), allow_missing=allow_missing)
    console = Console(soft_wrap=True, highlight=False)
    found: list[Problem] = []
    for problem in problems_of(index):
        console.print(str(problem), markup=False)
        found.append(problem)
    console.print(_splits(index))
    console.print(_classes(index))
    kinds = Counter(problem.kind for problem in found)
    console.print("problems: " + (", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "none"))
    return int(any(problem.drops for problem in found))


def _splits(index: NuscenesIndex) -> Table:
    table = Table("split", "scenes", "key frames", "images", "annotations")
    samples, images = index.arrays["samples"]["scene"], index.arrays["images"]["sample"]
    rows = index.arrays["annotations"]
    annotations = rows["sample"][rows["label"] != BIKE_RACK]
    for split in splits_there(index.scenes, index.folder):
        scenes = scenes_of_split(split, index.scenes, index.folder)
        chosen = np.isin(index.scenes, scenes)[samples]
        cells = (len(scenes), chosen.sum(), chosen[images].sum(), chosen[annotations].sum())
        table.add_row(split, *(str(cell) for cell in cells))
    return table


def _classes(index: NuscenesIndex) -> Table:
    table = Table("class", "annotations", "with a known velocity", "with an attribute", "median points")
    rows = index.arrays["annotations"]
    for label, name in enumerate(CLASS_NAMES):
        some = rows[rows["label"] == label]
        known = int(np.isfinite(some["velocity"]).all(1).sum())
        points = f"{np.median(some['points']):.0f}" if len(some) else ""
        table.add_row(f"{label} {name}", str(len(some)), str(known), str(int((some["attribute"] >= 0).sum())), points)
    return table
