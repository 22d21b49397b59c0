"""Boxes of many images as flat arrays, which detection counts as which label, and the confusion matrix.

Source: docs/spec/yolov5.md, B8 and B14, tests/parity. The published YOLOv5 6.x rule: a detection turns to the label of
its image that it overlaps most; a label goes to one detection; the others are false. This differs from COCO, where a
detection may turn to its second best label.

The published metric has two generations:
- "v6.1" (v6.0, v6.1): labels are given away once, at IoU 0.5, so that a tighter box with a lower score gets none; the
  best F1 is taken from the raw curve; the confusion matrix skips images without detections.
- "v7.0" (v6.2, v7.0): labels are given away anew at each IoU; the F1 curve is smoothed; those images count.
Numbers known for the published 6.x weights (yolov5n on coco128: mAP .352) are of the first; the second gives .361.

Legend: N detections, M labels, P pairs of a detection and a label of one image, T IoU thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from boxwright.data.index import DataIndex
from boxwright.data.structures import Detections
from boxwright.ops.arrays import Bools, Ints
from boxwright.settings.base import Compat


@dataclass(frozen=True, slots=True)
class FlatBoxes:
    """Boxes of several images, one after the other."""

    images: Ints  # (N,) which image a box belongs to: its position in the data index
    boxes: NDArray[np.float32]  # (N, 4) xyxy pixels of the original image
    labels: Ints  # (N,) class indices
    scores: NDArray[np.float32]  # (N,) ones for labels

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Bools | Ints) -> Self:
        """Take some of the boxes."""
        return type(self)(self.images[rows], self.boxes[rows], self.labels[rows], self.scores[rows])


def flatten(detections: Sequence[Detections], indices: Sequence[int]) -> FlatBoxes:
    """Flatten the detections of a batch, which lie on the host, in their order."""
    counts = [len(found) for found in detections]
    if not sum(counts):
        return FlatBoxes(np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, "f4"))
    return FlatBoxes(
        images=np.repeat(np.asarray(indices, np.int64), counts),
        boxes=np.concatenate([found.boxes.float().numpy() for found in detections]),
        labels=np.concatenate([found.labels.numpy() for found in detections]),
        scores=np.concatenate([found.scores.float().numpy() for found in detections]),
    )


def truth_of(index: DataIndex, indices: Sequence[int]) -> FlatBoxes:
    """Read the labels of some images of a data index, in pixels of the original images."""
    images = np.asarray(indices, np.int64)
    starts, stops = index.box_offsets[images], index.box_offsets[images + 1]
    counts = stops - starts
    rows = ranges(starts, counts)
    owner = np.repeat(images, counts)
    # In float32 with this order of operations, as published: overlaps are compared with thresholds to the last bit.
    sides = index.sizes[owner][:, ::-1].astype(np.float32)  # width, height
    centre, half = index.boxes[rows, :2] * sides, index.boxes[rows, 2:] * (sides / 2)
    return FlatBoxes(
        images=owner,
        boxes=np.concatenate((centre - half, centre + half), axis=1, dtype=np.float32),
        labels=index.classes[rows].astype(np.int64),
        scores=np.ones(len(rows), np.float32),
    )


def ranges(starts: Ints, counts: Ints) -> Ints:
    """List the integers start, start + 1, ... (count of them) of each pair, one after the other."""
    before = np.cumsum(counts) - counts
    return np.arange(counts.sum(), dtype=np.int64) + np.repeat(starts - before, counts)


IOU_THRESHOLDS: NDArray[np.float32] = np.linspace(0.5, 0.95, 10).astype(np.float32)
Generation = Literal["v6.1", "v7.0"]
_EPS = np.float32(1e-7)


def best_labels(found: FlatBoxes, truth: FlatBoxes, *, same_class: bool) -> tuple[Ints, NDArray[np.float32]]:
    """Find for each detection the label of its image (and class) with the largest overlap; of equal ones the first.

    Returns:
        (N,) position of the label, -1 where the image has none that may be matched; (N,) overlap with it, else 0.
    """
    num_classes = 1 + max(found.labels.max(initial=0), truth.labels.max(initial=0)) if same_class else 1
    of_found, of_truth = (part.images * num_classes + part.labels * same_class for part in (found, truth))
    # All P pairs, grouped by detection: by sorted search and not by an (N, M) table, as 5,000 images would need all
    # pairs of all images.
    by_key = np.argsort(of_truth, kind="stable")
    starts = np.searchsorted(of_truth, of_found, side="left", sorter=by_key)
    counts = np.searchsorted(of_truth, of_found, side="right", sorter=by_key) - starts
    detections, labels = np.repeat(np.arange(len(found)), counts), by_key[ranges(starts, counts)]
    # Their overlaps, in float32 as published: they are compared with thresholds.
    a, b = found.boxes[detections], truth.boxes[labels]
    overlap = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(min=0).prod(axis=1)
    areas = [(box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) for box in (a, b)]
    ious = overlap / (areas[0] + areas[1] - overlap + _EPS)
    order = np.lexsort((-ious, detections))  # stable: equal overlaps stay in label order
    owners, first = np.unique(detections[order], return_index=True)
    chosen = order[first]
    best, best_ious = np.full(len(found), -1, np.int64), np.zeros(len(found), np.float32)
    best[owners], best_ious[owners] = labels[chosen], ious[chosen]
    return best, best_ious


def match(
    found: FlatBoxes,
    truth: FlatBoxes,
    thresholds: NDArray[np.float32] = IOU_THRESHOLDS,
    *,
    generation: Generation,
) -> Bools:
    """Mark the detections that count as true, class by class.

    Args:
        found: detections, best first within an image: of those that turn to one label the first gets it.
        truth: labels of the same images.
        thresholds: (T,) least overlaps, ascending.
        generation: "v6.1" gives labels away at the lowest threshold, "v7.0" anew at each.

    Returns:
        (N, T) true where the detection counts at that threshold.
    """
    labels, ious = best_labels(found, truth, same_class=True)
    overlap = ious[:, None] >= thresholds
    overlap[labels < 0] = False  # their overlap of 0 reaches a threshold of 0
    if generation == "v6.1":
        return overlap & _first_of_label(labels, overlap[:, 0])[:, None]
    return np.stack([_first_of_label(labels, column) for column in overlap.T], axis=1)


def _first_of_label(labels: Ints, eligible: Bools) -> Bools:
    """Mark, among the eligible detections, the first that turns to each label."""
    # np.unique gives the first position of each value, and detections come best first.
    rows = np.flatnonzero(eligible)
    _, first = np.unique(labels[rows], return_index=True)
    winners = np.zeros(len(labels), np.bool_)
    winners[rows[first]] = True
    return winners


SCORE_THRESHOLD, IOU_THRESHOLD = 0.25, 0.45  # of the confusion matrix, as published


def confusion(
    found: FlatBoxes,
    truth: FlatBoxes,
    num_classes: int,
    *,
    generation: Generation,
    compat: Compat = "faithful",
) -> Ints:
    """Count pairs of predicted and true class, paired by overlap alone.

    The published matrix has a defect: false positives count only in images where at least one pair was found, so those
    of images without a match or without labels are left out.

    Args:
        found: detections; those with a score up to 0.25 do not count.
        truth: labels of the same images.
        num_classes: C.
        generation: "v6.1" leaves labels of images without any detection out, "v7.0" counts them as missed.
        compat: "faithful" leaves false positives of images without a pair out, "fixed" counts them.

    Returns:
        (C + 1, C + 1) counts; row: predicted class, column: true class, the last of each: background.
    """
    if generation == "v6.1":
        truth = truth.take(np.isin(truth.images, found.images))
    found = found.take(found.scores > SCORE_THRESHOLD)
    best, ious = best_labels(found, truth, same_class=False)
    close = np.flatnonzero(ious > IOU_THRESHOLD)
    by_overlap = close[np.argsort(-ious[close], kind="stable")]
    labels, first = np.unique(best[by_overlap], return_index=True)  # a label goes to its largest overlap
    detections = by_overlap[first]

    unpaired = np.ones(len(found), np.bool_)
    unpaired[detections] = False
    if compat == "faithful":
        unpaired &= np.isin(found.images, found.images[detections])
    missed = np.ones(len(truth), np.bool_)
    missed[labels] = False

    # add.at and not matrix[...] += 1: the same pair of classes comes many times.
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    np.add.at(matrix, (found.labels[detections], truth.labels[labels]), 1)
    matrix[:-1, -1] = np.bincount(found.labels[unpaired], minlength=num_classes)
    matrix[-1, :-1] = np.bincount(truth.labels[missed], minlength=num_classes)
    return matrix


class ConfusionEvaluator:
    """Adds up the confusion matrices of batches; `evaluate` gives the sum."""

    def __init__(self, index: DataIndex, generation: Generation, compat: Compat = "faithful") -> None:
        self.index = index
        self.generation: Generation = generation
        self.compat: Compat = compat
        self._matrix = np.zeros((index.num_classes + 1,) * 2, np.int64)

    def process(self, detections: Sequence[Detections], indices: Sequence[int]) -> None:
        """Count the pairs in some images; detections lie on the host, best first."""
        found, truth = flatten(detections, indices), truth_of(self.index, indices)
        self._matrix += confusion(found, truth, self.index.num_classes, generation=self.generation, compat=self.compat)

    def evaluate(self) -> Ints:
        """Return (C + 1, C + 1) counts, see `confusion`."""
        return self._matrix.copy()
