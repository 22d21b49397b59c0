"""Which detection counts as which label: the published YOLOv5 6.x rule, over whole batches without a loop over boxes.

Source: spec B8 and B14, golden vectors. A detection turns to the label of its image that it overlaps most; a label goes
to one detection; the others are false. This differs from COCO, where a detection may turn to its second best label.

The published metric has two generations:
- "v6.1" (v6.0, v6.1): labels are given away once, at IoU 0.5, so that a tighter box with a lower score gets none; the
  best F1 is taken from the raw curve; the confusion matrix skips images without detections.
- "v7.0" (v6.2, v7.0): labels are given away anew at each IoU; the F1 curve is smoothed; those images count.
Numbers known for the published 6.x weights (yolov5n on coco128: mAP .352) are of the first; the second gives .361.

Legend: N detections, M labels, P pairs of a detection and a label of one image, T IoU thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from boxwright.metrics.protocol import FlatBoxes, ranges

IOU_THRESHOLDS: NDArray[np.float32] = np.linspace(0.5, 0.95, 10).astype(np.float32)
Generation = Literal["v6.1", "v7.0"]
_EPS = np.float32(1e-7)


@dataclass(frozen=True, slots=True)
class BestLabels:
    """The label that each detection turns to.

    Args:
        labels: (N,) position of the label, -1 where the image has none that may be matched.
        ious: (N,) float32 overlap with it, 0 where there is none.
    """

    labels: NDArray[np.int64]
    ious: NDArray[np.float32]


def best_labels(found: FlatBoxes, truth: FlatBoxes, *, same_class: bool) -> BestLabels:
    """Find for each detection the label of its image (and class) with the largest overlap; of equal ones the first."""
    detections, labels = _pairs(found, truth, same_class)
    ious = _iou(found.boxes[detections], truth.boxes[labels])
    order = np.lexsort((-ious, detections))  # stable: equal overlaps stay in label order
    owners, first = np.unique(detections[order], return_index=True)
    chosen = order[first]
    best = BestLabels(np.full(len(found), -1, np.int64), np.zeros(len(found), np.float32))
    best.labels[owners], best.ious[owners] = labels[chosen], ious[chosen]
    return best


def match(
    found: FlatBoxes,
    truth: FlatBoxes,
    thresholds: NDArray[np.float32] = IOU_THRESHOLDS,
    *,
    generation: Generation,
) -> NDArray[np.bool_]:
    """Mark the detections that count as true, class by class.

    Args:
        found: detections, best first within an image: of those that turn to one label the first gets it.
        truth: labels of the same images.
        thresholds: (T,) least overlaps, ascending.
        generation: "v6.1" gives labels away at the lowest threshold, "v7.0" anew at each.

    Returns:
        (N, T) true where the detection counts at that threshold.
    """
    best = best_labels(found, truth, same_class=True)
    overlap = best.ious[:, None] >= thresholds
    overlap[best.labels < 0] = False
    if generation == "v6.1":
        return overlap & _first_of_label(best.labels, overlap[:, 0])[:, None]
    columns = [_first_of_label(best.labels, column) for column in overlap.T]
    return np.stack(columns, axis=1)


def _first_of_label(labels: NDArray[np.int64], eligible: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Among the eligible detections the first that turns to each label."""
    rows = np.flatnonzero(eligible)
    _, first = np.unique(labels[rows], return_index=True)
    winners = np.zeros(len(labels), np.bool_)
    winners[rows[first]] = True
    return winners


def _pairs(found: FlatBoxes, truth: FlatBoxes, same_class: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions (P,), (P,) of every detection and label that share the image (and class); grouped by detection."""
    num_classes = 1 + max(found.labels.max(initial=0), truth.labels.max(initial=0)) if same_class else 1
    of_found, of_truth = (part.images * num_classes + part.labels * same_class for part in (found, truth))
    order = np.argsort(of_truth, kind="stable")
    starts = np.searchsorted(of_truth, of_found, side="left", sorter=order)
    counts = np.searchsorted(of_truth, of_found, side="right", sorter=order) - starts
    return np.repeat(np.arange(len(found)), counts), order[ranges(starts, counts)]


def _iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Overlap (P,) of boxes taken pair by pair, in float32 as published: it is compared with thresholds."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    overlap = sides.clip(min=0).prod(axis=1)
    areas = [(box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) for box in (a, b)]
    return overlap / (areas[0] + areas[1] - overlap + _EPS)
