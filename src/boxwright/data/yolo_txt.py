"""YOLO label files: one row a box, `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...` for a polygon, all in 0..1.

Source: acceptance as published for YOLOv5 6.x (docs/spec/yolov5.md, B7 and B14; tests/parity/test_labels.py). One bad
row rejects the whole file; limits are checked on the box of a polygon, not on its vertices; removing duplicate rows
sorts the rest. Two defects are kept unless `compat` is "fixed": a file with any polygon row reads its plain box rows as
polygons of two points, and a line of blanks between rows rejects the file.
"""

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright.data.files import in_any_case
from boxwright.data.index import DataIndex, Problem, Record, read_records
from boxwright.errors import UserError
from boxwright.reading import place_in_tar, read_text
from boxwright.settings.base import Compat

_BOX_COLUMNS = 5
_POLYGON_COLUMNS = 7  # class and three corners: from this many numbers on a row is a polygon
_OUTSIDE = 0.01  # share of the image that a box may stick out before it is worth a word
_LARGEST = 64 << 20  # bytes: a million boxes
_SHOWN = 60  # characters of what is no number
_NO_ROWS = np.zeros((0, 5), np.float32)

Row = NDArray[np.float32]  # class, cx, cy, w, h
Polygon = NDArray[np.float32]  # (k, 2)


@dataclass(frozen=True, slots=True)
class LabelFile:
    """What a label file holds."""

    rows: NDArray[np.float32]  # (n, 5) float32 class, cx, cy, w, h; empty when the file is rejected
    polygons: tuple[Polygon, ...] = ()  # per row (k, 2) vertices; an empty tuple when the file has boxes only
    lines: tuple[int, ...] = ()  # 1-based line of each row
    problems: tuple[Problem, ...] = ()  # what is left out and why, then what is accepted but looks like a mistake

    @property
    def rejected(self) -> bool:
        """Tell whether the file, and with it its image, is left out."""
        return any(problem.drops == "image" for problem in self.problems)


class _RowError(Exception):
    """A row that rejects the file: the kind of the problem, and a sentence."""


def parse_labels(text: str, path: Path, compat: Compat = "faithful") -> LabelFile:
    """Read the text of a label file; `path` is only used in messages."""
    # Blanks around the whole text do not count, empty lines never do; the line numbers are those of the file.
    first = text[: len(text) - len(text.lstrip())].count("\n") + 1
    found = [(first + i, line.split()) for i, line in enumerate(text.strip().splitlines()) if line]
    if compat == "fixed":
        found = [(line, row) for line, row in found if row]
    if not found:
        text = "the label file is empty; the image counts as background"
        return LabelFile(_NO_ROWS, problems=(Problem("empty label", path, 0, text),))
    lines = [line for line, _ in found]
    rows: NDArray[np.float32] | None = None
    polygons: list[Polygon] = []
    if all(len(row) == _BOX_COLUMNS for _, row in found):
        # All rows at once if they are boxes without fault, which nearly all files are; else row by row for the message.
        with contextlib.suppress(ValueError):
            table = np.array([row for _, row in found], dtype=np.float32)
            rows = table if (table >= 0).all() and (table[:, 1:] <= 1).all() else None
    if rows is None:
        has_polygons = any(len(row) >= _POLYGON_COLUMNS for _, row in found)
        read: list[tuple[Row, Polygon]] = []
        faults: list[Problem] = []
        for line, row in found:
            try:
                read.append(_read_row(row, has_polygons and (compat == "faithful" or len(row) != _BOX_COLUMNS)))
            except _RowError as fault:
                kind, reason = fault.args
                faults.append(Problem(kind, path, line, f"{reason}; the image is left out", "image"))
        if faults:
            return LabelFile(_NO_ROWS, problems=tuple(faults))
        rows = np.stack([row for row, _ in read])
        polygons = [polygon for _, polygon in read] if has_polygons else []
    _, keep = np.unique(rows, axis=0, return_index=True)
    gone = sorted(set(range(len(rows))) - set(keep.tolist()))
    text = "this row stands in the file before; it is left out"
    problems = [Problem("duplicate", path, lines[i], text, "row") for i in gone]
    problems += _oddities(rows, polygons, lines, path)
    if not gone or compat == "fixed":
        keep.sort()
    kept_polygons = tuple(polygons[i] for i in keep) if polygons else ()
    return LabelFile(rows[keep], kept_polygons, tuple(lines[i] for i in keep), tuple(problems))


def _read_row(cells: list[str], is_polygon: bool) -> tuple[Row, Polygon]:
    if not cells:
        raise _RowError("column count", "a line holds only blanks")
    try:
        numbers = np.array(cells, dtype=np.float32)
    except ValueError as error:  # could not convert string to float: 'x'
        raise _RowError("unreadable label", f"{str(error).rpartition(': ')[2][:_SHOWN]} is not a number") from None
    polygon = np.zeros((0, 2), np.float32)
    if is_polygon:
        if len(numbers) % 2 == 0 or len(numbers) < 3:
            raise _RowError("column count", "a polygon row is a class and pairs of x and y")
        polygon = numbers[1:].reshape(-1, 2)
        low, high = polygon.min(axis=0), polygon.max(axis=0)
        numbers = np.concatenate((numbers[:1], (low + high) / 2, high - low)).astype(np.float32)
    elif len(numbers) != _BOX_COLUMNS:
        raise _RowError("column count", f"a box row has {_BOX_COLUMNS} numbers, this one has {len(numbers)}")
    if not (numbers >= 0).all():  # NaN counts as negative, as published
        raise _RowError("out of range", "a number is negative or NaN; all lie in 0..1")
    if not (numbers[1:] <= 1).all():
        raise _RowError("out of range", "a coordinate is above 1; coordinates are shares of the image")
    return numbers, polygon


def _oddities(rows: NDArray[np.float32], polygons: list[Polygon], lines: list[int], path: Path) -> list[Problem]:
    """List what is accepted but looks like a mistake."""
    found: list[Problem] = []
    for i in np.flatnonzero(rows[:, 0] % 1 > 0):
        text = f"class {rows[i, 0]:g} is no whole number; it is taken as {int(rows[i, 0])}"
        found.append(Problem("fractional class", path, lines[i], text))
    reach = rows[:, 3:5] / 2
    outside = np.maximum(reach - rows[:, 1:3], rows[:, 1:3] + reach - 1).max(axis=1) > _OUTSIDE
    for i in np.flatnonzero(outside):
        found.append(Problem("out of range", path, lines[i], "the box reaches out of the image"))
    for line, points in zip(lines, polygons, strict=False):
        if len(points) == 2:
            text = "a box row in a file with polygons is read as a polygon of two points, as published"
            found.append(Problem("mixed rows", path, line, text))
        elif len(points) and not ((points >= 0) & (points <= 1)).all():
            found.append(Problem("out of range", path, line, "a vertex lies outside of the image"))
    return found


def label_row(label: int, numbers: Iterable[float], number_format: str) -> str:
    """Write a row of a label file: the class, and coordinates (and perhaps a score) in a format such as `.6g`."""
    return f"{label} {' '.join(format(float(number), number_format) for number in numbers)}\n"


def label_file(image: Path) -> Path:
    """Return the label file of an image, see `label_files`."""
    return label_files((image,))[0]


def label_files(images: Iterable[Path]) -> list[Path]:
    """Return the label file of each image: the last folder `images` becomes `labels`, the suffix `.txt`.

    Darknet does the same with `JPEGImages`; labels beside such images are taken where there is no other. Where there
    are no such folders, those in other letter case are taken (Images, LABELS), as some systems do not tell them apart.
    """
    found: list[Path] = []
    folders: dict[str, tuple[str, bool]] = {}
    for image in images:  # text, not paths: ten times quicker, and there may be a million
        parent, stem = os.path.split(os.path.splitext(image)[0])
        if parent not in folders:
            folders[parent] = _label_folder(parent)
        folder, may_be_beside = folders[parent]
        file = os.path.join(folder, f"{stem}.txt")
        if may_be_beside and not os.path.exists(file):
            beside = os.path.join(parent, f"{stem}.txt")
            file = beside if os.path.exists(beside) else file
        found.append(Path(file))
    return found


def _label_folder(images: str) -> tuple[str, bool]:
    """Return where the labels of a folder of images are, and whether they may be beside the images as well."""
    parts = images.split(os.sep)
    for is_role in ("images".__eq__, "JPEGImages".__eq__, lambda part: part.lower() in ("images", "jpegimages")):
        role = next((i for i in reversed(range(len(parts))) if is_role(parts[i])), None)
        if role is not None:
            labels = os.sep.join((*parts[:role], "labels", *parts[role + 1 :]))
            there = in_any_case(labels)
            if there or parts[role] in ("images", "JPEGImages"):
                return there or labels, parts[role] != "images"
    return images, False


def unread_label(image: Path, file: Path) -> str:
    """Name a file that looks like the missing label of an image but is none by the rules; empty: there is none."""
    stem, label = os.path.splitext(image)[0], os.path.splitext(file)[0]
    places = (f"{stem}.txt", f"{label}.TXT", f"{stem}.TXT", file.parent / f"{image.name}.txt", f"{stem}.xml")
    there = next((place for place in map(Path, places) if place != file and place.is_file()), None)
    return f" ({there} is not read)" if there else ""


def read_yolo(
    images: Sequence[Path],
    names: Sequence[str],
    *,
    compat: Compat = "faithful",
    decode: bool = False,
    files: Sequence[Path] = (),
    problems: Sequence[Problem] = (),
) -> DataIndex:
    """Read every header and label file.

    Rows of a class beyond the names, and boxes without width or height, are left out; a file that the published rules
    reject takes its image with it.

    Args:
        images: image files.
        names: class names.
        compat: "fixed" mends two defects of label reading, see yolo_txt.
        decode: decode every image to find damage.
        files: the label file of each image; empty: that of `label_files`.
        problems: what was found before.
    """

    files = files or label_files(images)

    def read(i: int, size: tuple[int, int]) -> tuple[Record | None, list[Problem]]:
        file = files[i]
        try:
            text = read_text(file, _LARGEST)
        except UserError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):  # the latter: none in a tar
                text = f"there is no label file; the image counts as background{unread_label(images[i], file)}"
                labels = LabelFile(_NO_ROWS, problems=(Problem("missing label", file, 0, text),))
            else:
                why = str(error).removeprefix(f"cannot read {file}: ")
                text = f"cannot be read ({why}); the image is left out"
                return None, [Problem("unreadable label", file, 0, text, "image")]
        else:
            labels = parse_labels(text, file, compat)
        problems = sorted(labels.problems, key=lambda problem: problem.line)
        if labels.rejected:
            return None, problems
        rows = labels.rows
        known = rows[:, 0] < len(names)
        solid = (rows[:, 3:5] > 0).all(axis=1)
        for row in np.flatnonzero(~known):
            text = (
                f"class {rows[row, 0]:g} is beyond the {len(names)} names (0 to {len(names) - 1}); the row is left out"
            )
            problems.append(Problem("unknown class", file, labels.lines[row], text, "row"))
        for row in np.flatnonzero(known & ~solid):
            text = "the box has no width or height; the row is left out"
            problems.append(Problem("degenerate box", file, labels.lines[row], text, "row"))
        keep = known & solid
        polygons = tuple(points for points, kept in zip(labels.polygons, keep, strict=False) if kept)
        return Record(images[i], *size, rows[keep, 0].astype(np.int32), rows[keep, 1:5], polygons), problems

    records, found = read_records(images, read, decode=decode)
    owner: dict[Path, Path] = {}
    for image, file in zip(images, files, strict=True):
        if (first := owner.setdefault(file, image)) != image and (file.is_file() or place_in_tar(file)):
            text = f"it is the label file of {first.name} and of {image.name}"
            found.append(Problem("shared label", file, 0, text))
    return DataIndex.from_records(records, names, problems=[*problems, *found])
