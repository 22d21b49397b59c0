"""Objects with corners in pixels (COCO, VOC) to normalised rows: clipped, without empty or double ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright.data.index import Problem, Record

_OUTSIDE = 1.0  # pixels that a box may stick out before it is worth a word


@dataclass(frozen=True, slots=True)
class PixelObject:
    """One labelled object.

    Args:
        label: what to call it in messages, e.g. `annotation 17`.
        line: its line in the annotation file, 0 if unknown.
        class_index: position in the names.
        corners: left, top, right, bottom in pixels; edges, so that 0 and the width are the image's borders.
        polygon: (k, 2) vertices in pixels, or None.
    """

    label: str
    line: int
    class_index: int
    corners: tuple[float, float, float, float]
    polygon: NDArray[np.float64] | None = None


def pixel_record(
    image: Path,
    size: tuple[int, int],
    declared: tuple[int, int],
    objects: Sequence[PixelObject],
    file: Path,
    image_id: int = -1,
) -> tuple[Record, list[Problem]]:
    """Make a record of an image's objects.

    Args:
        image: image file.
        size: its height and width in pixels.
        declared: height and width that the annotation gives; zeros if it gives none. Corners are in its pixels.
        objects: what was annotated.
        file: the annotation, for messages.
        image_id: COCO id of the image, -1 without.
    """
    problems: list[Problem] = []
    frame = declared if min(declared) > 0 else size
    if frame != size:
        text = (
            f"says that {image.name} has {frame[1]} x {frame[0]} pixels, it has {size[1]} x {size[0]}; boxes are scaled"
        )
        problems.append(Problem("size mismatch", file, 0, text))
    height, width = float(frame[0]), float(frame[1])
    rows: dict[tuple[float, ...], NDArray[np.float32]] = {}  # class and box -> polygon, in order
    for item in objects:  # plain numbers: quicker than arrays of four
        left, top, right, bottom = item.corners
        x1, y1, x2, y2 = max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)
        if not (x2 > x1 and y2 > y1):  # also NaN
            text = f"{item.label} has no area in {image.name}; it is left out"
            problems.append(Problem("degenerate box", file, item.line, text, "row"))
            continue
        centre = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height)
        row = (item.class_index, *centre, (x2 - x1) / width, (y2 - y1) / height)
        if row in rows:
            text = f"{item.label} stands there a second time; it is left out"
            problems.append(Problem("duplicate", file, item.line, text, "row"))
            continue
        if max(x1 - left, y1 - top, right - x2, bottom - y2) > _OUTSIDE:
            problems.append(Problem("out of range", file, item.line, f"{item.label} reaches out of {image.name}"))
        rows[row] = _normalised(item.polygon, width, height)
    table = np.array(list(rows), dtype=np.float64).reshape(-1, 5)
    classes, boxes = table[:, 0].astype(np.int32), table[:, 1:].astype(np.float32)
    return Record(image, *size, classes, boxes, tuple(rows.values()), image_id), problems


def _normalised(polygon: NDArray[np.float64] | None, width: float, height: float) -> NDArray[np.float32]:
    if polygon is None:
        return np.zeros((0, 2), np.float32)
    return np.clip(polygon / (width, height), 0, 1).astype(np.float32)
