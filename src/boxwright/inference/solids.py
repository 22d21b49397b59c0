"""Boxes and radar points as the pictures take them: corners and velocities in one frame, whichever that is.

What is not here: how they are painted (draw3d.py, birds_eye.py).
Legend: N boxes or points. Camera frame: x right, y down, z forward. Ego frame: x forward, y left, z up.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from boxwright.structures3d import RADAR_FIELDS, Detections3d, GlobalBoxes

Array = npt.NDArray[np.float64]

_FORWARD = np.array((1, 1, -1, -1, 1, 1, -1, -1)) / 2
_LEFT = np.array((1, -1, -1, 1, 1, -1, -1, 1)) / 2
_UP = np.array((-1, -1, -1, -1, 1, 1, 1, 1)) / 2
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
    height, width, length = found.dims.double().numpy().T[..., None]
    angle = found.rotation_y.double().numpy()
    cos, sin, zero = np.cos(angle), np.sin(angle), np.zeros_like(angle)
    up = np.broadcast_to((0.0, -1.0, 0.0), (len(angle), 3))
    bottoms = found.locations.double().numpy()
    return SolidBoxes(
        corners=_corners(
            bottoms + up * height / 2,
            np.stack((cos, zero, -sin), 1) * length,
            np.stack((sin, zero, cos), 1) * width,
            up * height,
        ),
        velocities=found.velocity.double().numpy(),
        labels=found.labels.numpy(),
        scores=found.scores.double().numpy(),
    )


def solids_of_global(boxes: GlobalBoxes) -> SolidBoxes:
    """Annotations or predictions of nuScenes as boxes in its global frame."""
    axes = _axes(boxes.rotations)
    width, length, height = boxes.sizes.T[..., None]
    return SolidBoxes(
        corners=_corners(boxes.centers, axes[..., 0] * length, axes[..., 1] * width, axes[..., 2] * height),
        velocities=np.pad(boxes.velocities, ((0, 0), (0, 1))),
        labels=boxes.labels,
        scores=np.where(boxes.scores < 0, np.nan, boxes.scores),
    )


def radar_points(radar: Array) -> RadarPoints:
    """Radar of one image, (18, N) in the frame of its camera, see `structures3d.RADAR_FIELDS`.

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


def _corners(centers: Array, forward: Array, left: Array, up: Array) -> Array:
    """(N, 8, 3) from centres and the three edges, each (N, 3)."""
    edges = np.stack((forward, left, up), 1)
    return centers[:, None] + np.stack((_FORWARD, _LEFT, _UP), 1) @ edges


def _axes(quaternions: Array) -> Array:
    """(N, 3, 3) rotation matrices, whose columns are a box's forward, left and up, of quaternions w, x, y, z."""
    norms = np.maximum(np.linalg.norm(quaternions, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    w, x, y, z = (quaternions / norms).T
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, -1) for row in rows], -2)
