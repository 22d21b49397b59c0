"""What every metric looks like to the evaluation loop, and boxes of many images as flat arrays.

Metrics gather small arrays batch by batch and reduce them once at the end, so that they stream and can be joined later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwright.data.index import DataIndex
from boxwright.data.structures import Detections


@dataclass(frozen=True, slots=True)
class FlatBoxes:
    """Boxes of several images, one after the other.

    Args:
        images: (N,) int64 which image a box belongs to: its position in the data index.
        boxes: (N, 4) float32 xyxy pixels of the original image.
        labels: (N,) int64 class indices.
        scores: (N,) float32; ones for labels.
    """

    images: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> FlatBoxes:
        return FlatBoxes(self.images[rows], self.boxes[rows], self.labels[rows], self.scores[rows])


def flatten(detections: Sequence[Detections], indices: Sequence[int]) -> FlatBoxes:
    """Detections of a batch, which lie on the host, as flat arrays in their order."""
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
    """Labels of some images of a data index, in pixels of the original images."""
    images = np.asarray(indices, np.int64)
    starts, stops = index.box_offsets[images], index.box_offsets[images + 1]
    counts = stops - starts
    rows = ranges(starts, counts)
    owner = np.repeat(images, counts)
    sides = index.sizes[owner][:, ::-1].astype(np.float32)  # width, height
    centre, half = index.boxes[rows, :2] * sides, index.boxes[rows, 2:] * (sides / 2)
    return FlatBoxes(
        images=owner,
        boxes=np.concatenate((centre - half, centre + half), axis=1, dtype=np.float32),
        labels=index.classes[rows].astype(np.int64),
        scores=np.ones(len(rows), np.float32),
    )


def ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The integers start, start + 1, ... (count of them) of each pair, one after the other."""
    before = np.cumsum(counts) - counts
    return np.arange(counts.sum(), dtype=np.int64) + np.repeat(starts - before, counts)
