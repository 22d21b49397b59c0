"""Annotations of VOC or COCO written out as YOLO training labels, with the images linked beside them.

A label is a line of five numbers: class, centre x, centre y, width, height, as fractions of the image.
"""

from __future__ import annotations

import filecmp
import logging
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from boxwright.data.coco import read_coco
from boxwright.data.index import DataIndex
from boxwright.data.placed_images import free_stems
from boxwright.data.voc import is_voc_root, read_voc
from boxwright.errors import UserError

_log = logging.getLogger("boxwright.data")


def read_annotated(path: Path, split: str) -> DataIndex | None:
    """Read a place whose labels need converting; None where it is none of those.

    Args:
        path: a COCO json, a VOC root, or a list of a VOC root (ROOT/ImageSets/Main/NAME.txt).
        split: the list that is taken of a VOC root.
    """
    if path.suffix == ".json" and path.is_file():
        return read_coco(path)
    if is_voc_root(path):
        return read_voc(path, split)
    if path.suffix == ".txt" and path.parent.name == "Main" and is_voc_root(path.parents[2]):
        return read_voc(path.parents[2], path.stem)
    return None


def write_yolo(index: DataIndex, names: Sequence[str], folder: Path, split: str) -> Path:
    """Write labels and link images: folder/labels/SPLIT/x.txt beside folder/images/SPLIT/x.jpg.

    Args:
        index: images and boxes.
        names: the classes in the order of their numbers; boxes of other classes are left out, with a word.
        folder: made if it is not there; files of an earlier conversion are replaced.
        split: name of the sub-folders.

    Returns:
        folder/SPLIT.txt, the list of the images.

    Raises:
        UserError: nothing can be written there, or an image of the same name is in the way.
    """
    number_of = {name: number for number, name in enumerate(names)}
    left_out = Counter[str]()
    listed: list[str] = []
    try:
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        images = [index.path(i) for i in range(len(index))]
        for i, (image, stem) in enumerate(zip(images, free_stems(images), strict=True)):
            link = folder / "images" / split / f"{stem}{image.suffix}"
            _link(image, link)
            classes, boxes = index.labels(i)
            rows: list[str] = []
            for label, box in zip(classes.tolist(), boxes.astype(np.float64), strict=True):
                name = index.names[label]
                if name in number_of:
                    rows.append(f"{number_of[name]} {' '.join(f'{value:.8g}' for value in box)}\n")
                else:
                    left_out[name] += 1
            (folder / "labels" / split / f"{stem}.txt").write_text("".join(rows), encoding="utf-8")
            listed.append(f"./images/{split}/{link.name}\n")
        file = folder / f"{split}.txt"
        file.write_text("".join(listed), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write converted labels into {folder}: {error.strerror or error}") from error
    for name, count in left_out.items():
        _log.warning("%s: %d boxes of %r are left out, which is none of the names", split, count, name)
    return file


def _link(image: Path, link: Path) -> None:
    """Make the image appear at another place: by a symbolic link, or by a copy where there are none."""
    if os.path.lexists(link):
        if not link.is_symlink():
            if link.samefile(image) or filecmp.cmp(link, image, shallow=False):
                return
            raise UserError(f"{link} is in the way: another image of that name; choose another convertor_path")
        link.unlink()
    try:
        link.symlink_to(image.absolute())
    except (OSError, NotImplementedError):
        shutil.copyfile(image, link)
