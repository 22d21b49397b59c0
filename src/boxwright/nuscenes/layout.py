"""How the index of a nuScenes version is laid out: the rows of its arrays, and the names that their codes stand for.

Legend: S samples (key frames), C camera images of key frames, R radar sweeps, A annotations, V annotations seen in
images, U poses, K calibrations.
"""

from __future__ import annotations

import numpy as np

from boxwright.nuscenes.structures import CAMERAS

RADARS = ("RADAR_FRONT", "RADAR_FRONT_LEFT", "RADAR_FRONT_RIGHT", "RADAR_BACK_LEFT", "RADAR_BACK_RIGHT")
LIDAR = "LIDAR_TOP"
CHANNELS = (*CAMERAS, *RADARS, LIDAR)
FIRST_RADAR, LIDAR_CODE = len(CAMERAS), len(CAMERAS) + len(RADARS)

RADARS_OF_CAMERA: dict[str, tuple[str, ...]] = {
    "CAM_FRONT": ("RADAR_FRONT_RIGHT", "RADAR_FRONT_LEFT", "RADAR_FRONT"),
    "CAM_FRONT_LEFT": ("RADAR_FRONT_LEFT", "RADAR_FRONT"),
    "CAM_FRONT_RIGHT": ("RADAR_FRONT_RIGHT", "RADAR_FRONT"),
    "CAM_BACK_LEFT": ("RADAR_BACK_LEFT", "RADAR_FRONT_LEFT"),
    "CAM_BACK_RIGHT": ("RADAR_BACK_RIGHT", "RADAR_FRONT_RIGHT"),
    "CAM_BACK": ("RADAR_BACK_RIGHT", "RADAR_BACK_LEFT"),
}
"""The radars that look where a camera looks, in the published order of their points."""

CLASS_OF_CATEGORY = {
    "vehicle.car": 0,
    "vehicle.truck": 1,
    "vehicle.bus.bendy": 2,
    "vehicle.bus.rigid": 2,
    "vehicle.trailer": 3,
    "vehicle.construction": 4,
    "human.pedestrian.adult": 5,
    "human.pedestrian.child": 5,
    "human.pedestrian.construction_worker": 5,
    "human.pedestrian.police_officer": 5,
    "vehicle.motorcycle": 6,
    "vehicle.bicycle": 7,
    "movable_object.trafficcone": 8,
    "movable_object.barrier": 9,
}
"""Class of each category that the detection task knows; all others are ignored."""
BIKE_RACK = 10
"""Label of bicycle racks, which are no class but take part in the metric."""
BIKE_RACK_CATEGORY = "static_object.bicycle_rack"

POSE = np.dtype([("translation", "f8", 3), ("rotation", "f8", 4)])
CALIBRATION = np.dtype([("translation", "f8", 3), ("rotation", "f8", 4), ("intrinsic", "f8", (3, 3))])
SAMPLE = np.dtype([("scene", "i4"), ("timestamp", "i8"), ("pose", "i4"), ("cameras", "i4", 6), ("radars", "i4", 5)])
"""scene: position in the scene names; pose: of the lidar, or of any key sensor; cameras, radars: positions, -1 none."""
IMAGE = np.dtype(
    [
        ("sample", "i4"),
        ("sensor", "i4"),
        ("calibration", "i4"),
        ("pose", "i4"),
        ("timestamp", "i8"),
        ("width", "i4"),
        ("height", "i4"),
        ("row", "i4"),
        ("global_from_cam", "f8", (4, 4)),
    ]
)
"""sensor: 1..6; row: its place among the camera images of key frames in the table, the published order of visits."""
RADAR = np.dtype([("calibration", "i4"), ("pose", "i4"), ("prev", "i4"), ("timestamp", "i8")])
ANNOTATION = np.dtype(
    [
        ("sample", "i4"),
        ("label", "i1"),
        ("attribute", "i1"),
        ("instance", "i4"),
        ("points", "i4"),
        ("center", "f8", 3),
        ("size", "f8", 3),
        ("rotation", "f8", 4),
        ("velocity", "f8", 3),
    ]
)
"""size: width, length, height in metres; points: lidar and radar points inside; velocity: m/s, NaN where unknown."""
SEEN = np.dtype(
    [
        ("annotation", "i4"),
        ("hidden", "?"),
        ("box", "f8", 4),
        ("location", "f8", 3),
        ("rotation_y", "f8"),
        ("alpha", "f8"),
        ("amodel_center", "f8", 2),
        ("velocity", "f8", 3),
    ]
)
"""An annotation as an image shows it, see `records.ImageAnnotations`; hidden: dropped as another one covers it."""
