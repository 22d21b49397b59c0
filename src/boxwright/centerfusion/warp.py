"""From pixels of a camera image to the network's input and to its output grid: one affine map, and the warp of pixels.

Source: published CenterFusion behaviour (spec C8), which is that of CenterNet (Zhou et al., "Objects as Points", 2019,
arXiv 1904.07850). Maps act on pixel indices, as OpenCV's warps do.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from boxwright.data.images import read_indexed_image
from boxwright.nuscenes.structures import ImageRecord
from boxwright.ops.arrays import Floats as Array

_ROUNDING: Final = 1e-6  # a scale of one half may come out a little larger
_LARGEST_REDUCTION: Final = 8

Pixels = npt.NDArray[np.uint8]


def affine_map(center: Array, scale: float, rotation: float, out_hw: tuple[int, int]) -> Array:
    """The map that puts `scale` pixels about `center` side by side into the width of the output.

    It is fixed by three pairs of points: the centre, the centre less half of the *width* upwards, and the point
    perpendicular to both, so that proportions are kept. Points are rounded to single precision, as published.

    Args:
        center: (2,) x, y in pixels of the source.
        scale: pixels of the source that fill the width of the output.
        rotation: degrees, clockwise as the source is seen.
        out_hw: height, width of the output.

    Returns:
        (2, 3) out_from_source.
    """
    sine, cosine = np.sin(np.deg2rad(rotation)), np.cos(np.deg2rad(rotation))
    up = float(np.float32(scale)) * -0.5
    source = _three_points(center, np.array([-up * sine, up * cosine]))
    height, width = out_hw
    out = _three_points(np.array([width * 0.5, height * 0.5]), np.array([0.0, width * -0.5]))
    return np.asarray(cv2.getAffineTransform(source, out), dtype=np.float64)


def _three_points(center: Array, upward: Array) -> npt.NDArray[np.float32]:
    points = np.empty((3, 2), np.float32)
    points[0] = center
    points[1] = center + upward
    toward_x, toward_y = points[0] - points[1]
    points[2] = points[1] + np.array([-toward_y, toward_x], np.float32)
    return points


def mirrored(matrix: Array, width: int) -> Array:
    """The map `matrix` after the source, `width` pixels wide, has been mirrored: x becomes width - 1 - x."""
    return _compose(matrix, np.array([[-1.0, 0.0, width - 1.0], [0.0, 1.0, 0.0]]))


def inverse(matrix: Array) -> Array:
    """(2, 3) the map the other way round."""
    return np.asarray(cv2.invertAffineTransform(matrix), dtype=np.float64)


def map_points(points: Array, matrix: Array) -> Array:
    """Map (..., 2) points by a (2, 3) map."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def reduction_of(matrix: Array) -> int:
    """The largest 1, 2, 4 or 8 by which the source can be decoded smaller and still not be magnified by this map."""
    magnification = abs(float(np.linalg.det(matrix[:, :2]))) ** 0.5
    reduction = 1
    while reduction < _LARGEST_REDUCTION and magnification * 2 * reduction <= 1 + _ROUNDING:
        reduction *= 2
    return reduction


def from_reduced(matrix: Array, reduction: int) -> Array:
    """The map for a source decoded at 1 / reduction.

    A pixel i of that stands for the pixels reduction * i to reduction * i + reduction - 1, so its centre lies at
    reduction * i + (reduction - 1) / 2 of the source: half a pixel on at 1/2. The warp takes that into account, so what
    is seen lies where it lay; only its neighbours are averaged in, where the published warp skips them.
    """
    shift = (reduction - 1) / 2
    return _compose(matrix, np.array([[reduction, 0.0, shift], [0.0, reduction, shift]]))


def read_warped(record: ImageRecord, input_from_image: Array, out: Pixels, *, reduce: bool) -> None:
    """Decode an image and sample it once, linearly; what it does not reach is black.

    Args:
        record: which image.
        input_from_image: (2, 3), mirroring included.
        out: (h, w, 3) uint8 BGR, gets the result.
        reduce: decode at reduced scale where the map shrinks the image at least to that, which costs less and
            smooths; False samples the image at full scale, as published.

    Raises:
        UserError: the image is missing, broken, or of another size than its record says.
    """
    reduction = reduction_of(input_from_image) if reduce else 1
    pixels = read_indexed_image(record.path, (record.height, record.width), reduction)
    matrix = from_reduced(input_from_image, reduction) if reduction > 1 else input_from_image
    size = (out.shape[1], out.shape[0])
    cv2.warpAffine(pixels, matrix, size, dst=out, flags=cv2.INTER_LINEAR)


def _compose(second: Array, first: Array) -> Array:
    """(2, 3) first, then second."""
    linear = second[:, :2]
    return np.column_stack([linear @ first[:, :2], linear @ first[:, 2] + second[:, 2]])
