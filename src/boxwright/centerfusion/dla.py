"""DLA-34, the backbone of the centre networks: six levels, each of half the size of the one before from level 1 on.

Attribute names are part of the checkpoint format: they are the published state-dict keys.
Source: Yu et al., "Deep Layer Aggregation", 2018 (arXiv:1707.06484), figure 3; published CenterFusion behaviour.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

CHANNELS = (16, 32, 64, 128, 256, 512)
"""Of level 0 to 5 at width 1."""


def conv_norm_relu(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class Block(nn.Module):
    """Two 3x3 convolutions beside a residual that is given."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + residual)


class Root(nn.Module):
    """Joins the outputs of a tree by a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, children: list[Tensor]) -> Tensor:
        return self.relu(self.bn(self.conv(torch.cat(children, dim=1))))


def _project(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))


class Tree(nn.Module):
    """Two blocks and their root.

    Args:
        extra: channels of children that come from outside, the bottom included.
        joins_bottom: the input, pooled, is the first child of the root.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, extra: int = 0, *, joins_bottom: bool = False
    ) -> None:
        super().__init__()
        extra += in_channels if joins_bottom else 0
        self.tree1 = Block(in_channels, out_channels, stride)
        self.tree2 = Block(out_channels, out_channels)
        self.root = Root(2 * out_channels + extra, out_channels)
        self.downsample = nn.MaxPool2d(stride, stride) if stride > 1 else nn.Identity()
        self.project = _project(in_channels, out_channels) if in_channels != out_channels else nn.Identity()
        self.joins_bottom = joins_bottom

    def forward(self, x: Tensor, children: tuple[Tensor, ...] = ()) -> Tensor:
        bottom = self.downsample(x)
        first = self.tree1(x, self.project(bottom))
        second = self.tree2(first, first)
        return self.root([second, first, *((bottom,) if self.joins_bottom else ()), *children])


class DeepTree(nn.Module):
    """Two trees; the root of the second joins the pooled input and the output of the first, too.

    `project` is published but for nothing: each tree has a projection of its own. Its batch statistics are published
    as well, so it runs in training; no gradient ever reaches it.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.tree1 = Tree(in_channels, out_channels, 2)
        self.tree2 = Tree(out_channels, out_channels, 1, in_channels + out_channels)
        self.downsample = nn.MaxPool2d(2, 2)
        self.project = _project(in_channels, out_channels).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        bottom = self.downsample(x)
        if self.training:
            with torch.no_grad():
                self.project(bottom)
        first = self.tree1(x)
        return self.tree2(first, (bottom, first))


class Dla34(nn.Module):
    """(B, 3, h, w) images to the six levels, finest first.

    Args:
        channels: of the levels.
    """

    def __init__(self, channels: tuple[int, ...] = CHANNELS) -> None:
        super().__init__()
        self.base_layer = conv_norm_relu(3, channels[0], 7)
        self.level0 = conv_norm_relu(channels[0], channels[0], 3)
        self.level1 = conv_norm_relu(channels[0], channels[1], 3, 2)
        self.level2 = Tree(channels[1], channels[2], 2)
        self.level3 = DeepTree(channels[2], channels[3])
        self.level4 = DeepTree(channels[3], channels[4])
        self.level5 = Tree(channels[4], channels[5], 2, joins_bottom=True)

    @property
    def unused_modules(self) -> tuple[str, ...]:
        """Names of the parts that no gradient reaches."""
        return tuple(f"{name}.project" for name, part in self.named_children() if isinstance(part, DeepTree))

    def forward(self, images: Tensor) -> list[Tensor]:
        levels = [self.level0(self.base_layer(images))]
        for i in range(1, len(CHANNELS)):
            levels.append(cast(nn.Module, getattr(self, f"level{i}"))(levels[-1]))
        return levels
