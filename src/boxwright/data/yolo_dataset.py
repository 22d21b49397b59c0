"""A YOLO txt data set: images with a label file each, to the index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from boxwright.data.image_header import BrokenImageError, image_size
from boxwright.data.index import DataIndex, Problem, Record
from boxwright.data.threads import in_threads
from boxwright.data.yolo_txt import LabelFile, parse_labels
from boxwright.settings.base import Compat

_NO_ROWS = np.zeros((0, 5), np.float32)


def label_file(image: Path) -> Path:
    """Label file of an image: the last folder `images` becomes `labels`, the suffix `.txt`."""
    stem = os.path.splitext(image)[0]  # text, not paths: ten times quicker, and there may be a million
    head, folder, tail = f"{os.sep}{stem}".rpartition(f"{os.sep}images{os.sep}")
    return Path(f"{head}{os.sep}labels{os.sep}{tail}"[1:] + ".txt") if folder else Path(f"{stem}.txt")


def label_files(images: Sequence[Path]) -> list[Path]:
    """Label files of images, in their order."""
    return [label_file(image) for image in images]


def read_yolo(
    images: Sequence[Path], names: Sequence[str], *, compat: Compat = "faithful", decode: bool = False
) -> DataIndex:
    """Read every header and label file.

    Rows of a class beyond the names, and boxes without width or height, are left out; a file that the published rules
    reject takes its image with it.

    Args:
        images: image files.
        names: class names.
        compat: "fixed" mends two defects of label reading, see yolo_txt.
        decode: decode every image to find damage.
    """
    results = in_threads(lambda image: _read_one(image, len(names), compat, decode), images)
    records = [record for record, _ in results if record is not None]
    problems = [problem for _, found in results for problem in found]
    return DataIndex.from_records(records, names, problems=problems)


def _read_one(image: Path, num_classes: int, compat: Compat, decode: bool) -> tuple[Record | None, list[Problem]]:
    try:
        height, width = image_size(image, decode=decode)
    except BrokenImageError as error:
        kind = "corrupt image" if os.path.lexists(image) else "missing image"
        return None, [Problem(kind, image, 0, f"{error}; the image is left out", "image")]
    file = label_file(image)
    labels = _read_labels(file, compat)
    problems = sorted((*labels.problems, *labels.notes), key=lambda problem: problem.line)
    if labels.rejected:
        return None, problems
    rows = labels.rows
    known = rows[:, 0] < num_classes
    solid = (rows[:, 3:5] > 0).all(axis=1)
    for i in np.flatnonzero(~known):
        text = f"class {rows[i, 0]:g} is beyond the {num_classes} names (0 to {num_classes - 1}); the row is left out"
        problems.append(Problem("unknown class", file, labels.lines[i], text, "row"))
    for i in np.flatnonzero(known & ~solid):
        text = "the box has no width or height; the row is left out"
        problems.append(Problem("degenerate box", file, labels.lines[i], text, "row"))
    keep = known & solid
    polygons = tuple(points for points, kept in zip(labels.polygons, keep, strict=False) if kept)
    return Record(image, height, width, rows[keep, 0].astype(np.int32), rows[keep, 1:5], polygons), problems


def _read_labels(file: Path, compat: Compat) -> LabelFile:
    try:
        labels = parse_labels(file.read_text(encoding="utf-8"), file, compat)
    except FileNotFoundError:
        text = "there is no label file; the image counts as background"
        return LabelFile(_NO_ROWS, notes=(Problem("missing label", file, 0, text),))
    except (OSError, UnicodeDecodeError) as error:
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        problem = Problem("unreadable label", file, 0, f"cannot be read ({reason}); the image is left out", "image")
        return LabelFile(_NO_ROWS, problems=(problem,), rejected=True)
    if not len(labels.rows) and not labels.rejected:
        text = "the label file is empty; the image counts as background"
        return LabelFile(_NO_ROWS, notes=(Problem("empty label", file, 0, text),))
    return labels
