"""HSV jitter through three tables.

Source: published YOLOv5 6.x behaviour (spec A7 and B7, golden augment/hsv).
"""

from __future__ import annotations

from collections.abc import Sequence

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
