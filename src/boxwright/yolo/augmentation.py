"""Augmentation of pixels: the one warp, mosaic, mixup, copy-paste and colour.

The warp samples each source image once, straight into the output, through one composed matrix. Matrices act on pixel
indices (the centre of the first pixel is 0, 0), as OpenCV's warps do; rectangles are in pixel edges (the first pixel
reaches from 0 to 1): `edges = index + 1/2`. Where the matrix only magnifies and moves (the default recipes) a tile is
a crop and a resize into the output. Both ends of the crop are rounded to whole pixels, so the picture may lie up to
half a pixel off the exact warp; labels do not go through here and stay exact. Any other matrix goes through OpenCV's
general warp.

Sources, in the form that YOLOv5 6.x published (docs/spec/yolov5.md, B7; tests/parity/test_augment.py):
- mosaic of four; of the mosaic of nine only that it exists is published, this one carries the idea of Bochkovskiy et
  al., "YOLOv4" (2020), section 3.3, on to a ring of eight tiles, see `place_nine`;
- mixup: Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018; ratio from Beta(32, 32), labels of both
  images with full weight;
- copy-paste: Ghiasi et al., "Simple copy-paste is a strong data augmentation method for instance segmentation", CVPR
  2021; the image is mirrored left to right and the object cut out there; one that would hide 30 % of any box is left
  out;
- HSV jitter through three tables (docs/spec/yolov3-spp.md, A7).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from boxwright.data.letterbox import FILL
from boxwright.ops.arrays import Floats, Image, Ints
from boxwright.yolo.geometry import Matrix, Shapes, concatenate, is_scale_and_shift, transform_points, translation

_ALIASING_BELOW = 0.5  # linear sampling at a smaller magnification leaves out pixels of the source

LoadImage = Callable[[int], Image]


@dataclass(frozen=True, slots=True)
class Tile:
    """One source image in the plan of a sample."""

    image: int  # position in the data index
    matrix: Matrix  # output_from_source on pixel indices, (3, 3)
    window: tuple[float, float, float, float]  # the part of the source that may be seen, x1, y1, x2, y2 in source edges

    def then(self, matrix: Matrix) -> "Tile":
        """Return the same tile with one more transform behind."""
        return replace(self, matrix=matrix @ self.matrix)


def resize_matrix(source_hw: tuple[float, float], out_hw: tuple[int, int]) -> Matrix:
    """Return the transform of pixel indices in a resize: edges are scaled, so indices shift by half a pixel."""
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
    """Return, along one axis, the output pixels that show the window, and the source pixels that go there."""
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
    matrix = translation(-left, -top) @ tile.matrix @ translation(low_x, low_y)
    # Reduced by halves, averaging, as long as linear sampling would leave out pixels. The root of the determinant is
    # output pixels per source pixel, the geometric mean of both axes, where perspective is nil.
    while abs(float(np.linalg.det(matrix[:2, :2]))) ** 0.5 < _ALIASING_BELOW and min(crop.shape[:2]) > 1:
        whole, half = crop.shape[:2], (-(-crop.shape[0] // 2), -(-crop.shape[1] // 2))
        crop = cast("Image", cv2.resize(crop, half[::-1], interpolation=cv2.INTER_AREA))
        matrix = matrix @ np.linalg.inv(resize_matrix(whole, half))
    warped = warp_image(crop, matrix, size, cv2.BORDER_REPLICATE)
    mask = np.zeros(size, dtype=np.uint8)
    outline = np.round((mapped - (left, top)) * 16).astype(np.int32)
    cv2.fillConvexPoly(mask, outline, 255, lineType=cv2.LINE_8, shift=4)
    cv2.copyTo(warped, mask, out[top:bottom, left:right])


NUM_TILES = 4
NUM_NINE = 9
CANVAS = 2  # sides of the canvas, in sides of the output

Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one tile lies."""

    large: Rectangle  # the part of the canvas that the tile covers
    small: Rectangle  # the part of the tile that is seen there
    offset_xy: tuple[int, int]  # canvas coordinate of the tile's corner, so that canvas = tile + offset

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing of the tile is on the canvas."""
        x1, y1, x2, y2 = self.large
        return x1 == x2 or y1 == y2


Draw = tuple[Ints, tuple[int, int]]  # images of the tiles in the order they are placed in, and a point on the canvas


def draw_four(rng: np.random.Generator, image: int, num_images: int, side: int) -> Draw:
    """Draw the centre from the middle half of the canvas, three more images with replacement, and their order."""
    x, y = rng.uniform(side / 2, side * 3 / 2, 2)
    others = rng.integers(num_images, size=NUM_TILES - 1)
    return rng.permutation(np.array([image, *others])), (int(x), int(y))


def place_four(centre_xy: tuple[int, int], tiles_hw: Sequence[tuple[int, int]], side: int) -> list[Placement]:
    """Put four tiles (top left, top right, bottom left, bottom right) with one corner at the centre; see `place_nine`.

    Args:
        centre_xy: where the tiles meet on the canvas.
        tiles_hw: four sizes in canvas pixels.
        side: half of the canvas' side.
    """
    x, y = centre_xy
    corners = [(x - (k % 2 == 0) * width, y - (k < 2) * height) for k, (height, width) in enumerate(tiles_hw)]
    return [_cut_off(corner, hw, side) for corner, hw in zip(corners, tiles_hw, strict=True)]


def draw_nine(rng: np.random.Generator, image: int, num_images: int, side: int) -> Draw:
    """Draw the middle tile's corner from the upper left quarter of the canvas, and eight more images.

    The image itself is in the middle: outer tiles may lie outside of the canvas as a whole.
    """
    x, y = rng.uniform(0.0, side, 2)
    others = rng.integers(num_images, size=NUM_NINE - 1)
    return np.array([image, *others]), (int(x), int(y))


def place_nine(corner_xy: tuple[int, int], tiles_hw: Sequence[tuple[int, int]], side: int) -> list[Placement]:
    """Place eight tiles around one, clockwise, and cut off what leaves the canvas.

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
    """Return what is seen on the canvas of a tile that lies with its upper left corner there; maybe nothing."""
    (left, top), (height, width), limit = corner_xy, tile_hw, CANVAS * side
    x1, y1 = min(max(left, 0), limit), min(max(top, 0), limit)
    x2, y2 = max(min(left + width, limit), x1), max(min(top + height, limit), y1)
    return Placement((x1, y1, x2, y2), (x1 - left, y1 - top, x2 - left, y2 - top), (left, top))


_CONCENTRATION = 32.0  # Beta(32, 32): ratios near one half


def draw_mixup_ratio(rng: np.random.Generator) -> float:
    return float(rng.beta(_CONCENTRATION, _CONCENTRATION))


def mixup(first: Image, second: Image, ratio: float) -> Image:
    """Blend first * ratio + second * (1 - ratio), rounded down as published.

    There are only 256 x 256 pairs of grey levels: a table of them, computed once in float64, gives each pixel exactly
    what arithmetic on the whole image would, in a fraction of the time.
    """
    levels = np.arange(256, dtype=np.float64)
    table = (levels[:, None] * ratio + levels[None, :] * (1.0 - ratio)).astype(np.uint8)
    pair = first.astype(np.uint16)
    pair <<= 8
    pair |= second
    return table.ravel()[pair]


_MAX_HIDDEN = 0.30


def draw_paste_order(rng: np.random.Generator, shapes: Shapes, share: float) -> Ints:
    """Draw which objects are to be pasted: that share of those with a polygon, in random order."""
    with_polygon = np.flatnonzero(np.diff(shapes.offsets))
    return rng.choice(with_polygon, size=round(share * len(with_polygon)), replace=False)


def choose_pastes(shapes: Shapes, order: Ints, width: int) -> tuple[Ints, Shapes]:
    """Choose in `order` each object whose mirror image hides little of every box so far.

    Args:
        shapes: objects on a canvas.
        order: objects to try.
        width: width of the canvas.

    Returns:
        The objects taken, and all objects with the mirrored ones appended.
    """
    taken: list[int] = []
    boxes = shapes.boxes
    mirror = shapes.mirrored(order, width)
    for item, box in zip(order, mirror.boxes, strict=True):
        overlap = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + np.float32(1e-16)
        hidden = overlap.clip(0).prod(axis=1) / area
        # A pasted object counts as one of the boxes from then on, so that a later one may not hide it either.
        if (hidden < _MAX_HIDDEN).all():
            taken.append(int(item))
            boxes = np.concatenate([boxes, box[None]])
    chosen = np.array(taken, dtype=np.int64)
    return chosen, concatenate([shapes, shapes.mirrored(chosen, width)]) if taken else shapes


def paste_mirrored(image: Image, shapes: Shapes, items: Ints) -> None:
    """Paste the mirror images of the objects `items` into `image`, in place."""
    mask = np.zeros(image.shape[:2], dtype=np.uint8)
    for item in items:
        outline = shapes.polygon(item).astype(np.int32)[:, None, :]
        cv2.drawContours(mask, [outline], -1, 255, cv2.FILLED)
    cv2.copyTo(cv2.flip(image, 1), cv2.flip(mask, 1), image)


_HUES = 180  # OpenCV keeps hue in half degrees


def draw_hsv_multipliers(rng: np.random.Generator, gains: tuple[float, float, float]) -> Floats:
    """Draw the multipliers of hue, saturation and value, each in 1 +- its gain."""
    return rng.uniform(-1.0, 1.0, 3) * gains + 1.0


def hsv_table(multipliers: Sequence[float] | Floats) -> NDArray[np.uint8]:
    """Return the (1, 256, 3) table that multiplies hue (modulo its circle), saturation and value (clipped)."""
    levels = np.arange(256, dtype=np.float64)
    hue, saturation, value = multipliers
    table = np.empty((1, 256, 3), dtype=np.uint8)
    table[0, :, 0] = (levels * hue) % _HUES
    table[0, :, 1] = np.clip(levels * saturation, 0, 255)
    table[0, :, 2] = np.clip(levels * value, 0, 255)
    return table


def finish_colors(
    pixels_bgr: Image, table: NDArray[np.uint8] | None, out: Image, *, flip_x: bool, flip_y: bool
) -> None:
    """Apply an HSV table to a BGR image, turn it to RGB and mirror it.

    The two buffers take turns, since a fresh one costs more in page faults than the arithmetic does.

    Args:
        pixels_bgr: (H, W, 3) uint8, contiguous; overwritten.
        table: what `hsv_table` gives; None leaves the colours alone.
        out: contiguous array of the same shape, gets the result.
        flip_x, flip_y: mirror left to right, upside down.
    """
    flips = flip_x or flip_y
    if table is not None:
        cv2.cvtColor(pixels_bgr, cv2.COLOR_BGR2HSV, dst=out)
        if not flips:
            cv2.LUT(out, table, dst=pixels_bgr)
            cv2.cvtColor(pixels_bgr, cv2.COLOR_HSV2RGB, dst=out)
            return
        cv2.LUT(out, table, dst=out)
        cv2.cvtColor(out, cv2.COLOR_HSV2RGB, dst=pixels_bgr)
    elif not flips:
        cv2.cvtColor(pixels_bgr, cv2.COLOR_BGR2RGB, dst=out)
        return
    else:
        cv2.cvtColor(pixels_bgr, cv2.COLOR_BGR2RGB, dst=pixels_bgr)
    both = -1  # OpenCV's code for mirroring both ways; 1 is left to right, 0 upside down
    cv2.flip(pixels_bgr, both if flip_x and flip_y else int(flip_x), dst=out)
