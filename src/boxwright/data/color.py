"""HSV jitter through three tables.

Source: published YOLOv5 6.x behaviour (spec A7 and B7, golden augment/hsv).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from boxwright.data.letterbox import Image

_HUES = 180  # OpenCV keeps hue in half degrees


def draw_hsv_multipliers(rng: np.random.Generator, gains: tuple[float, float, float]) -> NDArray[np.float64]:
    """Draw the multipliers of hue, saturation and value, each in 1 +- its gain."""
    return rng.uniform(-1.0, 1.0, 3) * gains + 1.0


def hsv_table(multipliers: Sequence[float] | NDArray[np.float64]) -> NDArray[np.uint8]:
    """(1, 256, 3) table that multiplies hue (modulo its circle), saturation and value (clipped)."""
    levels = np.arange(256, dtype=np.float64)
    hue, saturation, value = multipliers
    table = np.empty((1, 256, 3), dtype=np.uint8)
    table[0, :, 0] = (levels * hue) % _HUES
    table[0, :, 1] = np.clip(levels * saturation, 0, 255)
    table[0, :, 2] = np.clip(levels * value, 0, 255)
    return table


def jitter_to_rgb(image_bgr: Image, table: NDArray[np.uint8] | None, out: Image | None = None) -> Image:
    """Apply an HSV table to a BGR image and return RGB; no table only swaps the channels.

    Args:
        image_bgr: (H, W, 3) uint8.
        table: what `hsv_table` gives.
        out: contiguous array of the same shape to write to.
    """
    if table is None:
        return cast("Image", cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB, dst=out))
    hsv = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2HSV)
    cv2.LUT(hsv, table, dst=hsv)
    return cast("Image", cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=out))
