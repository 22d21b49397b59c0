"""Rectangles seen from above: overlap of many pairs at once, and greedy suppression.

Source: intersection of convex polygons by their corners and edge crossings; suppression as in the published
CenterFusion behaviour, spec C11. Two rectangles that coincide overlap wholly here; the published clipping decides about
those by rounding.

Legend: N rectangles, P pairs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_TOLERANCE = 1e-9  # m^2; what lies on an edge is inside
_CORNERS = np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]]) / 2  # counter-clockwise
_PAIRS_AT_ONCE = 1 << 15


def rectangle_corners(centers: Floats, sides: Floats, yaw: Floats) -> Floats:
    """Corners (N, 4, 2), counter-clockwise.

    Args:
        centers: (N, 2) metres.
        sides: (N, 2) length along the direction of yaw, and across it.
        yaw: (N,) rad.
    """
    x, y = np.moveaxis(_CORNERS * sides[:, None], -1, 0)
    cosine, sine = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    return np.stack((cosine * x - sine * y, sine * x + cosine * y), axis=-1) + centers[:, None]


def rectangle_iou(first: Floats, second: Floats) -> Floats:
    """Intersection over union (P,) of rectangles given by their corners (P, 4, 2), counter-clockwise."""
    origin = first.mean(axis=1, keepdims=True)  # global coordinates are far from 0, which would cost digits
    first, second = first - origin, second - origin
    crossings, crossed = _crossings(first, second)
    points = np.concatenate((first, second, crossings), axis=1)
    counted = np.concatenate((_inside(first, second), _inside(second, first), crossed), axis=1)
    areas = _area(first), _area(second)
    # A rectangle without area has every point on its edges: no more is shared than the smaller one has.
    shared = np.minimum(_hull_area(points, counted), np.minimum(*areas))
    union = areas[0] + areas[1] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def suppress(groups: Ints, centers: Floats, corners: Floats, threshold: float, reach: float) -> npt.NDArray[np.bool_]:
    """Which rectangles (N,) stay when, in their order, each removes those after it that overlap it.

    Args:
        groups: (N,) rectangles of different groups never meet.
        centers: (N, 2) metres; only pairs at most `reach` apart are compared.
        corners: (N, 4, 2) as of `rectangle_corners`.
        threshold: lowest IoU that removes.
    """
    apart = np.column_stack((centers, groups * (reach * 2.0)))
    pairs = np.sort(KDTree(apart).query_pairs(reach, output_type="ndarray"), axis=1)
    blocks = [pairs[start : start + _PAIRS_AT_ONCE] for start in range(0, len(pairs), _PAIRS_AT_ONCE)]
    overlaps = [block[rectangle_iou(corners[block[:, 0]], corners[block[:, 1]]) >= threshold] for block in blocks]
    better, worse = np.concatenate([np.empty((0, 2), np.int64), *overlaps]).T
    kept, open_ = np.zeros(len(groups), bool), np.ones(len(groups), bool)
    # A rectangle with no open one before it is kept, and what it overlaps goes: a few rounds settle all of them.
    while open_.any():
        waits = np.zeros_like(open_)
        waits[worse[open_[better]]] = True
        chosen = open_ & ~waits
        kept |= chosen
        open_ &= waits
        open_[worse[chosen[better]]] = False
    return kept


def _inside(points: Floats, corners: Floats) -> npt.NDArray[np.bool_]:
    """Whether points (P, 4, 2) lie in the rectangle (P, 4, 2) of their pair: (P, 4)."""
    edges = np.roll(corners, -1, axis=1) - corners
    offsets = points[:, :, None] - corners[:, None]
    return np.all(_cross(edges[:, None], offsets) >= -_TOLERANCE, axis=-1)


def _crossings(first: Floats, second: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Where edges of both meet (P, 16, 2), and whether they do (P, 16); parallel edges never do."""
    start, other = first[:, :, None], second[:, None]
    along = np.roll(first, -1, axis=1)[:, :, None] - start
    across = np.roll(second, -1, axis=1)[:, None] - other
    slope = _cross(along, across)
    safe = np.where(np.abs(slope) > _TOLERANCE, slope, np.inf)
    at_first = _cross(other - start, across) / safe
    at_second = _cross(other - start, along) / safe
    meets = np.isfinite(safe) & (at_first >= 0) & (at_first <= 1) & (at_second >= 0) & (at_second <= 1)
    points = start + at_first[..., None] * along
    return points.reshape(len(first), 16, 2), meets.reshape(len(first), 16)


def _hull_area(points: Floats, counted: npt.NDArray[np.bool_]) -> Floats:
    """Area (P,) of the convex polygons whose corners are the points (P, K, 2) that count (P, K)."""
    number = counted.sum(axis=1)
    middle = (points * counted[..., None]).sum(axis=1) / np.maximum(number, 1)[:, None]
    points = points - middle[:, None]
    angle = np.where(counted, np.arctan2(points[..., 1], points[..., 0]), np.inf)
    order = np.argsort(angle, axis=1)
    # Points that do not count stand last; each becomes the first one, so that it spans no area.
    order = np.where(np.arange(order.shape[1]) < number[:, None], order, order[:, :1])
    ring = np.take_along_axis(points, order[..., None], axis=1)
    return np.where(number > 2, _area(ring), 0.0)


def _area(ring: Floats) -> Floats:
    return np.abs(_cross(ring, np.roll(ring, -1, axis=1)).sum(axis=1)) / 2


def _cross(a: Floats, b: Floats) -> Floats:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
