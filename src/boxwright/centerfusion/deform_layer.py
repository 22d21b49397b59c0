"""The nodes of the up-sampling: a deformable 3x3 convolution, or an ordinary 1x1 one, with batch norm and ReLU.

Attribute names are part of the checkpoint format: they are the published state-dict keys.
Source: Zhu et al., "Deformable ConvNets v2", 2018 (arXiv:1811.11168); published CenterFusion behaviour.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from boxwright.centerfusion.deform_conv import TAPS, deform_conv
from boxwright.centerfusion.dla import conv_norm_relu

NodeKind = Literal["dcn", "conv"]


class DeformConv(nn.Module):
    """Deformable convolution whose offsets and masks come from an ordinary one; begins as half an ordinary one."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.conv_offset_mask = nn.Conv2d(in_channels, 3 * TAPS, 3, padding=1)
        bound = 1 / math.sqrt(TAPS * in_channels)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.conv_offset_mask.weight)
        assert self.conv_offset_mask.bias is not None
        nn.init.zeros_(self.conv_offset_mask.bias)

    def forward(self, x: Tensor) -> Tensor:
        found = self.conv_offset_mask(x)
        return deform_conv(x, found[:, : 2 * TAPS], found[:, 2 * TAPS :].sigmoid(), self.weight, self.bias)


class DeformNode(nn.Module):
    """Deformable convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.actf = nn.Sequential(nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
        self.conv = DeformConv(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.actf(self.conv(x))


class PlainNode(nn.Module):
    """1x1 convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = conv_norm_relu(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def make_node(kind: NodeKind, in_channels: int, out_channels: int) -> nn.Module:
    node = DeformNode if kind == "dcn" else PlainNode
    return node(in_channels, out_channels)
