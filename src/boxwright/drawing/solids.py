"""Boxes and radar points as the pictures take them: corners and velocities in one frame, whichever that is.

What is not here: how they are painted (draw3d.py, birds_eye.py).
Legend: N boxes or points. Camera frame: x right, y down, z forward. Ego frame: x forward, y left, z up.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from boxwright.nuscenes.geometry import rotation_matrices
from boxwright.nuscenes.structures import RADAR_FIELDS, Detections3d, GlobalBoxes
from boxwright.ops.boxes3d import corners_camera

Array = npt.NDArray[np.float64]

# Shares of the length forward, the width to the left and the height up, in the order of `ops.boxes3d.corners_camera`.
_CORNERS = np.array([(x, y, z) for z in (-0.5, 0.5) for x, y in ((0.5, 0.5), (0.5, -0.5), (-0.5, -0.5), (-0.5, 0.5))])
_ROWS = {name: row for row, name in enumerate(RADAR_FIELDS)}


@dataclass(frozen=True, slots=True)
class SolidBoxes:
    """Oriented boxes in some frame.

    Args:
        corners: (N, 8, 3) metres: front left, front right, rear right, rear left of the bottom, then of the top.
        velocities: (N, 3) m/s; NaN where unknown.
        labels: (N,) int64 class.
        scores: (N,); NaN for annotations.
    """

    corners: Array
    velocities: Array
    labels: npt.NDArray[np.int64]
    scores: Array

    def __len__(self) -> int:
        return len(self.corners)

    @property
    def centers(self) -> Array:
        """(N, 3)."""
        return self.corners.mean(axis=1)

    def moved(self, target_from_source: npt.NDArray[np.floating[Any]]) -> SolidBoxes:
        """The same boxes in another frame, by the (4, 4) matrix that leads there."""
        rotation, shift = target_from_source[:3, :3], target_from_source[:3, 3]
        return replace(self, corners=self.corners @ rotation.T + shift, velocities=self.velocities @ rotation.T)

    def take(self, where: npt.NDArray[Any]) -> SolidBoxes:
        """Those at positions, or where a mask is True."""
        return SolidBoxes(*(getattr(self, field.name)[where] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class RadarPoints:
    """Radar returns in some frame.

    Args:
        positions: (N, 3) metres.
        velocities: (N, 3) m/s, compensated for the motion of the vehicle.
        depths: (N,) metres in front of the camera they belong to; sets their colour.
    """

    positions: Array
    velocities: Array
    depths: Array

    def __len__(self) -> int:
        return len(self.positions)

    def moved(self, target_from_source: npt.NDArray[np.floating[Any]]) -> RadarPoints:
        """The same points in another frame, by the (4, 4) matrix that leads there."""
        rotation, shift = target_from_source[:3, :3], target_from_source[:3, 3]
        return replace(self, positions=self.positions @ rotation.T + shift, velocities=self.velocities @ rotation.T)


def solids_of_detections(detections: Detections3d) -> SolidBoxes:
    """Detections of one image as boxes in the frame of its camera."""
    found = detections.cpu()
    corners = corners_camera(found.locations.double(), found.dims.double(), found.rotation_y.double())
    return SolidBoxes(
        corners=corners.numpy(),
        velocities=found.velocity.double().numpy(),
        labels=found.labels.numpy(),
        scores=found.scores.double().numpy(),
    )


def solids_of_global(boxes: GlobalBoxes) -> SolidBoxes:
    """Annotations or predictions of nuScenes as boxes in its global frame."""
    axes = rotation_matrices(boxes.rotations)
    edges = np.swapaxes(axes, -1, -2) * boxes.sizes[:, [1, 0, 2], None]  # length forward, width to the left, height up
    return SolidBoxes(
        corners=boxes.centers[:, None] + _CORNERS @ edges,
        velocities=np.pad(boxes.velocities, ((0, 0), (0, 1))),
        labels=boxes.labels,
        scores=np.where(boxes.scores < 0, np.nan, boxes.scores),
    )


def radar_points(radar: Array) -> RadarPoints:
    """Radar of one image, (18, N) in the frame of its camera, see `nuscenes.structures.RADAR_FIELDS`.

    Rows vx_comp and vy_comp hold the velocity along the camera's x and z, as `FusionSource.radar` gives them.
    """
    velocities = np.stack((radar[_ROWS["vx_comp"]], np.zeros(radar.shape[1]), radar[_ROWS["vy_comp"]]), 1)
    return RadarPoints(radar[:3].T.astype(np.float64), velocities.astype(np.float64), radar[2].astype(np.float64))


def join_points(parts: list[RadarPoints]) -> RadarPoints:
    """Points of several cameras that are already in one frame; at least one part."""
    return RadarPoints(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(RadarPoints))
    )


def join_boxes(parts: list[SolidBoxes]) -> SolidBoxes:
    """Boxes of several cameras that are already in one frame; at least one part."""
    names = [field.name for field in fields(SolidBoxes)]
    return SolidBoxes(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
