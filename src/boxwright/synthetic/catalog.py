"""Kinds of objects, their nuScenes names, and the sensors of the vehicle.

Names of classes, categories, attributes and visibility levels are those of nuScenes (Caesar et al., CVPR 2020, arXiv
1903.11027). Mean sizes are close to the means of its annotations; mounting positions, directions and focal lengths to
those of its vehicles.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwright.synthetic.camera import EGO_FROM_LEVEL, Camera, rotation_z

Array = NDArray[np.float64]
Color = tuple[int, int, int]


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
    ego_from_sensor: Array  # (4, 4)


@dataclass(frozen=True, slots=True)
class Rig:
    """All sensors of one vehicle."""

    cameras: tuple[Camera, ...]
    radars: tuple[Mount, ...]
    lidar: Mount


def make_rig(rng: np.random.Generator, width: int, height: int) -> Rig:
    """Mount the sensors; each vehicle's directions differ by some tenths of a degree.

    Args:
        rng: draws the differences.
        width: image width in pixels; intrinsics scale with it.
        height: image height in pixels; intrinsics scale with it.
    """

    def pose(position: tuple[float, float, float], degrees: float) -> Array:
        matrix = np.eye(4)
        matrix[:3, :3] = rotation_z(float(np.deg2rad(degrees)))
        matrix[:3, 3] = position
        return matrix

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
