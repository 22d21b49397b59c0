"""Labels of one sample on their way through augmentation: boxes, classes and polygons in pixels.

Source of the numbers: published YOLOv5 6.x behaviour (spec B7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwright.data.index import DataIndex
from boxwright.yolo import geometry
from boxwright.yolo.warp_rules import CURRENT, WarpRules

_EDGE = 1e-3  # published: normalised boxes end this many pixels before the far edges


@dataclass(frozen=True, slots=True)
class Shapes:
    """The labelled objects of an image.

    Args:
        classes: (n,) int32.
        boxes: (n, 4) float32 xyxy pixels.
        points: (p, 2) float32 polygon vertices in pixels.
        offsets: (n + 1,) int64; object k has vertices offsets[k] to offsets[k + 1], none where it has no polygon.
    """

    classes: NDArray[np.int32]
    boxes: NDArray[np.float32]
    points: NDArray[np.float32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def all_have_polygons(self) -> bool:
        return len(self) > 0 and bool((np.diff(self.offsets) > 0).all())

    def polygon(self, item: int) -> NDArray[np.float32]:
        return self.points[self.offsets[item] : self.offsets[item + 1]]

    def clipped(self, height: float, width: float) -> Shapes:
        """Bring boxes and vertices into the canvas."""
        limit = np.array([width, height], dtype=np.float32)
        boxes = np.clip(self.boxes, 0.0, np.tile(limit, 2)).astype(np.float32)
        return Shapes(self.classes, boxes, np.clip(self.points, 0.0, limit), self.offsets)

    def mirrored(self, items: NDArray[np.int64], width: float) -> Shapes:
        """The objects `items`, seen in a mirror: x becomes width - x."""
        boxes = self.boxes[items]
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        mirror, shift = np.array([-1.0, 1.0], np.float32), np.array([width, 0.0], np.float32)
        polygons = [self.polygon(item) * mirror + shift for item in items]
        offsets = np.cumsum([0, *map(len, polygons)], dtype=np.int64)
        points = np.concatenate(polygons) if polygons else self.points[:0]
        return Shapes(self.classes[items], boxes, points, offsets)


def shapes_of(index: DataIndex, image: int, size_hw: tuple[float, float], offset_yx: tuple[float, float]) -> Shapes:
    """Labels of an image whose pixels are brought to `size_hw` and put down at `offset_yx`, in pixels there."""
    classes, boxes = index.labels(image)
    size = np.array([size_hw[1], size_hw[0]] * 2, dtype=np.float32)
    offset = np.array([offset_yx[1], offset_yx[0]] * 2, dtype=np.float32)
    half = np.multiply(boxes[:, 2:], 0.5, dtype=np.float32)
    corners = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
    bounds = index.point_offsets[index.box_offsets[image] : index.box_offsets[image + 1] + 1]
    points = index.points[bounds[0] : bounds[-1]] * size[:2] + offset[:2]
    return Shapes(classes, corners * size + offset, points, bounds - bounds[0])


def concatenate(parts: Sequence[Shapes]) -> Shapes:
    """All objects of several sets, in order."""
    starts = np.cumsum([0, *(len(part.points) for part in parts)])
    offsets = [part.offsets[1:] + start for part, start in zip(parts, starts, strict=False)]
    return Shapes(
        np.concatenate([part.classes for part in parts]),
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.points for part in parts]),
        np.concatenate([np.zeros(1, np.int64), *offsets]),
    )


@dataclass(frozen=True, slots=True)
class Labels:
    """Boxes of a finished sample: classes (n,) int32 and boxes (n, 4) float32 xyxy pixels of the output."""

    classes: NDArray[np.int32]
    boxes: NDArray[np.float32]

    def normalised(self, out_hw: tuple[int, int], *, flip_x: bool = False, flip_y: bool = False) -> Labels:
        """Boxes as cxcywh divided by the output's sides, mirrored where the image is."""
        height, width = out_hw
        limit = np.array([width, height, width, height], dtype=np.float32)
        boxes = np.clip(self.boxes, 0.0, limit - np.float32(_EDGE))
        low, high = boxes[:, :2], boxes[:, 2:]
        result = np.concatenate([(low + high) / 2, high - low], axis=1) / limit
        if flip_y:
            result[:, 1] = 1.0 - result[:, 1]
        if flip_x:
            result[:, 0] = 1.0 - result[:, 0]
        return Labels(self.classes, result)


def warp_shapes(
    shapes: Shapes, matrix: geometry.Matrix, scale: float, out_hw: tuple[int, int], rules: WarpRules = CURRENT
) -> Labels:
    """Warp objects, clip them to the output, and drop those of which too little is left.

    Boxes come from the polygons when every object has one, else from the corners of the boxes.

    Args:
        shapes: objects in pixels of the image (of the mosaic canvas).
        matrix: out_from_image.
        scale: magnification that the matrix was drawn with.
        out_hw: size of the output.
        rules: which of them are kept.
    """
    polygons = shapes.all_have_polygons
    if polygons:
        points = geometry.resample_polygons(shapes.points, shapes.offsets)
        boxes = geometry.boxes_of_points(geometry.transform_points(points, matrix), out_hw)
    else:
        boxes = geometry.clip_boxes(geometry.transform_boxes(shapes.boxes, matrix), out_hw)
    kept = geometry.kept_boxes(shapes.boxes, boxes, scale, rules, polygons=polygons)
    return Labels(shapes.classes[kept], boxes[kept].astype(np.float32))
