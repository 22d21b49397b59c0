"""How the raw maps of a centre network are read: values at cells, and depth.

Source: Zhou et al. 2019, Objects as Points (arXiv 1904.07850); published CenterFusion behaviour.
"""

from __future__ import annotations

import torch
from torch import Tensor

_DEPTH_EPS = 1e-6  # keeps the depth below a thousand kilometres


def at_cells(maps: Tensor, cells: Tensor) -> Tensor:
    """Values (B, M, C) of maps (B, C, H, W) at cells (B, M), each y * W + x."""
    flat = maps.flatten(2)
    return flat.gather(2, cells[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)


def depth_from_raw(raw: Tensor) -> Tensor:
    """Metres from what a depth head says."""
    return 1 / (raw.sigmoid() + _DEPTH_EPS) - 1


def raw_from_depth(depth: Tensor) -> Tensor:
    """The inverse of `depth_from_raw`; best given float64."""
    return (1 / (depth + 1) - _DEPTH_EPS).clamp(0, 1).logit()


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision as float32; wider values as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
