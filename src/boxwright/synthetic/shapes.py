"""What the ten classes look like: painted polygons in the unit cuboid of an object.

Unit frame: x forward, y left in -0.5..0.5, z up in 0..1; the renderer stretches it to an object's size. A shape is made
of parts (convex blocks); a part carries its six faces and the windows, lights and wheels painted on them. The colour of
a polygon is a role, which each instance fills from its own palette (`palette`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from boxwright.synthetic.catalog import NAMES

Array = NDArray[np.float64]
Range = tuple[float, float]

VERTICES = 8  # of every polygon: those with fewer repeat their last one, so that one array holds all
ROLES = ("body", "second", "glass", "tyre", "hub", "dark", "front_light", "rear_light", "skin", "white", "accent")
_ROLE = {name: index for index, name in enumerate(ROLES)}

# Corners of a face as (x, y, z) selectors: 0 low, 1 high; counter-clockwise seen from outside, starting lower left.
_FACES = {
    "front": ((1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 0, 1)),
    "rear": ((0, 1, 0), (0, 0, 0), (0, 0, 1), (0, 1, 1)),
    "left": ((1, 1, 0), (0, 1, 0), (0, 1, 1), (1, 1, 1)),
    "right": ((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)),
    "top": ((0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)),
    "bottom": ((0, 1, 0), (1, 1, 0), (1, 0, 0), (0, 0, 0)),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """Polygons of one class and variant.

    Args:
        vertices: (P, 8, 3) unit frame, counter-clockwise seen from outside; in painting order within a part.
        roles: (P,) positions in `ROLES`.
        parts: (P,) part of each polygon.
        part_centers: (K, 3) unit frame.
        part_layers: (K,) parts of a higher layer are painted after those of a lower one.
    """

    vertices: Array
    roles: NDArray[np.int64]
    parts: NDArray[np.int64]
    part_centers: Array
    part_layers: NDArray[np.int64]


class _Sculptor:
    """Collects the parts of a shape."""

    def __init__(self) -> None:
        self._polygons: list[Array] = []
        self._roles: list[int] = []
        self._parts: list[int] = []
        self._centers: list[Array] = []
        self._layers: list[int] = []
        self._faces: dict[str, Array] = {}

    def block(
        self,
        x: Range,
        y: Range,
        z: Range,
        role: str,
        *,
        top_x: Range | None = None,
        top_y: Range | None = None,
        layer: int = 0,
        faces: dict[str, str] | None = None,
    ) -> None:
        """Add a convex block; `top_x`, `top_y` make it taper; `faces` gives single faces another role."""
        lower = (x, y), (top_x or x, top_y or y)
        for name, corners in _FACES.items():
            points = np.array([(lower[k][0][i], lower[k][1][j], z[k]) for i, j, k in corners])
            self._faces[name] = points
            self._add(points, (faces or {}).get(name, role), len(self._centers))
        self._centers.append(np.array([sum(x) / 2, sum(y) / 2, sum(z) / 2]))
        self._layers.append(layer)

    def wheel(self, x: float, y: float, radius: Range) -> None:
        """Add an upright disc with a hub that looks to the side of y's sign; radius in x and z."""
        angles = (np.arange(VERTICES) + 0.5) * 2 * np.pi / VERTICES * -np.sign(y)
        ring = np.stack([np.cos(angles) * radius[0], np.zeros(VERTICES), np.sin(angles) * radius[1]], 1)
        center = np.array([x, y, radius[1]])
        self._add(center + ring, "tyre", len(self._centers))
        self._add(center + ring * 0.5, "hub", len(self._centers))
        self._centers.append(center)
        self._layers.append(1)

    def paint(self, face: str, u: Range, v: Range, role: str) -> None:
        """Paint a rectangle on a face of the last block: u to the right, v up, in 0..1, seen from outside."""
        self._add(
            np.array([self._on(face, a, b) for a, b in ((u[0], v[0]), (u[1], v[0]), (u[1], v[1]), (u[0], v[1]))]), role
        )

    def disc(self, face: str, centre: tuple[float, float], radii: tuple[float, float], role: str) -> None:
        """Paint an octagon on a face of the last block, in the face's u and v."""
        angles = (np.arange(VERTICES) + 0.5) * 2 * np.pi / VERTICES
        spread = 1 / np.cos(np.pi / VERTICES)  # flat sides touch the ellipse
        points = [
            self._on(face, centre[0] + radii[0] * spread * np.cos(a), centre[1] + radii[1] * spread * np.sin(a))
            for a in angles
        ]
        self._add(np.array(points), role)

    def _on(self, face: str, u: float, v: float) -> Array:
        a, b, c, d = self._faces[face]
        return (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * d + u * c)

    def _add(self, points: Array, role: str, part: int | None = None) -> None:
        padding = np.repeat(points[-1:], VERTICES - len(points), 0)
        self._polygons.append(np.concatenate([points, padding]))
        self._roles.append(_ROLE[role])
        self._parts.append(len(self._centers) - 1 if part is None else part)

    def finish(self) -> Shape:
        return Shape(
            np.array(self._polygons),
            np.array(self._roles),
            np.array(self._parts),
            np.array(self._centers),
            np.array(self._layers),
        )


def _wheels(s: _Sculptor, positions: Sequence[float], radius: Range, width: float) -> None:
    """Add axles: blocks of tyre below the body, and wheels on its flanks; radius in x and z."""
    for x in positions:
        for y in ((-0.5, -0.5 + width), (0.5 - width, 0.5)):
            s.block((x - radius[0] * 0.8, x + radius[0] * 0.8), y, (0.0, radius[1]), "tyre", layer=-1)
    for x in positions:
        for side in (-1, 1):
            s.wheel(x, side * 0.5, radius)


def _lights(s: _Sculptor, low: float, high: float, width: float = 0.2) -> None:
    for u in ((0.04, 0.04 + width), (0.96 - width, 0.96)):
        s.paint("front", u, (low, high), "front_light")
        s.paint("rear", u, (low, high), "rear_light")


def _car(s: _Sculptor, variant: int) -> None:
    cabin, roof = (((-0.36, 0.24), (-0.26, 0.06)), ((-0.46, 0.2), (-0.4, 0.04)), ((-0.48, 0.3), (-0.45, 0.16)))[variant]
    s.block((-0.5, 0.5), (-0.48, 0.48), (0.16, 0.58), "body", top_x=(-0.49, 0.47))
    _lights(s, 0.52, 0.82)
    s.paint("front", (0.28, 0.72), (0.1, 0.5), "dark")
    s.paint("rear", (0.36, 0.64), (0.25, 0.5), "white")
    for face in ("left", "right"):
        s.paint(face, (0.0, 1.0), (0.0, 0.14), "dark")
    _wheels(s, (-0.3, 0.31), (0.075, 0.19), 0.14)
    s.block(cabin, (-0.45, 0.45), (0.58, 1.0), "body", top_x=roof, top_y=(-0.36, 0.36), layer=2)
    s.paint("front", (0.06, 0.94), (0.05, 0.88), "glass")
    s.paint("rear", (0.1, 0.9), (0.12, 0.85), "glass")
    for face in ("left", "right"):
        s.paint(face, (0.08, 0.48), (0.1, 0.86), "glass")
        s.paint(face, (0.54, 0.92), (0.1, 0.86), "glass")


def _truck(s: _Sculptor, variant: int) -> None:
    split = 0.24 if variant else 0.2
    s.block((-0.5, 0.5), (-0.4, 0.4), (0.12, 0.26), "dark", layer=-1)
    _wheels(s, (-0.36, -0.2, 0.34), (0.065, 0.16), 0.14)
    s.block((-0.5, split), (-0.5, 0.5), (0.24, 1.0), "second")
    s.paint("rear", (0.03, 0.97), (0.02, 0.97), "second")
    s.paint("rear", (0.485, 0.515), (0.0, 1.0), "dark")
    s.paint("rear", (0.0, 1.0), (0.0, 0.07), "dark")
    s.paint("rear", (0.03, 0.17), (0.07, 0.13), "rear_light")
    s.paint("rear", (0.83, 0.97), (0.07, 0.13), "rear_light")
    for face in ("left", "right"):
        s.paint(face, (0.1, 0.9), (0.4, 0.72), "accent")
    s.block((split + 0.02, 0.5), (-0.46, 0.46), (0.14, 0.86), "body", top_x=(split + 0.03, 0.46))
    s.paint("front", (0.06, 0.94), (0.55, 0.92), "glass")
    s.paint("front", (0.2, 0.8), (0.2, 0.45), "dark")
    s.paint("front", (0.03, 0.18), (0.08, 0.2), "front_light")
    s.paint("front", (0.82, 0.97), (0.08, 0.2), "front_light")
    s.paint("left", (0.15, 0.75), (0.55, 0.9), "glass")
    s.paint("right", (0.25, 0.85), (0.55, 0.9), "glass")


def _bus(s: _Sculptor, variant: int) -> None:
    s.block((-0.5, 0.5), (-0.5, 0.5), (0.09, 1.0), "body")
    s.paint("front", (0.05, 0.95), (0.3, 0.78), "glass")
    s.paint("front", (0.15, 0.85), (0.84, 0.96), "dark")
    s.paint("front", (0.3, 0.7), (0.86, 0.94), "front_light")
    s.paint("rear", (0.12, 0.88), (0.5, 0.85), "glass")
    s.paint("rear", (0.2, 0.8), (0.12, 0.36), "dark")
    _lights(s, 0.06, 0.18, 0.16)
    count = 6 + variant
    for face in ("left", "right"):
        s.paint(face, (0.0, 1.0), (0.1, 0.26), "accent")
        for k in range(count):
            s.paint(face, ((k + 0.12) / count, (k + 0.92) / count), (0.44, 0.82), "glass")
    for u in ((0.04, 0.13), (0.5, 0.6)):
        s.paint("right", (1 - u[1], 1 - u[0]), (0.04, 0.82), "dark")
    _wheels(s, (-0.28, 0.3), (0.05, 0.14), 0.12)


def _trailer(s: _Sculptor, variant: int) -> None:
    _wheels(s, (-0.4, -0.3, -0.2), (0.045, 0.125), 0.14)
    s.block((-0.5, 0.5), (-0.42, 0.42), (0.2, 0.28), "dark", layer=-1)
    s.block((0.2, 0.23), (-0.35, 0.35), (0.0, 0.28), "dark", layer=-1)
    s.block((-0.5, 0.5), (-0.5, 0.5), (0.28, 1.0), "body")
    ribs = 9 + 3 * variant
    for face in ("left", "right"):
        for k in range(ribs):
            s.paint(face, ((k + 0.35) / ribs, (k + 0.65) / ribs), (0.1, 1.0), "second")
        for k in range(12):
            s.paint(face, (k / 12, (k + 0.5) / 12), (0.0, 0.09), "rear_light")
            s.paint(face, ((k + 0.5) / 12, (k + 1) / 12), (0.0, 0.09), "white")
    for face in ("front", "rear"):
        for k in range(4):
            s.paint(face, ((k + 0.3) / 4, (k + 0.6) / 4), (0.1, 1.0), "second")
        for k in range(4):
            s.paint(face, (k / 4, (k + 0.5) / 4), (0.0, 0.1), "rear_light")
            s.paint(face, ((k + 0.5) / 4, (k + 1) / 4), (0.0, 0.1), "white")


def _construction_vehicle(s: _Sculptor, variant: int) -> None:
    for y in ((-0.5, -0.28), (0.28, 0.5)):
        s.block((-0.4, 0.28), y, (0.0, 0.26), "dark", top_x=(-0.34, 0.22), layer=-1)
        for k in range(4):
            s.disc("right" if y[0] < 0 else "left", ((k + 0.5) / 4, 0.45), (0.09, 0.3), "hub")
    s.block((-0.5, 0.12), (-0.45, 0.45), (0.26, 0.56), "body")
    for face in ("left", "right", "rear"):
        s.paint(face, (0.08, 0.6), (0.3, 0.8), "dark")
    s.paint("rear", (0.0, 1.0), (0.0, 0.2), "dark")
    s.block((-0.18, 0.14), (-0.1, 0.42), (0.56, 1.0), "body", layer=1)
    for face in ("front", "left", "right", "rear"):
        s.paint(face, (0.12, 0.88), (0.2, 0.85), "glass")
    if variant:  # an excavator's boom: up, then down to the bucket
        s.block((0.1, 0.22), (-0.3, -0.12), (0.45, 0.98), "body", top_x=(0.24, 0.34), layer=1)
        s.block((0.36, 0.46), (-0.3, -0.12), (0.2, 0.98), "body", top_x=(0.24, 0.34), layer=1)
    else:  # a loader's arms
        for y in ((-0.4, -0.3), (0.3, 0.4)):
            s.block((0.1, 0.42), y, (0.22, 0.42), "body", layer=1)
    s.block((0.34, 0.5), (-0.42, 0.42), (0.02, 0.34), "dark", top_x=(0.38, 0.5), layer=1, faces={"front": "second"})


def _person(s: _Sculptor, x: float, base: float, height: float, *, wide: float = 0.42, seated: bool = False) -> None:
    """Add a body standing (or sitting) at x, from base upwards."""

    def z(low: float, high: float) -> Range:
        return base + low * height, base + high * height

    depth = 0.3 if not seated else 0.1
    if not seated:
        s.block((x - 0.5, x - 0.1), (-0.3, -0.02), z(0.0, 0.48), "second", top_x=(x - depth, x + 0.1))
        s.paint("front", (0.0, 1.0), (0.0, 0.1), "dark")
        s.block((x + 0.1, x + 0.5), (0.02, 0.3), z(0.0, 0.48), "second", top_x=(x - 0.1, x + depth))
        s.paint("front", (0.0, 1.0), (0.0, 0.1), "dark")
    s.block((x - depth, x + depth), (-wide, wide), z(0.45, 0.83), "body", top_y=(-wide * 0.85, wide * 0.85), layer=2)
    for face in ("left", "right"):
        s.paint(face, (0.3, 0.7), (0.05, 0.85), "accent")
    s.block((x - depth * 0.7, x + depth * 0.7), (-wide * 0.4, wide * 0.4), z(0.84, 1.0), "skin", layer=3)
    for face in ("rear", "left", "right"):
        s.paint(face, (0.0, 1.0), (0.45, 1.0), "hub")
    s.paint("front", (0.0, 1.0), (0.72, 1.0), "hub")


def _pedestrian(s: _Sculptor, variant: int) -> None:
    _person(s, 0.0, 0.0, 1.0, wide=0.5)
    if variant:
        s.block((-0.5, -0.28), (-0.32, 0.32), (0.5, 0.82), "accent", layer=2)  # a rucksack


def _two_wheels(s: _Sculptor, radius: Range, thick: float, inner: str | None) -> None:
    for x in (-0.5 + radius[0], 0.5 - radius[0]):
        s.block((x - radius[0], x + radius[0]), (-thick, thick), (0.0, 2 * radius[1]), "tyre", top_x=(x - 0.1, x + 0.1))
        if inner:
            for face in ("left", "right"):
                s.disc(face, (0.5, 0.5), (0.32, 0.32), inner)


def _motorcycle(s: _Sculptor, variant: int) -> None:
    up = 1.0 if variant else 1.25  # without a rider the machine itself fills the cuboid
    _two_wheels(s, (0.15, 0.21 * up), 0.18, "hub")
    s.block((-0.36, 0.3), (-0.26, 0.26), (0.2 * up, 0.52 * up), "body", top_x=(-0.46, 0.34))
    for face in ("left", "right"):
        s.paint(face, (0.15, 0.6), (0.0, 0.5), "dark")
    s.paint("rear", (0.25, 0.75), (0.5, 0.95), "rear_light")
    s.block((0.16, 0.36), (-0.5, 0.5), (0.5 * up, 0.66 * up), "dark", layer=1)
    s.paint("front", (0.35, 0.65), (0.1, 0.9), "front_light")
    s.block((0.2, 0.3), (-0.2, 0.2), (0.6 * up, 0.8 * up), "glass", top_x=(0.14, 0.2), layer=1)
    if variant:
        _person(s, -0.05, 0.2, 0.8, wide=0.42, seated=True)


def _bicycle(s: _Sculptor, variant: int) -> None:
    if variant:  # without a rider; never drawn by look
        _bare_bicycle(s)
        return
    _two_wheels(s, (0.2, 0.21), 0.07, "hub")
    s.block((-0.2, 0.24), (-0.05, 0.05), (0.3, 0.38), "accent", layer=1)
    s.block((-0.06, 0.02), (-0.05, 0.05), (0.3, 0.56), "accent", top_x=(-0.14, -0.06), layer=1)
    s.block((0.24, 0.3), (-0.05, 0.05), (0.3, 0.64), "accent", top_x=(0.18, 0.24), layer=1)
    s.block((0.16, 0.24), (-0.5, 0.5), (0.6, 0.65), "dark", layer=1)
    s.block((-0.08, 0.04), (-0.25, 0.25), (0.28, 0.56), "second", layer=1)
    _person(s, -0.06, 0.2, 0.8, wide=0.4, seated=True)


def _bare_bicycle(s: _Sculptor) -> None:
    """Add a bicycle that stands by itself: its frame fills the cuboid."""
    _two_wheels(s, (0.2, 0.32), 0.07, "hub")
    s.block((-0.25, 0.28), (-0.08, 0.08), (0.5, 0.66), "accent", layer=1)
    s.block((-0.2, -0.1), (-0.08, 0.08), (0.4, 0.88), "accent", layer=1)
    s.block((-0.28, -0.04), (-0.2, 0.2), (0.86, 0.94), "dark", layer=2)
    s.block((0.22, 0.3), (-0.08, 0.08), (0.4, 0.92), "accent", layer=1)
    s.block((0.16, 0.26), (-0.5, 0.5), (0.9, 1.0), "dark", layer=2)


def _traffic_cone(s: _Sculptor, variant: int) -> None:
    s.block((-0.5, 0.5), (-0.5, 0.5), (0.0, 0.07), "dark")
    s.block((-0.36, 0.36), (-0.36, 0.36), (0.07, 1.0), "body", top_x=(-0.08, 0.08), top_y=(-0.08, 0.08), layer=1)
    bands = ((0.3, 0.5), (0.68, 0.84)) if variant else ((0.36, 0.66),)
    for face in ("front", "rear", "left", "right"):
        for band in bands:
            s.paint(face, (0.0, 1.0), band, "white")


def _barrier(s: _Sculptor, variant: int) -> None:
    for y in ((-0.46, -0.4), (0.4, 0.46)):
        s.block((-0.5, 0.5), y, (0.0, 0.12), "dark")
        s.block((-0.12, 0.12), y, (0.1, 1.0), "dark")
    boards = ((0.55, 0.98), (0.16, 0.4)) if variant else ((0.3, 0.98),)
    for board in boards:
        s.block((-0.16, 0.16), (-0.5, 0.5), board, "white", layer=1)
        for face in ("front", "rear"):
            for k in range(5):
                s.paint(face, ((k + 0.25) / 5, (k + 0.75) / 5), (0.0, 1.0), "body")


_SCULPT = {
    "car": (_car, 3),
    "truck": (_truck, 2),
    "bus": (_bus, 2),
    "trailer": (_trailer, 2),
    "construction_vehicle": (_construction_vehicle, 2),
    "pedestrian": (_pedestrian, 2),
    "motorcycle": (_motorcycle, 2),
    "bicycle": (_bicycle, 1),
    "traffic_cone": (_traffic_cone, 2),
    "barrier": (_barrier, 2),
}


@lru_cache(maxsize=64)
def _shape(class_id: int, variant: int) -> Shape:
    sculptor = _Sculptor()
    _SCULPT[NAMES[class_id]][0](sculptor, variant)
    return sculptor.finish()


def shape_variant(class_id: int, variant: int) -> Shape:
    """Return the polygons of a variant. Motorcycles: 0 without, 1 with a rider; bicycles: 0 with, 1 without."""
    return _shape(class_id, variant)


@lru_cache(maxsize=1)
def plain_block() -> Shape:
    """Return a cuboid of one colour, its front a second one."""
    sculptor = _Sculptor()
    sculptor.block((-0.5, 0.5), (-0.5, 0.5), (0.0, 1.0), "body", faces={"front": "second"})
    return sculptor.finish()


def shape_of(class_id: int, look: int) -> Shape:
    """Return the polygons of an instance: its class and its look choose the variant."""
    return _shape(class_id, look % _SCULPT[NAMES[class_id]][1])
