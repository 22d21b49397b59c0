"""Splits written as YOLO labels: `labels/SPLIT/x.txt` beside `images/SPLIT/x.jpg`; and what all written formats share.

A row is a class and numbers that are fractions of the image: centre and size of a box, or the corners of a polygon. A
file that has any polygon is read as polygons only, as published, so its plain boxes are written by their corners.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright.data.index import DataIndex
from boxwright.data.placed_images import free_stems, place_image

SMALLEST_POLYGON = 3  # vertices
_SAME_BOX = 0.5  # pixels that a polygon's extent may differ from the box, which it replaces in a YOLO label


@dataclass(frozen=True, slots=True)
class Written:
    """What came out.

    Args:
        sources: of each split, what a data yaml calls it; relative to the folder.
        boxes_outside: boxes left out, because they lie outside of their image.
        polygons_lost: polygons of which only the box is kept.
    """

    sources: dict[str, str]
    boxes_outside: int = 0
    polygons_lost: int = 0


def pixel_corners(index: DataIndex, image: int) -> NDArray[np.float64]:
    """Boxes of an image as (n, 4) xyxy in pixels, clipped to the image."""
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
            place_image(image, folder / "images" / split / f"{stem}{image.suffix}", copy=copy)
            rows, unfitting = _rows(index, i)
            lost += unfitting
            (folder / "labels" / split / f"{stem}.txt").write_text("".join(rows), encoding="utf-8")
    return Written({split: f"images/{split}" for split in splits}, polygons_lost=lost)


def _rows(index: DataIndex, image: int) -> tuple[list[str], int]:
    """Lines of a label file, and the number of polygons that do not stand for their box."""
    classes, boxes = index.labels(image)
    size = index.sizes[image, ::-1]
    outlines = [points if len(points) >= SMALLEST_POLYGON else None for points in index.polygons(image)]
    pairs = zip(outlines, boxes, strict=True)
    fitting = [points is not None and _stands_for(points, box, size) for points, box in pairs]
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
        rows.append(f"{label} {' '.join(f'{value:.8g}' for value in numbers)}\n")
    return rows, lost


def _corners(box: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack((box[:2] - box[2:] / 2, box[:2] + box[2:] / 2))


def _stands_for(points: NDArray[np.float32], box: NDArray[np.float32], size: NDArray[np.int32]) -> bool:
    """Whether the extent of a polygon is the box, within half a pixel on each side."""
    extent = np.stack((points.min(axis=0), points.max(axis=0)))
    return bool((np.abs(extent - _corners(box.astype(np.float64))) * size <= _SAME_BOX).all())
