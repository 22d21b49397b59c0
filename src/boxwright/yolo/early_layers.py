"""The blocks of YOLOv5 v1.0 to v5.0 that 6.x no longer has: Focus stem and BottleneckCSP.

Attribute names are part of the checkpoint format: they are the published state-dict keys.

Source: published YOLOv5 behaviour (spec B1.3); Wang et al., "CSPNet", 2019 (arXiv:1911.11929).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from boxwright.yolo.join import join_channels
from boxwright.yolo.layers import Bottleneck, Conv

# Row and column of each pixel of a 2x2 cell, in the order in which Focus stacks them.
FOCUS_ORDER = ((0, 0), (1, 0), (0, 1), (1, 1))


class Focus(nn.Module):
    """Each 2x2 cell of pixels becomes one cell of four times the channels, then a convolution."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, *, activation: nn.Module) -> None:
        super().__init__()
        self.conv = Conv(in_channels * 4, out_channels, kernel, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.cat([x[..., row::2, column::2] for row, column in FOCUS_ORDER], dim=1))


class BottleneckCSP(nn.Module):
    """Cross-stage partial block: two plain convolutions lead to one joint batch norm."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        repeats: int = 1,
        shortcut: bool = True,
        groups: int = 1,
        expansion: float = 0.5,
        *,
        activation: nn.Module,
        joint_activation: nn.Module,
    ) -> None:
        super().__init__()
        hidden = int(out_channels * expansion)
        self.cv1 = Conv(in_channels, hidden, activation=activation)
        self.cv2 = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.cv3 = nn.Conv2d(hidden, hidden, 1, bias=False)
        self.cv4 = Conv(2 * hidden, out_channels, activation=activation)
        self.bn = nn.BatchNorm2d(2 * hidden, momentum=self.cv1.bn.momentum)
        self.act = joint_activation
        self.m = nn.Sequential(
            *(Bottleneck(hidden, hidden, shortcut, groups, 1.0, activation=activation) for _ in range(repeats))
        )

    def forward(self, x: Tensor) -> Tensor:
        joint = join_channels((self.cv3(self.m(self.cv1(x))), self.cv2(x)))
        return self.cv4(self.act(self.bn(joint)))
