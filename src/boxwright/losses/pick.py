"""Take from a raw map what the loss reads, and put the gradients back into one map.

Legend: B images, A anchors a level, C classes, K candidates of a level.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from boxwright.losses.assign_anchor import Assignment


def pick(maps: Tensor, found: Assignment) -> tuple[Tensor, Tensor]:
    """Rows of the candidates and objectness of every cell, in float32 whatever the network ran in.

    Args:
        maps: (B, A, ny, nx, 5 + C) raw map of one level.
        found: K candidates.

    Returns:
        (K, 5 + C) raw predictions of the candidates, and (B, A, ny, nx) objectness logits.
    """
    return _Pick.apply(maps, found.images, found.anchors, found.rows, found.columns)


class _Pick(torch.autograd.Function):
    """Indexing whose backward fills one gradient in the memory layout of the map.

    Plain indexing makes one full map for the rows and one for the objectness, adds them, and hands the head a gradient
    that is not channels_last: 8 % of a bf16 step.
    """

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, images: Tensor, anchors: Tensor, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(maps, images, anchors, rows, columns)
        return maps[images, anchors, rows, columns].float(), maps[..., 4].float().contiguous()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None]:
        maps, *place = ctx.saved_tensors
        of_rows, of_objectness = grad_outputs
        gradient = torch.zeros_like(maps)  # keeps the strides
        # index_put_ adds in a fixed order, on the GPU too, where scatter_add_ would not.
        gradient.index_put_(place, of_rows.to(maps.dtype), accumulate=True)
        gradient[..., 4] += of_objectness
        return gradient, None, None, None, None
