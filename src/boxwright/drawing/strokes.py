"""Lines, arrows, dots and filled faces with OpenCV, at fractions of a pixel, and the colours of 3-D pictures.

Every function paints into a (H, W, 3) uint8 BGR image. Points may lie anywhere: what is outside is cut off first, since
OpenCV's coordinates are short integers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from boxwright.data.letterbox import Image
from boxwright.drawing.boxes import class_color

Array = npt.NDArray[np.float64]
Color = tuple[int, int, int]

FAR_COLOR = 60.0  # metres: from here on radar points have the colour of the far end
# BGR by class of `nuscenes.structures.CLASS_NAMES`: readable on a street and on a dark ground, none like the white of
# annotations.
CLASS_COLORS: tuple[Color, ...] = (
    (255, 160, 64),
    (66, 140, 255),
    (110, 80, 255),
    (255, 125, 200),
    (165, 195, 20),
    (110, 235, 90),
    (220, 100, 255),
    (255, 240, 120),
    (60, 225, 255),
    (105, 150, 200),
)
_TURBO_ENDS = (228, 20)  # the ends of the table themselves are too dark to be seen
_SHIFT = 4  # bits of a pixel that OpenCV's coordinates have after the point
_SCALE = 1 << _SHIFT
_ROUND = np.stack((np.cos(np.arange(16) * np.pi / 8), np.sin(np.arange(16) * np.pi / 8)), 1)


def solid_color(label: int) -> Color:
    """BGR of a class in 3-D pictures."""
    return CLASS_COLORS[label] if 0 <= label < len(CLASS_COLORS) else class_color(label)


def depth_colors(depths: Array) -> list[Color]:
    """BGR of each depth in metres, from warm (near) to cold (far)."""
    near, far = _TURBO_ENDS
    shares = np.clip(np.nan_to_num(depths) / FAR_COLOR, 0, 1)
    steps = np.rint(near + (far - near) * shares).astype(np.int64)
    return [_turbo()[step] for step in steps]


def draw_lines(canvas: Image, lines: Array, color: Color, width: int) -> None:
    """Paint lines (E, 2, 2), pixels."""
    rim = 2.0 * width
    ends, inside = clip_to_rectangle(lines, (-rim, -rim, canvas.shape[1] + rim, canvas.shape[0] + rim))
    if inside.any():
        cv2.polylines(canvas, list(_fixed(ends[inside])), False, color, width, cv2.LINE_AA, _SHIFT)


def draw_arrow(canvas: Image, ends: Array, color: Color, width: int) -> None:
    """Paint an arrow from the first of two points (2, 2), pixels, to the second; very short ones are left out."""
    length = float(np.hypot(*(ends[1] - ends[0])))
    if not 2 * width <= length < np.inf:
        return
    along = (ends[1] - ends[0]) / length
    across = np.array((-along[1], along[0]))
    head = min(0.5 * length, 3.0 + 2.5 * width)
    barbs = [ends[1] - along * head + side * across * head * 0.6 for side in (1, -1)]
    draw_lines(canvas, np.stack([ends, *(np.stack((ends[1], barb)) for barb in barbs)]), color, width)


def draw_dot(canvas: Image, center: Array, radius: float, color: Color) -> None:
    """Paint a disc; the radius may be a fraction. OpenCV's own small circles look like diamonds."""
    cv2.fillConvexPoly(canvas, _fixed(center + radius * _ROUND), color, cv2.LINE_AA, _SHIFT)


def fill_face(canvas: Image, polygon: Array, color: Color, share: float = 1.0) -> None:
    """Blend a convex polygon (P, 2), pixels, into the image with this share of its colour."""
    size = (canvas.shape[1], canvas.shape[0])
    left, top = np.clip(np.floor(polygon.min(0)), 0, size).astype(int)
    right, bottom = np.clip(np.ceil(polygon.max(0)) + 1, 0, size).astype(int)
    patch = canvas[top:bottom, left:right]
    if patch.size:
        filled = patch.copy()
        cv2.fillConvexPoly(filled, _fixed(polygon - (left, top)), color, cv2.LINE_AA, _SHIFT)
        patch[:] = cv2.addWeighted(filled, share, patch, 1 - share, 0)


def draw_ring(canvas: Image, center: Array, radius: float, color: Color) -> None:
    """Paint a thin circle."""
    x, y = _fixed(center)
    cv2.circle(canvas, (int(x), int(y)), round(radius * _SCALE), color, 1, cv2.LINE_AA, _SHIFT)


def clip_to_rectangle(
    lines: Array, rectangle: tuple[float, float, float, float]
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Cut lines (E, 2, 2) at a rectangle (xyxy): their ends, and (E,) whether anything is left.

    Source: Liang and Barsky, A New Concept and Method for Line Clipping, 1984.
    """
    start, step = lines[:, 0], lines[:, 1] - lines[:, 0]
    low, high = np.array(rectangle[:2]), np.array(rectangle[2:])
    with np.errstate(divide="ignore", invalid="ignore"):
        at = np.stack(((low - start) / step, (high - start) / step))
    within = (start >= low) & (start <= high)  # what a line along an axis must be
    flat = step == 0
    enter = np.where(flat, np.where(within, -np.inf, np.inf), at.min(0))
    leave = np.where(flat, np.where(within, np.inf, -np.inf), at.max(0))
    first, last = np.maximum(enter.max(1), 0.0), np.minimum(leave.min(1), 1.0)
    inside = first <= last
    shares = np.where(inside[:, None], np.stack((first, last), 1), 0.0)
    return start[:, None] + shares[..., None] * step[:, None], inside


def _fixed(points: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Pixels in OpenCV's fixed-point form."""
    limit = np.iinfo(np.int32).max // 4
    return np.clip(np.rint(points * _SCALE), -limit, limit).astype(np.int32)


@lru_cache(maxsize=1)
def _turbo() -> list[Color]:
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_TURBO)[0]
    return [(int(b), int(g), int(r)) for b, g, r in table]
