"""Non-maximum suppression over a batch of decoded YOLO predictions.

Source: greedy NMS by torchvision.ops.nms; candidate rules as published for YOLOv5 6.x (docs/spec/yolov5.md, B9).
Classes are kept apart by shifting their boxes. There is no time limit: the published one silently drops the
boxes of the rest of the batch. What other releases do differently is in `NmsRules`.

Legend: B images, R rows (anchors of all levels), C classes, P rows above the threshold, N candidates (row and class).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from boxwright.ops.boxes import pairwise_iou, xyxy_from_cxcywh
from boxwright.ops.torchvision_operators import find_nms

_SMALLEST_PORTION = 300  # candidates; fewer are not worth a call
_MOST_TO_MERGE = 3000  # candidates of an image: the published limit of merging, which compares all with all


@dataclass(frozen=True, slots=True)
class NmsRules:
    """What published releases do differently, apart from the thresholds; the defaults are those of YOLOv5 v7.0."""

    class_offset: float = 7680.0  # pixels by which the boxes of one class are shifted from those of the next
    side_limits: tuple[float, float] | None = None  # smallest and largest side of a box in pixels; None: any
    limits_count: bool = True  # a side of exactly a limit still counts
    always_multi_label: bool = False  # a row may count for several classes whether asked or not
    empty_means_all: bool = False  # an empty list of wanted classes keeps all classes instead of none


CURRENT_RULES = NmsRules()


@dataclass(frozen=True, slots=True)
class Candidates:
    """Every (row, class) above the threshold, ordered by image, row and class."""

    boxes: Tensor  # (P, 4) xyxy of the rows
    scores: Tensor  # (N,)
    labels: Tensor  # (N,)
    rows: Tensor  # (N,) positions in `boxes`
    counts: list[int]  # of each image

    def take(self, which: Tensor) -> Tensor:
        """Return box, score and class (n, 6) of some candidates."""
        columns = (self.scores[which, None], self.labels[which, None].to(self.boxes.dtype))
        return torch.cat((self.boxes[self.rows[which]], *columns), dim=1)


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
    merge: bool = False,
    known: Sequence[Tensor] | None = None,
    rules: NmsRules = CURRENT_RULES,
) -> list[Tensor]:
    """Find the best boxes of each image.

    Args:
        predictions: (B, R, 5 + C): cxcywh in network-input pixels, objectness and class scores in 0..1. Not changed.
        score_threshold: both objectness and objectness times class score must exceed it.
        iou_threshold: a box that overlaps a better one by more than this is dropped.
        max_detections: most boxes an image.
        multi_label: let a row count once for every class above the threshold instead of for its best class.
        agnostic: let boxes of different classes suppress each other.
        classes: keep only these class indices; an empty list keeps nothing.
        max_candidates: only this many best candidates of an image are compared.
        merge: each kept box becomes the mean, weighted by score, of the boxes that overlap it, and is dropped if there
            is no other such box; for images of 2 to 2999 candidates.
        known: for each image boxes that are known beforehand, (n, 5): class, cxcywh pixels. They compete with score 1.
        rules: of which release.

    Returns:
        B tensors (n, 6): xyxy pixels, score, class index; highest score first.
    """
    if known is not None:
        # Rows of full confidence; where other images have more of them, rows of none.
        extra = predictions.new_zeros(len(known), max(map(len, known), default=0), predictions.shape[2])
        for rows, labels in zip(extra, known, strict=True):
            own = rows[: len(labels)]
            own[:, :4] = labels[:, 1:]
            own[:, 4] = 1.0
            own.scatter_(1, 5 + labels[:, :1].long(), 1.0)
        predictions = torch.cat((predictions, extra), dim=1)
    # Early releases tested the list for truth, so that an empty one meant no filter at all.
    wanted = None if rules.empty_means_all and not classes else classes
    found = find_candidates(predictions, score_threshold, multi_label or rules.always_multi_label, rules, wanted)
    shift = 0.0 if agnostic else rules.class_offset
    kept: list[Tensor] = []
    for own in torch.arange(len(found.scores), device=found.scores.device).split(found.counts):
        # Stable: equal scores keep the order of rows and classes, on which the published results depend.
        order = own[found.scores[own].argsort(descending=True, stable=True)[:max_candidates]]
        rows = first_survivors(found, order, iou_threshold, max_detections, shift)
        if merge and 1 < len(own) < _MOST_TO_MERGE:
            rows = merge_overlapping(rows, found.take(order), iou_threshold, shift)
        kept.append(rows)
    return kept


def merge_overlapping(kept: Tensor, candidates: Tensor, iou_threshold: float, class_offset: float) -> Tensor:
    """Give kept rows (n, 6) the weighted mean of the boxes they overlap; drop those that overlap no other."""
    ours, theirs = (rows[:, :4] + rows[:, 5:6] * class_offset for rows in (kept, candidates))
    overlaps = pairwise_iou(ours, theirs) > iou_threshold
    seconded = overlaps.sum(dim=1) > 1
    weights = overlaps[seconded] * candidates[:, 4]
    boxes = weights @ candidates[:, :4] / weights.sum(dim=1, keepdim=True)
    return torch.cat((boxes, kept[seconded, 4:]), dim=1)


def first_survivors(found: Candidates, order: Tensor, iou_threshold: float, most: int, class_offset: float) -> Tensor:
    """Return rows (n, 6) of the first `most` candidates of an image that greedy NMS keeps; `order` is by falling score.

    What it keeps does not depend on weaker boxes, so they are looked at in portions, each together with the survivors
    so far, until there are enough. The cost, boxes times survivors, is then seldom that of all candidates.
    """
    nms = find_nms(found.scores.device)
    rivals = found.take(order[:0])
    for portion in order.split(max(most, _SMALLEST_PORTION)):
        rivals = torch.cat((rivals, found.take(portion)))
        survivors = nms(rivals[:, :4] + rivals[:, 5:6] * class_offset, rivals[:, 4], iou_threshold)
        rivals = rivals[survivors]
        if len(rivals) >= most:
            break
    return rivals[:most]


def find_candidates(
    predictions: Tensor, score_threshold: float, multi_label: bool, rules: NmsRules, classes: Sequence[int] | None
) -> Candidates:
    """Filter rows by objectness and sides, then (row, class) pairs by their product and by the wanted classes."""
    possible = predictions[..., 4] > score_threshold
    if rules.side_limits is not None:
        (low, high), sides = rules.side_limits, predictions[..., 2:4]
        within = (sides >= low) & (sides <= high) if rules.limits_count else (sides > low) & (sides < high)
        possible &= within.all(dim=-1)
    # Nearly all rows fall here, before anything is multiplied or copied.
    (index,) = possible.flatten().nonzero(as_tuple=True)
    picked = predictions.flatten(0, 1).index_select(0, index).float()
    class_scores = picked[:, 5:] * picked[:, 4:5]
    # With one class a row has one pair in any case, and the cheaper way finds the same.
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
    return Candidates(xyxy_from_cxcywh(picked[:, :4]), scores, labels, place, counts)
