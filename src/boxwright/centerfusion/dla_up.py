"""Up-sampling by iterative deep aggregation: coarse levels are brought to finer ones, one after the other.

Attribute names are part of the checkpoint format: they are the published state-dict keys.
Source: Yu et al., "Deep Layer Aggregation", 2018 (arXiv:1707.06484); Zhou et al., "Objects as Points", 2019
(arXiv:1904.07850); published CenterFusion behaviour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from boxwright.centerfusion.deform_layer import NodeKind, make_node


def bilinear_kernel(factor: int) -> Tensor:
    """(2 factor, 2 factor) kernel that a transposed convolution of that stride interpolates with."""
    center = (2 * factor - 1 - factor % 2) / (2 * factor)
    line = 1 - (torch.arange(2 * factor, dtype=torch.float64) / factor - center).abs()
    return (line[:, None] * line).float()


class Upsampling(nn.ConvTranspose2d):
    """Each channel by itself to `factor` times the size; begins as bilinear interpolation.

    On a CPU it computes in float32: oneDNN has no such kernel for bfloat16, PyTorch's own takes 5 to 20 times as long.
    """

    def __init__(self, channels: int, factor: int) -> None:
        if math.log2(factor) % 1:
            raise ValueError(f"levels differ by powers of two, not {factor}")
        super().__init__(channels, channels, 2 * factor, factor, factor // 2, groups=channels, bias=False)
        with torch.no_grad():
            self.weight.copy_(bilinear_kernel(factor))

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if input.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(input, output_size)
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
            # what is coarser than the next level has already come down to the next level's size and channels
            coarser = [channels[start + 1]] * (i + 1)
            self.add_module(f"ida_{i}", IdaUp(channels[start], [channels[start], *coarser], [1, *[2] * (i + 1)], node))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        current, finest = list(levels), [levels[-1]]
        for i in range(self.num_levels - 1):
            start = self.num_levels - 2 - i
            current[start:] = cast(nn.Module, getattr(self, f"ida_{i}"))(current[start:])
            finest.insert(0, current[-1])
        return finest
