"""Test-time augmentation: one network looks at an image at three sizes, once mirrored; NMS then merges what it found.

Source: published YOLOv5 behaviour (v2.0 to v7.0); YOLOv3-SPP looks in the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from boxwright.yolo.detection import DetectionModel, Network
from boxwright.yolo.graph import GraphModel
from boxwright.yolo.scaled_images import scale_images

PASSES = ((1.0, False), (0.83, True), (0.67, False))  # size over that of the image, and whether mirrored left-right


class AugmentedNetwork(Network):
    """A network that takes three looks at every image. `forward` gives decoded rows, `decode` hands them on.

    From v6.0 on a level that a pass is too coarse or too fine for is left out: the largest stride of the full-size pass
    and the smallest stride of the last one. Earlier releases, and YOLOv3-SPP, keep all rows.

    Args:
        network: in eval mode; it is not copied.
    """

    def __init__(self, network: DetectionModel) -> None:
        super().__init__()
        self.network = network
        self.names = network.names
        self.release = network.release
        self.trims = isinstance(network, GraphModel) and not network.spec.layer_rules.early

    @property
    def strides(self) -> tuple[int, ...]:
        return self.network.strides

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the rows of all passes, one (B, rows, 5 + classes) in pixels of the images."""
        strides, width = self.strides, images.shape[3]
        unused = (max(strides), None, min(strides)) if self.trims else (None, None, None)
        found: list[Tensor] = []
        for (factor, mirrored), left_out in zip(PASSES, unused, strict=True):
            seen = scale_images(images.flip(3) if mirrored else images, factor, multiple=max(strides))
            raw = [level.float() for level in self.network(seen)]
            rows = self.network.decode(raw)
            rows[..., :4] /= factor
            if mirrored:
                rows[..., 0] = width - rows[..., 0]
            levels = rows.split([level.shape[1:4].numel() for level in raw], dim=1)
            found += [level for level, stride in zip(levels, strides, strict=True) if stride != left_out]
        return [torch.cat(found, dim=1)]

    def decode(self, raw: list[Tensor]) -> Tensor:
        return raw[0]
