"""Boxes, cameras and key frames that the tests of the 3-D pictures share."""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from boxwright.centerfusion.pictures import KeyFrame
from boxwright.drawing.boxes3d import SolidBoxes
from boxwright.nuscenes.structures import Detections3d, GlobalBoxes, ImageAnnotations, ImageRecord

K = np.array([(400.0, 0, 200), (0, 400.0, 112), (0, 0, 1)])
CALIB = np.pad(K, ((0, 0), (0, 1)))
GREY = np.full((225, 400, 3), 90, np.uint8)
# Camera axes (right, down, forward) in a vehicle's frame (forward, left, up), for a camera that looks forward.
EGO_FROM_FORWARD = np.array([(0, 0, 1, 1.5), (-1, 0, 0, 0), (0, -1, 0, 1.5), (0, 0, 0, 1)], np.float64)
YAWS = np.deg2rad((0, -55, -110, 180, 110, 55))  # by sensor id
# Of half the length, the height, half the width, to each corner; front first, bottom before top.
_ALONG = (1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0)
_DOWN = (0.0, 0.0, 0.0, 0.0, -1.0, -1.0, -1.0, -1.0)
_ACROSS = (1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0)
FOLDER = tempfile.TemporaryDirectory()  # of the images of cameras


def detections(*rows: tuple[float, float, float, float], score: float = 0.9, label: int = 0) -> Detections3d:
    """Cars of 1.5 x 2 x 4 m at (x, y, z) of the bottom's centre, turned by the fourth number."""
    n = len(rows)
    numbers = torch.tensor(rows, dtype=torch.float32).reshape(n, 4)
    return Detections3d(
        scores=torch.full((n,), score),
        labels=torch.full((n,), label),
        boxes=torch.zeros(n, 4),
        locations=numbers[:, :3],
        dims=torch.tensor([(1.5, 2.0, 4.0)]).repeat(n, 1),
        rotation_y=numbers[:, 3],
        alpha=torch.zeros(n),
        velocity=torch.zeros(n, 3),
        attributes=torch.zeros(n, 8),
    )


def corners_camera(locations: torch.Tensor, dims: torch.Tensor, rotation_y: torch.Tensor) -> torch.Tensor:
    """Corners (..., 8, 3) of boxes in the frame of a camera: four of the bottom face, then those above them.

    Boxes stand at (..., 3) metres of the bottom's centre, with (..., 3) height, width, length and a turn about y (rad).
    """
    height, width, length = dims.unsqueeze(-1).unbind(-2)
    x = dims.new_tensor(_ALONG) * length / 2
    y = dims.new_tensor(_DOWN) * height
    z = dims.new_tensor(_ACROSS) * width / 2
    sine, cosine = rotation_y.sin()[..., None], rotation_y.cos()[..., None]
    turned = torch.broadcast_tensors(cosine * x + sine * z, y, cosine * z - sine * x)
    return torch.stack(turned, dim=-1) + locations[..., None, :]


def boxes_of_detections(found: Detections3d) -> SolidBoxes:
    """The detections of one image as boxes in the frame of its camera."""
    corners = corners_camera(found.locations.double(), found.dims.double(), found.rotation_y.double())
    velocities, scores = found.velocity.double().numpy(), found.scores.double().numpy()
    return SolidBoxes(corners.numpy(), velocities, found.labels.numpy(), scores)


def global_boxes(*rows: tuple[float, float, float], score: float = -1.0) -> GlobalBoxes:
    """Cars of 2 x 4 x 1.5 m at x, y of the global frame, turned by a yaw."""
    n = len(rows)
    x, y, yaw = np.array(rows, np.float64).reshape(n, 3).T
    zero = np.zeros(n)
    return GlobalBoxes(
        samples=np.zeros(n, np.int64),
        labels=np.zeros(n, np.int64),
        centers=np.stack((x, y, zero + 0.75), 1),
        sizes=np.tile((2.0, 4.0, 1.5), (n, 1)),
        rotations=np.stack((np.cos(yaw / 2), zero, zero, np.sin(yaw / 2)), 1),
        velocities=np.zeros((n, 2)),
        attributes=np.full(n, -1),
        scores=np.full(n, score),
        num_points=np.ones(n, np.int64),
    )


def radar(*rows: tuple[float, float, float, float, float]) -> np.ndarray:
    """(18, N) from x, y, z, vx, vz in the camera frame."""
    points = np.zeros((18, len(rows)))
    points[[0, 1, 2, 8, 9]] = np.array(rows, np.float64).reshape(-1, 5).T
    return points


def camera(
    sensor: int, image: np.ndarray | None = GREY, points: np.ndarray | None = None
) -> tuple[ImageRecord, np.ndarray]:
    """One of six cameras of a vehicle at the origin of the global frame, and its radar; its image may be gone."""
    cos, sin = np.cos(YAWS[sensor - 1]), np.sin(YAWS[sensor - 1])
    turn = np.array([(cos, -sin, 0, 0), (sin, cos, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)])
    none = np.zeros(0)
    annotations = ImageAnnotations(
        labels=none.astype(np.int64),
        boxes_xywh=np.zeros((0, 4)),
        dims=np.zeros((0, 3)),
        locations=np.zeros((0, 3)),
        depths=none,
        rotation_y=none,
        alpha=none,
        amodel_centers=np.zeros((0, 2)),
        attributes=none.astype(np.int64),
        velocity_cam=np.zeros((0, 3)),
        is_crowd=none.astype(bool),
    )
    path = Path("gone.jpg") if image is None else Path(FOLDER.name, f"{sensor} {image.shape} {image.max()}.png")
    if image is not None:
        cv2.imwrite(str(path), image)
    record = ImageRecord(path, 400, 225, sensor, 0, CALIB, turn @ EGO_FROM_FORWARD, annotations)
    return record, radar() if points is None else points


def key_frame(number: int = 1, **given: object) -> KeyFrame:
    settings: dict[str, object] = {"cameras": [camera(i) for i in range(1, 7)], "global_from_ego": np.eye(4)}
    settings["predictions"] = global_boxes()
    return KeyFrame("scene-0001", number, 3, **(settings | given))  # pyright: ignore[reportArgumentType]


def changed(image: np.ndarray, before: np.ndarray = GREY) -> np.ndarray:
    """(H, W) where a picture differs."""
    return (image.astype(int) != before).any(axis=2)
