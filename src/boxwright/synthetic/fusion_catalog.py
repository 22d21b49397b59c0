"""What the world of camera and radar knows: kinds of objects, their nuScenes names, and the sensors of the vehicle.

Names of categories, attributes and visibility levels are those of nuScenes (Caesar et al., CVPR 2020, arXiv
1903.11027). Mounting positions, directions and focal lengths are close to those of its vehicles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwright.synthetic.camera import Camera, mounted_camera, rotation_z
from boxwright.synthetic.catalog import KINDS, Kind

Array = NDArray[np.float64]

FUSION_KINDS: tuple[Kind, ...] = (
    *KINDS,
    Kind("animal", (0.9, 0.35, 0.6), 0.08, 1.2),
    Kind("debris", (0.7, 0.6, 0.4), 0.15, 0.0),
    Kind("bicycle_rack", (4.5, 2.2, 1.2), 0.02, 0.0),
)
"""The ten classes, then kinds that the detection task ignores. Sizes are length, width, height."""
KIND_OF: dict[str, int] = {kind.name: index for index, kind in enumerate(FUSION_KINDS)}
BARE_HEIGHT = {"motorcycle": 1.15, "bicycle": 1.05}
"""Mean height in metres without a rider."""

CATEGORIES = (
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.wheelchair",
    "human.pedestrian.stroller",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.construction_worker",
    "animal",
    "vehicle.car",
    "vehicle.motorcycle",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.truck",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.trailer",
    "movable_object.barrier",
    "movable_object.trafficcone",
    "movable_object.pushable_pullable",
    "movable_object.debris",
    "static_object.bicycle_rack",
)
CATEGORIES_OF: dict[str, tuple[str, ...]] = {
    "car": ("vehicle.car",),
    "truck": ("vehicle.truck",),
    "bus": ("vehicle.bus.rigid", "vehicle.bus.bendy"),
    "trailer": ("vehicle.trailer",),
    "construction_vehicle": ("vehicle.construction",),
    "pedestrian": (
        "human.pedestrian.adult",
        "human.pedestrian.child",
        "human.pedestrian.construction_worker",
        "human.pedestrian.police_officer",
    ),
    "motorcycle": ("vehicle.motorcycle",),
    "bicycle": ("vehicle.bicycle",),
    "traffic_cone": ("movable_object.trafficcone",),
    "barrier": ("movable_object.barrier",),
    "animal": ("animal",),
    "debris": ("movable_object.debris",),
    "bicycle_rack": ("static_object.bicycle_rack",),
}
"""Of each kind; an instance draws one."""
VISIBILITY = (("1", "v0-40", 0.4), ("2", "v40-60", 0.6), ("3", "v60-80", 0.8), ("4", "v80-100", 1.01))
"""Token, level, and the share that its objects stay below."""

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
_LIDAR = ("LIDAR_TOP", (0.94, 0.0, 1.84), -90.0)


@dataclass(frozen=True, slots=True)
class Mount:
    """A radar or lidar on the vehicle: its channel and its (4, 4) pose."""

    channel: str
    ego_from_sensor: Array


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
    cameras: list[Camera] = []
    for name, position, yaw, (focal, x, y) in _CAMERAS:
        turned = np.deg2rad(yaw + rng.normal(0, 0.15))
        camera = mounted_camera(name, width, height, position_ego=position, yaw=float(turned))
        scale = np.diag([width / 1600, height / 900, 1.0])
        intrinsics = scale @ np.array([[focal, 0.0, x], [0.0, focal, y], [0.0, 0.0, 1.0]])
        cameras.append(Camera(name, width, height, intrinsics, camera.ego_from_camera))
    radars = tuple(_mount(name, position, yaw + rng.normal(0, 0.15)) for name, position, yaw in _RADARS)
    return Rig(tuple(cameras), radars, _mount(*_LIDAR))


def _mount(name: str, position: tuple[float, float, float], yaw: float) -> Mount:
    pose = np.eye(4)
    pose[:3, :3] = rotation_z(float(np.deg2rad(yaw)))
    pose[:3, 3] = position
    return Mount(name, pose)
