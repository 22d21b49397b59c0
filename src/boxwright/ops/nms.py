"""Non-maximum suppression over a batch of decoded YOLO predictions.

Source: greedy NMS by torchvision.ops.nms; candidate rules as published for YOLOv5 6.x (spec B9). Classes are kept apart
by shifting their boxes. There is no time limit: the published one silently drops the boxes of the rest of the batch.

Legend: B images, R rows (anchors of all levels), C classes, P rows above the threshold, N candidates (row and class).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import nms

from boxwright.ops.boxes import xyxy_from_cxcywh

_SMALLEST_PORTION = 300  # candidates; fewer are not worth a call


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
    found = _candidates(predictions, score_threshold, multi_label, side_limits, classes)
    kept: list[Tensor] = []
    for own in torch.arange(len(found.scores), device=found.scores.device).split(found.counts):
        order = own[found.scores[own].argsort(descending=True, stable=True)[:max_candidates]]
        kept.append(_first_survivors(found, order, iou_threshold, max_detections, 0.0 if agnostic else class_offset))
    return kept


def _first_survivors(found: _Candidates, order: Tensor, iou_threshold: float, most: int, class_offset: float) -> Tensor:
    """Rows (n, 6) of the first `most` candidates of one image that greedy NMS keeps; order is by descending score.

    What it keeps does not depend on weaker boxes, so they are looked at in portions, each together with the survivors
    so far, until there are enough. The cost, boxes times survivors, is then seldom that of all candidates.
    """
    rivals = found.take(order[:0])
    for portion in order.split(max(most, _SMALLEST_PORTION)):
        rivals = torch.cat((rivals, found.take(portion)))
        survivors = nms(rivals[:, :4] + rivals[:, 5:6] * class_offset, rivals[:, 4], iou_threshold)
        rivals = rivals[survivors]
        if len(rivals) >= most:
            break
    return rivals[:most]


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Every (row, class) above the threshold, ordered by image, row and class.

    Args:
        boxes: (P, 4) xyxy of the rows.
        scores, labels: (N,).
        rows: (N,) positions in `boxes`.
        counts: candidates of each image.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    rows: Tensor
    counts: list[int]

    def take(self, which: Tensor) -> Tensor:
        """Box, score and class (n, 6) of some candidates."""
        columns = (self.scores[which, None], self.labels[which, None].to(self.boxes.dtype))
        return torch.cat((self.boxes[self.rows[which]], *columns), dim=1)


def _candidates(
    predictions: Tensor,
    score_threshold: float,
    multi_label: bool,
    side_limits: tuple[float, float] | None,
    classes: Sequence[int] | None,
) -> _Candidates:
    possible = predictions[..., 4] > score_threshold
    if side_limits is not None:
        sides = predictions[..., 2:4]
        possible &= ((sides >= side_limits[0]) & (sides <= side_limits[1])).all(dim=-1)
    (index,) = possible.flatten().nonzero(as_tuple=True)
    picked = predictions.flatten(0, 1).index_select(0, index).float()
    class_scores = picked[:, 5:] * picked[:, 4:5]
    if multi_label and class_scores.shape[1] > 1:
        place, labels = (class_scores > score_threshold).nonzero(as_tuple=True)
        scores = class_scores[place, labels]
    else:
        scores, labels = class_scores.max(dim=1)
        (place,) = (scores > score_threshold).nonzero(as_tuple=True)
        scores, labels = scores[place], labels[place]
    if classes is not None:
        wanted = torch.isin(labels, torch.tensor(list(classes), dtype=labels.dtype, device=labels.device))
        place, scores, labels = place[wanted], scores[wanted], labels[wanted]
    images = index[place] // predictions.shape[1]
    counts = torch.bincount(images, minlength=predictions.shape[0]).tolist()  # the device waits here
    return _Candidates(xyxy_from_cxcywh(picked[:, :4]), scores, labels, place, counts)
