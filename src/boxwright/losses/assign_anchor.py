"""Which anchors of which cells answer for which label: the published YOLOv5 rule, with static shapes.

Source: YOLOv5 6.x as published (spec B3). A label matches an anchor when no side is anchor_t times larger or smaller;
it is then assigned to its own cell and to the horizontally and vertically nearest neighbour cells. Every (offset,
anchor, label) combination keeps its place in the output, valid or not, so that no shape depends on the data: the step
needs no host sync and can be compiled.

Legend: B images, M labels an image (padded), A anchors a level, K = 5 * A * B * M candidates in the published list
order (offset, anchor, image, label), in which a later candidate overrules an earlier one in the same cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from boxwright.structures import Targets

# Shift from the label's centre to the cell that takes it, in cells: itself, left, up, right, down.
_SHIFTS = ((0.0, 0.0), (-0.5, 0.0), (0.0, -0.5), (0.5, 0.0), (0.0, 0.5))


@dataclass(frozen=True, slots=True)
class Assignment:
    """Candidates of one level; where `valid` is False the rest holds harmless values.

    Args:
        valid: (K,) bool.
        images, anchors, rows, columns: (K,) int64 place in the raw map (B, A, ny, nx, ...).
        boxes: (K, 4) centre relative to the cell and size, in cells.
        anchor_sizes: (K, 2) in cells.
        labels: (K,) int64.
    """

    valid: Tensor
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
    num_anchors = anchors.shape[0]
    height, width = grid_hw
    device = anchors.device
    grid = torch.tensor([width, height], dtype=torch.float32, device=device)
    boxes = targets.boxes_cxcywh.reshape(-1, 4) * torch.cat((grid, grid))  # (BM, 4) in cells
    centre, size = boxes[:, :2], boxes[:, 2:]

    ratio = size / anchors[:, None]  # (A, BM, 2)
    fits = torch.maximum(ratio, 1 / ratio).amax(dim=-1) < anchor_t
    fits = fits & targets.valid.reshape(-1)  # (A, BM)

    from_end = grid - centre
    near_start = (centre % 1 < 0.5) & (centre > 1)  # (BM, 2): the left and the upper neighbour
    near_end = (from_end % 1 < 0.5) & (from_end > 1)  # the right and the lower one
    here = torch.ones_like(near_start[:, :1])
    takes = torch.cat((here, near_start, near_end), dim=1).T  # (5, BM)
    valid = takes[:, None] & fits  # (5, A, BM)

    shifts = torch.tensor(_SHIFTS, device=device)
    cell = (centre + shifts[:, None]).long()  # (5, BM, 2); truncation is floor, as no shifted centre is negative
    columns, rows = cell[..., 0].clamp(0, width - 1), cell[..., 1].clamp(0, height - 1)
    offset = centre - torch.stack((columns, rows), dim=-1)  # relative to the clamped cell

    shape = (len(_SHIFTS), num_anchors, num_images * num_labels)
    kept = valid.unsqueeze(-1)
    unit = torch.ones((), device=device)
    cell_boxes = torch.cat((offset, size.expand_as(offset)), dim=-1)[:, None].expand(*shape, 4)
    image_of = torch.arange(num_images, device=device).repeat_interleave(num_labels, output_size=shape[2])
    return Assignment(
        valid=valid.reshape(-1),
        images=image_of.expand(shape).reshape(-1),
        anchors=torch.arange(num_anchors, device=device)[:, None].expand(shape).reshape(-1),
        rows=rows[:, None].expand(shape).reshape(-1),
        columns=columns[:, None].expand(shape).reshape(-1),
        boxes=torch.where(kept, cell_boxes, unit).reshape(-1, 4),
        anchor_sizes=anchors[None, :, None].expand(*shape, 2).reshape(-1, 2),
        labels=targets.labels.reshape(-1).expand(shape).reshape(-1),
    )
