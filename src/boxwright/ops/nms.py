"""Non-maximum suppression over a whole batch of decoded YOLO predictions.

Source: greedy NMS by torchvision.ops.nms; candidate rules as published for YOLOv5 6.x (spec B9). Classes are kept apart
by shifting their boxes. There is no time limit: the published one silently drops the boxes of the rest of the batch.

Legend: B images, R rows (anchors of all levels), C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import nms

from boxwright.ops.boxes import xyxy_from_cxcywh


def batched_nms(
    predictions: Tensor,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int = 300,
    multi_label: bool = False,
    agnostic: bool = False,
    classes: Sequence[int] | None = None,
    max_candidates: int = 30_000,
    class_offset: float = 7680.0,
    side_limits: tuple[float, float] | None = None,
) -> list[Tensor]:
    """Best boxes of each image.

    Args:
        predictions: (B, R, 5 + C): cxcywh in network-input pixels, objectness and class scores in 0..1. Not changed.
        score_threshold: both objectness and objectness times class score must exceed it.
        iou_threshold: a box that overlaps a better one by more than this is dropped.
        max_detections: most boxes an image.
        multi_label: let a row count once for every class above the threshold instead of for its best class.
        agnostic: let boxes of different classes suppress each other.
        classes: keep only these class indices; an empty list keeps nothing.
        max_candidates: only this many best candidates of an image are compared.
        class_offset: shift between classes in pixels: 7680 from v6.1 on, 4096 in v6.0.
        side_limits: smallest and largest side in pixels of a box that counts; v6.1 had 2 and 7680.

    Returns:
        B tensors (n, 6): xyxy pixels, score, class index; highest score first.
    """
    images, boxes, scores, labels = _candidates(predictions, score_threshold, multi_label, side_limits)
    if classes is not None:
        wanted = torch.isin(labels, torch.tensor(list(classes), dtype=labels.dtype, device=labels.device))
        images, boxes, scores, labels = images[wanted], boxes[wanted], scores[wanted], labels[wanted]
    by_score = scores.argsort(descending=True, stable=True)
    order = by_score[images[by_score].argsort(stable=True)]
    counts = torch.bincount(images, minlength=predictions.shape[0]).tolist()  # the device waits here
    rows = torch.cat((boxes, scores[:, None], labels[:, None].to(boxes.dtype)), dim=1)[order]
    kept: list[Tensor] = []
    for image_rows in rows.split(counts):
        best = image_rows[:max_candidates]
        shift = torch.zeros_like(best[:, 5:6]) if agnostic else best[:, 5:6] * class_offset
        survivors = nms(best[:, :4] + shift, best[:, 4], iou_threshold)[:max_detections]
        kept.append(best[survivors])
    return kept


def _candidates(
    predictions: Tensor, score_threshold: float, multi_label: bool, side_limits: tuple[float, float] | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image index, xyxy box, score and class of every (row, class) above the threshold, over the whole batch."""
    possible = predictions[..., 4] > score_threshold
    if side_limits is not None:
        sides = predictions[..., 2:4]
        possible &= ((sides >= side_limits[0]) & (sides <= side_limits[1])).all(dim=-1)
    images, rows = possible.nonzero(as_tuple=True)
    picked = predictions[images, rows].float()
    class_scores = picked[:, 5:] * picked[:, 4:5]
    if multi_label and class_scores.shape[1] > 1:
        index, labels = (class_scores > score_threshold).nonzero(as_tuple=True)
        scores = class_scores[index, labels]
    else:
        best, best_labels = class_scores.max(dim=1)
        (index,) = (best > score_threshold).nonzero(as_tuple=True)
        scores, labels = best[index], best_labels[index]
    return images[index], xyxy_from_cxcywh(picked[index, :4]), scores, labels
