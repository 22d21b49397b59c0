"""Mixup: blend two images and keep the labels of both.

Source: Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018; the published YOLOv5 6.x form (spec B7,
golden augment/mixup): ratio from Beta(32, 32), labels of both with full weight.
"""

from __future__ import annotations

import numpy as np

from boxwright.data.letterbox import Image

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
