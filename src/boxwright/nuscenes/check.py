"""What is wrong with the files of a nuScenes version: blobs that are missing or damaged, and what is not annotated.

What is not here: mistakes in the tables that training reads; `open_nuscenes` refuses those.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from boxwright.data.files import in_threads
from boxwright.data.images import BrokenImageError, image_size
from boxwright.data.index import Problem
from boxwright.engine.console import with_progress
from boxwright.errors import UserError
from boxwright.nuscenes.index import NuscenesIndex, absent, doubtful_cameras, open_nuscenes
from boxwright.nuscenes.radar import read_radar
from boxwright.nuscenes.split import splits_of
from boxwright.nuscenes.structures import BIKE_RACK, CAMERAS, CLASS_NAMES, RADAR
from boxwright.nuscenes.tables import read_table, version_of
from boxwright.ops.arrays import Array, Ints
from boxwright.terminal import say


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
    version = version_of(Path(data).expanduser(), version)
    index = open_nuscenes(data, version, allow_missing=allow_missing)
    console = Console(soft_wrap=True, highlight=False)
    found: list[Problem] = []
    for problem in problems_of(index):
        say(str(problem))
        found.append(problem)
    table = Table("split", "scenes", "key frames", "images", "annotations")
    samples, images = index.arrays["samples"]["scene"], index.arrays["images"]["sample"]
    rows = index.arrays["annotations"]
    annotations = rows["sample"][rows["label"] != BIKE_RACK]
    for split, scenes in splits_of(index.scenes, index.folder).items():
        chosen = np.isin(index.scenes, scenes)[samples]
        if scenes:
            cells = (len(scenes), chosen.sum(), chosen[images].sum(), chosen[annotations].sum())
            table.add_row(split, *(str(cell) for cell in cells))
    console.print(table)
    table = Table("class", "boxes", "velocities", "attributes", "median points")
    for label, name in enumerate(CLASS_NAMES):
        some = rows[rows["label"] == label]
        known = int(np.isfinite(some["velocity"]).all(1).sum())
        points = f"{np.median(some['points']):.0f}" if len(some) else ""
        table.add_row(f"{label} {name}", str(len(some)), str(known), str(int((some["attribute"] >= 0).sum())), points)
    console.print(table)
    kinds: Counter[str] = Counter()
    for problem in found:
        kinds[problem.kind] += problem.count
    console.print("problems: " + (", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "none"))
    return int(any(problem.drops for problem in found))


_UNREAD = ("visibility", "log", "map")  # tables of the format that training does not need
_NAMED = 20  # missing files of a folder that are named one by one
_BATCH = 512  # files read together


def problems_of(index: NuscenesIndex) -> Iterator[Problem]:
    """Find everything that is wrong, file by file; decode every image and read every radar sweep."""
    for table in _UNREAD:
        file = index.folder / f"{table}.json"
        try:
            for _ in read_table(index.folder, table):
                pass
        except UserError as error:
            if file.exists():
                yield Problem("unreadable table", file, 0, str(error))
            else:
                yield Problem("missing table", file, 0, "this table is missing; only other programs need it")
    images, radars = index.arrays["images"], index.arrays["radars"]
    lost, gone = absent(index, images["row"]), absent(index, radars["row"])
    yield from _missing(index, images["row"][lost], "image")
    yield from _missing(index, radars["row"][gone], "radar sweep")
    yield from _damaged(index, images[~lost])
    yield from _damaged(index, radars[~gone])
    samples, tokens = index.arrays["samples"], index.arrays["sample_tokens"]
    file = index.folder / "sample_data.json"
    for code, camera in enumerate(CAMERAS):
        lacking = np.flatnonzero(samples["cameras"][:, code] < 0)
        if len(lacking):
            text = f"{len(lacking)} key frames have no {camera}, the first is {bytes(tokens[lacking[0]]).decode()}"
            yield Problem("sample without camera", file, 0, text)
    lacking = np.flatnonzero((samples["radars"] < 0).all(1))
    if len(lacking):
        text = f"{len(lacking)} key frames have no radar, which leaves their maps empty; the first is "
        yield Problem("sample without radar", file, 0, text + bytes(tokens[lacking[0]]).decode())
    for doubt in doubtful_cameras(index):
        yield Problem("doubtful intrinsics", index.folder / "calibrated_sensor.json", 0, doubt)
    labels = index.arrays["annotations"]["label"]
    for label, name in enumerate(CLASS_NAMES):
        if len(labels) and not (labels == label).any():
            text = f"no annotation is a {name}: nothing can be learnt or measured of this class"
            yield Problem("class without boxes", index.folder / "sample_annotation.json", 0, text)


def _missing(index: NuscenesIndex, rows: Ints, what: Literal["image", "radar sweep"]) -> Iterator[Problem]:
    """Report missing files; of many in one folder the first ones and how many more."""
    named: Counter[str] = Counter()
    kind, drops = "missing image" if what == "image" else "missing radar sweep", "" if index.allow_missing else "image"
    for name in map(index.file_name, rows):
        folder = os.path.dirname(name)
        named[folder] += 1
        if named[folder] <= _NAMED:
            yield Problem(kind, index.root / name, 0, f"this {what} is missing", drops)
    for folder, count in named.items():
        if count > _NAMED:
            text = f"{count - _NAMED} more {what}s of this folder are missing"
            yield Problem(kind, index.root / folder, 0, text, drops, count - _NAMED)


def _damaged(index: NuscenesIndex, rows: Array) -> Iterator[Problem]:
    """Decode images and compare their size with their table, or read radar sweeps."""

    def look(row: Array) -> Problem | None:
        path = index.root / index.file_name(int(row["row"]))
        try:
            if rows.dtype == RADAR:
                read_radar(path)
                return None
            height, width = image_size(path, decode=True)
        except BrokenImageError as error:
            return Problem("corrupt image", path, 0, error.why, "image")
        except UserError as error:
            return Problem("corrupt radar sweep", path, 0, str(error).removeprefix(str(path)).lstrip(": "), "image")
        if (width, height) == (row["width"], row["height"]):
            return None
        text = f"the image has {width} x {height} pixels, its table says {row['width']} x {row['height']}"
        return Problem("size mismatch", path, 0, text, "image")

    what = "radar sweeps" if rows.dtype == RADAR else "images"
    for start in with_progress(range(0, len(rows), _BATCH), f"reading {what}, {_BATCH} each"):
        # Decoding releases the lock of the interpreter: threads use all cores without copies of the index.
        found = in_threads(look, list(rows[start : start + _BATCH]))
        yield from (problem for problem in found if problem is not None)
