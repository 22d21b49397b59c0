"""The nouns that rooms hand to each other: Batch, Targets and Detections.

Legend: B images in a batch, M labels an image at most (padded), N detections of one image.
Boxes are xyxy pixels unless the name says otherwise.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Targets:
    """Labels of a batch, padded to the same count an image so that shapes are static."""

    # (B, M, 4) float32 centre x, centre y, width, height, each divided by the network input's side
    boxes_cxcywh: Tensor
    labels: Tensor  # (B, M) int64 class indices; 0 where padded
    valid: Tensor  # (B, M) bool; False marks padding

    def to(self, device: torch.device, *, non_blocking: bool = True) -> "Targets":
        return Targets(
            self.boxes_cxcywh.to(device, non_blocking=non_blocking),
            self.labels.to(device, non_blocking=non_blocking),
            self.valid.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """What a loader yields."""

    images: Tensor  # (B, 3, H, W) uint8 RGB in channels_last memory; the task divides by 255 on the device
    targets: Targets  # labels in the frame of the padded network input
    indices: Tensor  # (B,) int64 position of each image in the data index
    original_sizes: Tensor  # (B, 2) int64 height, width of the image file after EXIF rotation
    scales: Tensor  # (B, 2) float32 network pixels per original pixel, in y and x
    # (B, 2) float32 top and left border in network pixels. x_net = x_original * scales[:, 1] + pads[:, 1]. scales and
    # pads describe letterboxed batches; an augmented batch has ones and zeros.
    pads: Tensor
    paths: tuple[Path, ...]  # image files, in order

    def to(self, device: torch.device, *, non_blocking: bool = True) -> "Batch":
        """Move images and targets; what only the host reads stays on the host."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            targets=self.targets.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> "Batch":
        targets = Targets(
            self.targets.boxes_cxcywh.pin_memory(), self.targets.labels.pin_memory(), self.targets.valid.pin_memory()
        )
        return replace(self, images=self.images.pin_memory(), targets=targets)

    def __len__(self) -> int:
        return self.images.shape[0]


@dataclass(frozen=True, slots=True)
class Detections:
    """Boxes found in one image, highest score first."""

    boxes: Tensor  # (N, 4) float32 xyxy pixels
    scores: Tensor  # (N,) float32 in 0..1
    labels: Tensor  # (N,) int64 class indices

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def cpu(self) -> "Detections":
        return Detections(self.boxes.cpu(), self.scores.cpu(), self.labels.cpu())

    @classmethod
    def empty(cls, device: torch.device | None = None) -> "Detections":
        return cls(
            torch.zeros((0, 4), device=device),
            torch.zeros(0, device=device),
            torch.zeros(0, dtype=torch.int64, device=device),
        )
