"""The features of CenterFusion: DLA-34, six levels of falling size, and its up-sampling back to stride 4.

Iterative deep aggregation brings coarse levels to finer ones, one after the other; its nodes are deformable 3x3
convolutions, or ordinary 1x1 ones. Attribute names are part of the checkpoint format: they are the published
state-dict keys.
Source: Yu et al., "Deep Layer Aggregation", 2018 (arXiv:1707.06484), figure 3; Zhou et al., "Objects as Points", 2019
(arXiv:1904.07850); Zhu et al., "Deformable ConvNets v2", 2018 (arXiv:1811.11168); published CenterFusion behaviour.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from boxwright.centerfusion.deform_conv import TAPS, deform_conv

CHANNELS = (16, 32, 64, 128, 256, 512)
"""Of level 0 to 5 at width 1."""
NodeKind = Literal["dcn", "conv"]  # deformable 3x3 convolution, or ordinary 1x1 convolution


def conv_norm_relu(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Make a convolution without bias, batch norm and ReLU."""
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


class Tree(nn.Module):
    """Two blocks and their root.

    Args:
        extra: channels of children that come from outside, the bottom included.
        joins_bottom: the pooled input is the first child of the root.
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
        # Gives the residual its number of channels, without a ReLU.
        same = in_channels == out_channels
        self.project = nn.Identity() if same else conv_norm_relu(in_channels, out_channels, 1)[:2]
        self.joins_bottom = joins_bottom

    def forward(self, x: Tensor, children: tuple[Tensor, ...] = ()) -> Tensor:
        bottom = self.downsample(x)
        first = self.tree1(x, self.project(bottom))
        second = self.tree2(first, first)
        return self.root([second, first, *((bottom,) if self.joins_bottom else ()), *children])


class DeepTree(nn.Module):
    """Two trees; the root of the second also joins the pooled input and the output of the first."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.tree1 = Tree(in_channels, out_channels, 2)
        self.tree2 = Tree(out_channels, out_channels, 1, in_channels + out_channels)
        self.downsample = nn.MaxPool2d(2, 2)
        # Each tree projects by itself, so nothing reads this one. It is here because published checkpoints have its
        # entries; no gradient ever reaches it.
        self.project = conv_norm_relu(in_channels, out_channels, 1)[:2].requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        bottom = self.downsample(x)
        if self.training:
            # Its batch statistics are published too, and move in training as they did there.
            with torch.no_grad():
                self.project(bottom)
        first = self.tree1(x)
        return self.tree2(first, (bottom, first))


class Dla34(nn.Module):
    """Images (B, 3, h, w) to the six levels, finest first; each is half the size of the one before from level 1 on.

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

    def forward(self, images: Tensor) -> list[Tensor]:
        levels = [self.level0(self.base_layer(images))]
        for level in (self.level1, self.level2, self.level3, self.level4, self.level5):
            levels.append(level(levels[-1]))
        return levels


class DeformConv(nn.Module):
    """Deformable convolution whose offsets and masks come from an ordinary one; begins as half an ordinary one."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.conv_offset_mask = nn.Conv2d(in_channels, 3 * TAPS, 3, padding=1)
        bound = 1 / math.sqrt(TAPS * in_channels)
        nn.init.uniform_(self.weight, -bound, bound)
        # With weights of 0 no tap is moved at first and each counts half: the sigmoid of 0.
        nn.init.zeros_(self.conv_offset_mask.weight)
        nn.init.zeros_(cast(Tensor, self.conv_offset_mask.bias))

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


def make_node(kind: NodeKind, in_channels: int, out_channels: int) -> nn.Module:
    """Make a node of an aggregation; both kinds name their convolution alike."""
    if kind == "dcn":
        return DeformNode(in_channels, out_channels)
    return nn.Sequential(OrderedDict(conv=conv_norm_relu(in_channels, out_channels, 1)))


class Upsampling(nn.ConvTranspose2d):
    """Each channel by itself to `factor` times the size; begins as bilinear interpolation."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__(channels, channels, 2 * factor, factor, factor // 2, groups=channels, bias=False)
        # The kernel that interpolates linearly: a tent whose middle lies between the two middle weights.
        center = (2 * factor - 1 - factor % 2) / (2 * factor)
        line = 1 - (torch.arange(2 * factor, dtype=torch.float64) / factor - center).abs()
        with torch.no_grad():
            self.weight.copy_((line[:, None] * line).float())

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if input.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(input, output_size)
        # oneDNN has no such kernel for bfloat16, and PyTorch's own takes 5 to 20 times as long as float32.
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.to(self.weight.dtype), output_size)


class IdaUp(nn.Module):
    """Levels of several sizes to as many of the size of the first, each joined with the one before.

    Args:
        out_channels: of all that come out.
        in_channels: of the levels; the first has `out_channels`.
        factors: how much coarser each level is than the first; the first is 1.
        node: kind of the convolutions.
    """

    def __init__(self, out_channels: int, in_channels: Sequence[int], factors: Sequence[int], node: NodeKind) -> None:
        super().__init__()
        for i in range(1, len(in_channels)):
            self.add_module(f"proj_{i}", make_node(node, in_channels[i], out_channels))
            self.add_module(f"up_{i}", Upsampling(out_channels, factors[i]))
            self.add_module(f"node_{i}", make_node(node, out_channels, out_channels))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        joined = [levels[0]]
        for i, level in enumerate(levels[1:], 1):
            project, up, node = (cast(nn.Module, getattr(self, f"{part}_{i}")) for part in ("proj", "up", "node"))
            joined.append(node(up(project(level)) + joined[-1]))
        return joined


class DlaUp(nn.Module):
    """Levels of strides 4, 8, 16, 32 to aggregated ones of the same strides; the coarsest comes out as it is.

    Args:
        channels: of the levels, finest first.
        node: kind of the convolutions.
    """

    def __init__(self, channels: Sequence[int], node: NodeKind) -> None:
        super().__init__()
        self.num_levels = len(channels)
        last = len(channels) - 1
        for i in range(last):
            start = last - 1 - i
            # What is coarser than the next level has already come down to that level's size and channels.
            coarser = [channels[start + 1]] * (i + 1)
            self.add_module(f"ida_{i}", IdaUp(channels[start], [channels[start], *coarser], [1, *[2] * (i + 1)], node))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        current, finest = list(levels), [levels[-1]]
        for i in range(self.num_levels - 1):
            start = self.num_levels - 2 - i
            current[start:] = cast(nn.Module, getattr(self, f"ida_{i}"))(current[start:])
            finest.insert(0, current[-1])
        return finest
