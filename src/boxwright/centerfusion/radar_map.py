"""Radar points in the camera frame to a map on the output grid: each point is a pillar, the nearest one is seen.

Source: published CenterFusion behaviour (docs/spec/centerfusion.md, C4); Nabati and Qi, "CenterFusion", WACV 2021
(arXiv:2011.04841), section 4.2. N points; grid W x H cells.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from boxwright.centerfusion.augment import map_points
from boxwright.centerfusion.settings import RadarConfig
from boxwright.ops.arrays import Bools, Floats

_VX, _VZ = 8, 9  # rows of accumulated radar: velocity along x and z of the camera
_MARGIN: Final = 1  # pixels of the image's border where points are left out
_CORNERS: Final = np.array([[x, y, z] for y in (0.0, -1.0) for x in (0.5, -0.5) for z in (0.5, -0.5)])
"""Of a pillar of unit size, right, down, forward from the point that it stands on."""


@dataclass(frozen=True, slots=True)
class RadarPoints:
    """Points that are seen, nearest first; mirrored where the image is."""

    pixels: Floats  # (3, N) u, v, depth (m) in the original image
    points: Floats  # (18, N), see `nuscenes.structures.RADAR_FIELDS`; x and velocity along it are mirrored


def paint_radar(
    radar: Floats,
    calib: Floats,
    image_hw: tuple[int, int],
    grid_from_image: Floats,
    config: RadarConfig,
    out: npt.NDArray[np.float32],
    *,
    flip: bool = False,
) -> None:
    """Paint the radar map of an image, see `visible_points` and `paint_pillars`."""
    grid_hw = (out.shape[1], out.shape[2])
    points = visible_points(radar, calib, image_hw, grid_from_image, grid_hw, config, flip=flip)
    paint_pillars(points, calib, grid_from_image, config.pillar_dims, out)


def visible_points(
    radar: Floats,
    calib: Floats,
    image_hw: tuple[int, int],
    grid_from_image: Floats,
    grid_hw: tuple[int, int],
    config: RadarConfig,
    *,
    flip: bool = False,
) -> RadarPoints:
    """Project radar points and keep those that lie in the image and in the grid.

    Args:
        radar: (18, N) accumulated points, camera frame.
        calib: (3, 4) camera matrix.
        image_hw: height, width of the image.
        grid_from_image: (2, 3) map of the pixels (of the mirrored image where `flip`) to cells.
        grid_hw: height, width of the grid.
        config: farthest depth, offset upwards.
        flip: mirror the points with the image.
    """
    points = radar[:, radar[2] <= config.max_depth]  # a copy
    points[1] -= config.z_offset
    points = points[:, points[2] > 0]
    pixels = _project(points[:3].T, calib).T
    inside = _inside(pixels, image_hw, _MARGIN)
    points, pixels = points[:, inside], pixels[:, inside]
    # Stable, so that of equally near points the same one is seen whatever NumPy's sort is.
    order = np.argsort(points[2], kind="stable")
    points, pixels = points[:, order], pixels[:, order]
    if flip:
        pixels[0] = image_hw[1] - 1 - pixels[0]
        points[[0, _VX]] *= -1
    seen = _inside(map_points(pixels.T, grid_from_image).T, grid_hw)
    return RadarPoints(np.vstack([pixels, points[2]])[:, seen], points[:, seen])


def pillar_sizes(
    points: Floats,
    calib: Floats,
    grid_from_image: Floats,
    grid_hw: tuple[int, int],
    pillar_dims: tuple[float, float, float],
) -> Floats:
    """Compute width and height in cells of the pillar that stands on each point.

    Corners outside the grid are discarded; the size is the extent of the others, 0 where fewer than two are left.

    Args:
        points: (18, N), camera frame.
        calib: (3, 4) camera matrix.
        grid_from_image: (2, 3).
        grid_hw: height, width of the grid.
        pillar_dims: height, width (forward), length (right) in metres.

    Returns:
        (2, N).
    """
    height, width, length = pillar_dims
    corners = points[:3].T[:, None, :] + _CORNERS * (length, height, width)
    # The camera matrix is that of the original image even where points are mirrored, as published.
    cells = map_points(_project(corners.reshape(-1, 3), calib), grid_from_image).T.reshape(2, -1, 8)
    kept = _inside(cells, grid_hw)
    low = np.where(kept, cells, np.inf).min(axis=2)
    high = np.where(kept, cells, -np.inf).max(axis=2)
    return np.where(kept.sum(axis=1) > 1, high - low, 0.0)


def paint_pillars(
    radar: RadarPoints,
    calib: Floats,
    grid_from_image: Floats,
    pillar_dims: tuple[float, float, float],
    out: npt.NDArray[np.float32],
) -> None:
    """Paint pillars far to near, so that near ones win.

    Args:
        radar: what `visible_points` gives.
        calib, grid_from_image, pillar_dims: see `pillar_sizes`.
        out: (3, H, W), gets depth, velocity right and forward; 0 where there is no return.
    """
    out[:] = 0
    grid_hw = (out.shape[1], out.shape[2])
    across, down = map_points(radar.pixels[:2].T, grid_from_image).T
    width, height = pillar_sizes(radar.points, calib, grid_from_image, grid_hw, pillar_dims)
    edges = [
        np.maximum(down - height, 0),
        down,
        np.maximum(across - width / 2, 0),
        np.minimum(across + width / 2, grid_hw[1]),
    ]
    top, bottom, left, right = np.round(np.stack(edges)[:, ::-1]).astype(np.int64)  # the farthest first
    # All cells of all pillars in one list, and whose each is: a loop over hundreds of points costs more.
    widths = right - left
    counts = (bottom - top) * widths
    owners = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    row, column = np.divmod(within, widths[owners])
    cells = (top[owners] + row) * grid_hw[1] + left[owners] + column
    values = np.stack([radar.pixels[2], radar.points[_VX], radar.points[_VZ]])[:, ::-1]
    out.reshape(3, -1)[:, cells] = values[:, owners]  # NumPy assigns in order: the last of equal cells stays


def _project(points: Floats, calib: Floats) -> Floats:
    """Project (N, 3) points in the camera frame to (N, 2) pixels; NaN or infinity for a point beside the camera."""
    rays = points @ calib[:, :3].T + calib[:, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        return rays[:, :2] / rays[:, 2:]


def _inside(xy: Floats, hw: tuple[int, int], margin: int = 0) -> Bools:
    """Mark which of (2, ...) coordinates x, y lie strictly inside a picture, its margin left out."""
    height, width = hw
    across = (xy[0] > margin) & (xy[0] < width - margin)
    return across & (xy[1] > margin) & (xy[1] < height - margin)
