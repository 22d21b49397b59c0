"""Mosaic: four images around one centre on a canvas of twice the side.

Source: published YOLOv5 6.x behaviour (spec B7, golden augment/mosaic). The canvas is rarely painted: the
rectangles here are composed with the warp that follows (warp.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_TILES = 4
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
    limit = CANVAS * side
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, limit), min(top + height, limit)
    return Placement((x1, y1, x2, y2), (x1 - left, y1 - top, x2 - left, y2 - top), (left, top))
