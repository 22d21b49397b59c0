"""The confusion matrix, as published and mended.

Source: spec B8 and B14, golden vectors of v6.0 and v7.0. Detections and labels are paired by overlap alone, whatever
their classes. The published matrix has a defect: false positives count only in images where at least one pair was
found, so those of images without a match or without labels are left out. `compat="fixed"` counts them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from boxwright.data.index import DataIndex
from boxwright.data.structures import Detections
from boxwright.metrics.matching import Generation, best_labels
from boxwright.metrics.protocol import FlatBoxes, flatten, truth_of
from boxwright.settings.base import Compat

SCORE_THRESHOLD = 0.25
IOU_THRESHOLD = 0.45


def confusion(
    found: FlatBoxes,
    truth: FlatBoxes,
    num_classes: int,
    *,
    generation: Generation,
    compat: Compat = "faithful",
) -> NDArray[np.int64]:
    """Count pairs of predicted and true class.

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
    best = best_labels(found, truth, same_class=False)
    close = np.flatnonzero(best.ious > IOU_THRESHOLD)
    by_overlap = close[np.argsort(-best.ious[close], kind="stable")]
    labels, first = np.unique(best.labels[by_overlap], return_index=True)  # a label goes to its largest overlap
    detections = by_overlap[first]

    unpaired = np.ones(len(found), np.bool_)
    unpaired[detections] = False
    if compat == "faithful":
        unpaired &= np.isin(found.images, found.images[detections])
    missed = np.ones(len(truth), np.bool_)
    missed[labels] = False

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
        self.reset()

    def reset(self) -> None:
        self._matrix = np.zeros((self.index.num_classes + 1,) * 2, np.int64)

    def process(self, detections: Sequence[Detections], indices: Sequence[int]) -> None:
        found, truth = flatten(detections, indices), truth_of(self.index, indices)
        self._matrix += confusion(found, truth, self.index.num_classes, generation=self.generation, compat=self.compat)

    def evaluate(self) -> NDArray[np.int64]:
        return self._matrix.copy()
