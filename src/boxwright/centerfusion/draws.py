"""What is drawn at random for one training image: where it is cut out, whether it is mirrored.

Source: published CenterFusion behaviour (spec C8, golden targets/rng_*), in its order of draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from boxwright.centerfusion.sample_settings import SampleSettings
from boxwright.ops.arrays import Floats as Array

_BORDER = 128  # pixels that a random centre keeps from the border of the image
_FACTORS = np.arange(0.6, 1.4, 0.1)


class Draws(Protocol):
    """What is asked of a random generator: a NumPy Generator or, for published numbers, a legacy RandomState."""

    def random(self) -> float: ...
    def uniform(self, low: float, high: float, size: int, /) -> Array: ...
    def standard_normal(self, size: Any = None, /) -> Any: ...
    def choice(self, a: Any, /) -> Any: ...
    def permutation(self, x: int, /) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class Placement:
    """The part of an image that the network sees.

    Args:
        center: (2,) x, y in pixels of the image, mirrored where it is.
        factor: how much more of the image is seen than without augmentation; depths grow by it.
        rotation: degrees.
        flip: whether the image is mirrored first.
    """

    center: Array
    factor: float = 1.0
    rotation: float = 0.0
    flip: bool = False


def centered(image_hw: tuple[int, int]) -> Placement:
    """The whole image, as validation sees it."""
    return Placement(np.array([image_hw[1] / 2.0, image_hw[0] / 2.0]))


def draw_placement(rng: Draws, image_hw: tuple[int, int], base: float, settings: SampleSettings) -> Placement:
    """Draw x, y, size, whether to rotate, (by how much,) whether to mirror; a random crop draws its size first.

    Args:
        rng: generator.
        image_hw: height, width of the image.
        base: pixels of the image that fill the input's width without augmentation; shifts are parts of it.
        settings: what is likely.
    """
    height, width = image_hw
    if settings.crop == "random":
        factor = float(rng.choice(_FACTORS))
        center = np.array([_random_center(rng, side) for side in (width, height)], dtype=np.float64)
    else:
        moves = np.array([_normal(rng, settings.shift, 2.0) for _ in range(2)])
        center = (centered(image_hw).center + base * moves).astype(np.float32).astype(np.float64)  # as published
        factor = 1.0 + _normal(rng, settings.scale, 1.0)
    rotation = _normal(rng, settings.rotate, 2.0) if rng.random() < settings.aug_rot else 0.0
    return Placement(center, factor, rotation, bool(rng.random() < settings.flip))


def _normal(rng: Draws, deviation: float, cut: float) -> float:
    return float(np.clip(rng.standard_normal() * deviation, -cut * deviation, cut * deviation))


def _random_center(rng: Draws, side: int) -> int:
    """A whole pixel that keeps a border, halved until two of it fit."""
    border = _BORDER
    while border and side - border <= border:
        border //= 2
    return border + int(rng.choice(side - 2 * border))
