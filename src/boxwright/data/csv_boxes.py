"""Boxes in a csv file, one row a box: VoTT, TensorFlow (also Roboflow's), Kaggle, Open Images, keras-retinanet.

Columns are known by their names, of which there are many: of two corners, or of a corner or the centre with the sides.
Numbers are pixels whose origin is the corner of the image; numbers that are all within 0..1 are shares of the image. A
row whose numbers are empty names an image without boxes.
keras-retinanet has no header: path, x1, y1, x2, y2, class.
"""

import csv
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from boxwright.data.images import IMAGE_SUFFIXES, images_below
from boxwright.data.index import DataIndex, PixelObject, Problem, Record, join_records, pixel_record, read_records
from boxwright.errors import UserError
from boxwright.reading import decoded, parsing, read_bytes, read_text, reads
from boxwright.terminal import say_once

# What a column is called, in lower case without blanks, dashes and underscores.
_COLUMNS = {
    "image": "filename image imagepath imagename imageid imagefile file filepath path img imgpath imgname".split(),
    "class": "class label classname labelname category categoryname name classid target".split(),
    "width": "width imagewidth imgwidth".split(),
    "height": "height imageheight imgheight".split(),
    "left": "xmin x1 left xminimum bboxxmin boxxmin bboxleft x bboxx boxx".split(),
    "top": "ymin y1 top yminimum bboxymin boxymin bboxtop y bboxy boxy".split(),
    "right": "xmax x2 right xmaximum bboxxmax boxxmax bboxright".split(),
    "bottom": "ymax y2 bottom ymaximum bboxymax boxymax bboxbottom".split(),
    "cx": "cx xc xcenter xcentre centerx centrex bboxxcenter bboxcx".split(),
    "cy": "cy yc ycenter ycentre centery centrey bboxycenter bboxcy".split(),
    "w": "w bboxwidth boxwidth bboxw boxw".split(),
    "h": "h bboxheight boxheight bboxh boxh".split(),
    "bbox": "bbox box".split(),  # "[left, top, width, height]"
}
_MAY_BE_CENTRES = frozenset("x bboxx boxx bbox box".split())  # of these names shares of the image do not tell
_NO_HEADER = ("image", "left", "top", "right", "bottom", "class")
_MOST_SHARE = 1.5
_ONE_CLASS = "object"  # what the boxes of a file without a column of classes are called


_MOST_ABOVE = 50_000  # files and folders beside the folder of a csv
_LONGEST_LINE = 1 << 16  # bytes of the names of columns
_MOST_DIGITS = 18  # of a class that sorts as a number


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
        head = read_bytes(file, first=_LONGEST_LINE)
        with parsing(file):
            text = decoded(head, "ignore").partition("\n")[0]
            return _columns(next(csv.reader([text], delimiter=_delimiter(text)), [])) is not None
    except UserError:
        return False


def read_csv_names(files: Sequence[Path]) -> tuple[str, ...]:
    """Return the sorted names of all classes of several files; numbers sort as numbers."""
    names = {box.class_name for file in files for boxes in _read_table(file).boxes.values() for box in boxes}
    if not names:
        raise UserError(f"{files[0]} has no box")
    numbers = {name: int(name) for name in names if name.isdecimal() and len(name) <= _MOST_DIGITS}
    return tuple(sorted(names, key=lambda name: (name not in numbers, numbers.get(name, 0), name)))


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


def _word(cell: str) -> str:
    return "".join(letter for letter in cell.lower() if letter not in " _-.")


def _columns(cells: Sequence[str]) -> dict[str, int] | None:
    """Return the position of each column that the first line names; None where it does not tell boxes."""
    words = [*map(_word, cells)]
    found: dict[str, int] = {}
    for column, called in _COLUMNS.items():
        if word := next(filter(words.__contains__, called), None):
            found[column] = words.index(word)
    starts = {"left", "top"} <= found.keys() or {"cx", "cy"} <= found.keys()
    if starts and "right" not in found and "w" not in found and {"width", "height"} <= set(words):
        # x, y, width, height: of the box, not of the image.
        found |= {"w": found.pop("width"), "h": found.pop("height")}
    has_corners = {"left", "top", "right", "bottom"} <= found.keys()
    has_sides = starts and {"w", "h"} <= found.keys()
    if "image" in found and (has_corners or has_sides or "bbox" in found):
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
            "filename, xmin, ymin, xmax, ymax (or left, top, w, h, or x_center, y_center, w, h) and class"
        )
    has_header = Path(rows[0][columns["image"]]).suffix.lower() not in IMAGE_SUFFIXES
    table, numbers = _Table({}, {}, []), list[float]()
    for line, cells in enumerate(rows[has_header:], 1 + has_header):
        if not any(cell.strip() for cell in cells):
            continue
        values = {column: cells[i].strip() if i < len(cells) else "" for column, i in columns.items()}
        name = values["image"].replace("\\", "/").removeprefix("file:")
        boxes = table.boxes.setdefault(name, [])
        try:
            if "width" in columns and values["width"] and values["height"]:
                table.sizes[name] = (int(float(values["height"])), int(float(values["width"])))
            if (box := _box(values)) and values.get("class") == "":
                text = "the box has no class; the row is left out"
                table.problems.append(Problem("unknown class", file, line, text, "row"))
            elif box:
                numbers += box[0]
                boxes.append(_Box(line, values.get("class", _ONE_CLASS), box[1]))
        except (ValueError, OverflowError):
            text = "a corner is missing or no number; the row is left out"
            table.problems.append(Problem("unreadable label", file, line, text, "row"))
    # A whole file of boxes within the first pixels does not exist; shares may be a little above 1.
    table.is_normalised = bool(numbers) and max(numbers) < _MOST_SHARE and any(number % 1 for number in numbers)
    if table.is_normalised:
        first = next((columns[c] for c in ("right", "cx", "left", "bbox") if c in columns), 0)
        called = _word(rows[0][first])
        if called in _MAY_BE_CENTRES:
            raise UserError(
                f"{file}: shares of the image in the column {called} may be of a corner, or, as in YOLO labels, of the "
                "centre: call the columns left, top, w, h or x_center, y_center, w, h"
            )
        say_once(f"{file}: its numbers are all within 0..1 and taken as shares of the image")
    return table


_FORMS = (("left", "top", "right", "bottom"), ("cx", "cy", "w", "h"), ("left", "top", "w", "h"))  # of a box
_APART = re.compile(r"[\s,]+")


def _box(values: Mapping[str, str]) -> tuple[tuple[float, ...], tuple[float, float, float, float]] | None:
    """Return the four numbers of a row as they are, and as left, top, right, bottom; None where they are all empty."""
    columns = next((columns for columns in _FORMS if set(columns) <= values.keys()), ())
    cells = [values[column] for column in columns] or _APART.split(values["bbox"].strip("[]() "))
    if not any(cells):
        return None
    x, y, third, fourth = numbers = tuple(map(float, cells))
    if "right" in columns:
        return numbers, (x, y, third, fourth)
    left, top = (x - third / 2, y - fourth / 2) if "cx" in columns else (x, y)
    return numbers, (left, top, left + third, top + fourth)


def _image_paths(file: Path, names: Sequence[str], images: Path | None) -> dict[str, Path]:
    """Return the image file of each name: as written, by its last part, or by its stem."""
    folders = [images] if images else [file.parent, file.parent.parent]
    direct = next((folder for folder in folders for name in names[:100] if os.path.isfile(folder / name)), None)
    if direct is not None:
        return {name: direct / name for name in names}
    for folder in folders:
        by_name, by_stem = defaultdict[str, list[Path]](list), defaultdict[str, list[Path]](list)
        # Above the csv may lie anything, such as all of somebody's files.
        most = 0 if folder in (images, file.parent) else _MOST_ABOVE
        for path in map(Path, images_below(folder, most)):
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
