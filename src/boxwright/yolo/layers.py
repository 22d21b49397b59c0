"""The blocks of YOLOv5 networks, 6.x and early. What is not here: wiring (graph.py) and the head (head.py).

Attribute names are part of the checkpoint format: they are the published state-dict keys.

Source: published YOLOv5 behaviour (docs/spec/yolov5.md, B1.3); CSP: Wang et al., "CSPNet", 2019 (arXiv:1911.11929);
spatial pyramid pooling: He et al., 2014 (arXiv:1406.4729); SiLU: Elfwing et al., 2017 (arXiv:1702.03118).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def join_channels(maps: Sequence[Tensor]) -> Tensor:
    """Concatenate (B, C_i, H, W) maps to (B, sum of C_i, H, W)."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in maps):
        return _Join.apply(*maps)
    return torch.cat(tuple(maps), dim=1)


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *maps: Tensor) -> Tensor:
        ctx.channels = [x.shape[1] for x in maps]
        return torch.cat(maps, dim=1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:
        (joint,) = grad_outputs
        last = joint.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        return tuple(part.contiguous(memory_format=layout) for part in joint.split(ctx.channels, dim=1))


BATCH_NORM_EPS = 1e-3  # of every published release from v2.0 on
BATCH_NORM_MOMENTUM = 0.03


class Conv(nn.Module):
    """Convolution without bias, batch norm, activation; the output has the input's size divided by the stride."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int] = 1,
        stride: int | tuple[int, int] = 1,
        padding: int | None = None,
        groups: int = 1,
        dilation: int = 1,
        *,
        activation: nn.Module,
    ) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        same = (dilation * (height - 1) + 1) // 2, (dilation * (width - 1) + 1) // 2
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride,
            same if padding is None else padding,
            dilation,
            groups,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)
        self.act = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class FusedConv(nn.Module):
    """A `Conv` whose batch norm is folded into weight and bias (see weights.py)."""

    def __init__(self, conv: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.act = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Bottleneck(nn.Module):
    """1x1 then 3x3 convolution; adds its input where asked and where the channels allow it."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        shortcut: bool = True,
        groups: int = 1,
        expansion: float = 0.5,
        *,
        activation: nn.Module,
    ) -> None:
        super().__init__()
        hidden = int(out_channels * expansion)
        self.cv1 = Conv(in_channels, hidden, 1, 1, activation=activation)
        self.cv2 = Conv(hidden, out_channels, 3, 1, groups=groups, activation=activation)
        self.adds_input = shortcut and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.adds_input else y


class C3(nn.Module):
    """Cross-stage partial block: half of the channels go through the bottlenecks, half past them."""

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
    ) -> None:
        super().__init__()
        hidden = int(out_channels * expansion)
        self.cv1 = Conv(in_channels, hidden, activation=activation)
        self.cv2 = Conv(in_channels, hidden, activation=activation)
        self.cv3 = Conv(2 * hidden, out_channels, activation=activation)
        self.m = self.make_inner(hidden, repeats, shortcut, groups, activation)

    def make_inner(self, hidden: int, repeats: int, shortcut: bool, groups: int, activation: nn.Module) -> nn.Module:
        """Build what half of the channels go through; hub models have other blocks in this place."""
        bottlenecks = (Bottleneck(hidden, hidden, shortcut, groups, 1.0, activation=activation) for _ in range(repeats))
        return nn.Sequential(*bottlenecks)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(join_channels((self.m(self.cv1(x)), self.cv2(x))))


class SPP(nn.Module):
    """Spatial pyramid pooling: max-pools of several sizes side by side, concatenated."""

    def __init__(
        self, in_channels: int, out_channels: int, kernels: tuple[int, ...] = (5, 9, 13), *, activation: nn.Module
    ) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.cv1 = Conv(in_channels, hidden, activation=activation)
        self.cv2 = Conv(hidden * (len(kernels) + 1), out_channels, activation=activation)
        self.m = nn.ModuleList([nn.MaxPool2d(kernel, stride=1, padding=kernel // 2) for kernel in kernels])

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], dim=1))


class SPPF(nn.Module):
    """`SPP(k, 2k-1, 3k-2)` with a third of the work: three pools of size k, one after the other."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 5, *, activation: nn.Module) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.cv1 = Conv(in_channels, hidden, activation=activation)
        self.cv2 = Conv(hidden * 4, out_channels, activation=activation)
        self.m = nn.MaxPool2d(kernel, stride=1, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        once = self.m(x)
        twice = self.m(once)
        return self.cv2(join_channels((x, once, twice, self.m(twice))))


class Concat(nn.Module):
    """Join several feature maps of equal height and width."""

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, *maps: Tensor) -> Tensor:
        return join_channels(maps) if self.dim == 1 else torch.cat(maps, dim=self.dim)


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
        bottlenecks = (Bottleneck(hidden, hidden, shortcut, groups, 1.0, activation=activation) for _ in range(repeats))
        self.m = nn.Sequential(*bottlenecks)

    def forward(self, x: Tensor) -> Tensor:
        joint = join_channels((self.cv3(self.m(self.cv1(x))), self.cv2(x)))
        return self.cv4(self.act(self.bn(joint)))
