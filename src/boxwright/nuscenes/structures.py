"""Nouns of nuScenes: its classes, attributes, cameras and radar fields, detections of an image, boxes of a split.

Legend: N boxes. Camera frame: x right, y down, z forward.
Order of classes, attributes, cameras and radar fields: nuScenes as the published CenterFusion takes them.
"""

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

CLASS_NAMES = (
    "car",
    "truck",
    "bus",
    "trailer",
    "construction_vehicle",
    "pedestrian",
    "motorcycle",
    "bicycle",
    "traffic_cone",
    "barrier",
)
ATTRIBUTE_NAMES = (
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.moving",
    "pedestrian.standing",
    "pedestrian.sitting_lying_down",
    "vehicle.moving",
    "vehicle.parked",
    "vehicle.stopped",
)
CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")
"""By sensor id, which counts from 1."""
RADAR_FIELDS = (
    "x",
    "y",
    "z",
    "dyn_prop",
    "id",
    "rcs",
    "vx",
    "vy",
    "vx_comp",
    "vy_comp",
    "is_quality_valid",
    "ambig_state",
    "x_rms",
    "y_rms",
    "invalid_state",
    "pdh0",
    "vx_rms",
    "vy_rms",
)


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
    velocity: Tensor  # (N, 3) float32 m/s
    attributes: Tensor  # (N, 8) float32 logits

    def __len__(self) -> int:
        return self.scores.shape[0]

    def cpu(self) -> Self:
        return type(self)(*(getattr(self, field.name).cpu() for field in fields(self)))


@dataclass(frozen=True, slots=True)
class GlobalBoxes:
    """Boxes of a split in the global frame of nuScenes: annotations or predictions, as its metric takes them."""

    samples: npt.NDArray[np.int64]  # (N,) position of the box's key frame in the split's list of sample tokens
    labels: npt.NDArray[np.int64]  # (N,) class
    centers: npt.NDArray[np.float64]  # (N, 3) metres
    sizes: npt.NDArray[np.float64]  # (N, 3) width, length, height in metres
    rotations: npt.NDArray[np.float64]  # (N, 4) unit quaternion w, x, y, z
    velocities: npt.NDArray[np.float64]  # (N, 2) m/s; NaN where unknown
    attributes: npt.NDArray[np.int64]  # (N,); -1 is none
    scores: npt.NDArray[np.float64]  # (N,); -1 for annotations
    num_points: npt.NDArray[np.int64]  # (N,) lidar and radar points inside; -1 for predictions

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, where: npt.NDArray[Any]) -> Self:
        """Select the boxes at positions, or where a mask is True."""
        return type(self)(*(getattr(self, field.name)[where] for field in fields(self)))
