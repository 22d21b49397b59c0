"""Modulated deformable 3x3 convolution, stride 1, padding 1: each tap reads the image at its own position and weight.

Three formulations of one function, equal to rounding; `deform_conv` takes the one that is fastest where it runs:
- "rows", for CPUs: pixels are rows of a table, a tap is a weighted sum of four rows (`embedding_bag`), then one matrix
  product over all taps. It goes in strips of output pixels, and the backward pass samples again, so that the 9 C values
  a pixel are never held for a whole batch. 64 channels at 112 x 200, forward and backward: 11 times faster than
  torchvision's operator in CPU time (benchmarks/deform_conv.py).
- "torchvision", for GPUs: its CUDA operator, whose backward pass adds up in any order; where the same bits are asked
  for (`torch.use_deterministic_algorithms`), or there is no torchvision, a GPU takes "rows".
- "grid", for exporters: `grid_sample` and one matrix product, both standard operators of ONNX.

Source: Zhu et al., "Deformable ConvNets v2", 2018 (arXiv:1811.11168); layout and border rule as
torchvision.ops.deform_conv2d documents them (18 offsets as (dy, dx) pairs by tap, row-major; outside the image is 0).
Legend: B images, C channels, O output channels, T = 9 taps, P output pixels of a strip, R rows of the table.
"""

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from boxwright.ops.torchvision_operators import load_operators, missed_on_gpu

Implementation = Literal["auto", "rows", "torchvision", "grid"]
TAPS = 9
_BORDER = 2  # rows of zeros around the table, so that any place next to the image or beyond has its four corners
_STRIP_VALUES = 4 * 1024**2  # sampled values of a strip, 16 MB of float32: fewer are no faster


def deform_conv(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, implementation: Implementation = "auto"
) -> Tensor:
    """Compute a convolution whose taps are moved and weighted at each pixel.

    Args:
        x: (B, C, H, W).
        offset: (B, 18, H, W) pixels (dy, dx) that each tap is moved by.
        mask: (B, 9, H, W) factor of each tap.
        weight: (O, C, 3, 3).
        bias: (O,).
        implementation: "auto": "grid" while exporting, else "rows" on the CPU and "torchvision" elsewhere, see above.

    Returns:
        (B, O, H, W) in the dtype of x; on the CPU in channels_last memory.
    """
    if implementation == "auto":
        same_bits = x.device.type == "cpu" or torch.are_deterministic_algorithms_enabled()
        on_this_device = "rows" if same_bits or not _has_torchvision() else "torchvision"
        implementation = "grid" if torch.compiler.is_exporting() else on_this_device
    if implementation == "rows":
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)  # under autocast x comes in the lower precision
        with torch.autocast(x.device.type, enabled=False):
            return _RowSampling.apply(x, offset, mask, weight, bias)  # pyright: ignore[reportReturnType]
    if implementation == "grid":
        return _grid_sampling(x, offset, mask, weight, bias)
    from torchvision.ops import deform_conv2d  # imported where it is used: it takes 1.4 s of CPU

    dtype = torch.promote_types(x.dtype, torch.float32)  # it knows no bf16
    image, offset, mask, weight, bias = (t.to(dtype) for t in (x, offset, mask, weight, bias))
    return deform_conv2d(image, offset, weight, bias, padding=(1, 1), mask=mask).to(x.dtype)


def _has_torchvision() -> bool:
    if load_operators():
        return True
    missed_on_gpu()
    return False


def _grid_sampling(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute it by standard operators, for exporters."""
    height, width = x.shape[2:]
    tap = torch.arange(TAPS, device=x.device)
    rows = torch.arange(height, device=x.device)[:, None] + (tap // 3 - 1)[:, None, None]
    columns = torch.arange(width, device=x.device) + (tap % 3 - 1)[:, None, None]
    # With unaligned corners, -1 and 1 are the outer edges of the image: cell i lies at (2 i + 1) / size - 1
    y = (2 * (offset[:, 0::2] + rows) + 1) / height - 1
    positions = torch.stack(((2 * (offset[:, 1::2] + columns) + 1) / width - 1, y), dim=-1)
    sampled = F.grid_sample(x, positions.flatten(1, 2).to(x.dtype), align_corners=False)  # (B, C, T H, W)
    sampled = sampled.unflatten(2, (TAPS, height)) * mask[:, None]
    return F.conv2d(sampled.flatten(1, 2), weight.flatten(1)[:, :, None, None], bias)


class _RowSampling(torch.autograd.Function):
    """The formulation for CPUs; positions and weights are computed in float32 whatever the dtype of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, offset, mask, weight)
        batch, _, height, width = x.shape
        table, taps = _table(x), _TapPositions.of(x, offset, mask)
        matrix = weight.permute(2, 3, 1, 0).reshape(-1, len(weight))
        out = x.new_empty(batch * height * width, len(weight))
        for strip in taps.strips(x.shape[1]):
            corners = taps.corners(strip)
            torch.addmm(bias, corners.sample(table).view(-1, len(matrix)), matrix, out=out[strip])
        return _planes(out, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        x, offset, mask, weight = ctx.saved_tensors
        channels = x.shape[1]
        table, taps = _table(x), _TapPositions.of(x, offset, mask)
        exact = table.to(taps.dtype)
        matrix = weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
        grad_rows = grads[0].permute(0, 2, 3, 1).flatten(0, 2)
        grad_table, grad_matrix = torch.zeros_like(exact), torch.zeros_like(matrix, dtype=taps.dtype)
        grad_offset, grad_mask = torch.empty_like(taps.offset), torch.empty_like(taps.mask)
        for strip in taps.strips(channels):
            corners, grad_out = taps.corners(strip), grad_rows[strip]
            grad_matrix += grad_out.t() @ corners.sample(table).view(len(grad_out), -1)
            grad_sampled = (grad_out @ matrix).view(-1, channels)
            corners.add_to_table(grad_table, grad_sampled)
            grad_offset[strip], grad_mask[strip] = corners.grad_taps(exact, grad_sampled)
        batch, _, height, width = x.shape
        # What reached the border comes from outside the image and goes nowhere.
        grad_images = grad_table.view(batch, height + 2 * _BORDER, width + 2 * _BORDER, channels)
        grad_x = grad_images[:, _BORDER:-_BORDER, _BORDER:-_BORDER].permute(0, 3, 1, 2).to(x.dtype)
        grad_weight = grad_matrix.view(len(weight), 3, 3, channels).permute(0, 3, 1, 2)
        return (
            grad_x,
            _planes(grad_offset, x).to(offset.dtype),
            _planes(grad_mask, x).to(mask.dtype),
            grad_weight.to(weight.dtype),
            grad_rows.sum(0),
        )


def _table(x: Tensor) -> Tensor:
    """Place the pixels of all images as rows (R, C), each image with a border of zeros."""
    batch, channels, height, width = x.shape
    table = x.new_zeros(batch, height + 2 * _BORDER, width + 2 * _BORDER, channels)
    table[:, _BORDER:-_BORDER, _BORDER:-_BORDER] = x.permute(0, 2, 3, 1)
    return table.view(-1, channels)


def _planes(rows: Tensor, x: Tensor) -> Tensor:
    """View rows (B H W, N) as planes (B, N, H, W)."""
    batch, _, height, width = x.shape
    return rows.view(batch, height, width, rows.shape[1]).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class _TapPositions:
    """Where the taps of all output pixels read."""

    offset: Tensor  # (B H W, 18)
    mask: Tensor  # (B H W, 9)
    row: Tensor  # (B H W, 1) of the pixel in its image
    column: Tensor  # (B H W, 1)
    first: Tensor  # (B H W, 1) int32 row of the table at which the pixel's image begins, border left out
    size: tuple[int, int]  # height and width of the image
    table_dtype: torch.dtype  # in which the weights of the corners are given

    @classmethod
    def of(cls, x: Tensor, offset: Tensor, mask: Tensor) -> Self:
        """Convert offsets and masks of maps to rows of output pixels."""
        batch, _, height, width = x.shape
        dtype = torch.promote_types(offset.dtype, torch.float32)
        pixel = torch.arange(batch * height * width, dtype=torch.int32, device=x.device)[:, None]
        stride = width + 2 * _BORDER
        image = torch.div(pixel, max(height * width, 1), rounding_mode="floor")
        first = image * ((height + 2 * _BORDER) * stride) + (_BORDER * stride + _BORDER)
        return cls(
            offset.permute(0, 2, 3, 1).flatten(0, 2).to(dtype).contiguous(),
            mask.permute(0, 2, 3, 1).flatten(0, 2).to(dtype).contiguous(),
            (torch.div(pixel, max(width, 1), rounding_mode="floor") % max(height, 1)).to(dtype),
            (pixel % max(width, 1)).to(dtype),
            first,
            (height, width),
            x.dtype,
        )

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision of positions and gradients."""
        return self.offset.dtype

    def strips(self, channels: int) -> list[slice]:
        """Split the output pixels into runs of bounded memory."""
        length = max(_STRIP_VALUES // (TAPS * max(channels, 1)), 64)
        return [slice(i, i + length) for i in range(0, len(self.row), length)]

    def corners(self, strip: slice) -> "_Corners":
        """Find the table rows around the taps of a strip."""
        tap = torch.arange(TAPS, device=self.row.device)
        y = self.offset[strip, 0::2] + (tap // 3 - 1) + self.row[strip]
        x = self.offset[strip, 1::2] + (tap % 3 - 1) + self.column[strip]
        floor_y, floor_x = y.floor(), x.floor()
        below, right = y.sub_(floor_y), x.sub_(floor_x)
        height, width = self.size
        # Clamped as integers, so that no offset, not even NaN, leads out of the table
        top = floor_y.to(torch.int32).clamp_(-_BORDER, height)
        left = floor_x.to(torch.int32).clamp_(-_BORDER, width)
        stride = width + 2 * _BORDER
        top_left = top.mul_(stride).add_(left).add_(self.first[strip])
        return _Corners(top_left.view(-1), below, right, self.mask[strip], stride, self.table_dtype)


class _Corners:
    """The four table rows around each tap of a strip, and how much each counts.

    Args:
        top_left: (P T,) int32 row of the table.
        below, right: (P, T) in 0..1, how far the tap lies from that corner.
        mask: (P, T).
        stride: rows of the table from one line of the image to the next.
        dtype: of the table.
    """

    def __init__(
        self, top_left: Tensor, below: Tensor, right: Tensor, mask: Tensor, stride: int, dtype: torch.dtype
    ) -> None:
        self.below, self.right, self.mask = below, right, mask
        self.top_left, self.steps = top_left, (0, 1, stride, stride + 1)
        lower, upper = below * mask, (1 - below) * mask
        lower_right, upper_right = lower * right, upper * right
        # Four weights from three products: what one corner has, the one beside it lacks.
        exact = torch.stack((upper - upper_right, upper_right, lower - lower_right, lower_right))
        self.weights = exact.view(4, -1).to(dtype)
        corner = torch.arange(4, dtype=torch.int32, device=top_left.device)
        self.rows = top_left[:, None] + (corner % 2 + corner // 2 * stride)

    def sample(self, table: Tensor) -> Tensor:
        """Sample bilinear values (P T, C) of the table, times the mask."""
        return F.embedding_bag(self.rows, table, mode="sum", per_sample_weights=self.weights.t().contiguous())

    def add_to_table(self, grad_table: Tensor, grad_sampled: Tensor) -> None:
        """Add to each row of the table what flows back to it: the transposed `sample`."""
        # In sorted order all that flows to one row lies side by side, so a sum over bags does it without atomic adds.
        rows, order = self.top_left.sort(stable=True)
        low, high = 0, len(grad_table) - self.steps[-1]
        if rows.device.type == "cpu":  # elsewhere it would be waited for
            low, high = int(rows[0]), int(rows[-1]) + 1
        begins = torch.searchsorted(rows, torch.arange(low, high, dtype=torch.int32, device=rows.device))
        for step, weights in zip(self.steps, self.weights.index_select(1, order), strict=True):
            flow = F.embedding_bag(order, grad_sampled, begins, mode="sum", per_sample_weights=weights)
            grad_table[low + step : high + step] += flow

    def grad_taps(self, table: Tensor, grad_sampled: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradients of the offsets (P, 18) and masks (P, 9) of the strip."""
        grad_sampled = grad_sampled.to(table.dtype)
        if table.device.type == "cpu":
            products = _sampled_products(self.rows, grad_sampled, table)
        else:
            products = (table[self.rows] * grad_sampled[:, None]).sum(-1)
        upper_left, upper_right, lower_left, lower_right = products.view(*self.mask.shape, 4).unbind(-1)
        upper = torch.lerp(upper_left, upper_right, self.right)
        lower = torch.lerp(lower_left, lower_right, self.right)
        left = torch.lerp(upper_left, lower_left, self.below)
        right = torch.lerp(upper_right, lower_right, self.below)
        grad_offset = torch.stack(((lower - upper) * self.mask, (right - left) * self.mask), dim=-1)
        return grad_offset.flatten(1), torch.lerp(upper, lower, self.below)


def _sampled_products(rows: Tensor, values: Tensor, table: Tensor) -> Tensor:
    """Multiply each of the values (N, C) with four rows (N, 4) of the table: (4 N,)."""
    _quieten_sparse_tensors()
    count = len(rows)
    begins = torch.arange(0, 4 * count + 1, 4, dtype=torch.int32)
    pattern = torch.sparse_csr_tensor(
        begins, rows.view(-1), table.new_zeros(4 * count), (count, len(table)), check_invariants=False
    )
    # Only the four rows that a tap reads are multiplied with its gradient: a sampled product does no other.
    return torch.sparse.sampled_addmm(pattern, values, table.t()).values()


@cache
def _quieten_sparse_tensors() -> None:
    """Raise torch's warning that sparse tensors are in beta once, unseen: our tests cover the one operator we use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.empty(0, dtype=torch.int64), torch.empty(0), (1, 1))
