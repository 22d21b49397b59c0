"""What a split has of each class: images, boxes and how large they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from boxwright.data.index import DataIndex


class ClassStatistics(NamedTuple):
    """Arrays over the classes.

    Args:
        images: (C,) images that have the class.
        boxes: (C,) boxes of it.
        sides: (C,) median of the root of their area, in pixels of the image file; NaN without boxes.
    """

    images: NDArray[np.int64]
    boxes: NDArray[np.int64]
    sides: NDArray[np.float64]


def class_statistics(index: DataIndex) -> ClassStatistics:
    """Count a split by class."""
    owner = np.repeat(np.arange(len(index)), np.diff(index.box_offsets))
    sides = np.sqrt(index.boxes[:, 2:].astype(np.float64).prod(axis=1) * index.sizes[owner].prod(axis=1))
    pairs = np.unique(np.stack((index.classes.astype(np.int64), owner)), axis=1)
    medians = np.full(index.num_classes, np.nan)
    order = index.classes.argsort(kind="stable")
    present, starts = np.unique(index.classes[order], return_index=True)
    for label, own in zip(present.tolist(), np.split(sides[order], starts[1:]), strict=False):
        medians[label] = np.median(own)
    return ClassStatistics(
        np.bincount(pairs[0], minlength=index.num_classes),
        np.bincount(index.classes, minlength=index.num_classes),
        medians,
    )
