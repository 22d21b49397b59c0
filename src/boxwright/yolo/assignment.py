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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from boxwright.data.structures import Targets


@dataclass(frozen=True, slots=True)
class Assignment:
    """Candidates of one level; where `counts` is 0 the rest holds harmless values."""

    counts: Tensor  # (K,) float32, how often each stands in the published list: 0 not at all, seldom more than 1
    order: Tensor  # (K,) int64 from 1 up, its last place in that list; of valid candidates no two are equal
    images: Tensor  # (K,) int64 place in the raw map (B, A, ny, nx, ...)
    anchors: Tensor  # the same
    rows: Tensor  # the same
    columns: Tensor  # the same
    boxes: Tensor  # (K, 4) centre relative to the cell and size, in cells; a view of (4, K)
    anchor_sizes: Tensor  # (2, K) in cells
    labels: Tensor  # (K,) int64

    def compacted(self) -> "Assignment":
        """Return the candidates that count, and no others; their number depends on the data."""
        kept = self.counts.nonzero().squeeze(1)
        along_first = (self.counts, self.order, self.images, self.anchors, self.rows, self.columns)
        return Assignment(
            *(values[kept] for values in along_first),
            boxes=self.boxes.T[:, kept].T,
            anchor_sizes=self.anchor_sizes[:, kept],
            labels=self.labels[kept],
        )


def in_cells(targets: Targets, grid_hw: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return centre x, y and width, height of all labels, each (BM,), in cells of a level of this height and width."""
    x, y, w, h = targets.boxes_cxcywh.reshape(-1, 4).float().unbind(dim=1)
    height, width = grid_hw
    return x * width, y * height, w * width, h * height


def spread(
    targets: Targets, sizes: Tensor, counts: Tensor, order: Tensor, rows: Tensor, columns: Tensor, boxes: Tensor
) -> Assignment:
    """Return the candidates of P places, A anchors of these sizes and BM labels as one list of K = P A BM.

    Args:
        counts: (P, A, BM); the rows and columns are (P, BM), the boxes (4, P, BM) of these places.
        order: (K,).
    """
    num_boxes, device = counts.shape[2], counts.device
    # A box of ones where nothing is assigned: every overlap measure of it is finite, and so is the gradient.
    boxes = torch.where(counts > 0, boxes[:, :, None], 1.0)
    return Assignment(
        counts=counts.reshape(-1),
        order=order,
        images=(torch.arange(num_boxes, device=device) // targets.labels.shape[1]).expand(counts.shape).reshape(-1),
        anchors=torch.arange(len(sizes), device=device)[:, None].expand(counts.shape).reshape(-1),
        rows=rows[:, None].expand(counts.shape).reshape(-1),
        columns=columns[:, None].expand(counts.shape).reshape(-1),
        boxes=boxes.reshape(4, -1).T,
        anchor_sizes=sizes.T[:, None, :, None].expand(2, *counts.shape).reshape(2, -1),
        labels=targets.labels.reshape(-1).expand(counts.shape).reshape(-1),
    )


def assign(
    targets: Targets,
    anchors: Tensor,
    grid_hw: Sequence[int],
    anchor_t: float,
    *,
    twice: bool = True,
    style: Literal["rect4", "rect2"] = "rect4",
) -> Assignment:
    """Assign labels to the cells and anchors of one level.

    Args:
        targets: padded labels, normalised.
        anchors: (A, 2) width, height in cells of this level.
        grid_hw: rows and columns of this level's map.
        anchor_t: a side ratio of this or more does not match.
        twice: a centre exactly on a border between cells is tried on both sides of it, as from v3.0 on.
        style: rect4 takes the nearest neighbour in x and in y, within half a cell; rect2, of v1.0, only the left and
            the upper one, within a fifth of a cell.
    """
    reach = 0.5 if style == "rect4" else 0.2
    height, width = grid_hw
    x, y, w, h = in_cells(targets, grid_hw)
    ratio_w, ratio_h = w / anchors[:, 0:1], h / anchors[:, 1:2]  # (A, BM)
    larger = torch.maximum(torch.maximum(ratio_w, 1 / ratio_w), torch.maximum(ratio_h, 1 / ratio_h))
    fits = (larger < anchor_t) & targets.valid.reshape(-1)

    in_x, in_y = _neighbour(x, width, 0, twice, reach), _neighbour(y, height, 1, twice, reach)
    nowhere = torch.zeros_like(x)
    # Three places a label: its own cell, the neighbour in x, the neighbour in y.
    cell_x = (x + torch.stack((nowhere, in_x.shift, nowhere))).long()  # (3, BM); truncation is floor: none is negative
    cell_y = (y + torch.stack((nowhere, nowhere, in_y.shift))).long()
    columns, rows = cell_x.clamp(0, width - 1), cell_y.clamp(0, height - 1)
    offset_x, offset_y = x - columns, y - rows  # relative to the clamped cell

    counts = torch.stack((1.0 + in_x.own_again + in_y.own_again, in_x.exists.float(), in_y.exists.float()))
    numbers = torch.stack((torch.maximum(in_x.own_number, in_y.own_number), in_x.number, in_y.number))
    within_place = torch.arange(1, fits.numel() + 1, device=fits.device).view(fits.shape)
    order = (numbers[:, None] * fits.numel() + within_place).reshape(-1)
    boxes = torch.stack((offset_x, offset_y, w.expand_as(offset_x), h.expand_as(offset_y)))  # (4, 3, BM)
    return spread(targets, anchors, counts[:, None] * fits, order, rows, columns, boxes)


@dataclass(frozen=True, slots=True)
class _Neighbour:
    """The nearest cell along one axis, for each of the BM labels."""

    exists: Tensor  # bool; False in the middle of a cell, or where the neighbour would be outside the grid
    shift: Tensor  # what to add to the centre to land in the neighbour: half a cell
    number: Tensor  # int64 place of the neighbour in the published order: 0 own, 1 left, 2 up, 3 right, 4 down
    own_again: Tensor  # bool; the centre lies on a border, and the place after it stands for its own cell once more...
    own_number: Tensor  # ...which then has that place's number, else 0


def _neighbour(centre: Tensor, cells: int, axis: int, twice: bool, reach: float) -> _Neighbour:
    """Choose the neighbour along an axis (0 for x, 1 for y) of so many cells.

    reach: share of a cell from its border; below a half only the neighbour before it is taken.
    """
    # "After" is measured from the far end as the published code does; for a border both sides can hold at once.
    from_end = cells - centre
    before = (centre % 1 < reach) & (centre > 1)
    after = (from_end % 1 < 0.5 if twice else centre % 1 > 0.5) & (from_end > 1) & (reach == 0.5)
    return _Neighbour(
        exists=before | after,
        shift=torch.where(before, -reach, reach),
        number=torch.where(before, axis + 1, axis + 3),
        own_again=before & after,
        own_number=torch.where(before & after, axis + 3, 0),
    )


def assign_wh_iou(targets: Targets, anchors: Tensor, grid_hw: Sequence[int], iou_t: float) -> Assignment:
    """Assign labels to their own cell and to every anchor whose sides overlap theirs by more than `iou_t`."""
    height, width = grid_hw
    x, y, w, h = in_cells(targets, grid_hw)
    fits = (wh_iou(anchors, torch.stack((w, h), dim=1)) > iou_t) & targets.valid.reshape(-1)  # (A, BM)
    columns, rows = x.long().clamp(0, width - 1), y.long().clamp(0, height - 1)  # a centre at 1.0 is in the last cell
    order = torch.arange(1, fits.numel() + 1, device=fits.device)
    boxes = torch.stack((x - columns, y - rows, w, h))[:, None]
    return spread(targets, anchors, fits[None].float(), order, rows[None], columns[None], boxes)


def wh_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the overlap (N, M) of boxes that share a corner, by sides (N, 2) and (M, 2); 0 where both have no area."""
    overlap = torch.minimum(first[:, None], second).prod(dim=2)
    union = first.prod(dim=1)[:, None] + second.prod(dim=1) - overlap
    # Padded labels have sides of 0: the smallest number above 0 makes their overlap 0 instead of NaN.
    return overlap / union.clamp(min=torch.finfo(union.dtype).tiny)
