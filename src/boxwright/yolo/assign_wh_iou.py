"""Which anchors of which cells answer for which label: the rule of the published YOLOv3-SPP, with static shapes.

A label matches every anchor whose sides it overlaps enough, on every level; it is assigned to its own cell only. As in
assign_anchor.py every (anchor, label) keeps its place in the output, valid or not.

Source: YOLOv3-SPP for PyTorch as published (spec A4).

Legend: B images, M labels an image (padded), A anchors a level, K = A * B * M candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from boxwright.data.structures import Targets
from boxwright.yolo.assign_anchor import Assignment


def assign_wh_iou(targets: Targets, anchors: Tensor, grid_hw: tuple[int, int], iou_t: float) -> Assignment:
    """Candidates of one level.

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
    """Overlap (N, M) of boxes that share a corner, given by sides (N, 2) and (M, 2); 0 where both have no area."""
    overlap = torch.minimum(first[:, None], second).prod(dim=2)
    union = first.prod(dim=1)[:, None] + second.prod(dim=1) - overlap
    return overlap / union.clamp(min=torch.finfo(union.dtype).tiny)
