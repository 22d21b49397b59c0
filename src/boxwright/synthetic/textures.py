"""Colours and surfaces: palettes of objects, the road seen from above, facades.

All images are RGB uint8. What is not here: geometry of objects (`shapes`), painting (`render`).
"""

from __future__ import annotations

from functools import cache, lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from boxwright.synthetic.catalog import NAMES
from boxwright.synthetic.shapes import ROLES
from boxwright.synthetic.world import LANE_WIDTH, MAX_HEIGHT, MAX_LENGTH, PARKING_WIDTH, PAVEMENT_WIDTH

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

GROUND_PERIOD = 12.0  # metres after which the road's texture repeats along x
GROUND_PIXELS = 10  # pixels a metre
FACADE_PIXELS = 6
_FACADES = 48
_LOOKS = 512  # of each class; bounds the cache

_PAINT = (
    (200, 30, 35),
    (30, 60, 140),
    (225, 225, 222),
    (40, 42, 46),
    (150, 155, 160),
    (90, 100, 95),
    (35, 95, 70),
    (190, 175, 140),
    (110, 25, 40),
)
_BODY: dict[str, tuple[tuple[int, int, int], ...]] = {
    "car": _PAINT,
    "truck": ((210, 210, 205), (40, 80, 160), (170, 30, 30), (60, 110, 60), (70, 70, 80)),
    "bus": ((235, 185, 20), (215, 60, 30), (60, 150, 90), (70, 120, 200)),
    "trailer": ((150, 155, 165), (120, 135, 160), (185, 185, 180)),
    "construction_vehicle": ((240, 170, 10), (235, 190, 40), (225, 140, 20)),
    "pedestrian": (
        (180, 40, 60),
        (40, 70, 150),
        (60, 120, 70),
        (225, 220, 210),
        (50, 50, 55),
        (150, 90, 150),
        (220, 170, 60),
    ),
    "motorcycle": ((180, 20, 25), (25, 25, 30), (20, 60, 150), (60, 130, 50)),
    "bicycle": ((150, 220, 40), (240, 220, 40), (250, 120, 180), (60, 200, 220)),
    "traffic_cone": ((245, 100, 20), (250, 120, 10)),
    "barrier": ((215, 30, 30), (225, 50, 25)),
}
_SECOND: dict[str, tuple[tuple[int, int, int], ...]] = {
    "truck": ((235, 235, 232), (235, 235, 232), (200, 210, 225), (180, 140, 90), (120, 160, 190)),
    "trailer": ((105, 110, 120), (85, 100, 125)),
    "construction_vehicle": ((90, 85, 70),),
    "pedestrian": ((40, 50, 90), (50, 50, 55), (130, 110, 80), (90, 95, 100)),
    "bicycle": ((50, 50, 60), (40, 60, 110)),
}
_FIXED = {
    "glass": (62, 82, 98),
    "tyre": (28, 28, 30),
    "hub": (120, 122, 126),
    "dark": (38, 38, 42),
    "front_light": (250, 246, 225),
    "rear_light": (200, 25, 30),
    "white": (240, 240, 236),
}
_SKIN = ((238, 200, 170), (214, 164, 128), (160, 110, 80), (98, 66, 50))
_HAIR = ((40, 30, 25), (90, 60, 35), (190, 160, 100), (60, 60, 65))
_HELMET = ((235, 235, 235), (25, 25, 30), (200, 40, 40))


def palette(class_id: int, look: int) -> Array:
    """Return the colour of each role for an instance, (len(ROLES), 3) RGB in 0..255."""
    return _palette(class_id, look % _LOOKS)


@cache
def _palette(class_id: int, look: int) -> Array:
    rng = np.random.default_rng([look, class_id])
    name = NAMES[class_id]

    def pick(colors: tuple[tuple[int, int, int], ...], jitter: float) -> Array:
        chosen = np.array(colors[int(rng.integers(0, len(colors)))], np.float64)
        return np.clip(chosen * rng.uniform(0.85, 1.12) + rng.normal(0, jitter, 3), 8, 250)

    body = pick(_BODY[name], 8)
    table = {role: np.array(color, np.float64) for role, color in _FIXED.items()}
    table["body"] = body
    table["second"] = pick(_SECOND.get(name, ((90, 90, 95),)), 8)
    table["skin"] = pick(_SKIN, 5)
    table["accent"] = pick(_PAINT, 10)
    table["glass"] = table["glass"] * rng.uniform(0.7, 1.3)
    if name == "pedestrian":
        table["hub"] = pick(_HAIR, 5)
    elif name in {"motorcycle", "bicycle"}:
        table["hub"] = pick(_HELMET, 5) if name == "motorcycle" else np.array([150.0, 152.0, 156.0])
    elif name == "trailer":
        table["body"], table["second"] = body, body * 0.68
    return np.array([table[role] for role in ROLES])


@lru_cache(maxsize=8)
def ground(lanes: int, variant: int) -> Image:
    """Return one period of the street from above; rows along y from right (-) to left (+), columns along x."""
    rng = np.random.default_rng([variant, 7])
    kerb = lanes * LANE_WIDTH + PARKING_WIDTH
    half = kerb + PAVEMENT_WIDTH + 4
    scale = GROUND_PIXELS
    height, width = round(2 * half * scale), round(GROUND_PERIOD * scale)
    y = (np.arange(height) + 0.5) / scale - half
    asphalt, paving, soil = rng.uniform(78, 108), rng.uniform(140, 165), rng.uniform(100, 130)
    image = np.full((height, width, 3), soil) * (1.0, 0.98, 0.9)
    image[np.abs(y) < kerb + PAVEMENT_WIDTH] = np.array([1.0, 0.98, 0.95]) * paving
    image[np.abs(y) < kerb] = np.array([1.0, 1.0, 1.02]) * asphalt
    image[np.abs(np.abs(y) - kerb) < 0.12] = 185
    slabs = (np.abs(y) > kerb + 0.12) & (np.abs(y) < kerb + PAVEMENT_WIDTH)
    image[np.ix_(slabs, np.arange(0, width, scale))] *= 0.85  # joints of the slabs, one a metre
    coarse = cv2.resize(rng.normal(0, 5, (height // 6, width // 6)), (width, height), interpolation=cv2.INTER_CUBIC)
    image += coarse[..., None] + rng.normal(0, 4, (height, width, 1))
    white = np.array([215.0, 215.0, 210.0])
    image[np.abs(np.abs(y) - 0.12) < 0.07] = white
    image[np.abs(np.abs(y) - lanes * LANE_WIDTH) < 0.08] = white
    for lane in range(1, lanes):
        marked = np.abs(np.abs(y) - lane * LANE_WIDTH) < 0.08
        image[np.ix_(marked, np.arange(width // 3))] = white
    return np.clip(image, 0, 255).astype(np.uint8)


@lru_cache(maxsize=_FACADES)
def _facade(variant: int) -> Image:
    rng = np.random.default_rng([variant, 11])
    walls = ((176, 150, 128), (150, 96, 78), (188, 184, 172), (130, 134, 140), (200, 186, 150), (120, 104, 96))
    wall = np.array(walls[int(rng.integers(0, len(walls)))]) * rng.uniform(0.8, 1.1)
    rows, columns = round(MAX_HEIGHT * FACADE_PIXELS), round(MAX_LENGTH * FACADE_PIXELS)
    image = wall + rng.normal(0, 5, (rows, columns, 1))
    pane = np.array([70.0, 84.0, 98.0]) * rng.uniform(0.7, 1.4)
    pitch, storey = rng.uniform(2.0, 3.4), rng.uniform(2.8, 3.4)
    wide, tall = rng.uniform(0.35, 0.6), rng.uniform(0.4, 0.6)
    x = np.arange(columns) / FACADE_PIXELS % pitch / pitch
    z = (rows - np.arange(rows)) / FACADE_PIXELS
    inside_x = np.abs(x - 0.5) < wide / 2
    inside_z = (np.abs(z % storey / storey - 0.55) < tall / 2) & (z > storey * 0.9)
    image[np.ix_(inside_z, inside_x)] = pane
    shop = (z > 0.4) & (z < storey * 0.8)
    image[np.ix_(shop, np.abs(x - 0.5) < 0.4)] = pane * 0.9
    return np.clip(image, 0, 255).astype(np.uint8)


def facade(look: int) -> Image:
    """Return the front of a building, larger than any building; the last row is at the ground."""
    return _facade(look % _FACADES)
