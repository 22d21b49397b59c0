"""Write the splits of a data set as YOLO labels, COCO json or a Pascal VOC folder, with the images linked or copied.

- YOLO: `labels/SPLIT/x.txt` beside `images/SPLIT/x.jpg`. A file that has any polygon is read as polygons only, as
  published, so its plain boxes are written by their corners.
- COCO: `annotations/instances_SPLIT.json` beside `images/SPLIT`; a box is left, top, width, height in pixels whose
  origin is the corner of the image.
- VOC: Annotations/*.xml, ImageSets/Main/SPLIT.txt, JPEGImages, classes.txt. Corners count pixels from 1 and include
  both ends (the VOC development kit), see voc.py. Whole pixels are written as whole numbers, others with decimals, so
  that boxes stay what they are; only one narrower than a pixel becomes a pixel wide. Polygons are lost. `classes.txt`
  keeps the order of the classes and those without an object, which annotations cannot tell.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import category
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from boxwright.data.files import FreeNames, link_or_copy, reason
from boxwright.data.index import DataIndex
from boxwright.data.voc import CLASSES_FILE
from boxwright.data.yolo_txt import label_row
from boxwright.errors import UserError
from boxwright.ops.arrays import Floats


def free_stems(images: Iterable[Path]) -> list[str]:
    """Return a name without suffix for each image, all different: its own, or with a number where that is taken.

    Dots that a name begins with are left out, because hidden files are no images; so are blanks around it.
    """
    names = FreeNames()
    return [names.take(image.stem.strip().lstrip(". ") or "image", number) for number, image in enumerate(images)]


def require_free(folder: Path) -> None:
    """Raise a UserError if something is at this place that is no empty folder."""
    if folder.is_dir():
        if any(folder.iterdir()):
            raise UserError(f"{folder} is not empty; name a new folder, nothing is overwritten")
    elif os.path.lexists(folder):
        raise UserError(f"{folder} is a file; name a new folder")


@contextmanager
def whole_folder(folder: Path) -> Generator[Path]:
    """Write a folder that is there with everything that was written into it, or not at all.

    Args:
        folder: must not exist, or be empty.

    Yields:
        a folder beside it, which takes its name at the end and is removed when something goes wrong.

    Raises:
        UserError: the place is taken, or something cannot be written.
    """
    require_free(folder)
    made = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        made.mkdir(parents=True)
        yield made
        if folder.is_dir():
            folder.rmdir()  # it is empty, as required above
        made.rename(folder)
    except UnicodeEncodeError as error:
        raise UserError(f"cannot write {folder}: a file name in it is not Unicode text: {error.object!r}") from error
    except OSError as error:
        place = str(error.filename or folder).replace(str(made), str(folder))
        raise UserError(f"cannot write {place}: {reason(error)}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


SMALLEST_POLYGON = 3  # vertices
_SAME_BOX = 0.5  # pixels that a polygon's extent may differ from the box, which it replaces in a YOLO label


@dataclass(frozen=True, slots=True)
class Written:
    """What came out."""

    sources: dict[str, str]  # of each split, what a data yaml calls it; relative to the folder
    boxes_outside: int = 0  # boxes left out, because they lie outside of their image
    polygons_lost: int = 0  # polygons of which only the box is kept


def pixel_corners(index: DataIndex, image: int) -> Floats:
    """Return boxes of an image as (n, 4) xyxy in pixels, clipped to the image."""
    size = index.sizes[image, ::-1].astype(np.float64)
    boxes = index.labels(image)[1].astype(np.float64)
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    return np.concatenate((low.clip(0, 1) * size, high.clip(0, 1) * size), axis=1)


def write_labels(splits: Mapping[str, DataIndex], folder: Path, *, copy: bool) -> Written:
    """Write every split.

    Args:
        splits: indexes with the same names.
        folder: exists.
        copy: copy images instead of linking them.
    """
    lost = 0
    for split, index in splits.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        images = [index.path(i) for i in range(len(index))]
        for i, (image, stem) in enumerate(zip(images, free_stems(images), strict=True)):
            link_or_copy(image, folder / "images" / split / f"{stem}{image.suffix}", copy=copy)
            rows, unfitting = _rows(index, i)
            lost += unfitting
            (folder / "labels" / split / f"{stem}.txt").write_text("".join(rows), encoding="utf-8")
    return Written({split: f"images/{split}" for split in splits}, polygons_lost=lost)


def _rows(index: DataIndex, image: int) -> tuple[list[str], int]:
    """Lines of a label file, and the number of polygons that do not stand for their box."""
    classes, boxes = index.labels(image)
    size = index.sizes[image, ::-1]
    outlines = [points if len(points) >= SMALLEST_POLYGON else None for points in index.polygons(image)]
    fitting: list[bool] = []
    for points, box in zip(outlines, boxes.astype(np.float64), strict=True):
        # A reader takes the box from the extent of the polygon: it stands for its box where both agree to half a pixel.
        extent = None if points is None else np.stack((points.min(axis=0), points.max(axis=0)))
        fitting.append(extent is not None and bool((np.abs(extent - _corners(box)) * size <= _SAME_BOX).all()))
    lost = sum(points is not None for points in outlines) - sum(fitting)
    rows: list[str] = []
    for label, box, points, fits in zip(classes.tolist(), boxes.astype(np.float64), outlines, fitting, strict=True):
        if not any(fitting):
            numbers = box
        elif points is not None and fits:
            numbers = points.ravel()
        else:
            (left, top), (right, bottom) = _corners(box)
            numbers = np.array((left, top, right, top, right, bottom, left, bottom)).clip(0, 1)
        rows.append(label_row(label, numbers, ".8g"))
    return rows, lost


def _corners(box: Floats) -> Floats:
    return np.stack((box[:2] - box[2:] / 2, box[:2] + box[2:] / 2))


_COCO_DECIMALS = 4  # of a pixel


def write_coco(splits: Mapping[str, DataIndex], folder: Path, *, copy: bool) -> Written:
    """Write every split; ids of images and categories are those that the source has.

    Args:
        splits: indexes with the same names.
        folder: exists.
        copy: copy images instead of linking them.
    """
    (folder / "annotations").mkdir()
    left_out = 0
    # Ids of the source if its splits agree, else 1, 2, 3, ...
    found = {index.category_ids for index in splits.values()}
    category_ids = found.pop() if len(found) == 1 else tuple(range(1, len(found.pop()) + 1))
    for split, index in splits.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        place = folder / "images" / split
        place.mkdir(parents=True)
        paths = [index.path(i) for i in range(len(index))]
        for i, (image, stem) in enumerate(zip(paths, free_stems(paths), strict=True)):
            name, image_id = f"{stem}{image.suffix}", int(index.image_ids[i])
            link_or_copy(image, place / name, copy=copy)
            height, width = index.sizes[i].tolist()
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
            objects = _coco_objects(index, i, category_ids)
            left_out += len(index.labels(i)[0]) - len(objects)
            numbers = range(len(annotations) + 1, len(annotations) + 1 + len(objects))
            annotations += [
                {"id": number, "image_id": image_id} | item for number, item in zip(numbers, objects, strict=True)
            ]
        categories = [{"id": n, "name": name} for n, name in zip(category_ids, index.names, strict=True)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        file = folder / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return Written({split: f"annotations/instances_{split}.json" for split in splits}, boxes_outside=left_out)


def _coco_objects(index: DataIndex, image: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    classes, _ = index.labels(image)
    size = index.sizes[image, ::-1].astype(np.float64)
    objects: list[dict[str, Any]] = []
    for label, corners, polygon in zip(
        classes.tolist(), pixel_corners(index, image), index.polygons(image), strict=True
    ):
        low, extent = corners[:2], corners[2:] - corners[:2]
        if not (extent > 0).all():
            continue  # outside of the image
        outline, area = None, float(extent.prod())
        if len(polygon) >= SMALLEST_POLYGON:
            outline = polygon.astype(np.float64) * size
            x, y = outline.T  # by the trapezoid formula, as COCO counts the area of the mask and not of the box
            area = float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
        objects.append(
            {
                "category_id": category_ids[label],
                "bbox": _rounded(np.concatenate((low, extent))),
                "area": round(area, _COCO_DECIMALS),
                "iscrowd": 0,
                "segmentation": [] if outline is None else [_rounded(outline.ravel())],
            }
        )
    return objects


def _rounded(values: Floats) -> list[float]:
    return np.round(values, _COCO_DECIMALS).tolist()


_Entry = tuple[Path, int]  # an image, and how often the split had it before, from 1
_VOC_DECIMALS = 3  # of a pixel
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
            link_or_copy(entry[0], folder / "JPEGImages" / name, copy=copy)
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
    """List images of a split, told apart where a ground truth lists one file several times."""
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


def _annotation(name: str, size: NDArray[np.int32], labels: list[str], corners: Floats) -> str:
    height, width = size.tolist()
    objects: list[str] = []
    for label, box in zip(labels, corners, strict=True):
        low, high = box[:2].copy(), box[2:].copy()
        for axis, side in enumerate((width, height)):
            lacking = _NARROWEST - (high[axis] - low[axis])
            if lacking > 0:
                # Widened about its middle, but not over the border, where it would be clipped when it is read.
                low[axis] = min(max(low[axis] - lacking / 2, 0), side - _NARROWEST)
                high[axis] = low[axis] + _NARROWEST
        # Corners count pixels from 1 and include both ends: only the first two are shifted.
        texts = [f"{value:.{_VOC_DECIMALS}f}".rstrip("0").rstrip(".") for value in (*(low + 1), *high)]
        tags = zip(("xmin", "ymin", "xmax", "ymax"), texts, strict=True)
        objects.append(
            f"  <object>\n    <name>{escape(label)}</name>\n    <pose>Unspecified</pose>\n"
            "    <truncated>0</truncated>\n    <difficult>0</difficult>\n    <bndbox>"
            + "".join(f"<{tag}>{text}</{tag}>" for tag, text in tags)
            + "</bndbox>\n  </object>\n"
        )
    return (
        "<annotation>\n"
        f"  <folder>JPEGImages</folder>\n  <filename>{escape(name)}</filename>\n"
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
        "  <segmented>0</segmented>\n" + "".join(objects) + "</annotation>\n"
    )
