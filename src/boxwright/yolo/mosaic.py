"""Mosaic: four images around one centre, or nine around one image, on a canvas of twice the side.

Source: published YOLOv5 6.x behaviour (spec B7, golden augment/mosaic). Of the mosaic of nine only that it exists is
published there; this one carries the idea of Bochkovskiy et al., "YOLOv4" (2020), section 3.3, on to a ring of eight
tiles, see `place_nine`. The canvas is rarely painted: the rectangles here are composed with the warp that follows
(warp.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_TILES = 4
NUM_NINE = 9
CANVAS = 2  # sides of the canvas, in sides of the output

Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one tile lies.

    Args:
        large: the part of the canvas that the tile covers.
        small: the part of the tile that is seen there.
        offset_xy: canvas coordinate of the tile's corner, so that canvas = tile + offset.
    """

    large: Rectangle
    small: Rectangle
    offset_xy: tuple[int, int]

    @property
    def is_empty(self) -> bool:
        """Nothing of the tile is on the canvas."""
        x1, y1, x2, y2 = self.large
        return x1 == x2 or y1 == y2


@dataclass(frozen=True, slots=True)
class MosaicDraw:
    """Images of the four tiles (top left, top right, bottom left, bottom right) and the centre where they meet."""

    images: NDArray[np.int64]
    centre_xy: tuple[int, int]


def draw_mosaic(rng: np.random.Generator, image: int, num_images: int, side: int) -> MosaicDraw:
    """Draw the centre from the middle half of the canvas, three more images with replacement, and their order."""
    x, y = rng.uniform(side / 2, side * 3 / 2, 2)
    others = rng.integers(num_images, size=NUM_TILES - 1)
    return MosaicDraw(rng.permutation(np.array([image, *others])), (int(x), int(y)))


def place_tile(position: int, centre_xy: tuple[int, int], tile_hw: tuple[int, int], side: int) -> Placement:
    """Put a tile with one corner at the centre and cut off what leaves the canvas.

    Args:
        position: 0 top left, 1 top right, 2 bottom left, 3 bottom right.
        centre_xy: the centre on the canvas.
        tile_hw: size of the tile in canvas pixels.
        side: half of the canvas' side.
    """
    height, width = tile_hw
    left = centre_xy[0] if position % 2 else centre_xy[0] - width
    top = centre_xy[1] if position // 2 else centre_xy[1] - height
    return _cut_off((left, top), tile_hw, side)


@dataclass(frozen=True, slots=True)
class NineDraw:
    """Images of the nine tiles in the order of `place_nine`, and where the middle one's corner lies on the canvas."""

    images: NDArray[np.int64]
    corner_xy: tuple[int, int]


def draw_nine(rng: np.random.Generator, image: int, num_images: int, side: int) -> NineDraw:
    """Draw the middle tile's corner from the upper left quarter of the canvas, and eight more images.

    The image itself is in the middle: outer tiles may lie outside of the canvas as a whole.
    """
    x, y = rng.uniform(0.0, side, 2)
    others = rng.integers(num_images, size=NUM_NINE - 1)
    return NineDraw(np.array([image, *others]), (int(x), int(y)))


def place_nine(corner_xy: tuple[int, int], tiles_hw: Sequence[tuple[int, int]], side: int) -> list[Placement]:
    """Lay eight tiles around one, clockwise, and cut off what leaves the canvas.

    The order is middle, top, top right, right, bottom right, bottom, bottom left, left, top left. The four beside the
    middle tile share an edge with it and start at its corners, each at another, like the sails of a windmill; the four
    between them go on where those end. So no two overlap, whatever their sides; gaps stay grey.

    Args:
        corner_xy: upper left corner of the middle tile on the canvas.
        tiles_hw: nine sizes in canvas pixels.
        side: half of the canvas' side.
    """
    heights, widths = [hw[0] for hw in tiles_hw], [hw[1] for hw in tiles_hw]
    left, top = corner_xy
    right, bottom = left + widths[0], top + heights[0]
    corners = [
        (left, top),
        (left, top - heights[1]),
        (left + widths[1], top - heights[2]),
        (right, top),
        (right, top + heights[3]),
        (right - widths[5], bottom),
        (right - widths[5] - widths[6], bottom),
        (left - widths[7], bottom - heights[7]),
        (left - widths[8], bottom - heights[7] - heights[8]),
    ]
    return [_cut_off(corner, hw, side) for corner, hw in zip(corners, tiles_hw, strict=True)]


def _cut_off(corner_xy: tuple[int, int], tile_hw: tuple[int, int], side: int) -> Placement:
    """What is seen on the canvas of a tile that lies with its upper left corner there; maybe nothing."""
    (left, top), (height, width), limit = corner_xy, tile_hw, CANVAS * side
    x1, y1 = min(max(left, 0), limit), min(max(top, 0), limit)
    x2, y2 = max(min(left + width, limit), x1), max(min(top + height, limit), y1)
    return Placement((x1, y1, x2, y2), (x1 - left, y1 - top, x2 - left, y2 - top), (left, top))
