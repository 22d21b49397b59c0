"""Which point comes first inside a rectangle, and which rectangle lies on top of a cell: for many at once.

A set of points is a row of words with one bit a point. The points of all rows above y are one such set, so those in
rows y0 to y1 are a difference of two, likewise the columns, and those inside the rectangle are what both have: a few
words a rectangle instead of a comparison for each rectangle and point. Shapes are static and nothing waits for the
device.

Legend: B images, P points, K rectangles, N words, H W cells. A rectangle is (y0, y1, x0, x1), half open, inside the
grid; one with y1 <= y0 or x1 <= x0 is empty.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Size = tuple[int, int]
"""H, W."""
_BITS = 62  # of an int64: the sign is left out, so that differences and logarithms of single bits hold
_WEIGHTS = 126  # powers of four in the range of float32 (and bfloat16), 2^-126 to 2^124
_MIDDLE = math.log2(4 / 3) / 2  # of the logarithms of 1 to 4/3


def first_inside(row: Tensor, column: Tensor, present: Tensor, after: Tensor, windows: Tensor, grid: Size) -> Tensor:
    """Position (B, K) int64 of the first point inside each rectangle, P where there is none.

    Args:
        row, column: (B, P) int64 cell of each point.
        present: (B, P) bool; the others are not there.
        after: (B, K) int64: points before this position do not count.
        windows: (B, K, 4) int64 rectangles.
    """
    points = row.shape[1]
    height, width = grid
    above, left = _sets_before(row, present, height), _sets_before(column, present, width)
    y0, y1, x0, x1 = _ordered(windows)
    inside = (_pick(above, y1) - _pick(above, y0)) & (_pick(left, x1) - _pick(left, x0))  # (B, K, N)
    word, bit = after // _BITS, after % _BITS
    numbers = torch.arange(inside.shape[-1], device=row.device)
    # All bits from `bit` on in the word of `after`; all in those that follow.
    counted = torch.where(numbers > word[..., None], -1, -_power(bit)[..., None])
    inside = torch.where(numbers >= word[..., None], inside & counted, 0)
    first = (inside != 0).byte().argmax(-1, keepdim=True)  # the first of equal ones
    found = inside.gather(-1, first)
    position = (first * _BITS + _lowest_bit(found)).squeeze(-1)
    return torch.where(found.squeeze(-1) != 0, position, points)


def last_covering(windows: Tensor, painted: Tensor, grid: Size) -> Tensor:
    """One plus the number of the last rectangle that covers each cell, 0 where none does: (B, H, W) int64.

    Rectangle k weighs 4^k. The sum of those over a cell, a product of matrices, lies between the weight of the last one
    and 4/3 of it, so its logarithm tells which that is, whatever the precision of the sum.

    Args:
        windows: (B, K, 4) int64 rectangles, in the order in which they are painted.
        painted: (B, K) bool; the others are left out.
    """
    height, width = grid
    y0, y1, x0, x1 = windows.unbind(-1)
    y, x = torch.arange(height, device=windows.device), torch.arange(width, device=windows.device)
    rows = ((y >= y0[..., None]) & (y < y1[..., None]) & painted[..., None]).float()
    columns = ((x >= x0[..., None]) & (x < x1[..., None])).float()
    top = rows.new_full((), -1.0)
    for start in range(0, windows.shape[1], _WEIGHTS):  # one turn up to 126 rectangles
        group = slice(start, start + _WEIGHTS)
        number = torch.arange(rows[0, group].shape[0], device=windows.device)
        weighted = columns[:, group] * (2 * number - _WEIGHTS).float().exp2()[:, None]
        weight = (rows[:, group].transpose(1, 2) @ weighted).log2()  # -inf where nothing is
        top = torch.maximum(top, ((weight + (_WEIGHTS - _MIDDLE)) / 2).round() + start)
    return top.long() + 1


def _sets_before(line: Tensor, present: Tensor, lines: int) -> Tensor:
    """(B, lines + 1, N): at i the set of the present points (B, P) whose line is less than i."""
    batch, points = line.shape
    words = -(-points // _BITS)
    number = torch.arange(points, device=line.device)
    image = torch.arange(batch, device=line.device)[:, None]
    place = (image * (lines + 1) + line + 1) * words + number // _BITS
    bits = torch.where(present, _power(number % _BITS), 0)
    sets = line.new_zeros(batch * (lines + 1) * words).scatter_add_(0, place.flatten(), bits.flatten())
    return sets.view(batch, lines + 1, words).cumsum(1)


def _pick(sets: Tensor, line: Tensor) -> Tensor:
    """The sets (B, K, N) at lines (B, K)."""
    return sets.gather(1, line[..., None].expand(-1, -1, sets.shape[-1]))


def _ordered(windows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y0, y1, x0, x1 (B, K), no end before its start."""
    y0, y1, x0, x1 = windows.unbind(-1)
    return y0, torch.maximum(y0, y1), x0, torch.maximum(x0, x1)


def _power(bit: Tensor) -> Tensor:
    return torch.ones_like(bit) << bit


def _lowest_bit(words: Tensor) -> Tensor:
    """Number of the lowest bit set, 0 without any. A power of two is exact in float32, its logarithm near enough."""
    return (words & -words).clamp(min=1).float().log2().round().long()
