"""Boxes in a csv file, one row a box: VoTT, TensorFlow (also Roboflow's), Kaggle, Open Images, keras-retinanet.

Columns are known by their names, of which there are many. Corners are pixels whose origin is the corner of the image;
numbers that are all within 0..1 are shares of the image. A row whose corners are empty names an image without boxes.
keras-retinanet has no header: path, x1, y1, x2, y2, class.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from boxwright.data.files import files_below
from boxwright.data.images import IMAGE_SUFFIXES
from boxwright.data.index import DataIndex, PixelObject, Problem, Record, join_records, pixel_record, read_records
from boxwright.errors import UserError
from boxwright.reading import parsing, read_bytes, read_text, reads
from boxwright.terminal import say_once

# What a column is called, in lower case without blanks, dashes and underscores.
_COLUMNS = {
    "image": "filename image imagepath imagename imageid imagefile file filepath path img imgpath imgname".split(),
    "class": "class label classname labelname category categoryname name classid target".split(),
    "width": "width imagewidth imgwidth".split(),
    "height": "height imageheight imgheight".split(),
    "left": "xmin x1 left xminimum bboxxmin boxxmin x bboxx boxx bboxleft".split(),
    "top": "ymin y1 top yminimum bboxymin boxymin y bboxy boxy bboxtop".split(),
    "right": "xmax x2 right xmaximum bboxxmax boxxmax bboxright".split(),
    "bottom": "ymax y2 bottom ymaximum bboxymax boxymax bboxbottom".split(),
    "w": "w bboxwidth boxwidth bboxw boxw".split(),
    "h": "h bboxheight boxheight bboxh boxh".split(),
    "bbox": "bbox box".split(),  # "[left, top, width, height]"
}
_NO_HEADER = ("image", "left", "top", "right", "bottom", "class")
_ONE_CLASS = "object"  # what the boxes of a file without a column of classes are called


_MOST_ABOVE = 50_000  # files and folders beside the folder of a csv
_LONGEST_LINE = 1 << 16  # bytes of the names of columns


@dataclass(frozen=True, slots=True)
class _Box:
    line: int
    class_name: str
    corners: tuple[float, float, float, float]


@dataclass(slots=True)
class _Table:
    """What a file says of each image, by the name that it gives it."""

    boxes: dict[str, list[_Box]]
    sizes: dict[str, tuple[int, int]]  # declared height and width
    problems: list[Problem]
    is_normalised: bool = False


def is_box_table(file: Path) -> bool:
    """Tell whether a csv file has rows of boxes, by its first line."""
    try:
        line = read_bytes(file, first=_LONGEST_LINE).partition(b"\n")[0]
        with parsing(file):
            text = line.decode("utf-8-sig")
            return _columns(next(csv.reader([text], delimiter=_delimiter(text)), [])) is not None
    except UserError:
        return False


def read_csv_names(files: Sequence[Path]) -> tuple[str, ...]:
    """Return the sorted names of all classes of several files; numbers sort as numbers."""
    names = {box.class_name for file in files for boxes in _read_table(file).boxes.values() for box in boxes}
    if not names:
        raise UserError(f"{files[0]} has no box")
    return tuple(sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)))


def read_csv(
    files: Sequence[Path], names: Sequence[str], *, images: Path | None = None, decode: bool = False
) -> DataIndex:
    """Read csv files as one split.

    Args:
        files: the files of the split.
        names: the classes; boxes of others are left out.
        images: folder of the images; None looks beside each file, in its sub-folders and beside its folder.
        decode: decode every image to find damage.

    Raises:
        UserError: the columns are not known, or no image is found.
    """
    class_of = {name: i for i, name in enumerate(names)}
    merged: dict[Path, Record] = {}
    problems: list[Problem] = []
    for file in files:
        table = _read_table(file)
        problems += table.problems
        paths = _image_paths(file, list(table.boxes), images)
        named = list(table.boxes)

        def read(i: int, size: tuple[int, int]) -> tuple[Record | None, list[Problem]]:
            name = named[i]  # noqa: B023, the function does not outlive the turn
            return _read_one(file, table, name, paths[name], size, class_of)  # noqa: B023

        records, found = read_records([paths[name] for name in named], read, decode=decode)
        problems += found
        for record in records:
            merged[record.path] = join_records(merged[record.path], record) if record.path in merged else record
    return DataIndex.from_records([*merged.values()], names, problems=problems)


def _read_one(
    file: Path, table: _Table, name: str, path: Path, size: tuple[int, int], class_of: Mapping[str, int]
) -> tuple[Record, list[Problem]]:
    objects: list[PixelObject] = []
    problems: list[Problem] = []
    declared = table.sizes.get(name, (0, 0))
    height, width = declared if min(declared) > 0 else size
    scale = (width, height, width, height) if table.is_normalised else (1, 1, 1, 1)
    for box in table.boxes[name]:
        if box.class_name not in class_of:
            text = f"the class {box.class_name!r} is none of the names; the row is left out"
            problems.append(Problem("unknown class", file, box.line, text, "row"))
            continue
        left, top, right, bottom = (value * side for value, side in zip(box.corners, scale, strict=True))
        label = f"the {box.class_name}"
        objects.append(PixelObject(label, box.line, class_of[box.class_name], (left, top, right, bottom)))
    record, more = pixel_record(path, size, declared, objects, file)
    return record, problems + more


def _delimiter(line: str) -> str:
    return max(",;\t", key=line.count)


def _columns(cells: Sequence[str]) -> dict[str, int] | None:
    """Return the position of each column that the first line names; None where it does not tell boxes."""
    words = ["".join(letter for letter in cell.lower() if letter not in " _-.") for cell in cells]
    found: dict[str, int] = {}
    for column, called in _COLUMNS.items():
        if word := next(filter(words.__contains__, called), None):
            found[column] = words.index(word)
    if "right" not in found and "w" not in found and {"left", "top", "width", "height"} <= found.keys():
        # x, y, width, height: of the box, not of the image.
        found |= {"w": found.pop("width"), "h": found.pop("height")}
    corners = {"left", "top"} <= found.keys() and ({"right", "bottom"} <= found.keys() or {"w", "h"} <= found.keys())
    if "image" in found and (corners or "bbox" in found):
        return found
    if len(cells) == len(_NO_HEADER) and Path(cells[0]).suffix.lower() in IMAGE_SUFFIXES:
        return {column: i for i, column in enumerate(_NO_HEADER)}
    return None


@reads("csv")
def _read_table(file: Path) -> _Table:
    """Read all rows.

    Raises:
        UserError: unreadable, or the first line does not name columns of boxes.
    """
    lines = read_text(file).splitlines()
    rows = [*csv.reader(lines, delimiter=_delimiter(lines[0] if lines else ""))]
    columns = _columns(rows[0]) if rows else None
    if columns is None:
        there = ", ".join(rows[0]) if rows else "nothing"
        raise UserError(
            f"{file}: its first line ({there}) does not name the columns of boxes: "
            "filename, xmin, ymin, xmax, ymax (or x, y, w, h) and class"
        )
    has_header = Path(rows[0][columns["image"]]).suffix.lower() not in IMAGE_SUFFIXES
    table = _Table({}, {}, [])
    for line, cells in enumerate(rows[has_header:], 1 + has_header):
        if not any(cell.strip() for cell in cells):
            continue
        values = {column: cells[i].strip() if i < len(cells) else "" for column, i in columns.items()}
        name = values["image"].replace("\\", "/").removeprefix("file:")
        boxes = table.boxes.setdefault(name, [])
        try:
            if "width" in columns and values["width"] and values["height"]:
                table.sizes[name] = (int(float(values["height"])), int(float(values["width"])))
            if corners := _corners(values):
                boxes.append(_Box(line, values.get("class") or _ONE_CLASS, corners))
        except (ValueError, OverflowError):
            text = "a corner is missing or no number; the row is left out"
            table.problems.append(Problem("unreadable label", file, line, text, "row"))
    numbers = [number for boxes in table.boxes.values() for box in boxes for number in box.corners]
    # A whole file of boxes within the first pixel does not exist.
    table.is_normalised = bool(numbers) and max(numbers) <= 1 and any(number % 1 for number in numbers)
    if table.is_normalised:
        say_once(f"{file}: its numbers are all within 0..1 and taken as shares of the image")
    return table


_APART = re.compile(r"[\s,]+")


def _corners(values: Mapping[str, str]) -> tuple[float, float, float, float] | None:
    """Return left, top, right, bottom of a row; None where they are all empty."""
    if "left" not in values:
        text = values["bbox"]
        if not text:
            return None
        left, top, width, height = (float(number) for number in _APART.split(text.strip("[]() ")))
        return left, top, left + width, top + height
    ends = ("right", "bottom") if "right" in values and "bottom" in values else ("w", "h")
    cells = [values[column] for column in ("left", "top", *ends)]
    if not any(cells):
        return None
    left, top, right, bottom = map(float, cells)
    return (left, top, right, bottom) if ends[0] == "right" else (left, top, left + right, top + bottom)


def _image_paths(file: Path, names: Sequence[str], images: Path | None) -> dict[str, Path]:
    """Return the image file of each name: as written, by its last part, or by its stem."""
    folders = [images] if images else [file.parent, file.parent.parent]
    direct = next((folder for folder in folders for name in names[:100] if (folder / name).is_file()), None)
    if direct is not None:
        return {name: direct / name for name in names}
    for folder in folders:
        by_name, by_stem = defaultdict[str, list[Path]](list), defaultdict[str, list[Path]](list)
        # Above the csv may lie anything, such as all of somebody's files.
        most = 0 if folder in (images, file.parent) else _MOST_ABOVE
        for path in map(Path, sorted(files_below(folder, IMAGE_SUFFIXES, most))):
            by_name[path.name.lower()].append(path)
            by_stem[path.stem.lower()].append(path)
        last = {name: name.rpartition("/")[2].lower() for name in names}
        found = {name: by_name.get(last[name]) or by_stem.get(last[name]) or [] for name in names}
        if several := next((paths for paths in found.values() if len(paths) > 1), None):
            raise UserError(
                f"{file}: {several[0].name} may be {several[0]} or {several[1]}; write its folder into the csv"
            )
        if any(found.values()):
            return {name: paths[0] if paths else folder / name for name, paths in found.items()}
    first, looked = names[0] if names else "", " and ".join(map(str, folders))
    raise UserError(f"{file}: cannot find its first image {first!r}; looked below {looked}")
