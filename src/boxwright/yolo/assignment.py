"""Which anchors of which cells answer for which label: the published YOLOv5 rule, with static shapes.

A label matches an anchor when no side is anchor_t times larger or smaller; it is then assigned to its own cell and to
the nearest neighbour cell in x and in y. Every (cell, anchor, label) combination keeps its place in the output, valid
or not, so that no shape depends on the data: the step needs no host sync and can be compiled.

Source: YOLOv5 6.x as published (docs/spec/yolov5.md, B3). There a label is tried at five places (own
cell, left, up, right, down). Left
and right exclude each other, except for a centre exactly on a cell border, whose "right" place is its own cell once
more; so three candidates with a count say the same as five, at three fifths of the cost. In v1.0 and v2.0 such a
centre had no "right" place.

Legend: B images, M labels an image (padded), A anchors a level, K = 3 * A * B * M candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from boxwright.data.structures import Targets


@dataclass(frozen=True, slots=True)
class Assignment:
    """Candidates of one level; where `counts` is 0 the rest holds harmless values.

    Args:
        counts: (K,) float32, how often the candidate stands in the published list: 0 not at all, seldom more than 1.
        order: (K,) int64 from 1 up, its last place in that list; of valid candidates no two are equal.
        images, anchors, rows, columns: (K,) int64 place in the raw map (B, A, ny, nx, ...).
        boxes: (K, 4) centre relative to the cell and size, in cells; a view of (4, K).
        anchor_sizes: (2, K) in cells.
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


def assign(
    targets: Targets,
    anchors: Tensor,
    grid_hw: tuple[int, int],
    anchor_t: float,
    *,
    border_counts_twice: bool = True,
) -> Assignment:
    """Assign labels to the cells and anchors of one level.

    Args:
        targets: padded labels, normalised.
        anchors: (A, 2) width, height in cells of this level.
        grid_hw: rows and columns of this level's map.
        anchor_t: a side ratio of this or more does not match.
        border_counts_twice: a centre exactly on a border between cells is tried on both sides of it, as from v3.0 on.
    """
    num_images, num_labels = targets.labels.shape
    num_anchors, num_boxes = anchors.shape[0], num_images * num_labels
    height, width = grid_hw
    device = anchors.device
    x, y, w, h = targets.boxes_cxcywh.reshape(-1, 4).float().unbind(dim=1)  # each (BM,)
    x, y, w, h = x * width, y * height, w * width, h * height  # in cells

    ratio_w, ratio_h = w / anchors[:, 0:1], h / anchors[:, 1:2]  # (A, BM)
    larger = torch.maximum(torch.maximum(ratio_w, 1 / ratio_w), torch.maximum(ratio_h, 1 / ratio_h))
    fits = (larger < anchor_t) & targets.valid.reshape(-1)

    in_x, in_y = _neighbour(x, width, 0, border_counts_twice), _neighbour(y, height, 1, border_counts_twice)
    nowhere = torch.zeros_like(x)
    cell_x = (x + torch.stack((nowhere, in_x.shift, nowhere))).long()  # (3, BM); truncation is floor: none is negative
    cell_y = (y + torch.stack((nowhere, nowhere, in_y.shift))).long()
    columns, rows = cell_x.clamp(0, width - 1), cell_y.clamp(0, height - 1)
    offset_x, offset_y = x - columns, y - rows  # relative to the clamped cell

    shape = (3, num_anchors, num_boxes)
    counts = torch.stack((1.0 + in_x.own_again + in_y.own_again, in_x.exists.float(), in_y.exists.float()))
    counts = counts[:, None] * fits  # (3, A, BM)
    numbers = torch.stack((torch.maximum(in_x.own_number, in_y.own_number), in_x.number, in_y.number))
    within_place = torch.arange(1, num_anchors * num_boxes + 1, device=device).view(num_anchors, num_boxes)
    boxes = torch.stack((offset_x, offset_y, w.expand_as(offset_x), h.expand_as(offset_y)))  # (4, 3, BM)
    # A box of ones where nothing is assigned: every overlap measure of it is finite, and so is the gradient.
    boxes = torch.where(counts > 0, boxes[:, :, None], 1.0)
    return Assignment(
        counts=counts.reshape(-1),
        order=(numbers[:, None] * within_place.numel() + within_place).reshape(-1),
        images=(torch.arange(num_boxes, device=device) // num_labels).expand(shape).reshape(-1),
        anchors=torch.arange(num_anchors, device=device)[:, None].expand(shape).reshape(-1),
        rows=rows[:, None].expand(shape).reshape(-1),
        columns=columns[:, None].expand(shape).reshape(-1),
        boxes=boxes.reshape(4, -1).T,
        anchor_sizes=anchors.T[:, None, :, None].expand(2, *shape).reshape(2, -1),
        labels=targets.labels.reshape(-1).expand(shape).reshape(-1),
    )


@dataclass(frozen=True, slots=True)
class _Neighbour:
    """The nearest cell along one axis, for each of the BM labels.

    Args:
        exists: bool; False where the centre is in the middle of its cell or the neighbour would be outside the grid.
        shift: what to add to the centre to land in the neighbour: half a cell.
        number: int64 place of the neighbour in the published order: 0 own, 1 left, 2 up, 3 right, 4 down.
        own_again: bool; the centre lies on a border, and the place after it stands for its own cell once more...
        own_number: ...which then has that place's number, else 0.
    """

    exists: Tensor
    shift: Tensor
    number: Tensor
    own_again: Tensor
    own_number: Tensor


def _neighbour(centre: Tensor, cells: int, axis: int, border_counts_twice: bool) -> _Neighbour:
    """Choose the neighbour along an axis (0 for x, 1 for y) of so many cells."""
    from_end = cells - centre
    before = (centre % 1 < 0.5) & (centre > 1)
    after = (from_end % 1 < 0.5 if border_counts_twice else centre % 1 > 0.5) & (from_end > 1)
    return _Neighbour(
        exists=before | after,
        shift=torch.where(before, -0.5, 0.5),
        number=torch.where(before, axis + 1, axis + 3),
        own_again=before & after,
        own_number=torch.where(before & after, axis + 3, 0),
    )


def assign_wh_iou(targets: Targets, anchors: Tensor, grid_hw: tuple[int, int], iou_t: float) -> Assignment:
    """Assign labels to the cells and anchors of one level by overlap of sides.

    Args:
        targets: padded labels, normalised.
        anchors: (A, 2) width, height in cells of this level.
        grid_hw: rows and columns of this level's map.
        iou_t: overlap of sides that must be exceeded.
    """
    num_images, num_labels = targets.labels.shape
    num_anchors, num_boxes = anchors.shape[0], num_images * num_labels
    height, width = grid_hw
    device = anchors.device
    x, y, w, h = targets.boxes_cxcywh.reshape(-1, 4).float().unbind(dim=1)  # each (BM,)
    x, y, w, h = x * width, y * height, w * width, h * height  # in cells
    fits = (wh_iou(anchors, torch.stack((w, h), dim=1)) > iou_t) & targets.valid.reshape(-1)  # (A, BM)
    columns, rows = x.long().clamp(0, width - 1), y.long().clamp(0, height - 1)  # a centre at 1.0 is in the last cell

    shape = (num_anchors, num_boxes)
    boxes = torch.stack((x - columns, y - rows, w, h))[:, None].expand(4, *shape)
    # A box of ones where nothing is assigned: every overlap measure of it is finite, and so is the gradient.
    boxes = torch.where(fits, boxes, 1.0)
    return Assignment(
        counts=fits.float().reshape(-1),
        order=torch.arange(1, num_anchors * num_boxes + 1, device=device),
        images=(torch.arange(num_boxes, device=device) // num_labels).expand(shape).reshape(-1),
        anchors=torch.arange(num_anchors, device=device)[:, None].expand(shape).reshape(-1),
        rows=rows.expand(shape).reshape(-1),
        columns=columns.expand(shape).reshape(-1),
        boxes=boxes.reshape(4, -1).T,
        anchor_sizes=anchors.T[:, :, None].expand(2, *shape).reshape(2, -1),
        labels=targets.labels.reshape(-1).expand(shape).reshape(-1),
    )


def wh_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the overlap (N, M) of boxes that share a corner, by sides (N, 2) and (M, 2); 0 where both have no area."""
    overlap = torch.minimum(first[:, None], second).prod(dim=2)
    union = first.prod(dim=1)[:, None] + second.prod(dim=1) - overlap
    return overlap / union.clamp(min=torch.finfo(union.dtype).tiny)
