"""`boxwright check`: every problem of a data set with file and line, then what is in it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from boxwright.data.dataset import has_split, open_dataset
from boxwright.data.index import DataIndex, Problem
from boxwright.data.yaml_file import Split
from boxwright.errors import UserError

_SPLITS: tuple[Split, ...] = ("train", "val", "test")


def check(data: str) -> int:
    """Decode every image and read every label of a data set, list what is wrong, summarise what is there.

    Args:
        data: data yaml, VOC root or COCO json.

    Returns:
        1 if training would leave something out, else 0.

    Raises:
        UserError: the data set cannot be opened at all, or no split of it has an image.
    """
    # A COCO json by itself is every split; reading it once is enough.
    splits = _SPLITS if not data.endswith(".json") else _SPLITS[:1]
    indices: dict[Split, DataIndex] = {
        split: open_dataset(data, split, decode=True) for split in splits if has_split(data, split)
    }
    if not indices:
        raise UserError(f"{data} has none of the splits train, val and test")
    found: dict[Split, list[Problem]] = {split: [*index.problems] for split, index in indices.items()}
    if "train" in indices and "val" in indices:
        found["val"] += _shared_images(indices["train"], indices["val"])
    console = Console(soft_wrap=True, highlight=False)
    for split, problems in found.items():
        for problem in problems:
            console.print(f"{split}: {problem}", markup=False)
    _summary(console, indices, found)
    return int(any(problem.drops for problems in found.values() for problem in problems))


def _shared_images(train: DataIndex, val: DataIndex) -> list[Problem]:
    """Images of val whose content is in train as well, whatever their names."""
    by_size: dict[int, list[Path]] = {}
    for i in range(len(train)):
        path = train.path(i)
        by_size.setdefault(path.stat().st_size, []).append(path)
    problems: list[Problem] = []
    for i in range(len(val)):
        path = val.path(i)
        candidates = by_size.get(path.stat().st_size, [])
        twin = next((other for other in candidates if other == path or _digest(other) == _digest(path)), None)
        if twin is not None:
            text = "this image is in train and val" if twin == path else f"the same image is in train as {twin}"
            problems.append(Problem("shared image", path, 0, text))
    return problems


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _summary(console: Console, indices: Mapping[Split, DataIndex], found: Mapping[Split, list[Problem]]) -> None:
    table = Table("split", "images", "without boxes", "boxes", "problems", "left out: images", "rows")
    for split, index in indices.items():
        empty = int((np.diff(index.box_offsets) == 0).sum())
        drops = Counter(problem.drops for problem in found[split])
        cells = (len(index), empty, len(index.boxes), len(found[split]), drops["image"], drops["row"])
        table.add_row(split, *(str(cell) for cell in cells))
    console.print(table)
    classes = Table("class", *indices)
    counts = {split: np.bincount(index.classes, minlength=index.num_classes) for split, index in indices.items()}
    for number, name in enumerate(next(iter(indices.values())).names):
        classes.add_row(f"{number} {name}", *(str(counts[split][number]) for split in indices))
    console.print(classes)
    kinds = Counter(problem.kind for problems in found.values() for problem in problems)
    console.print("problems: " + (", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "none"))
