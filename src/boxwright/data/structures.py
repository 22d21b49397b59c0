"""The nouns that rooms hand to each other: Batch, Targets and Detections.

Legend: B images in a batch, M labels an image at most (padded), N detections of one image.
Boxes are xyxy pixels unless the name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Targets:
    """Labels of a batch, padded to the same count an image so that shapes are static.

    Args:
        boxes_cxcywh: (B, M, 4) float32 centre x, centre y, width, height, each divided by the network input's side.
        labels: (B, M) int64 class indices; 0 where padded.
        valid: (B, M) bool; False marks padding.
    """

    boxes_cxcywh: Tensor
    labels: Tensor
    valid: Tensor

    def to(self, device: torch.device, *, non_blocking: bool = True) -> Targets:
        return Targets(
            self.boxes_cxcywh.to(device, non_blocking=non_blocking),
            self.labels.to(device, non_blocking=non_blocking),
            self.valid.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """What a loader yields.

    Args:
        images: (B, 3, H, W) uint8 RGB in channels_last memory; the task divides by 255 on the device.
        targets: labels in the frame of the padded network input.
        indices: (B,) int64 position of each image in the data index.
        original_sizes: (B, 2) int64 height, width of the image file after EXIF rotation.
        scales: (B, 2) float32 network pixels per original pixel, in y and x.
        pads: (B, 2) float32 top and left border in network pixels. x_net = x_original * scales[:, 1] + pads[:, 1].
            scales and pads describe letterboxed batches; an augmented batch has ones and zeros.
        paths: image files, in order.
    """

    images: Tensor
    targets: Targets
    indices: Tensor
    original_sizes: Tensor
    scales: Tensor
    pads: Tensor
    paths: tuple[Path, ...]

    def to(self, device: torch.device, *, non_blocking: bool = True) -> Batch:
        """Move images and targets; what only the host reads stays on the host."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            targets=self.targets.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Batch:
        targets = Targets(
            self.targets.boxes_cxcywh.pin_memory(), self.targets.labels.pin_memory(), self.targets.valid.pin_memory()
        )
        return replace(self, images=self.images.pin_memory(), targets=targets)

    def __len__(self) -> int:
        return self.images.shape[0]


@dataclass(frozen=True, slots=True)
class Detections:
    """Boxes found in one image, highest score first.

    Args:
        boxes: (N, 4) float32 xyxy pixels.
        scores: (N,) float32 in 0..1.
        labels: (N,) int64 class indices.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def cpu(self) -> Detections:
        return Detections(self.boxes.cpu(), self.scores.cpu(), self.labels.cpu())

    @classmethod
    def empty(cls, device: torch.device | None = None) -> Detections:
        return cls(
            torch.zeros((0, 4), device=device),
            torch.zeros(0, device=device),
            torch.zeros(0, dtype=torch.int64, device=device),
        )
