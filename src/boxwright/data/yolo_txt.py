"""YOLO label files: one row a box, `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...` for a polygon, all in 0..1.

Source: acceptance as published for YOLOv5 6.x (spec B7, B14): one bad row rejects the whole file; a file with any
polygon row reads plain box rows as two-point polygons; duplicate rows are removed, which sorts the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright.data.index import Problem, ProblemKind

_BOX_COLUMNS = 5
_POLYGON_COLUMNS = 7  # class and three corners: from this many numbers on a row is a polygon


@dataclass(frozen=True, slots=True)
class LabelFile:
    """What a label file holds.

    Args:
        rows: (n, 5) float32 class, cx, cy, w, h; empty when the file is rejected.
        polygons: per row (k, 2) vertices; an empty tuple when the file has boxes only.
        lines: 1-based line of each row.
        problems: why rows or the file were left out.
        rejected: the file, and with it its image, is left out.
    """

    rows: NDArray[np.float32]
    polygons: tuple[NDArray[np.float32], ...] = ()
    lines: tuple[int, ...] = ()
    problems: tuple[Problem, ...] = ()
    rejected: bool = False


class _RejectedError(Exception):
    """A rule that rejects the file: kind, line, sentence."""

    def __init__(self, kind: ProblemKind, line: int, text: str) -> None:
        super().__init__(text)
        self.kind: ProblemKind = kind
        self.line = line


def parse_labels(text: str, path: Path) -> LabelFile:
    """Read the text of a label file; `path` is only used in messages."""
    try:
        return _parse(text, path)
    except _RejectedError as fault:
        problem = Problem(fault.kind, path, fault.line, f"{fault}; the image is left out", "image")
        return LabelFile(np.zeros((0, 5), np.float32), problems=(problem,), rejected=True)


def _parse(text: str, path: Path) -> LabelFile:
    body = text.strip()
    first = text[: len(text) - len(text.lstrip())].count("\n") + 1
    cells = [(first + i, line.split()) for i, line in enumerate(body.splitlines()) if line]
    if not cells:
        return LabelFile(np.zeros((0, 5), np.float32))
    polygons: tuple[NDArray[np.float32], ...] = ()
    numbers = [(line, _numbers(row, line)) for line, row in cells]
    if any(len(row) >= _POLYGON_COLUMNS for _, row in numbers):
        polygons = tuple(_polygon(row, line) for line, row in numbers)
        rows = np.stack([_row_of_polygon(row[0], p) for (_, row), p in zip(numbers, polygons, strict=True)])
    else:
        for line, row in numbers:
            if len(row) != _BOX_COLUMNS:
                raise _RejectedError("column count", line, f"a box row has 5 numbers, this one has {len(row)}")
        rows = np.stack([row for _, row in numbers])
    _check_range(rows, polygons, [line for line, _ in numbers])
    return _without_duplicates(rows, polygons, [line for line, _ in numbers], path)


def _numbers(row: list[str], line: int) -> NDArray[np.float32]:
    if not row:
        raise _RejectedError("column count", line, "a line holds only blanks")
    try:
        return np.array(row, dtype=np.float32)
    except ValueError:
        bad = next((cell for cell in row if not _is_number(cell)), row[0])
        raise _RejectedError("unreadable label", line, f"{bad!r} is not a number") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _polygon(row: NDArray[np.float32], line: int) -> NDArray[np.float32]:
    if len(row) % 2 == 0 or len(row) < _BOX_COLUMNS:
        raise _RejectedError("column count", line, "a polygon row is a class and pairs of x and y")
    return row[1:].reshape(-1, 2)


def _row_of_polygon(label: np.float32, points: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = points.min(axis=0), points.max(axis=0)
    return np.concatenate(([label], (low + high) / 2, high - low)).astype(np.float32)


def _check_range(rows: NDArray[np.float32], polygons: tuple[NDArray[np.float32], ...], lines: list[int]) -> None:
    points = np.concatenate(polygons) if polygons else rows[:, 1:]
    if (rows >= 0).all() and (rows[:, 1:] <= 1).all() and (points >= 0).all() and (points <= 1).all():
        return
    for i, row in enumerate(rows):  # something is wrong: find its line
        numbers = np.concatenate((row, polygons[i].reshape(-1))) if polygons else row
        if not (numbers >= 0).all():  # NaN counts as negative, as published
            raise _RejectedError("out of range", lines[i], "a number is negative or NaN; all lie in 0..1")
        if (numbers[1:] > 1).any():
            raise _RejectedError("out of range", lines[i], "a coordinate is above 1; they are shares of the image")


def _without_duplicates(
    rows: NDArray[np.float32], polygons: tuple[NDArray[np.float32], ...], lines: list[int], path: Path
) -> LabelFile:
    _, keep = np.unique(rows, axis=0, return_index=True)
    if len(keep) == len(rows):
        return LabelFile(rows, polygons, tuple(lines))
    gone = sorted(set(range(len(rows))) - set(keep.tolist()))
    problems = tuple(Problem("duplicate", path, lines[i], "this row stands in the file before", "row") for i in gone)
    kept_polygons = tuple(polygons[i] for i in keep) if polygons else ()
    return LabelFile(rows[keep], kept_polygons, tuple(lines[i] for i in keep), problems)
