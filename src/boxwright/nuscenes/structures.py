"""Nouns of nuScenes: names of the data set, rows of the index, annotated images, detections and boxes of a split.

Legend: N boxes, S samples (key frames). Camera frame: x right, y down, z forward; dimensions h, w, l in metres.
Order of classes, attributes, cameras and radar fields: nuScenes as the published CenterFusion takes them.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
from torch import Tensor

from boxwright.ops.arrays import Array, Bools, Floats, Ints

CLASS_NAMES = tuple(
    "car truck bus trailer construction_vehicle pedestrian motorcycle bicycle traffic_cone barrier".split()
)
ATTRIBUTE_NAMES = (
    *(f"cycle.{state}" for state in ("with_rider", "without_rider")),
    *(f"pedestrian.{state}" for state in ("moving", "standing", "sitting_lying_down")),
    *(f"vehicle.{state}" for state in ("moving", "parked", "stopped")),
)
CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")
"""By sensor id, which counts from 1."""
RADAR_FIELDS = tuple(
    "x y z dyn_prop id rcs vx vy vx_comp vy_comp is_quality_valid ambig_state x_rms y_rms invalid_state pdh0 vx_rms "
    "vy_rms".split()  # as the FIELDS line of a sweep has them
)
# A channel is known by its position in CHANNELS: 0..5 cameras (sensor id less 1), 6..10 radars, 11 the lidar.
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
    **{f"human.pedestrian.{who}": 5 for who in ("adult", "child", "construction_worker", "police_officer")},
    "vehicle.motorcycle": 6,
    "vehicle.bicycle": 7,
    "movable_object.trafficcone": 8,
    "movable_object.barrier": 9,
}
"""Class of each category that the detection task knows; all others are ignored."""
BIKE_RACK = 10
"""Label of bicycle racks, which are no class but take part in the metric."""
BIKE_RACK_CATEGORY = "static_object.bicycle_rack"

# Rows of the index: 4-byte positions into other arrays instead of 32-character tokens, an eighth of the memory;
# 8-byte floats, since the published numbers are written with all their digits.
POSE = np.dtype([("translation", "f8", 3), ("rotation", "f8", 4)])
CALIBRATION = np.dtype([("translation", "f8", 3), ("rotation", "f8", 4), ("intrinsic", "f8", (3, 3))])
SAMPLE = np.dtype([("scene", "i4"), ("timestamp", "i8"), ("pose", "i4"), ("cameras", "i4", 6), ("radars", "i4", 5)])
"""scene: position in the scene names; pose: of the lidar, or of any key sensor; cameras, radars: positions, -1 none."""
IMAGE = np.dtype(
    [(name, "i4") for name in ("sample", "sensor", "calibration", "pose", "width", "height", "row")]
    + [("timestamp", "i8"), ("global_from_cam", "f8", (4, 4))]
)
"""sensor: 1..6; row: position in the file names, which stand in the order of the table, that of published visits."""
RADAR = np.dtype([("calibration", "i4"), ("pose", "i4"), ("prev", "i4"), ("row", "i4"), ("timestamp", "i8")])
ANNOTATION = np.dtype(
    [(name, "i4") for name in ("sample", "instance", "points")]
    + [("label", "i1"), ("attribute", "i1"), ("rotation", "f8", 4)]
    + [(name, "f8", 3) for name in ("center", "size", "velocity")]
)
"""size: width, length, height in metres; points: lidar and radar points inside; velocity: m/s, NaN where unknown."""
SEEN = np.dtype(
    [("annotation", "i4"), ("hidden", "?"), ("box", "f8", 4), ("amodel_center", "f8", 2)]
    + [(name, "f8", 3) for name in ("location", "velocity")]
    + [(name, "f8") for name in ("rotation_y", "alpha")]
)
"""An annotation as an image shows it, see `structures.ImageAnnotations`; hidden: dropped as another one covers it."""


def sensors_used(use_radar: bool) -> dict[str, bool]:
    """Return the `meta` of submissions and their metrics: what predictions were made from, beside cameras radar."""
    sensors = {"use_camera": True, "use_lidar": False, "use_radar": use_radar}
    return sensors | {"use_map": False, "use_external": False}


@dataclass(frozen=True, slots=True)
class ImageAnnotations:
    """Objects that an image shows, in the order of the published conversion; N of them, camera frame."""

    labels: Ints  # (N,) int64 class, 0-based
    boxes_xywh: Floats  # (N, 4) left, top, width, height in pixels, cropped to the image
    dims: Floats  # (N, 3) height, width, length in metres
    locations: Floats  # (N, 3) metres, centre of the bottom face
    depths: Floats  # (N,) metres
    rotation_y: Floats  # (N,) rad about the camera's y axis
    alpha: Floats  # (N,) rad, observation angle
    amodel_centers: Floats  # (N, 2) projection of the 3-D centre, pixels
    attributes: Ints  # (N,) int64, -1 is none
    velocity_cam: Floats  # (N, 3) m/s; NaN where unknown
    is_crowd: Bools  # (N,) bool

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One camera image."""

    path: Path  # its file
    width: int  # pixels
    height: int  # pixels
    sensor: int  # 1..6, see `nuscenes.structures.CAMERAS`
    sample: int  # position of its key frame in the split's list of sample tokens
    calib: Floats  # (3, 4) camera matrix, [K | 0]
    global_from_cam: Floats  # (4, 4)
    annotations: ImageAnnotations  # what it shows; none in a test split


@dataclass(frozen=True, slots=True)
class Detections3d:
    """Objects found in one image, highest score first, in the frame of its camera."""

    scores: Tensor  # (N,) float32 in 0..1
    labels: Tensor  # (N,) int64 class
    boxes: Tensor  # (N, 4) float32 xyxy pixels of the original image
    locations: Tensor  # (N, 3) float32 metres, centre of the bottom face
    dims: Tensor  # (N, 3) float32 height, width, length in metres
    rotation_y: Tensor  # (N,) float32 rad about the camera's y axis; 0 looks along x
    alpha: Tensor  # (N,) float32 rad, the same as seen from the camera
    velocity: Tensor  # (N, 3) float32 m/s; 0 of a network without a head of velocity
    attributes: Tensor  # (N, 8) float32 logits; NaN of a network without a head of attributes

    def __len__(self) -> int:
        return self.scores.shape[0]

    def cpu(self) -> Self:
        return type(self)(*(getattr(self, field.name).cpu() for field in fields(self)))


@dataclass(frozen=True, slots=True)
class GlobalBoxes:
    """Boxes of a split in the global frame of nuScenes: annotations or predictions, as its metric takes them."""

    samples: Ints  # (N,) position of the box's key frame in the split's list of sample tokens
    labels: Ints  # (N,) class
    centers: Floats  # (N, 3) metres
    sizes: Floats  # (N, 3) width, length, height in metres
    rotations: Floats  # (N, 4) unit quaternion w, x, y, z
    velocities: Floats  # (N, 2) m/s; NaN where unknown
    attributes: Ints  # (N,); -1 is none
    scores: Floats  # (N,); -1 for annotations
    num_points: Ints  # (N,) lidar and radar points inside; -1 for predictions

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, where: Array) -> Self:
        """Select the boxes at positions, or where a mask is True."""
        return type(self)(*(getattr(self, field.name)[where] for field in fields(self)))
