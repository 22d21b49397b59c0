"""The published YOLOv5 metric: precision, recall, F1 and AP per class, and the fitness that picks the best checkpoint.

Source: docs/spec/yolov5.md, B6 and B8; tests/parity holds vectors of v6.0 and v7.0. AP is the area under the monotone
envelope of the precision-recall curve, sampled at 101 recalls. A perfect detector has AP .995: the envelope ends
at (1, 0), and the last of the 100 trapezoids falls to it.

Legend: N detections, K classes that have labels, T IoU thresholds, X confidences at which curves are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from boxwright.data.index import DataIndex
from boxwright.data.structures import Detections
from boxwright.metrics.matching import IOU_THRESHOLDS, Generation, flatten, match, truth_of
from boxwright.ops.arrays import Array, Floats, Ints

_EPS = 1e-16
_CURVE_POINTS = 1000
_RECALL_POINTS = 101
_F1_SMOOTHING = 0.1  # width of the box filter as a fraction of the curve


@dataclass(frozen=True, slots=True)
class Curves:
    """Curves of the K classes that have labels, at IoU 0.5."""

    axis: Floats  # (X,) abscissa, 0..1: the confidence of precision, recall and f1, the recall of precision_at_recall
    precision: Floats  # (K, X)
    recall: Floats  # (K, X)
    f1: Floats  # (K, X)
    precision_at_recall: Floats  # (K, X) the monotone envelope


@dataclass(frozen=True, slots=True)
class YoloMetrics:
    """The published metric of the K classes that have labels; all means are 0 where there is none."""

    class_ids: Ints  # (K,) ascending
    num_labels: Ints  # (K,)
    precision: Floats  # (K,) at the one confidence where the mean F1 is largest, IoU 0.5
    recall: Floats  # (K,) there
    f1: Floats  # (K,) there
    ap: Floats  # (K, T) average precision at each IoU threshold
    true_positives: Floats  # (K,) counts there
    false_positives: Floats  # (K,)
    confidence: float  # where precision and recall are taken
    curves: Curves

    @property
    def mean_precision(self) -> float:
        return _mean(self.precision)

    @property
    def mean_recall(self) -> float:
        return _mean(self.recall)

    @property
    def map50(self) -> float:
        return _mean(self.ap[:, 0])

    @property
    def map(self) -> float:
        return _mean(self.ap)

    def class_maps(self, num_classes: int) -> list[float]:
        """List the mAP of all classes; one without labels counts as the mean, as nothing is known of it."""
        maps = np.full(num_classes, self.map)
        maps[self.class_ids] = self.ap.mean(axis=1)
        return maps.tolist()


class YoloEvaluator:
    """Gathers which detections are true at each IoU threshold; `evaluate` gives YoloMetrics."""

    def __init__(self, index: DataIndex, generation: Generation) -> None:
        self.index = index
        self.generation: Generation = generation
        none = np.zeros(0, np.int64)
        # Marks, scores and labels of detections, and labels of the truth; the first part gives them their types.
        self._parts: list[tuple[Array, ...]] = [
            (np.zeros((0, len(IOU_THRESHOLDS)), np.bool_), np.zeros(0, np.float32), none, none)
        ]

    def process(self, detections: Sequence[Detections], indices: Sequence[int]) -> None:
        """Mark the detections of some images, which lie on the host, best first."""
        found, truth = flatten(detections, indices), truth_of(self.index, indices)
        correct = match(found, truth, generation=self.generation)
        self._parts.append((correct, found.scores, found.labels, truth.labels))

    def evaluate(self) -> YoloMetrics:
        """Reduce what was gathered."""
        correct, scores, labels, truth = map(np.concatenate, zip(*self._parts, strict=True))
        return average_precision_per_class(correct, scores, labels, truth, generation=self.generation)


def average_precision_per_class(
    correct: Array,
    scores: Array,
    labels: Array,
    truth_labels: Array,
    *,
    generation: Generation,
) -> YoloMetrics:
    """Reduce marked detections to the published metric.

    Args:
        correct: (N, T) true where a detection counts at an IoU threshold; the first column is IoU 0.5.
        scores: (N,) confidences in 0..1. Of equal ones the earlier detection comes first.
        labels: (N,) predicted classes.
        truth_labels: (M,) classes of all labels.
        generation: "v7.0" smooths the mean F1 before its best point is taken.
    """
    class_ids, num_labels = np.unique(truth_labels.astype(np.int64), return_counts=True)
    order = np.lexsort((-scores, labels))
    correct, scores, labels = correct[order], scores[order], labels[order]
    starts, stops = np.searchsorted(labels, class_ids, "left"), np.searchsorted(labels, class_ids, "right")

    axis = np.linspace(0, 1, _CURVE_POINTS)
    precision, recall, at_recall = (np.zeros((len(class_ids), _CURVE_POINTS)) for _ in range(3))
    ap = np.zeros((len(class_ids), correct.shape[1]))
    for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        if start == stop:
            continue
        # Every detection once as the last that counts: row i is precision and recall of the i + 1 best ones.
        hits = correct[start:stop].astype(np.float64).cumsum(axis=0)
        recalls = hits / (num_labels[row] + _EPS)
        precisions = hits / np.arange(1, stop - start + 1)[:, None]
        confidence = -scores[start:stop]  # np.interp wants an ascending abscissa
        recall[row] = np.interp(-axis, confidence, recalls[:, 0], left=0)
        precision[row] = np.interp(-axis, confidence, precisions[:, 0], left=1)
        for column in range(correct.shape[1]):
            ap[row, column], recall_axis, envelope = average_precision(recalls[:, column], precisions[:, column])
            if column == 0:
                at_recall[row] = np.interp(axis, recall_axis, envelope)

    f1 = 2 * precision * recall / (precision + recall + _EPS)
    mean_f1 = f1.mean(axis=0) if len(f1) else np.zeros(_CURVE_POINTS)
    # One confidence for all classes: the one where the mean F1 is largest.
    best = int((smooth(mean_f1, _F1_SMOOTHING) if generation == "v7.0" else mean_f1).argmax())
    # Published: counts are derived from the interpolated curves, not counted again.
    true_positives = (recall[:, best] * num_labels).round()
    return YoloMetrics(
        class_ids=class_ids,
        num_labels=num_labels,
        precision=precision[:, best],
        recall=recall[:, best],
        f1=f1[:, best],
        ap=ap,
        true_positives=true_positives,
        false_positives=(true_positives / (precision[:, best] + _EPS) - true_positives).round(),
        confidence=float(axis[best]),
        curves=Curves(axis, precision, recall, f1, at_recall),
    )


def average_precision(recall: Floats, precision: Floats) -> tuple[float, Floats, Floats]:
    """Compute the area under the envelope of one precision-recall curve.

    Args:
        recall: (N,) ascending.
        precision: (N,).

    Returns:
        the area, and the envelope's abscissa and ordinate (N + 2,), which start at recall 0 and end at (1, 0).
    """
    # The best precision at this recall or any higher one, so that the curve falls only.
    axis = np.concatenate(([0.0], recall, [1.0]))
    envelope = np.maximum.accumulate(np.concatenate(([1.0], precision, [0.0]))[::-1])[::-1]
    samples = np.linspace(0, 1, _RECALL_POINTS)
    return float(np.trapezoid(np.interp(samples, axis, envelope), samples)), axis, envelope


def smooth(values: Floats, fraction: float) -> Floats:
    """Filter a curve (X,) by a box of odd width, about `fraction` of it; its ends are continued by their last value."""
    half = round(len(values) * fraction * 2) // 2 // 2
    padded = np.pad(values, half, mode="edge")
    return np.convolve(padded, np.full(2 * half + 1, 1 / (2 * half + 1)), mode="valid")


def fitness(map50: float, map_all: float) -> float:
    """Compute the number that picks the best checkpoint: 0.1 mAP50 + 0.9 mAP50-95."""
    return 0.1 * map50 + 0.9 * map_all


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else 0.0
