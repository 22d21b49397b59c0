"""A network with its decoding as one module of plain operators, ready to be exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from boxwright.yolo.detection import BoxCoding, DetectionModel


class ExportRows(nn.Module):
    """Images to decoded rows; the same numbers as `DetectionModel.decode` of `forward`, without writing in place.

    Args:
        model: fused, in eval mode.
    """

    anchors: Tensor

    def __init__(self, model: DetectionModel) -> None:
        super().__init__()
        self.network = model
        self.strides = model.strides
        self.coding: BoxCoding = model.box_coding
        pixels = model.anchors.float() * torch.tensor(model.strides).view(-1, 1, 1)
        self.register_buffer("anchors", pixels)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 to (B, rows, 5 + classes) float32: cxcywh in input pixels, scores in 0..1."""
        dtype = next(self.network.parameters()).dtype
        raw = self.network(images.to(dtype))
        return torch.cat([self._level(maps.float(), level) for level, maps in enumerate(raw)], dim=1)

    def _level(self, maps: Tensor, level: int) -> Tensor:
        _, num_anchors, height, width, _ = maps.shape
        stride = self.strides[level]
        anchors = self.anchors[level].view(1, num_anchors, 1, 1, 2)
        columns = torch.arange(width, dtype=torch.float32, device=maps.device).view(1, 1, 1, width, 1)
        rows = torch.arange(height, dtype=torch.float32, device=maps.device).view(1, 1, height, 1, 1)
        scores = maps.sigmoid()
        if self.coding == "v5":
            x = (scores[..., 0:1] * 2 + (columns - 0.5)) * stride
            y = (scores[..., 1:2] * 2 + (rows - 0.5)) * stride
            sides = (scores[..., 2:4] * 2).square() * anchors
        else:
            x = (scores[..., 0:1] + columns) * stride
            y = (scores[..., 1:2] + rows) * stride
            sides = maps[..., 2:4].exp() * anchors
        return torch.cat((x, y, sides, scores[..., 4:]), dim=-1).flatten(1, 3)
