"""How much classes and images weigh when images are drawn by what the network still finds hard.

Source: published YOLOv5 behaviour (spec B6, golden dataset/weights).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from boxwright.data.index import DataIndex


def class_weights(classes: NDArray[np.integer], num_classes: int) -> NDArray[np.float64]:
    """(C,) inverse frequency of each class among labels (N,), their sum 1; a class without labels counts as one."""
    inverse = 1 / np.maximum(np.bincount(classes, minlength=num_classes), 1)
    return inverse / inverse.sum()


def weights_by_maps(weights: NDArray[np.float64], maps: NDArray[np.floating]) -> NDArray[np.float64]:
    """(C,) class weights that grow where a class is rare and its mAP (C,) in 0..1 is low."""
    return weights * (1 - maps) ** 2


def image_weights(
    classes: NDArray[np.integer], images: NDArray[np.integer], num_images: int, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(I,) weight of each image: the sum over its labels of the weight of their class.

    Args:
        classes: (N,) class of each label.
        images: (N,) image of each label.
        num_images: images in all; one without labels weighs nothing.
        weights: (C,) weight of each class.
    """
    return np.bincount(images, weights=weights[classes], minlength=num_images).astype(np.float64)


def weights_of_images(index: DataIndex, maps: Sequence[float]) -> NDArray[np.float64]:
    """(I,) weight of each image of a data set in an epoch.

    Args:
        index: the data set.
        maps: mAP of each class in the last validation; empty before the first, when every class counts as not found.
    """
    found = np.array(maps) if len(maps) else np.zeros(index.num_classes)
    weights = weights_by_maps(class_weights(index.classes, index.num_classes), found)
    images = np.repeat(np.arange(len(index)), np.diff(index.box_offsets))
    return image_weights(index.classes, images, len(index), weights)
