"""What the kinds look like: painted polygons in the unit cuboid of an object.

Unit frame: x forward, y left in -0.5..0.5, z up in 0..1; the renderer stretches it to an object's size. A shape is made
of parts (convex blocks and wheels); a part carries its faces and what is painted on them. The colour of a polygon is a
role, which each instance fills from its own palette.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from boxwright.synthetic.catalog import KINDS

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Range = tuple[float, ...]  # low, high; none where it is that of the other end

ROLES = ("body", "second", "accent", "glass", "dark", "tyre", "skin", "white", "front_light", "rear_light")
_VERTICES = 8  # of every polygon: those with fewer repeat their last one, so that one array holds all

# Corners of a face as (x, y, z) selectors: 0 low, 1 high; counter-clockwise seen from outside, starting lower left.
_FACES = {
    "front": ((1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 0, 1)),
    "rear": ((0, 1, 0), (0, 0, 0), (0, 0, 1), (0, 1, 1)),
    "left": ((1, 1, 0), (0, 1, 0), (0, 1, 1), (1, 1, 1)),
    "right": ((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)),
    "top": ((0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)),
    "bottom": ((0, 1, 0), (1, 1, 0), (1, 0, 0), (0, 0, 0)),
}
_ENDS, _FLANKS = ("front", "rear"), ("left", "right")
_AROUND = (*_ENDS, *_FLANKS)


@dataclass(frozen=True, slots=True)
class Shape:
    """P polygons of K parts."""

    vertices: Array  # (P, 8, 3) unit frame, counter-clockwise seen from outside; in painting order within a part
    roles: Ints  # (P,) positions in `ROLES`
    parts: Ints  # (P,) part of each polygon
    part_centers: Array  # (K, 3) unit frame
    part_layers: Ints  # (K,) parts of a higher layer are painted after those of a lower one


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
        self, x: Range, y: Range, z: Range, role: str, *, top_x: Range = (), top_y: Range = (), layer: int = 0
    ) -> None:
        """Add a convex block; `top_x` and `top_y` make it taper."""
        self._centers.append(np.array([sum(x) / 2, sum(y) / 2, sum(z) / 2]))
        self._layers.append(layer)
        floors = (x, y), (top_x or x, top_y or y)
        for name, corners in _FACES.items():
            self._faces[name] = np.array([(floors[k][0][i], floors[k][1][j], z[k]) for i, j, k in corners])
            self._add(self._faces[name], role)

    def paint(self, faces: tuple[str, ...], u: Range, v: Range, role: str) -> None:
        """Paint a rectangle on faces of the last block: u to the right, v up, in 0..1, seen from outside."""
        for face in faces:
            a, b, c, d = self._faces[face]
            corners = ((u[0], v[0]), (u[1], v[0]), (u[1], v[1]), (u[0], v[1]))
            self._add(np.array([(1 - t) * ((1 - s) * a + s * b) + t * ((1 - s) * d + s * c) for s, t in corners]), role)

    def wheels(self, positions: tuple[float, ...], radius: Range, y: float = 0.5) -> None:
        """Add upright octagons at both sides `y` of each axle; radius in x and z."""
        for x in positions:
            for side in (-1, 1):
                angles = (np.arange(_VERTICES) + 0.5) * 2 * np.pi / _VERTICES * -side
                ring = np.stack([np.cos(angles) * radius[0], np.zeros(_VERTICES), np.sin(angles) * radius[1]], 1)
                self._centers.append(np.array([x, side * y, radius[1]]))
                self._layers.append(1)
                self._add(self._centers[-1] + ring * 1.08, "tyre")  # 1 / cos 22.5 degrees: flat sides touch the circle
                self._add(self._centers[-1] + ring * 0.4, "white")

    def lights(self, low: float, high: float, width: float = 0.2) -> None:
        """Paint the front and rear lights on the last block."""
        for u in ((0.04, 0.04 + width), (0.96 - width, 0.96)):
            self.paint(("front",), u, (low, high), "front_light")
            self.paint(("rear",), u, (low, high), "rear_light")

    def person(self, base: float, role: str, *, seated: bool = False) -> None:
        """Add a body that stands, or sits, above `base`."""
        height, deep = 1 - base, 0.1 if seated else 0.3
        if not seated:
            self.block((-0.5, 0.0), (-0.3, -0.02), (0.0, 0.48), "second", top_x=(-0.3, 0.1))
            self.block((0.0, 0.5), (0.02, 0.3), (0.0, 0.48), "second", top_x=(-0.1, 0.3))
        wide = (-0.5, 0.5)
        self.block((-deep, deep), wide, (base + 0.45 * height, base + 0.84 * height), role, top_y=(-0.4, 0.4), layer=2)
        self.block((-deep * 0.7, deep * 0.7), (-0.2, 0.2), (base + 0.84 * height, 1.0), "skin", layer=3)
        self.paint(("rear", *_FLANKS), (0.0, 1.0), (0.45, 1.0), "dark")

    def _add(self, points: Array, role: str) -> None:
        self._polygons.append(np.concatenate([points, np.repeat(points[-1:], _VERTICES - len(points), 0)]))
        self._roles.append(ROLES.index(role))
        self._parts.append(len(self._centers) - 1)

    def finish(self) -> Shape:
        """Return the shape."""
        parts, centers = np.array(self._parts), np.array(self._centers)
        return Shape(np.array(self._polygons), np.array(self._roles), parts, centers, np.array(self._layers))


def _sculpt_vehicle(s: _Sculptor, name: str) -> None:
    """Build a car, a truck, a bus, a trailer or a construction vehicle."""
    across, inside = (-0.5, 0.5), (-0.4, 0.4)
    match name:
        case "car":
            s.block(across, across, (0.16, 0.58), "body", top_x=(-0.49, 0.47))
            s.lights(0.5, 0.82)
            s.wheels((-0.3, 0.31), (0.075, 0.18))
            s.block(
                (-0.42, 0.24), (-0.45, 0.45), (0.58, 1.0), "body", top_x=(-0.34, 0.06), top_y=(-0.36, 0.36), layer=2
            )
            s.paint(_ENDS, (0.06, 0.94), (0.1, 0.88), "glass")
            s.paint(_FLANKS, (0.08, 0.92), (0.1, 0.86), "glass")
        case "truck":
            s.wheels((-0.36, -0.2, 0.34), (0.065, 0.16))
            s.block((-0.5, 0.22), across, (0.2, 1.0), "second")
            s.paint(_FLANKS, (0.1, 0.9), (0.4, 0.72), "accent")
            s.lights(0.04, 0.14)
            s.block((0.24, 0.5), (-0.46, 0.46), (0.14, 0.86), "body", top_x=(0.25, 0.46))
            s.paint(("front", *_FLANKS), (0.1, 0.9), (0.55, 0.92), "glass")
            s.lights(0.08, 0.22)
        case "bus":
            s.block(across, across, (0.09, 1.0), "body")
            s.paint(("front",), (0.05, 0.95), (0.3, 0.78), "glass")
            s.paint(("rear",), (0.12, 0.88), (0.5, 0.85), "glass")
            s.paint(_FLANKS, (0.0, 1.0), (0.1, 0.26), "accent")
            for k in range(6):
                s.paint(_FLANKS, ((k + 0.12) / 6, (k + 0.92) / 6), (0.44, 0.82), "glass")
            s.lights(0.06, 0.18, 0.16)
            s.wheels((-0.28, 0.3), (0.05, 0.14))
        case "trailer":
            s.wheels((-0.4, -0.3, -0.2), (0.045, 0.125))
            s.block((0.2, 0.23), (-0.35, 0.35), (0.0, 0.28), "dark", layer=-1)
            s.block(across, across, (0.22, 1.0), "body")
            for k in range(9):
                s.paint(_FLANKS, ((k + 0.35) / 9, (k + 0.65) / 9), (0.1, 1.0), "second")
            s.lights(0.0, 0.1)
        case _:
            for y in ((-0.5, -0.28), (0.28, 0.5)):
                s.block((-0.4, 0.28), y, (0.0, 0.26), "dark", top_x=(-0.34, 0.22), layer=-1)  # tracks
            s.block((-0.5, 0.12), (-0.45, 0.45), (0.26, 0.56), "body")
            s.block((-0.18, 0.14), (-0.1, 0.42), (0.56, 1.0), "body", layer=1)
            s.paint(_AROUND, (0.12, 0.88), (0.2, 0.85), "glass")
            # An excavator's boom goes up, then down to the bucket.
            s.block((0.1, 0.22), (-0.3, -0.12), (0.45, 0.98), "body", top_x=(0.24, 0.34), layer=1)
            s.block((0.36, 0.46), (-0.3, -0.12), (0.2, 0.98), "body", top_x=(0.24, 0.34), layer=1)
            s.block((0.34, 0.5), inside, (0.02, 0.34), "dark", top_x=(0.38, 0.5), layer=1)


def _sculpt_cycle(s: _Sculptor, name: str, *, ridden: bool) -> None:
    """Build a motorcycle or a bicycle."""
    tall = 1.0 if ridden else 1.45  # without a rider the machine itself fills the cuboid
    if name == "motorcycle":
        s.wheels((-0.35, 0.35), (0.14, 0.21 * tall), 0.42)
        s.block((-0.42, 0.34), (-0.4, 0.4), (0.12 * tall, 0.58 * tall), "body", top_x=(-0.48, 0.4))
        s.paint(("rear",), (0.25, 0.75), (0.5, 0.95), "rear_light")
    else:
        s.wheels((-0.3, 0.3), (0.19, 0.21 * tall), 0.05)
        s.block((-0.3, 0.3), (-0.08, 0.08), (0.3 * tall, 0.42 * tall), "body", layer=1)
        s.block((-0.12, 0.0), (-0.08, 0.08), (0.3 * tall, 0.58 * tall), "body", layer=1)
        s.block((0.24, 0.32), (-0.08, 0.08), (0.3 * tall, 0.64 * tall), "body", layer=1)
    s.block((0.16, 0.3), (-0.5, 0.5), (0.6 * tall, 0.68 * tall), "dark", layer=2)  # handlebar
    if ridden:
        s.person(0.2, "body" if name == "motorcycle" else "second", seated=True)


def _sculpt_thing(s: _Sculptor, name: str) -> None:
    """Build a traffic cone, a barrier, or a plain block for the kinds that the detection task ignores."""
    if name == "traffic_cone":
        s.block((-0.5, 0.5), (-0.5, 0.5), (0.0, 0.07), "dark")
        s.block((-0.36, 0.36), (-0.36, 0.36), (0.07, 1.0), "body", top_x=(-0.08, 0.08), top_y=(-0.08, 0.08), layer=1)
        s.paint(_AROUND, (0.0, 1.0), (0.36, 0.66), "white")
    elif name == "barrier":
        for y in ((-0.46, -0.4), (0.4, 0.46)):
            s.block((-0.5, 0.5), y, (0.0, 0.3), "dark", top_x=(-0.12, 0.12))
        s.block((-0.16, 0.16), (-0.5, 0.5), (0.3, 1.0), "white", layer=1)
        for k in range(5):
            s.paint(_ENDS, ((k + 0.25) / 5, (k + 0.75) / 5), (0.0, 1.0), "body")
    else:
        s.block((-0.5, 0.5), (-0.5, 0.5), (0.0, 1.0), "body")
        s.paint(("front",), (0.0, 1.0), (0.0, 1.0), "second")


@cache
def shape_of(kind: int, ridden: bool = False) -> Shape:
    """Return the polygons of a kind; cycles look different with a rider."""
    name, sculptor = KINDS[kind].name, _Sculptor()
    if name in ("motorcycle", "bicycle"):
        _sculpt_cycle(sculptor, name, ridden=ridden)
    elif name == "pedestrian":
        sculptor.person(0.0, "body")
    elif KINDS[kind].categories[0].startswith("vehicle."):
        _sculpt_vehicle(sculptor, name)
    else:
        _sculpt_thing(sculptor, name)
    return sculptor.finish()
