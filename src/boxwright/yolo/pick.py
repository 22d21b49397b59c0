"""Take from a raw map what the loss reads, and put the gradients back into one map.

Legend: B images, A anchors a level, C classes, K candidates of a level.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from boxwright.yolo.assign_anchor import Assignment


def pick(maps: Tensor, found: Assignment) -> tuple[Tensor, Tensor, Tensor]:
    """What the loss reads, in float32 whatever the network ran in.

    Args:
        maps: (B, A, ny, nx, 5 + C) raw map of one level.
        found: K candidates.

    Returns:
        (4, K) box and (K, C) class predictions of the candidates, and (B, A, ny, nx) objectness of every cell; all raw.
    """
    return _Pick.apply(maps, found.images, found.anchors, found.rows, found.columns)


class _Pick(torch.autograd.Function):
    """Indexing whose backward fills one gradient in the memory layout of the map.

    Plain indexing and slicing makes a full map for the rows and another for the objectness, adds them, and hands the
    head a gradient that is not channels_last: 8 % of a bf16 step.
    """

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, images: Tensor, anchors: Tensor, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(maps, images, anchors, rows, columns)
        candidates = maps[images, anchors, rows, columns]
        boxes, classes, objectness = candidates[:, :4].T, candidates[:, 5:], maps[..., 4]
        return _float32(boxes), _float32(classes), _float32(objectness)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None]:
        maps, *place = ctx.saved_tensors
        of_boxes, of_classes, of_objectness = grad_outputs
        of_candidates = maps.new_zeros((of_boxes.shape[1], maps.shape[-1]))
        of_candidates[:, :4] = of_boxes.T
        of_candidates[:, 5:] = of_classes
        gradient = torch.zeros_like(maps)  # keeps the strides
        # index_put_ adds in a fixed order, on the GPU too, where scatter_add_ would not.
        gradient.index_put_(place, of_candidates, accumulate=True)
        gradient[..., 4] += of_objectness
        return gradient, None, None, None, None


def _float32(x: Tensor) -> Tensor:
    """A contiguous copy, also where x is float32 already: what a Function returns must not be a view of its input."""
    return x.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
