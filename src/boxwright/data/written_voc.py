"""Splits written as a Pascal VOC folder: Annotations/*.xml, ImageSets/Main/SPLIT.txt, JPEGImages, classes.txt.

VOC corners count pixels from 1 and include both ends (the VOC development kit), see voc. Whole pixels are written as
whole numbers, others with decimals, so that boxes stay what they are; only one narrower than a pixel becomes a pixel
wide. Polygons have no place in it. `classes.txt` keeps the order of the classes and those without an object, which
annotations cannot tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from unicodedata import category
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from boxwright.data.index import DataIndex
from boxwright.data.placed_images import free_stems, place_image
from boxwright.data.voc import CLASSES_FILE
from boxwright.data.written_labels import SMALLEST_POLYGON, Written, pixel_corners
from boxwright.errors import UserError

_Entry = tuple[Path, int]  # an image, and how often the split had it before, from 1
_DECIMALS = 3  # of a pixel
_NARROWEST = 1.01  # pixels: a box of one column has xmin = xmax and counts as empty where it is read


def write_voc(splits: Mapping[str, DataIndex], folder: Path, *, copy: bool) -> Written:
    """Write every split; an image that several splits have is there once.

    Args:
        splits: indexes with the same names.
        folder: exists.
        copy: copy images instead of linking them.

    Raises:
        UserError: a class name or file name that xml cannot hold.
    """
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / part).mkdir(parents=True)
    names = next(iter(splits.values())).names
    for name in names:
        _require_text(name, "class")
    (folder / CLASSES_FILE).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    entries = {split: _entries(index) for split, index in splits.items()}
    different = list(dict.fromkeys(entry for split in splits for entry in entries[split]))
    stems = dict(zip(different, free_stems(path for path, _ in different), strict=True))
    written: set[_Entry] = set()
    outside = lost = 0
    for split, index in splits.items():
        for i, entry in enumerate(entries[split]):
            if entry in written:
                continue
            written.add(entry)
            name = f"{stems[entry]}{entry[0].suffix.lower()}"
            _require_text(name, "file")
            place_image(entry[0], folder / "JPEGImages" / name, copy=copy)
            corners = pixel_corners(index, i)
            solid = (corners[:, 2:] > corners[:, :2]).all(axis=1)
            outside += int((~solid).sum())
            lost += sum(len(points) >= SMALLEST_POLYGON for points in index.polygons(i))
            labels = [names[label] for label in index.labels(i)[0][solid]]
            text = _annotation(name, index.sizes[i], labels, corners[solid])
            (folder / "Annotations" / f"{stems[entry]}.xml").write_text(text, encoding="utf-8")
        listed = "".join(f"{stems[entry]}\n" for entry in entries[split])
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(listed, encoding="utf-8")
    return Written({split: split for split in splits}, boxes_outside=outside, polygons_lost=lost)


def _entries(index: DataIndex) -> list[_Entry]:
    """Images of a split, told apart where a ground truth lists one file several times."""
    seen = Counter[Path]()
    entries: list[_Entry] = []
    for i in range(len(index)):
        seen[path := index.path(i)] += 1
        entries.append((path, seen[path]))
    return entries


def _require_text(name: str, what: str) -> None:
    """Raise a UserError for what comes back different from a line of text or from xml."""
    if name != name.strip() or len(name.splitlines()) != 1 or any(category(letter) == "Cc" for letter in name):
        raise UserError(f"VOC cannot hold the {what} name {name!r}: empty, blanks around it, or control characters")


def _annotation(name: str, size: NDArray[np.int32], labels: list[str], corners: NDArray[np.float64]) -> str:
    height, width = size.tolist()
    objects = [_object(label, box, (width, height)) for label, box in zip(labels, corners, strict=True)]
    return (
        "<annotation>\n"
        f"  <folder>JPEGImages</folder>\n  <filename>{escape(name)}</filename>\n"
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
        "  <segmented>0</segmented>\n" + "".join(objects) + "</annotation>\n"
    )


def _object(label: str, corners: NDArray[np.float64], size: tuple[int, int]) -> str:
    low, high = corners[:2].copy(), corners[2:].copy()
    for axis in (0, 1):
        lacking = _NARROWEST - (high[axis] - low[axis])
        if lacking > 0:
            low[axis] = min(max(low[axis] - lacking / 2, 0), size[axis] - _NARROWEST)
            high[axis] = low[axis] + _NARROWEST
    tags = zip(("xmin", "ymin", "xmax", "ymax"), (*(low + 1), *high), strict=True)
    box = "".join(f"<{tag}>{_number(value)}</{tag}>" for tag, value in tags)
    return (
        f"  <object>\n    <name>{escape(label)}</name>\n    <pose>Unspecified</pose>\n    <truncated>0</truncated>\n"
        f"    <difficult>0</difficult>\n    <bndbox>{box}</bndbox>\n  </object>\n"
    )


def _number(value: float) -> str:
    return f"{value:.{_DECIMALS}f}".rstrip("0").rstrip(".")
