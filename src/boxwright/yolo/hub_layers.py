"""The blocks that the published hub models of YOLOv5 6.x add: Ghost, transformer, cross and mixed convolutions.

Attribute names are part of the checkpoint format: they are the published state-dict keys. The order of a class's
arguments after the input channels is that of the rows of a model yaml.

Source: published YOLOv5 behaviour (docs/spec/hub.md); GhostNet: Han et al., 2020 (arXiv:1911.11907); vision
transformer: Dosovitskiy et al., 2020 (arXiv:2010.11929); MixConv: Tan and Le, 2019 (arXiv:1907.09595).
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from boxwright.yolo.layers import BATCH_NORM_EPS, BATCH_NORM_MOMENTUM, C3, SPP, Conv

NUM_HEADS = 4  # of the attention in C3TR


def depthwise_conv(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    dilation: int = 1,
    activated: bool = True,
    *,
    activation: nn.Module,
) -> Conv:
    """Build a `Conv` of as many groups as divide both channel counts: DWConv."""
    groups = math.gcd(in_channels, out_channels)
    act = activation if activated else nn.Identity()
    return Conv(in_channels, out_channels, kernel, stride, groups=groups, dilation=dilation, activation=act)


class GhostConv(nn.Module):
    """Half of the channels by a convolution, the other half by a cheap depthwise 5x5 of the first."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activated: bool = True,
        *,
        activation: nn.Module,
    ) -> None:
        super().__init__()
        half = out_channels // 2
        # One identity each: `boxwright info` counts modules as published.
        acts = (activation, activation) if activated else (nn.Identity(), nn.Identity())
        self.cv1 = Conv(in_channels, half, kernel, stride, groups=groups, activation=acts[0])
        self.cv2 = Conv(half, half, 5, groups=half, activation=acts[1])

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        return torch.cat((y, self.cv2(y)), dim=1)


class GhostBottleneck(nn.Module):
    """Two `GhostConv`s, for stride 2 with a depthwise convolution between them, added to the input."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, *, activation: nn.Module
    ) -> None:
        super().__init__()
        half = out_channels // 2
        self.conv = nn.Sequential(
            GhostConv(in_channels, half, activation=activation),
            depthwise_conv(half, half, kernel, stride, activated=False, activation=activation)
            if stride == 2
            else nn.Identity(),
            GhostConv(half, out_channels, activated=False, activation=activation),
        )
        self.shortcut = (
            nn.Sequential(
                depthwise_conv(in_channels, in_channels, kernel, stride, activated=False, activation=activation),
                Conv(in_channels, out_channels, activation=nn.Identity()),
            )
            if stride == 2
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.shortcut(x)


class CrossConv(nn.Module):
    """A 1xk, then a kx1 convolution; adds its input where asked and where the channels allow it."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        expansion: float = 1.0,
        shortcut: bool = False,
        *,
        activation: nn.Module,
    ) -> None:
        super().__init__()
        hidden = int(out_channels * expansion)
        self.cv1 = Conv(in_channels, hidden, (1, kernel), (1, stride), activation=activation)
        self.cv2 = Conv(hidden, out_channels, (kernel, 1), (stride, 1), groups=groups, activation=activation)
        self.adds_input = shortcut and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.adds_input else y


class TransformerLayer(nn.Module):
    """Multi-head attention and two linear layers, each added to its input; no layer norm, no activation."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.q = nn.Linear(channels, channels, bias=False)
        self.k = nn.Linear(channels, channels, bias=False)
        self.v = nn.Linear(channels, channels, bias=False)
        self.ma = nn.MultiheadAttention(channels, num_heads)
        self.fc1 = nn.Linear(channels, channels, bias=False)
        self.fc2 = nn.Linear(channels, channels, bias=False)

    def forward(self, sequence: Tensor) -> Tensor:
        """Transform a sequence of pixels, (H * W, B, C)."""
        attended = self.ma(self.q(sequence), self.k(sequence), self.v(sequence))[0] + sequence
        return self.fc2(self.fc1(attended)) + attended


class TransformerBlock(nn.Module):
    """Transformer layers on the pixels of a map as a sequence; a linear layer of it is the position embedding."""

    def __init__(self, channels: int, num_heads: int, num_layers: int) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"{channels} inner channels cannot be split into {num_heads} heads")
        self.linear = nn.Linear(channels, channels)
        self.tr = nn.Sequential(*(TransformerLayer(channels, num_heads) for _ in range(num_layers)))

    def forward(self, x: Tensor) -> Tensor:
        sequence = x.flatten(2).permute(2, 0, 1)
        sequence = self.tr(sequence + self.linear(sequence))
        return sequence.permute(1, 2, 0).reshape(x.shape)


class C3TR(C3):
    """`C3` whose inner part is a transformer of `repeats` layers."""

    def make_inner(self, hidden: int, repeats: int, shortcut: bool, groups: int, activation: nn.Module) -> nn.Module:
        return TransformerBlock(hidden, NUM_HEADS, repeats)


class C3Ghost(C3):
    """`C3` whose inner blocks are `GhostBottleneck`s."""

    def make_inner(self, hidden: int, repeats: int, shortcut: bool, groups: int, activation: nn.Module) -> nn.Module:
        return nn.Sequential(*(GhostBottleneck(hidden, hidden, activation=activation) for _ in range(repeats)))


class C3x(C3):
    """`C3` whose inner blocks are `CrossConv`s."""

    def make_inner(self, hidden: int, repeats: int, shortcut: bool, groups: int, activation: nn.Module) -> nn.Module:
        crosses = (
            CrossConv(hidden, hidden, 3, 1, groups, 1.0, shortcut, activation=activation) for _ in range(repeats)
        )
        return nn.Sequential(*crosses)


class C3SPP(C3):
    """`C3` whose inner part is `SPP`; `count`, `shortcut` and `groups` stand in the rows but change nothing."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernels: tuple[int, ...] = (5, 9, 13),
        count: int = 1,
        shortcut: bool = True,
        groups: int = 1,
        expansion: float = 0.5,
        *,
        activation: nn.Module,
    ) -> None:
        # No bottlenecks: the pooling takes their place.
        super().__init__(in_channels, out_channels, 0, shortcut, groups, expansion, activation=activation)
        hidden = int(out_channels * expansion)
        self.m = SPP(hidden, hidden, kernels, activation=activation)


class MixConv2d(nn.Module):
    """Convolutions of several kernel sizes on the whole input, side by side, then batch norm and SiLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernels: tuple[int, ...] = (1, 3),
        stride: int = 1,
        equal_channels: bool = True,
    ) -> None:
        super().__init__()
        num = len(kernels)
        if equal_channels:
            of_channel = np.linspace(0, num - 1e-6, out_channels).astype(int)
            counts = np.bincount(of_channel, minlength=num)
        else:
            # c_j k_j^2 equal for all j, and their sum the output channels: c_j is in proportion to 1 / k_j^2.
            shares = 1.0 / np.square(np.asarray(kernels, dtype=float))
            counts = np.round(out_channels * shares / shares.sum()).astype(int)
        if counts.sum() != out_channels or counts.min() < 1:
            raise ValueError(f"{out_channels} channels cannot be shared out to kernels {list(kernels)}")
        self.m = nn.ModuleList(
            nn.Conv2d(in_channels, c, k, stride, k // 2, groups=math.gcd(in_channels, c), bias=False)
            for k, c in zip(kernels, counts.tolist(), strict=True)
        )
        self.bn = nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)
        self.act = nn.SiLU()  # whatever the other blocks of the network have

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(torch.cat([conv(x) for conv in self.m], dim=1)))


class Contract(nn.Module):
    """Space to depth: each cell of gain x gain pixels becomes one pixel; its row and column lead the channel index."""

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        g = self.gain
        cells = x.view(batch, channels, height // g, g, width // g, g).permute(0, 3, 5, 1, 2, 4)
        return cells.reshape(batch, channels * g * g, height // g, width // g)


class Expand(nn.Module):
    """Depth to space: the inverse of `Contract`."""

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        g = self.gain
        cells = x.view(batch, g, g, channels // g**2, height, width).permute(0, 3, 4, 1, 5, 2)
        return cells.reshape(batch, channels // g**2, height * g, width * g)
