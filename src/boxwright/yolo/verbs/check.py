"""`boxwright check`: every problem of a data set with file and line, then what is in it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from boxwright.data.check import class_statistics, labels_without_image, shared_images
from boxwright.data.data_yaml import DataYaml
from boxwright.data.dataset import describe, divide_by, no_split, read_split
from boxwright.data.files import file_errors
from boxwright.data.index import DataIndex, Problem
from boxwright.errors import UserError
from boxwright.terminal import say
from boxwright.yolo.settings import CheckConfig


def check(config: CheckConfig) -> int:
    """Check every image and label of a data set, list what is wrong, summarise what is there.

    Returns:
        1 if training would leave something out or could not begin, else 0.

    Raises:
        UserError: the data set, or every split of it, cannot be opened at all, or a plot cannot be written.
    """
    data = config.data
    described = describe(data)
    indices: dict[str, DataIndex] = {}
    found: dict[str, list[Problem]] = {}
    errors: list[UserError] = []
    for split in described.splits:
        try:
            indices[split] = read_split(data, split, decode=True)
        except UserError as error:
            errors.append(error)
            # Training opens train and val alone.
            drops = "" if split == "test" and len(described.splits) > 1 else "image"
            found[split] = [Problem("unreadable split", Path(data), 0, str(error), drops)]
        else:
            found[split] = [*indices[split].problems]
    if not indices:
        raise errors[0] if errors else UserError(f"{data} has none of the splits train, val and test")
    _check_splits(data, described, indices, found)
    if described.form == "yolo":
        next(iter(found.values())).extend(labels_without_image(indices))
    console = Console(soft_wrap=True, highlight=False)
    for split, problems in found.items():
        for problem in problems:
            say(f"{split}: {problem}")
    _summary(console, indices, found)
    if config.plots:
        from boxwright.reporting.plots import plot_labels  # matplotlib is slow to import

        folder = Path(config.plots).expanduser()
        with file_errors("write plots into", folder):
            folder.mkdir(parents=True, exist_ok=True)
            for split, index in indices.items():
                plot_labels(index, folder / f"labels_{split}.png")
        print(f"plots in {folder}")
    return int(any(problem.drops or problem.kind == "no box" for problems in found.values() for problem in problems))


def _check_splits(
    data: str, described: DataYaml, indices: Mapping[str, DataIndex], found: dict[str, list[Problem]]
) -> None:
    """Find what concerns splits as a whole: without boxes, missing, the same images in both."""
    for split in ("train", "val"):
        if split in indices and not len(indices[split].boxes):
            then = "training does not begin" if split == "train" else "there is nothing to measure"
            text = f"the {split} split has no box at all, so {then}"
            found[split].append(Problem("no box", Path(data), 0, text))
        elif split not in described.splits and not described.is_one_set:
            text = no_split(data, described, split).removeprefix(f"{data} ")
            found[split] = [Problem("missing split", Path(data), 0, text, "image")]
    if described.is_one_set:
        text = f"one set of images: training validates on what it trains on; {divide_by(data)}"
        found["val"] = [Problem("shared image", Path(data), 0, text)]
    if "train" in indices and "val" in indices:
        found["val"] += shared_images(indices["train"], indices["val"])


def _summary(console: Console, indices: Mapping[str, DataIndex], found: Mapping[str, Sequence[Problem]]) -> None:
    table = Table("split", "images", "without boxes", "boxes", "problems", "images left out", "rows left out")
    for split, index in indices.items():
        empty = int((np.diff(index.box_offsets) == 0).sum())
        images = {problem.path for problem in found[split] if problem.drops == "image"}
        rows = sum(problem.drops == "row" for problem in found[split])
        cells = (len(index), empty, len(index.boxes), len(found[split]), len(images), rows)
        table.add_row(split, *(str(cell) for cell in cells))
    console.print(table)
    # Per class and split: images that have it, boxes, and their median side, the root of the area.
    table = Table("class", *(f"{split}: images / boxes / median side" for split in indices))
    columns = [class_statistics(index) for index in indices.values()]
    for number, name in enumerate(next(iter(indices.values())).names):
        texts: list[str] = []
        for images, boxes, sides in columns:
            there = number < len(boxes) and boxes[number]
            texts.append(f"{images[number]} / {boxes[number]} / {sides[number]:.0f} px" if there else "0")
        table.add_row(escape(f"{number} {name}"), *texts)
    console.print(table)
    kinds = Counter(problem.kind for problems in found.values() for problem in problems)
    console.print("problems: " + (", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "none"))
