"""Nouns of CenterFusion: the batch that a loader yields, the targets of the heads, and the raw heads.

Legend: B images in a batch, M objects per image at most (padded), H W the output grid (network input / 4).
Camera frame: x right, y down, z forward. Dimensions are (height, width, length) in metres.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor

RawHeads = dict[str, Tensor]
"""Raw outputs by published head name (hm, reg, wh, dep, rot, dim, amodel_offset, dep_sec, rot_sec, nuscenes_att,
velocity), each (B, C, H, W): no sigmoid, no depth transform. A radar model adds `pc_hm` (B, 3, H, W), the associated
radar map its second heads were given."""
T = TypeVar("T")  # tensors, or the NumPy arrays that workers write them through


@dataclass(frozen=True, slots=True)
class Targets3d(Generic[T]):
    """Targets of the heads at the objects of a batch, padded to one count so that shapes are static.

    A `*_valid` field is False where its quantity is padded or unknown; fields without `_valid` are always known. One
    image's share lacks the B.
    """

    heatmap: T  # (B, 10, H, W) float32 Gaussian of each class
    cell: T  # (B, M) int64 y * W + x of the object's cell
    label: T  # (B, M) int64 class
    valid: T  # (B, M) bool; False marks padding
    boxes: T  # (B, M, 4) float32 xyxy in grid cells, clipped to the grid
    offset: T  # (B, M, 2) centre of the clipped box less its cell
    size: T  # (B, M, 2) width, height of the clipped box in cells
    depth: T  # (B, M, 1) metres, times the scale of the augmentation
    depth_valid: T  # (B, M, 1) bool
    dims: T  # (B, M, 3) metres
    amodel_offset: T  # (B, M, 2) projection of the 3-D centre less the cell
    velocity: T  # (B, M, 3) m/s, camera frame; 0 where unknown
    velocity_valid: T  # (B, M, 3) bool
    attributes: T  # (B, M, 8) one-hot
    attributes_valid: T  # (B, M, 8) bool
    rot_bins: T  # (B, M, 2) int64 whether alpha lies in each bin
    rot_residuals: T  # (B, M, 2) rad
    rot_valid: T  # (B, M) bool
    annotation_depth: T  # (B, M) metres, as annotated; the association takes it
    alpha: T  # (B, M) rad, as the image shows it (mirrored with it)

    def map(self, change: Callable[[T], Any]) -> "Targets3d[Any]":
        """Apply a function to each field."""
        return Targets3d(*(change(getattr(self, field.name)) for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Batch3d:
    """What a loader of camera and radar yields."""

    images: Tensor  # (B, 3, h, w) float32 BGR, normalised, in channels_last memory
    radar: Tensor  # (B, 3, H, W) float32 radar pillars: depth (m), velocity right and forward (m/s); 0 is no return
    calibs: Tensor  # (B, 3, 4) float32 camera matrix of the original image, in pixels
    image_from_grid: Tensor  # (B, 2, 3) float32 affine map of grid cells to pixels of the original image
    targets: Targets3d[Tensor]
    indices: Tensor  # (B,) int64 position of each image in its split
    paths: tuple[Path, ...]  # image files, in order

    def to(self, device: torch.device, *, non_blocking: bool = True) -> Self:
        """Move all that the network, the losses and the decoding read; indices stay on the host."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Copy the same to page-locked memory, from which copies to a GPU do not wait."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to what the network, the losses and the decoding read."""
        return replace(
            self,
            images=change(self.images),
            radar=change(self.radar),
            calibs=change(self.calibs),
            image_from_grid=change(self.image_from_grid),
            targets=self.targets.map(change),
        )

    def __len__(self) -> int:
        return self.images.shape[0]
