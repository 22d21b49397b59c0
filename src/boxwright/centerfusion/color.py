"""Colour jitter and normalisation as one affine map of colours.

Brightness, contrast, saturation, lighting and normalisation are each affine in a pixel, because the grey of each pixel
and the mean grey are taken once, from the image before any change. So they compose to out = M pixel + b.

Source: published CenterFusion behaviour (spec C8, golden color_aug); lighting after Krizhevsky et al., "ImageNet
Classification with Deep Convolutional Neural Networks" (2012), section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from boxwright.centerfusion.draws import Draws
from boxwright.ops.arrays import Floats as Array

MEAN: Final = np.array([0.40789654, 0.44719302, 0.47026115])  # blue, green, red of a unit image, published
STD: Final = np.array([0.28863828, 0.27408164, 0.27809835])
VARIATION: Final = 0.4  # brightness, contrast and saturation lie in 1 +- this
LIGHTING_STD: Final = 0.1
_GREY: Final = np.array([0.114, 0.587, 0.299])  # ITU-R BT.601, blue first
# Principal components of the colours of ImageNet, as published with CenterNet.
_EIGENVALUES: Final = np.array([0.2141788, 0.01817699, 0.00341571])
_EIGENVECTORS: Final = np.array(
    [
        [-0.58752847, -0.69563484, 0.41340352],
        [-0.5832747, 0.00994535, -0.81221408],
        [-0.56089297, 0.71832671, 0.41158938],
    ]
)
# Of each grey level, to the last bit what published inference gives: float64 with the float32 of mean and deviation.
_NORMALISED: Final = (
    (np.arange(256.0)[None, :, None] / 255 - MEAN.astype(np.float32)) / STD.astype(np.float32)
).astype(np.float32)
BRIGHTNESS: Final = 0
CONTRAST: Final = 1
SATURATION: Final = 2


@dataclass(frozen=True, slots=True)
class ColorChange:
    """What is drawn for the colours of one image.

    Args:
        order: BRIGHTNESS, CONTRAST and SATURATION in the order in which they are applied.
        factors: the factor of each, in that order.
        lighting: (3,) weights of the principal components.
    """

    order: tuple[int, ...]
    factors: tuple[float, ...]
    lighting: tuple[float, ...]


def draw_color_change(rng: Draws) -> ColorChange:
    """Draw the order, the three factors and the lighting."""
    order = tuple(rng.permutation(3).tolist())
    factors = tuple((1.0 + rng.uniform(-VARIATION, VARIATION, 3)).tolist())
    return ColorChange(order, factors, tuple((rng.standard_normal(3) * LIGHTING_STD).tolist()))


def color_map(change: ColorChange, mean_bgr: Array) -> Array:
    """(3, 4) new colour from colour and 1, for colours of a unit image, blue first.

    Args:
        change: what was drawn.
        mean_bgr: (3,) mean colour of the image before the change, on which the contrast turns.
    """
    grey_mean = _GREY @ mean_bgr
    result = np.eye(3, 4)
    for kind, factor in zip(change.order, change.factors, strict=True):
        result *= factor
        if kind == CONTRAST:
            result[:, 3] += (1.0 - factor) * grey_mean
        elif kind == SATURATION:
            result[:, :3] += (1.0 - factor) * _GREY
    result[:, 3] += _EIGENVECTORS @ (_EIGENVALUES * np.asarray(change.lighting))
    return result


def finish_colors(
    pixels: npt.NDArray[np.uint8],
    change: ColorChange | None,
    out: npt.NDArray[np.float32],
    room: npt.NDArray[np.float32],
) -> None:
    """Jitter and normalise an image in one pass. Nothing is clipped.

    Args:
        pixels: (h, w, 3) BGR.
        change: colour jitter; None only normalises.
        out: (h, w, 3), gets (unit colour - mean) / deviation.
        room: (h, w, 3), overwritten. Kept between images: a fresh one costs more in page faults than all this.
    """
    if change is None:
        cv2.LUT(pixels, _NORMALISED, dst=out)
        return
    matrix = color_map(change, np.asarray(cv2.mean(pixels)[:3]) / 255.0)
    matrix[:, :3] /= 255.0
    matrix[:, 3] -= MEAN
    matrix /= STD[:, None]
    np.copyto(room, pixels)
    cv2.transform(room, matrix, dst=out)
