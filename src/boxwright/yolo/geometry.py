"""Geometry of augmentation: the matrix of random perspective, what it does to labels, and which boxes are kept.

Source: published YOLOv5 6.x behaviour (docs/spec/yolov5.md, B7; tests/parity/test_augment.py). Coordinates are pixels,
x right, y down; matrices act on columns (x, y, 1). What is not here: pixels (augmentation.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwright.data.index import DataIndex
from boxwright.ops.arrays import Bools, Ints
from boxwright.yolo.published import WarpRules
from boxwright.yolo.settings import AugmentConfig

Matrix = NDArray[np.float64]  # (3, 3)
Floats = NDArray[np.floating]

POLYGON_POINTS = 1000  # points a polygon is resampled to before it is warped, as published
_EPS = 1e-16  # published: keeps denominators from zero
MIN_AREA_RATIO_POLYGONS = 0.01  # smallest share of a box's area that must remain where boxes come from polygons


@dataclass(frozen=True, slots=True)
class PerspectiveDraw:
    """One draw of random perspective."""

    perspective: tuple[float, float] = (0.0, 0.0)  # the two perspective terms, per pixel
    angle: float = 0.0  # rotation in degrees, counter-clockwise as seen
    scale: float = 1.0  # magnification
    shear: tuple[float, float] = (0.0, 0.0)  # shear in x and y, in degrees
    # where the centre goes, as a fraction of the output's width and height; 0.5 is its middle
    translate: tuple[float, float] = (0.5, 0.5)


def draw_perspective(rng: np.random.Generator, config: AugmentConfig) -> PerspectiveDraw:
    """Draw the parameters from their ranges. The count of draws does not depend on the configuration."""
    unit = rng.uniform(-1.0, 1.0, 8).tolist()
    return PerspectiveDraw(
        perspective=(unit[0] * config.perspective, unit[1] * config.perspective),
        angle=unit[2] * config.degrees,
        scale=1.0 + unit[3] * config.scale,
        shear=(unit[4] * config.shear, unit[5] * config.shear),
        translate=(0.5 + unit[6] * config.translate, 0.5 + unit[7] * config.translate),
    )


def translation(x: float, y: float) -> Matrix:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def perspective_matrix(
    draw: PerspectiveDraw, image_hw: tuple[int, int], out_hw: tuple[int, int], rules: WarpRules = WarpRules()
) -> Matrix:
    """Compose translate · shear · rotate and scale · perspective · centre; early releases shear after the translation.

    Args:
        draw: the parameters.
        image_hw: size of the image (of the whole mosaic canvas).
        out_hw: size of the result.
        rules: of a release.

    Returns:
        out_from_image, (3, 3) float64.
    """
    height, width = image_hw
    perspective = np.eye(3)
    perspective[2, :2] = draw.perspective
    angle = math.radians(draw.angle)
    cosine, sine = draw.scale * math.cos(angle), draw.scale * math.sin(angle)
    rotate = np.array([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    shear = np.eye(3)
    shear[0, 1], shear[1, 0] = (math.tan(math.radians(degrees)) for degrees in draw.shear)
    turned = rotate @ perspective @ translation(-width / 2, -height / 2)
    if not rules.shear_last:
        return translation(draw.translate[0] * out_hw[1], draw.translate[1] * out_hw[0]) @ shear @ turned
    sides = (height, width) if rules.swapped_shift else (width, height)
    shift_x, shift_y = ((place - 0.5) * side for place, side in zip(draw.translate, sides, strict=True))
    return shear @ translation(out_hw[1] / 2 + shift_x, out_hw[0] / 2 + shift_y) @ turned


def is_scale_and_shift(matrix: Matrix) -> bool:
    """Tell whether the matrix only magnifies and moves: no rotation, shear, mirroring or perspective."""
    plain = matrix[0, 1] == matrix[1, 0] == matrix[2, 0] == matrix[2, 1] == 0.0 and matrix[2, 2] == 1.0
    return bool(plain and matrix[0, 0] > 0.0 and matrix[1, 1] > 0.0)


def transform_points(points: Floats, matrix: Matrix) -> NDArray[np.float64]:
    """Map (..., 2) points, with the division that perspective needs."""
    mapped = points @ matrix[:2, :2].T + matrix[:2, 2]
    if matrix[2, 0] == 0.0 and matrix[2, 1] == 0.0:
        return mapped
    return mapped / (points @ matrix[2, :2] + matrix[2, 2])[..., None]


def transform_boxes(boxes: Floats, matrix: Matrix) -> NDArray[np.float64]:
    """Map (n, 4) xyxy boxes to the upright boxes around their four mapped corners; not clipped."""
    corners = transform_points(boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2), matrix)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def resample_polygons(points: Floats, offsets: Ints, count: int = POLYGON_POINTS) -> Floats:
    """Put `count` points on each closed polygon, evenly in the number of its vertex (not in length), as published.

    Args:
        points: (P, 2) vertices of all polygons, one after the other; none is empty.
        offsets: (n + 1,) where each polygon begins.

    Returns:
        (n, count, 2)
    """
    starts, sizes = offsets[:-1, None], np.diff(offsets)[:, None]
    position = np.linspace(0.0, 1.0, count)[None, :] * sizes  # the closing edge leads back to vertex 0
    vertex = np.minimum(position.astype(np.int64), sizes - 1)
    share = (position - vertex)[..., None]
    following = points[starts + (vertex + 1) % sizes]
    return points[starts + vertex] * (1.0 - share) + following * share


def boxes_of_points(points: Floats, out_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Return boxes (n, 4) xyxy around the points of each (n, k, 2) set inside the image; zeros where none is."""
    height, width = out_hw
    inside = np.all((points >= 0.0) & (points <= np.array([width, height])), axis=2, keepdims=True)
    low = np.where(inside, points, np.inf).min(axis=1)
    high = np.where(inside, points, -np.inf).max(axis=1)
    boxes = np.concatenate([low, high], axis=1)
    boxes[~inside.any(axis=(1, 2))] = 0.0
    return boxes


def clip_boxes(boxes: Floats, out_hw: tuple[int, int]) -> Floats:
    """Clip (n, 4) xyxy boxes to the image."""
    height, width = out_hw
    return np.clip(boxes, 0.0, np.array([width, height, width, height], dtype=boxes.dtype))


def kept_boxes(
    boxes: Floats, warped: Floats, scale: float, rules: WarpRules = WarpRules(), *, polygons: bool = False
) -> Bools:
    """Decide which boxes are worth keeping after a warp, by their sides, their proportion and the share of area left.

    Args:
        boxes: (n, 4) xyxy before the warp.
        warped: (n, 4) xyxy after it, clipped.
        scale: magnification that the warp was drawn with.
        rules: of a release.
        polygons: warped boxes come from polygons.

    Returns:
        (n,) bool.
    """
    before = boxes * scale ** (rules.area_grows_with / 2)  # the exponent is that of a side
    width_before, height_before = before[:, 2] - before[:, 0], before[:, 3] - before[:, 1]
    width, height = warped[:, 2] - warped[:, 0], warped[:, 3] - warped[:, 1]
    aspect = np.maximum(width / (height + _EPS), height / (width + _EPS))
    ratio = width * height / (width_before * height_before + _EPS)
    is_large = (width > rules.min_side) & (height > rules.min_side)
    min_ratio = MIN_AREA_RATIO_POLYGONS if polygons else rules.min_area_ratio
    return is_large & (ratio > min_ratio) & (aspect < rules.max_aspect)


_EDGE = 1e-3  # published: normalised boxes end this many pixels before the far edges


@dataclass(frozen=True, slots=True)
class Shapes:
    """The labelled objects of an image."""

    classes: NDArray[np.int32]  # (n,) int32
    boxes: NDArray[np.float32]  # (n, 4) float32 xyxy pixels
    points: NDArray[np.float32]  # (p, 2) float32 polygon vertices in pixels
    # (n + 1,) int64; object k has vertices offsets[k] to offsets[k + 1], none where it has no polygon
    offsets: Ints

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def all_have_polygons(self) -> bool:
        return len(self) > 0 and bool((np.diff(self.offsets) > 0).all())

    def polygon(self, item: int) -> NDArray[np.float32]:
        return self.points[self.offsets[item] : self.offsets[item + 1]]

    def clipped(self, height: float, width: float) -> "Shapes":
        """Clip boxes and vertices to the canvas."""
        limit = np.array([width, height], dtype=np.float32)
        boxes = np.clip(self.boxes, 0.0, np.tile(limit, 2)).astype(np.float32)
        return Shapes(self.classes, boxes, np.clip(self.points, 0.0, limit), self.offsets)

    def mirrored(self, items: Ints, width: float) -> "Shapes":
        """Return the objects `items`, seen in a mirror: x becomes width - x."""
        boxes = self.boxes[items]
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        mirror, shift = np.array([-1.0, 1.0], np.float32), np.array([width, 0.0], np.float32)
        polygons = [self.polygon(item) * mirror + shift for item in items]
        offsets = np.cumsum([0, *map(len, polygons)], dtype=np.int64)
        points = np.concatenate(polygons) if polygons else self.points[:0]
        return Shapes(self.classes[items], boxes, points, offsets)


def shapes_of(index: DataIndex, image: int, size_hw: tuple[float, float], offset_yx: tuple[float, float]) -> Shapes:
    """Return labels of an image that is resized to `size_hw` and put down at `offset_yx`, in pixels there."""
    classes, boxes = index.labels(image)
    size = np.array([size_hw[1], size_hw[0]] * 2, dtype=np.float32)
    offset = np.array([offset_yx[1], offset_yx[0]] * 2, dtype=np.float32)
    half = np.multiply(boxes[:, 2:], 0.5, dtype=np.float32)
    corners = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
    bounds = index.point_offsets[index.box_offsets[image] : index.box_offsets[image + 1] + 1]
    points = index.points[bounds[0] : bounds[-1]] * size[:2] + offset[:2]
    return Shapes(classes, corners * size + offset, points, bounds - bounds[0])


def concatenate(parts: Sequence[Shapes]) -> Shapes:
    """Concatenate all objects of several sets, in order."""
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

    def normalised(self, out_hw: tuple[int, int], *, flip_x: bool = False, flip_y: bool = False) -> "Labels":
        """Return boxes as cxcywh divided by the output's sides, mirrored where the image is."""
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
    shapes: Shapes, matrix: Matrix, scale: float, out_hw: tuple[int, int], rules: WarpRules = WarpRules()
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
        points = resample_polygons(shapes.points, shapes.offsets)
        boxes = boxes_of_points(transform_points(points, matrix), out_hw)
    else:
        boxes = clip_boxes(transform_boxes(shapes.boxes, matrix), out_hw)
    kept = kept_boxes(shapes.boxes, boxes, scale, rules, polygons=polygons)
    return Labels(shapes.classes[kept], boxes[kept].astype(np.float32))
