"""The nouns of 3-D detection from camera and radar: FusionBatch, FusionTargets, Detections3d and GlobalBoxes.

Legend: B images in a batch, M objects an image at most (padded), N boxes, H W the output grid (network input / 4).
Camera frame: x right, y down, z forward. Dimensions are (height, width, length) in metres.
Order of classes, attributes, cameras and radar fields: nuScenes as the published CenterFusion takes them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
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

RawHeads = dict[str, Tensor]
"""Raw outputs by published head name (hm, reg, wh, dep, rot, dim, amodel_offset, dep_sec, rot_sec, nuscenes_att,
velocity), each (B, C, H, W): no sigmoid, no depth transform. A radar model adds `pc_hm` (B, 3, H, W), the associated
radar map its second heads were given."""


@dataclass(frozen=True, slots=True)
class FusionTargets:
    """What the heads shall say at the objects of a batch, padded to one count so that shapes are static.

    Args:
        heatmap: (B, 10, H, W) float32 Gaussian of each class.
        cell: (B, M) int64 y * W + x of the object's cell.
        label: (B, M) int64 class.
        valid: (B, M) bool; False marks padding.
        boxes: (B, M, 4) float32 xyxy in grid cells, clipped to the grid.
        offset: (B, M, 2) centre of the clipped box less its cell.
        size: (B, M, 2) width, height of the clipped box in cells.
        depth: (B, M, 1) metres, times the scale of the augmentation.
        dims: (B, M, 3) metres.
        amodel_offset: (B, M, 2) projection of the 3-D centre less the cell.
        velocity: (B, M, 3) m/s, camera frame; 0 where unknown.
        attributes: (B, M, 8) one-hot.
        rot_bins: (B, M, 2) int64 whether alpha lies in each bin.
        rot_residuals: (B, M, 2) rad.
        annotation_depth: (B, M) metres, as annotated; the association takes it.
        alpha: (B, M) rad, as the image shows it (mirrored with it).
        *_valid: bool of the quantity's shape (rot_valid: (B, M)); False where it is padded or unknown.
    """

    heatmap: Tensor
    cell: Tensor
    label: Tensor
    valid: Tensor
    boxes: Tensor
    offset: Tensor
    offset_valid: Tensor
    size: Tensor
    size_valid: Tensor
    depth: Tensor
    depth_valid: Tensor
    dims: Tensor
    dims_valid: Tensor
    amodel_offset: Tensor
    amodel_valid: Tensor
    velocity: Tensor
    velocity_valid: Tensor
    attributes: Tensor
    attributes_valid: Tensor
    rot_bins: Tensor
    rot_residuals: Tensor
    rot_valid: Tensor
    annotation_depth: Tensor
    alpha: Tensor

    def to(self, device: torch.device, *, non_blocking: bool = True) -> FusionTargets:
        return FusionTargets(
            *(_value(self, field.name).to(device, non_blocking=non_blocking) for field in fields(self))
        )

    def pin_memory(self) -> FusionTargets:
        return FusionTargets(*(_value(self, field.name).pin_memory() for field in fields(self)))


@dataclass(frozen=True, slots=True)
class FusionBatch:
    """What a loader of camera and radar yields.

    Args:
        images: (B, 3, h, w) float32 BGR, normalised, in channels_last memory.
        radar: (B, 3, H, W) float32 map of radar pillars on the grid: depth (m), velocity right and forward (m/s); 0 is
            no return.
        calibs: (B, 3, 4) float32 camera matrix of the original image, in pixels.
        image_from_grid: (B, 2, 3) float32 affine map of grid cells to pixels of the original image.
        targets: what the heads shall say.
        indices: (B,) int64 position of each image in its split.
        paths: image files, in order.
    """

    images: Tensor
    radar: Tensor
    calibs: Tensor
    image_from_grid: Tensor
    targets: FusionTargets
    indices: Tensor
    paths: tuple[Path, ...]

    def to(self, device: torch.device, *, non_blocking: bool = True) -> FusionBatch:
        """Move all that the network, the losses and the decoding read; indices stay on the host."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            radar=self.radar.to(device, non_blocking=non_blocking),
            calibs=self.calibs.to(device, non_blocking=non_blocking),
            image_from_grid=self.image_from_grid.to(device, non_blocking=non_blocking),
            targets=self.targets.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> FusionBatch:
        return replace(
            self,
            images=self.images.pin_memory(),
            radar=self.radar.pin_memory(),
            calibs=self.calibs.pin_memory(),
            image_from_grid=self.image_from_grid.pin_memory(),
            targets=self.targets.pin_memory(),
        )

    def __len__(self) -> int:
        return self.images.shape[0]


@dataclass(frozen=True, slots=True)
class Detections3d:
    """Objects found in one image, highest score first, in the frame of its camera.

    Args:
        scores: (N,) float32 in 0..1.
        labels: (N,) int64 class.
        boxes: (N, 4) float32 xyxy pixels of the original image.
        locations: (N, 3) float32 metres, centre of the bottom face.
        dims: (N, 3) float32 metres.
        rotation_y: (N,) float32 rad about the camera's y axis; 0 looks along x.
        alpha: (N,) float32 rad, the same as seen from the camera.
        velocity: (N, 3) float32 m/s.
        attributes: (N, 8) float32 logits.
    """

    scores: Tensor
    labels: Tensor
    boxes: Tensor
    locations: Tensor
    dims: Tensor
    rotation_y: Tensor
    alpha: Tensor
    velocity: Tensor
    attributes: Tensor

    def __len__(self) -> int:
        return self.scores.shape[0]

    def cpu(self) -> Detections3d:
        return Detections3d(*(_value(self, field.name).cpu() for field in fields(self)))


@dataclass(frozen=True, slots=True)
class GlobalBoxes:
    """Boxes of a split in the global frame of nuScenes: annotations or predictions, as its metric takes them.

    Args:
        samples: (N,) int64 position of the box's key frame in the split's list of sample tokens.
        labels: (N,) int64 class.
        centers: (N, 3) float64 metres.
        sizes: (N, 3) float64 width, length, height in metres.
        rotations: (N, 4) float64 unit quaternion w, x, y, z.
        velocities: (N, 2) float64 m/s; NaN where unknown.
        attributes: (N,) int64; -1 is none.
        scores: (N,) float64; -1 for annotations.
        num_points: (N,) int64 lidar and radar points inside; -1 for predictions.
    """

    samples: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    centers: npt.NDArray[np.float64]
    sizes: npt.NDArray[np.float64]
    rotations: npt.NDArray[np.float64]
    velocities: npt.NDArray[np.float64]
    attributes: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    num_points: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, where: npt.NDArray[Any]) -> Self:
        """Those at positions, or where a mask is True."""
        return type(self)(*(getattr(self, field.name)[where] for field in fields(self)))


def _value(owner: object, name: str) -> Tensor:
    return getattr(owner, name)
