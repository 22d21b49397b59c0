"""Kinds of objects, their nuScenes names, what they look like, and the sensors of the vehicle.

Names of classes, categories, attributes and visibility levels are those of nuScenes (Caesar et al., CVPR 2020, arXiv
1903.11027). Mean sizes are close to the means of its annotations; mounting positions, directions and focal lengths to
those of its vehicles.

Unit frame of a shape: x forward, y left in -0.5..0.5, z up in 0..1; the renderer stretches it to an object's size. A
shape is made of parts (convex blocks and wheels); a part carries its faces and what is painted on them. The colour of a
polygon is a role, which each instance fills from its own palette.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from boxwright.ops.arrays import Color, Floats, Ints
from boxwright.synthetic.camera import EGO_FROM_LEVEL, Camera, rotation_z

Range = tuple[float, ...]  # low, high; none where it is that of the other end


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of objects."""

    name: str
    size: tuple[float, float, float]  # mean length, width, height in metres
    spread: float  # relative standard deviation of an instance's size
    color: Color  # RGB of most of its surface
    categories: tuple[str, ...]  # nuScenes categories; an instance draws one


_PEOPLE = ("adult", "child", "construction_worker", "police_officer")
KINDS: tuple[Kind, ...] = (
    # Each class has a colour of its own: that is what lets a small network learn it within minutes.
    Kind("car", (4.6, 1.95, 1.65), 0.06, (205, 40, 45), ("vehicle.car",)),
    Kind("truck", (7.2, 2.5, 2.9), 0.08, (50, 130, 70), ("vehicle.truck",)),
    Kind("bus", (11.0, 2.9, 3.4), 0.05, (60, 110, 215), ("vehicle.bus.rigid", "vehicle.bus.bendy")),
    Kind("trailer", (11.0, 2.7, 3.8), 0.06, (138, 128, 178), ("vehicle.trailer",)),
    Kind("construction_vehicle", (6.3, 2.7, 3.2), 0.07, (240, 190, 25), ("vehicle.construction",)),
    Kind("pedestrian", (0.65, 0.65, 1.75), 0.06, (205, 70, 165), tuple(f"human.pedestrian.{who}" for who in _PEOPLE)),
    Kind("motorcycle", (2.1, 0.8, 1.5), 0.05, (100, 45, 140), ("vehicle.motorcycle",)),
    Kind("bicycle", (1.75, 0.65, 1.65), 0.05, (60, 210, 220), ("vehicle.bicycle",)),
    Kind("traffic_cone", (0.45, 0.45, 0.95), 0.08, (250, 115, 15), ("movable_object.trafficcone",)),
    Kind("barrier", (0.5, 2.4, 1.0), 0.04, (225, 50, 30), ("movable_object.barrier",)),
    # The detection task ignores the following kinds.
    Kind("animal", (0.9, 0.35, 0.6), 0.08, (110, 75, 45), ("animal",)),
    Kind("debris", (0.7, 0.6, 0.4), 0.15, (95, 90, 80), ("movable_object.debris",)),
    Kind("bicycle_rack", (4.5, 2.2, 1.2), 0.02, (120, 122, 126), ("static_object.bicycle_rack",)),
)
KIND_OF: dict[str, int] = {kind.name: index for index, kind in enumerate(KINDS)}
NAMES: tuple[str, ...] = tuple(kind.name for kind in KINDS[:10])
"""Classes of the detection task, in its order."""
BARE_HEIGHT = {"motorcycle": 1.15, "bicycle": 1.05}
"""Mean height in metres without a rider."""

CATEGORIES = (
    *(f"human.pedestrian.{who}" for who in ("adult", "child", "wheelchair", "stroller", "personal_mobility")),
    *(f"human.pedestrian.{who}" for who in ("police_officer", "construction_worker")),
    "animal",
    *(f"vehicle.{what}" for what in ("car", "motorcycle", "bicycle", "bus.bendy", "bus.rigid", "truck")),
    *(f"vehicle.{what}" for what in ("construction", "emergency.ambulance", "emergency.police", "trailer")),
    *(f"movable_object.{what}" for what in ("barrier", "trafficcone", "pushable_pullable", "debris")),
    "static_object.bicycle_rack",
)
ATTRIBUTES = (
    *(f"vehicle.{state}" for state in ("moving", "stopped", "parked")),
    *(f"cycle.{state}" for state in ("with_rider", "without_rider")),
    *(f"pedestrian.{state}" for state in ("sitting_lying_down", "standing", "moving")),
)
VISIBILITY = (("1", "v0-40", 0.4), ("2", "v40-60", 0.6), ("3", "v60-80", 0.8), ("4", "v80-100", 1.01))
"""Token, level, and the visible share that objects of the level stay below."""

_CAMERAS: tuple[tuple[str, tuple[float, float, float], float, tuple[float, float, float]], ...] = (
    # name, position (m, ego), direction (degrees to the left), focal length and principal point (pixels at 1600 x 900)
    ("CAM_FRONT", (1.70, 0.0, 1.51), 0.0, (1266.4, 816.3, 491.5)),
    ("CAM_FRONT_RIGHT", (1.55, -0.49, 1.49), -56.4, (1260.8, 807.9, 495.3)),
    ("CAM_BACK_RIGHT", (1.01, -0.48, 1.56), -110.0, (1259.5, 807.2, 501.2)),
    ("CAM_BACK", (0.03, 0.0, 1.57), 180.0, (809.2, 829.2, 481.8)),
    ("CAM_BACK_LEFT", (1.03, 0.48, 1.58), 108.2, (1256.7, 792.1, 492.8)),
    ("CAM_FRONT_LEFT", (1.52, 0.49, 1.51), 55.0, (1272.6, 826.6, 479.7)),
)
_RADARS: tuple[tuple[str, tuple[float, float, float], float], ...] = (
    ("RADAR_FRONT", (3.41, 0.0, 0.50), 0.0),
    ("RADAR_FRONT_LEFT", (2.42, 0.80, 0.78), 92.0),
    ("RADAR_FRONT_RIGHT", (2.42, -0.80, 0.77), -90.5),
    ("RADAR_BACK_LEFT", (-0.56, 0.62, 0.53), 175.0),
    ("RADAR_BACK_RIGHT", (-0.56, -0.61, 0.53), -174.0),
)


@dataclass(frozen=True, slots=True)
class Mount:
    """A radar or lidar on the vehicle."""

    name: str  # channel
    ego_from_sensor: Floats  # (4, 4)


@dataclass(frozen=True, slots=True)
class Rig:
    """All sensors of one vehicle."""

    cameras: tuple[Camera, ...]
    radars: tuple[Mount, ...]
    lidar: Mount


def make_rig(rng: np.random.Generator, width: int, height: int) -> Rig:
    """Place the sensors on a vehicle whose cameras take images of a width and height in pixels."""

    def pose(position: tuple[float, float, float], degrees: float) -> Floats:
        matrix = np.eye(4)
        matrix[:3, :3] = rotation_z(float(np.deg2rad(degrees)))
        matrix[:3, 3] = position
        return matrix

    # Vehicles differ by some tenths of a degree, so that nothing can learn the calibration by heart.
    cameras: list[Camera] = []
    for name, position, degrees, (focal, x, y) in _CAMERAS:
        ego_from_camera = pose(position, degrees + rng.normal(0, 0.15))
        ego_from_camera[:3, :3] @= EGO_FROM_LEVEL
        # nuScenes gives intrinsics for 1600 x 900; both axes scale with the image.
        scale = np.diag([width / 1600, height / 900, 1.0])
        intrinsics = scale @ np.array([[focal, 0.0, x], [0.0, focal, y], [0.0, 0.0, 1.0]])
        cameras.append(Camera(name, width, height, intrinsics, ego_from_camera))
    radars = tuple(Mount(name, pose(position, degrees + rng.normal(0, 0.15))) for name, position, degrees in _RADARS)
    return Rig(tuple(cameras), radars, Mount("LIDAR_TOP", pose((0.94, 0.0, 1.84), -90.0)))


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

    vertices: Floats  # (P, 8, 3) unit frame, counter-clockwise seen from outside; in painting order within a part
    roles: Ints  # (P,) positions in `ROLES`
    parts: Ints  # (P,) part of each polygon
    part_centers: Floats  # (K, 3) unit frame
    part_layers: Ints  # (K,) parts of a higher layer are painted after those of a lower one


class _Sculptor:
    """Collects the parts of a shape."""

    def __init__(self) -> None:
        self._polygons: list[Floats] = []
        self._roles: list[int] = []
        self._parts: list[int] = []
        self._centers: list[Floats] = []
        self._layers: list[int] = []
        self._faces: dict[str, Floats] = {}

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

    def _add(self, points: Floats, role: str) -> None:
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


@cache
def shape_of(kind: int, ridden: bool = False) -> Shape:
    """Build the polygons of a kind; cycles look different with a rider."""
    name, s = KINDS[kind].name, _Sculptor()
    across = (-0.5, 0.5)
    tall = 1.0 if ridden else 1.45  # without a rider the machine itself fills the cuboid
    match name:
        case "motorcycle":
            s.wheels((-0.35, 0.35), (0.14, 0.21 * tall), 0.42)
            s.block((-0.42, 0.34), (-0.4, 0.4), (0.12 * tall, 0.58 * tall), "body", top_x=(-0.48, 0.4))
            s.paint(("rear",), (0.25, 0.75), (0.5, 0.95), "rear_light")
        case "bicycle":
            s.wheels((-0.3, 0.3), (0.19, 0.21 * tall), 0.05)
            s.block((-0.3, 0.3), (-0.08, 0.08), (0.3 * tall, 0.42 * tall), "body", layer=1)
            s.block((-0.12, 0.0), (-0.08, 0.08), (0.3 * tall, 0.58 * tall), "body", layer=1)
            s.block((0.24, 0.32), (-0.08, 0.08), (0.3 * tall, 0.64 * tall), "body", layer=1)
        case "pedestrian":
            s.person(0.0, "body")
        case "traffic_cone":
            s.block(across, across, (0.0, 0.07), "dark")
            s.block(
                (-0.36, 0.36), (-0.36, 0.36), (0.07, 1.0), "body", top_x=(-0.08, 0.08), top_y=(-0.08, 0.08), layer=1
            )
            s.paint(_AROUND, (0.0, 1.0), (0.36, 0.66), "white")
        case "barrier":
            for y in ((-0.46, -0.4), (0.4, 0.46)):
                s.block(across, y, (0.0, 0.3), "dark", top_x=(-0.12, 0.12))
            s.block((-0.16, 0.16), across, (0.3, 1.0), "white", layer=1)
            for k in range(5):
                s.paint(_ENDS, ((k + 0.25) / 5, (k + 0.75) / 5), (0.0, 1.0), "body")
        case _ if KINDS[kind].categories[0].startswith("vehicle."):
            _sculpt_vehicle(s, name)
        case _:
            # A plain block does for kinds that the detection task ignores: nobody has to tell them apart.
            s.block(across, across, (0.0, 1.0), "body")
            s.paint(("front",), (0.0, 1.0), (0.0, 1.0), "second")
    if name in ("motorcycle", "bicycle"):
        s.block((0.16, 0.3), across, (0.6 * tall, 0.68 * tall), "dark", layer=2)  # handlebar
        if ridden:
            s.person(0.2, "body" if name == "motorcycle" else "second", seated=True)
    return s.finish()
