"""Pascal VOC folders: Annotations/*.xml, ImageSets/Main/SPLIT.txt, JPEGImages.

VOC corners count pixels from 1 and include both ends (the VOC development kit), so xmin 1, xmax W covers an image of
width W: left = xmin - 1, right = xmax. Class names are the sorted names that occur in any annotation.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright.data.image_header import IMAGE_SUFFIXES, BrokenImageError, image_size
from boxwright.data.index import DataIndex, Problem, Record
from boxwright.errors import UserError

_THREADS = 8


def is_voc_root(path: Path) -> bool:
    """Whether a folder is laid out as a VOC data set."""
    return (path / "Annotations").is_dir() and (path / "ImageSets" / "Main").is_dir()


def read_voc_names(root: Path) -> tuple[str, ...]:
    """Sorted names of all classes that occur in the annotations."""
    names: set[str] = set()
    for file in sorted((root / "Annotations").glob("*.xml")):
        try:
            names.update(_text(item, "name") for item in _parse(file).iter("object"))
        except _AnnotationError:
            continue  # said by read_voc, with the file's name
    if not names:
        raise UserError(f"{root / 'Annotations'} holds no object of any class")
    return tuple(sorted(names))


def read_voc(root: Path, split: str, *, names: Sequence[str] | None = None, decode: bool = False) -> DataIndex:
    """Read one image set.

    Args:
        root: the VOC folder.
        split: name of a list in ImageSets/Main.
        names: class names; None takes those of read_voc_names.
        decode: decode every image to find damage.

    Raises:
        UserError: the list of the split is missing.
    """
    list_file = root / "ImageSets" / "Main" / f"{split}.txt"
    if not list_file.is_file():
        there = ", ".join(sorted(file.stem for file in list_file.parent.glob("*.txt"))) or "none"
        raise UserError(f"there is no {split} split in {root}: {list_file} is missing; there are {there}")
    stems = [line.split()[0] for line in list_file.read_text(encoding="utf-8").splitlines() if line.strip()]
    names = tuple(names or read_voc_names(root))
    class_of = {name: i for i, name in enumerate(names)}
    with ThreadPoolExecutor(_THREADS) as pool:
        results = list(pool.map(lambda stem: _read_one(root, stem, class_of, decode), stems))
    records = [record for record, _ in results if record is not None]
    return DataIndex.from_records(records, names, problems=[problem for _, found in results for problem in found])


class _AnnotationError(Exception):
    """The xml cannot be used; the text says why."""


def _parse(file: Path) -> ElementTree.Element:
    try:
        text = file.read_bytes()
    except OSError as error:
        raise _AnnotationError(f"cannot be read ({error.strerror})") from error
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise _AnnotationError("declares entities, which are not read")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise _AnnotationError(f"is not valid xml ({error})") from error


def _text(element: ElementTree.Element, tag: str) -> str:
    value = element.findtext(tag)
    if value is None or not value.strip():
        raise _AnnotationError(f"an object has no <{tag}>")
    return value.strip()


def _read_one(root: Path, stem: str, class_of: Mapping[str, int], decode: bool) -> tuple[Record | None, list[Problem]]:
    folder = root / "JPEGImages"
    names = (f"{stem}{suffix}" for suffix in ("", ".jpg", *sorted(IMAGE_SUFFIXES)))
    image = next((folder / name for name in names if (folder / name).is_file()), None)
    if image is None:
        return None, [Problem("missing image", folder / f"{stem}.jpg", 0, "there is no such image; left out", "image")]
    try:
        height, width = image_size(image, decode=decode)
    except BrokenImageError as error:
        return None, [Problem("corrupt image", image, 0, f"{error}; the image is left out", "image")]
    file = root / "Annotations" / f"{image.stem}.xml"
    if not file.is_file():
        empty = Record(image, height, width, np.zeros(0, np.int32), np.zeros((0, 4), np.float32))
        return empty, [Problem("missing label", file, 0, "there is no annotation; the image counts as background")]
    try:
        classes, boxes, problems = _objects(_parse(file), file, class_of, height, width)
    except _AnnotationError as error:
        return None, [Problem("unreadable label", file, 0, f"{error}; the image is left out", "image")]
    return Record(image, height, width, classes, boxes), problems


def _objects(
    tree: ElementTree.Element, file: Path, class_of: Mapping[str, int], height: int, width: int
) -> tuple[NDArray[np.int32], NDArray[np.float32], list[Problem]]:
    classes: list[int] = []
    boxes: list[tuple[float, ...]] = []
    problems: list[Problem] = []
    for number, item in enumerate(tree.iter("object"), start=1):
        name = _text(item, "name")
        if name not in class_of:
            text = f"object {number} has the unknown class {name!r}; it is left out"
            problems.append(Problem("unknown class", file, 0, text, "row"))
            continue
        corners = _corners(item, number)
        left, top = max(corners[0] - 1, 0.0), max(corners[1] - 1, 0.0)
        right, bottom = min(corners[2], float(width)), min(corners[3], float(height))
        if right - left <= 1 or bottom - top <= 1:  # in VOC's counting xmin == xmax is a single column
            text = f"object {number} ({name}) has no area: {corners}; it is left out"
            problems.append(Problem("degenerate box", file, 0, text, "row"))
            continue
        box = ((left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height)
        if (class_of[name], box) in zip(classes, boxes, strict=True):
            problems.append(Problem("duplicate", file, 0, f"object {number} ({name}) is there twice", "row"))
            continue
        classes.append(class_of[name])
        boxes.append(box)
    return np.array(classes, np.int32), np.array(boxes, np.float32).reshape(-1, 4), problems


def _corners(item: ElementTree.Element, number: int) -> tuple[float, float, float, float]:
    box = item.find("bndbox")
    if box is None:
        raise _AnnotationError(f"object {number} has no <bndbox>")
    try:
        left, top, right, bottom = (float(_text(box, tag)) for tag in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError as error:
        raise _AnnotationError(f"object {number} has a corner that is no number ({error})") from error
    return left, top, right, bottom
