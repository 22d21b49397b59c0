"""One warp: each source image is sampled once, straight into the output, through one composed matrix.

Matrices act on pixel indices (the centre of the first pixel is 0, 0), as OpenCV's warps do; rectangles are in pixel
edges (the first pixel reaches from 0 to 1). `edges = index + 1/2`.

Where the matrix only magnifies and moves (the default recipes) a tile is a crop and a resize into the output. Both ends
of the crop are rounded to whole pixels, so the picture may lie up to half a pixel off the exact warp; labels do not
go through here and stay exact. Any other matrix goes through OpenCV's general warp.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np

from boxwright.data.letterbox import FILL, Image
from boxwright.yolo.geometry import Matrix, is_scale_and_shift, transform_points, translation

_ALIASING_BELOW = 0.5  # linear sampling at a smaller magnification leaves out pixels of the source

LoadImage = Callable[[int], Image]


@dataclass(frozen=True, slots=True)
class Tile:
    """One source image in the plan of a sample.

    Args:
        image: position in the data index.
        matrix: output_from_source on pixel indices, (3, 3).
        window: the part of the source that may be seen, x1, y1, x2, y2 in source edges.
    """

    image: int
    matrix: Matrix
    window: tuple[float, float, float, float]

    def then(self, matrix: Matrix) -> Tile:
        """The same tile with one more transform behind."""
        return Tile(self.image, matrix @ self.matrix, self.window)


def resize_matrix(source_hw: tuple[float, float], out_hw: tuple[int, int]) -> Matrix:
    """The transform of pixel indices that a resize stands for: edges are scaled, so indices shift by half a pixel."""
    scale_y, scale_x = out_hw[0] / source_hw[0], out_hw[1] / source_hw[1]
    return np.array([[scale_x, 0.0, (scale_x - 1.0) / 2], [0.0, scale_y, (scale_y - 1.0) / 2], [0.0, 0.0, 1.0]])


def warp_image(image: Image, matrix: Matrix, out_hw: tuple[int, int], border: int = cv2.BORDER_CONSTANT) -> Image:
    """Warp a whole image by out_from_image (on pixel indices); what it does not reach is grey, or as `border` says."""
    size = (out_hw[1], out_hw[0])
    fill = (FILL, FILL, FILL)
    if matrix[2, 0] == 0.0 and matrix[2, 1] == 0.0:
        out = cv2.warpAffine(image, matrix[:2], size, flags=cv2.INTER_LINEAR, borderMode=border, borderValue=fill)
    else:
        out = cv2.warpPerspective(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border, borderValue=fill)
    return cast("Image", out)


def render(tiles: Sequence[Tile], out: Image, load: LoadImage) -> Image:
    """Sample all tiles into one output.

    Args:
        tiles: the plan; a later tile covers an earlier one.
        out: (H, W, 3) uint8, contiguous; overwritten.
        load: gives the pixels of an image; not asked for tiles of which nothing is seen.

    Returns:
        `out`, grey where no tile lies.
    """
    out[:] = FILL
    for tile in tiles:
        if is_scale_and_shift(tile.matrix):
            _render_scaled(out, tile, load)
        else:
            _render_warped(out, tile, load)
    return out


def _span(scale: float, shift: float, window: tuple[float, float], limit: int) -> tuple[int, int, int, int]:
    """Along one axis: the output pixels that show the window, and the source pixels that go there."""
    start = min(max(round(window[0] * scale + shift), 0), limit)
    stop = min(max(round(window[1] * scale + shift), 0), limit)
    if stop <= start:
        return 0, 0, 0, 0
    low, high = int(window[0]), math.ceil(window[1])
    first = min(max(round((start - shift) / scale), low), high - 1)
    last = min(max(round((stop - shift) / scale), first + 1), high)
    return start, stop, first, last


def _render_scaled(out: Image, tile: Tile, load: LoadImage) -> None:
    """Crop and resize."""
    scale_x, scale_y = float(tile.matrix[0, 0]), float(tile.matrix[1, 1])
    shift_x = float(tile.matrix[0, 2]) + (1.0 - scale_x) / 2  # from indices to edges
    shift_y = float(tile.matrix[1, 2]) + (1.0 - scale_y) / 2
    x1, y1, x2, y2 = tile.window
    left, right, first_x, last_x = _span(scale_x, shift_x, (x1, x2), out.shape[1])
    top, bottom, first_y, last_y = _span(scale_y, shift_y, (y1, y2), out.shape[0])
    if right <= left or bottom <= top:
        return
    crop = load(tile.image)[first_y:last_y, first_x:last_x]
    room = out[top:bottom, left:right]
    if crop.shape == room.shape:
        room[:] = crop
        return
    method = cv2.INTER_AREA if min(scale_x, scale_y) < _ALIASING_BELOW else cv2.INTER_LINEAR
    cv2.resize(crop, (right - left, bottom - top), dst=room, interpolation=method)


def _render_warped(out: Image, tile: Tile, load: LoadImage) -> None:
    """Warp within the rectangle around the mapped window, and copy what lies inside the window."""
    x1, y1, x2, y2 = tile.window
    corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]) - 0.5
    mapped = transform_points(corners, tile.matrix)
    left, top = np.maximum(np.floor(mapped.min(axis=0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(mapped.max(axis=0)).astype(int) + 1, (out.shape[1], out.shape[0]))
    if right <= left or bottom <= top:
        return
    low_x, low_y, high_x, high_y = int(x1), int(y1), math.ceil(x2), math.ceil(y2)
    crop = load(tile.image)[low_y:high_y, low_x:high_x]
    size = (int(bottom - top), int(right - left))
    crop, matrix = _shrunk(crop, translation(-left, -top) @ tile.matrix @ translation(low_x, low_y))
    warped = warp_image(crop, matrix, size, cv2.BORDER_REPLICATE)
    mask = np.zeros(size, dtype=np.uint8)
    outline = np.round((mapped - (left, top)) * 16).astype(np.int32)
    cv2.fillConvexPoly(mask, outline, 255, lineType=cv2.LINE_8, shift=4)
    cv2.copyTo(warped, mask, out[top:bottom, left:right])


def _shrunk(image: Image, matrix: Matrix) -> tuple[Image, Matrix]:
    """Halve an image, by averaging, as long as linear sampling would leave out pixels of it."""
    height, width = image.shape[:2]
    while _magnification(matrix) < _ALIASING_BELOW and min(height, width) > 1:
        half = (-(-height // 2), -(-width // 2))
        image = cast("Image", cv2.resize(image, half[::-1], interpolation=cv2.INTER_AREA))
        matrix = matrix @ np.linalg.inv(resize_matrix((height, width), half))
        height, width = half
    return image, matrix


def _magnification(matrix: Matrix) -> float:
    """Output pixels per source pixel, the geometric mean of both axes, where perspective is nil."""
    return abs(float(np.linalg.det(matrix[:2, :2]))) ** 0.5
