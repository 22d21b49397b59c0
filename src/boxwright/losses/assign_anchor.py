"""Which anchors of which cells answer for which label: the published YOLOv5 rule, with static shapes.

A label matches an anchor when no side is anchor_t times larger or smaller; it is then assigned to its own cell and to
the nearest neighbour cell in x and in y. Every (cell, anchor, label) combination keeps its place in the output, valid
or not, so that no shape depends on the data: the step needs no host sync and can be compiled.

Source: YOLOv5 6.x as published (spec B3). There a label is tried at five places (own cell, left, up, right, down). Left
and right exclude each other, except for a centre exactly on a cell border, whose "right" place is its own cell once
more; so three candidates with a count say the same as five, at three fifths of the cost.

Legend: B images, M labels an image (padded), A anchors a level, K = 3 * A * B * M candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from boxwright.structures import Targets


@dataclass(frozen=True, slots=True)
class Assignment:
    """Candidates of one level; where `counts` is 0 the rest holds harmless values.

    Args:
        counts: (K,) float32, how often the candidate stands in the published list: 0 not at all, seldom more than 1.
        order: (K,) int64 from 1 up, its last place in that list; of valid candidates no two are equal.
        images, anchors, rows, columns: (K,) int64 place in the raw map (B, A, ny, nx, ...).
        boxes: (K, 4) centre relative to the cell and size, in cells.
        anchor_sizes: (K, 2) in cells.
        labels: (K,) int64.
    """

    counts: Tensor
    order: Tensor
    images: Tensor
    anchors: Tensor
    rows: Tensor
    columns: Tensor
    boxes: Tensor
    anchor_sizes: Tensor
    labels: Tensor


def assign(targets: Targets, anchors: Tensor, grid_hw: tuple[int, int], anchor_t: float) -> Assignment:
    """Candidates of one level.

    Args:
        targets: padded labels, normalised.
        anchors: (A, 2) width, height in cells of this level.
        grid_hw: rows and columns of this level's map.
        anchor_t: a side ratio of this or more does not match.
    """
    num_images, num_labels = targets.labels.shape
    num_anchors, num_boxes = anchors.shape[0], num_images * num_labels
    height, width = grid_hw
    device = anchors.device
    grid = torch.tensor([width, height], dtype=torch.float32, device=device)
    boxes = targets.boxes_cxcywh.reshape(-1, 4) * torch.cat((grid, grid))  # (BM, 4) in cells
    centre, size = boxes[:, :2], boxes[:, 2:]

    ratio = size / anchors[:, None]  # (A, BM, 2)
    fits = torch.maximum(ratio, 1 / ratio).amax(dim=-1) < anchor_t
    fits = fits & targets.valid.reshape(-1)  # (A, BM)

    places = _places(centre, grid)
    cell = (centre + places.shifts).long()  # (3, BM, 2); truncation is floor, as no shifted centre is negative
    columns, rows = cell[..., 0].clamp(0, width - 1), cell[..., 1].clamp(0, height - 1)
    offset = centre - torch.stack((columns, rows), dim=-1)  # relative to the clamped cell

    shape = (3, num_anchors, num_boxes)
    counts = places.counts[:, None] * fits  # (3, A, BM)
    cell_boxes = torch.cat((offset, size.expand_as(offset)), dim=-1)[:, None].expand(*shape, 4)
    unit = torch.ones((), device=device)  # a box for which every overlap measure and gradient is finite
    within_place = torch.arange(num_anchors * num_boxes, device=device).view(num_anchors, num_boxes)
    image_of = torch.arange(num_boxes, device=device) // num_labels
    return Assignment(
        counts=counts.reshape(-1),
        order=(places.numbers[:, None] * within_place.numel() + within_place + 1).reshape(-1),
        images=image_of.expand(shape).reshape(-1),
        anchors=torch.arange(num_anchors, device=device)[:, None].expand(shape).reshape(-1),
        rows=rows[:, None].expand(shape).reshape(-1),
        columns=columns[:, None].expand(shape).reshape(-1),
        boxes=torch.where(counts.unsqueeze(-1) > 0, cell_boxes, unit).reshape(-1, 4),
        anchor_sizes=anchors[None, :, None].expand(*shape, 2).reshape(-1, 2),
        labels=targets.labels.reshape(-1).expand(shape).reshape(-1),
    )


@dataclass(frozen=True, slots=True)
class _Places:
    """Own cell, neighbour in x, neighbour in y of each label.

    Args:
        shifts: (3, BM, 2) what to add to the centre to land in the cell.
        counts: (3, BM) float32 entries of the published list that mean this cell.
        numbers: (3, BM) int64 position of the last of them: 0 own, 1 left, 2 up, 3 right, 4 down.
    """

    shifts: Tensor
    counts: Tensor
    numbers: Tensor


def _places(centre: Tensor, grid: Tensor) -> _Places:
    from_end = grid - centre
    before = (centre % 1 < 0.5) & (centre > 1)  # (BM, 2): takes the left, the upper neighbour
    after = (from_end % 1 < 0.5) & (from_end > 1)  # takes the right, the lower one
    on_border = before & after  # there "after" is the own cell again
    direction = torch.where(before, -0.5, 0.5)  # (BM, 2)
    nothing = torch.zeros_like(direction[:, 0])
    shifts = torch.stack(
        (
            torch.zeros_like(direction),
            torch.stack((direction[:, 0], nothing), dim=1),
            torch.stack((nothing, direction[:, 1]), dim=1),
        )
    )
    counts = torch.cat((1.0 + on_border.sum(dim=1, keepdim=True), (before | after).float()), dim=1)
    axis_numbers = torch.arange(1, 3, device=centre.device)
    own = torch.where(on_border, axis_numbers + 2, 0).amax(dim=1, keepdim=True)
    numbers = torch.cat((own, torch.where(before, axis_numbers, axis_numbers + 2)), dim=1)
    return _Places(shifts, counts.T, numbers.T)
