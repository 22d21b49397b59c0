"""A head whose losses read few cells: on the CPU its gradients are computed at those alone.

All losses but that of the heat map read a head at the objects' cells, 128 of 22,400 at most, so nearly all of the
gradient that comes back is 0. The backward pass looks where it is not, cuts the 3x3 neighbourhoods of those cells out
of the features and runs the head and its gradients on them: the gradients of the whole maps, to rounding. Nothing of
the head is kept from the forward pass. With 20 objects an image, a step of 2 x 448 x 800 takes a third less CPU time
in fp32, a quarter less in bf16 (benchmarks/fusion_step.py).

Source: none but the losses (losses.py); run again rather than kept: Chen et al., 2016 (arXiv:1604.06174).
Legend: B images, C channels, H W grid, N cells with a gradient.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_SIDE = 3  # of the first convolution, which has padding 1; all others are 1x1
_FEW = 8  # patches hold 9 values for each value of a map, so a denser gradient is computed as a whole


class CellHead(nn.Sequential):
    """A 3x3 convolution with padding, then 1x1 convolutions and activations; (B, C, H, W) to (B, O, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        # A GPU would have to wait until it is known how many cells have a gradient.
        if self.training and torch.is_grad_enabled() and input.device.type == "cpu":
            return _GradientAtCells.apply(self, input, *self.parameters())  # pyright: ignore[reportReturnType]
        return super().forward(input)


class _GradientAtCells(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, head: CellHead, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.head = head
        ctx.save_for_backward(x, *parameters)
        # No cache: it would keep weights that were converted without a gradient.
        enabled, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
        ctx.autocast = partial(torch.autocast, "cpu", dtype, enabled, cache_enabled=False)
        with ctx.autocast():
            return nn.Sequential.forward(head, x)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        needed = [p for p, needs in zip(parameters, ctx.needs_input_grad[2:], strict=True) if needs]
        grad_rows = grads[0].permute(0, 2, 3, 1).flatten(0, 2)
        cells = (grad_rows != 0).any(1).nonzero()[:, 0]  # NaN is one of them
        if len(cells) * _FEW > len(grad_rows):
            whole = x.detach().requires_grad_()
            with torch.enable_grad(), ctx.autocast():
                out = nn.Sequential.forward(ctx.head, whole)
            grad_x, *found = torch.autograd.grad(out, (whole, *needed), grads[0])
        else:
            grad_x, found = _at_cells(ctx, x, cells, grad_rows[cells], needed)
        remaining = iter(found)
        return None, grad_x, *(next(remaining) if needs else None for needs in ctx.needs_input_grad[2:])


def _at_cells(
    ctx: Any, x: Tensor, cells: Tensor, grad: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor, Sequence[Tensor]]:
    """Compute the gradients of x and of parameters from those (N, O) of the output at cells (N,) of (B H W)."""
    batch, channels, height, width = x.shape
    padded = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1).flatten(0, 2)
    row, column = cells // width, cells % width
    # Each image has two more lines and each line two more pixels in the padded table.
    corner = (row + row // height * 2) * (width + 2) + column
    step = torch.arange(_SIDE)
    taps = (corner[:, None, None] + step[:, None] * (width + 2) + step).flatten()
    patches = padded[taps].view(-1, _SIDE, _SIDE, channels).permute(0, 3, 1, 2).requires_grad_()
    first, *others = ctx.head
    with torch.enable_grad(), ctx.autocast():
        out = F.conv2d(patches, first.weight, first.bias)
        for layer in others:
            out = layer(out)
    grad_patches, *found = torch.autograd.grad(out, (patches, *parameters), grad[:, :, None, None])
    grad_padded = torch.zeros_like(padded).index_add_(0, taps, grad_patches.permute(0, 2, 3, 1).reshape(-1, channels))
    grad_images = grad_padded.view(batch, height + 2, width + 2, channels)
    return grad_images[:, 1:-1, 1:-1].permute(0, 3, 1, 2), found
