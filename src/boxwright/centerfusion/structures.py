"""Nouns of CenterFusion: the batch that a loader yields, the targets of the heads, and the raw heads.

Legend: B images in a batch, M objects per image at most (padded), H W the output grid (network input / 4).
Camera frame: x right, y down, z forward. Dimensions are (height, width, length) in metres.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

RawHeads = dict[str, Tensor]
"""Raw outputs by published head name (hm, reg, wh, dep, rot, dim, amodel_offset, dep_sec, rot_sec, nuscenes_att,
velocity), each (B, C, H, W): no sigmoid, no depth transform. A radar model adds `pc_hm` (B, 3, H, W), the associated
radar map its second heads were given."""


@dataclass(frozen=True, slots=True)
class FusionTargets:
    """What the heads shall say at the objects of a batch, padded to one count so that shapes are static.

    A `*_valid` field is False where its quantity is padded or unknown.
    """

    heatmap: Tensor  # (B, 10, H, W) float32 Gaussian of each class
    cell: Tensor  # (B, M) int64 y * W + x of the object's cell
    label: Tensor  # (B, M) int64 class
    valid: Tensor  # (B, M) bool; False marks padding
    boxes: Tensor  # (B, M, 4) float32 xyxy in grid cells, clipped to the grid
    offset: Tensor  # (B, M, 2) centre of the clipped box less its cell
    offset_valid: Tensor  # (B, M, 2) bool
    size: Tensor  # (B, M, 2) width, height of the clipped box in cells
    size_valid: Tensor  # (B, M, 2) bool
    depth: Tensor  # (B, M, 1) metres, times the scale of the augmentation
    depth_valid: Tensor  # (B, M, 1) bool
    dims: Tensor  # (B, M, 3) metres
    dims_valid: Tensor  # (B, M, 3) bool
    amodel_offset: Tensor  # (B, M, 2) projection of the 3-D centre less the cell
    amodel_valid: Tensor  # (B, M, 2) bool
    velocity: Tensor  # (B, M, 3) m/s, camera frame; 0 where unknown
    velocity_valid: Tensor  # (B, M, 3) bool
    attributes: Tensor  # (B, M, 8) one-hot
    attributes_valid: Tensor  # (B, M, 8) bool
    rot_bins: Tensor  # (B, M, 2) int64 whether alpha lies in each bin
    rot_residuals: Tensor  # (B, M, 2) rad
    rot_valid: Tensor  # (B, M) bool
    annotation_depth: Tensor  # (B, M) metres, as annotated; the association takes it
    alpha: Tensor  # (B, M) rad, as the image shows it (mirrored with it)

    def to(self, device: torch.device, *, non_blocking: bool = True) -> Self:
        return type(self)(*(getattr(self, field.name).to(device, non_blocking=non_blocking) for field in fields(self)))

    def pin_memory(self) -> Self:
        return type(self)(*(getattr(self, field.name).pin_memory() for field in fields(self)))


@dataclass(frozen=True, slots=True)
class FusionBatch:
    """What a loader of camera and radar yields."""

    images: Tensor  # (B, 3, h, w) float32 BGR, normalised, in channels_last memory
    radar: Tensor  # (B, 3, H, W) float32 radar pillars: depth (m), velocity right and forward (m/s); 0 is no return
    calibs: Tensor  # (B, 3, 4) float32 camera matrix of the original image, in pixels
    image_from_grid: Tensor  # (B, 2, 3) float32 affine map of grid cells to pixels of the original image
    targets: FusionTargets
    indices: Tensor  # (B,) int64 position of each image in its split
    paths: tuple[Path, ...]  # image files, in order

    def to(self, device: torch.device, *, non_blocking: bool = True) -> Self:
        """Move all that the network, the losses and the decoding read; indices stay on the host."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            radar=self.radar.to(device, non_blocking=non_blocking),
            calibs=self.calibs.to(device, non_blocking=non_blocking),
            image_from_grid=self.image_from_grid.to(device, non_blocking=non_blocking),
            targets=self.targets.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Self:
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
