"""A YOLO txt data set: images with a label file each, to the index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from boxwright.data.image_header import BrokenImageError, image_size
from boxwright.data.index import DataIndex, Problem, Record
from boxwright.data.yolo_txt import LabelFile, parse_labels

_THREADS = 8  # reading headers and labels waits for the disk


def label_file(image: Path) -> Path:
    """Label file of an image: the last folder `images` becomes `labels`, the suffix `.txt`."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def label_files(images: Sequence[Path]) -> list[Path]:
    """Label files of images, in their order."""
    return [label_file(image) for image in images]


def read_yolo(images: Sequence[Path], names: Sequence[str], *, decode: bool = False) -> DataIndex:
    """Read every header and label file.

    Args:
        images: image files.
        names: class names; rows of a class beyond them are left out.
        decode: decode every image to find damage.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        results = list(pool.map(lambda image: _read_one(image, len(names), decode), images))
    records = [record for record, _ in results if record is not None]
    problems = [problem for _, found in results for problem in found]
    return DataIndex.from_records(records, names, problems=problems)


def _read_one(image: Path, num_classes: int, decode: bool) -> tuple[Record | None, list[Problem]]:
    try:
        height, width = image_size(image, decode=decode)
    except BrokenImageError as error:
        kind = "corrupt image" if os.path.lexists(image) else "missing image"
        return None, [Problem(kind, image, 0, f"{error}; the image is left out", "image")]
    file = label_file(image)
    labels, problems = _read_labels(file)
    if labels.rejected:
        return None, problems
    rows = labels.rows
    classes = rows[:, 0].astype(np.int32)
    known = classes < num_classes
    for i in np.flatnonzero(~known):
        text = f"class {classes[i]} is beyond the {num_classes} names (0 to {num_classes - 1}); the row is left out"
        problems.append(Problem("unknown class", file, labels.lines[i], text, "row"))
    for i in np.flatnonzero(known & ~(rows[:, 3:5] > 0).all(axis=1)):
        problems.append(Problem("degenerate box", file, labels.lines[i], "the box has no width or height"))
    polygons = tuple(points for points, keep in zip(labels.polygons, known, strict=False) if keep)
    return Record(image, height, width, classes[known], rows[known, 1:5], polygons), problems


def _read_labels(file: Path) -> tuple[LabelFile, list[Problem]]:
    try:
        labels = parse_labels(file.read_text(encoding="utf-8"), file)
    except FileNotFoundError:
        missing = Problem("missing label", file, 0, "there is no label file; the image counts as background")
        return LabelFile(np.zeros((0, 5), np.float32)), [missing]
    except (OSError, UnicodeDecodeError) as error:
        problem = Problem("unreadable label", file, 0, f"cannot be read ({error}); the image is left out", "image")
        return LabelFile(np.zeros((0, 5), np.float32), rejected=True), [problem]
    problems = list(labels.problems)
    if not len(labels.rows) and not labels.rejected:
        problems.append(Problem("empty label", file, 0, "the label file is empty; the image counts as background"))
    return labels, problems
