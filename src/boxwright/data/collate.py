"""Samples to one Batch: images side by side in one buffer, labels padded to a common count.

Legend: B images, M labels an image at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from boxwright.data.shapes import Labels
from boxwright.structures import Targets

_COUNT_STEP = 16  # M is rounded up to this, so that a compiled step sees few different shapes


def image_buffer(count: int, out_hw: tuple[int, int]) -> tuple[Tensor, NDArray[np.uint8]]:
    """Room for the images of a batch, seen twice: (B, 3, H, W) in channels_last memory, and (B, H, W, 3) to fill.

    In a worker it is made in the shared memory through which it will be handed over, as torch's own collation does:
    that saves a copy, and keeps blocks of this size out of the heap, which they would fragment.
    """
    shape = (count, *out_hw, 3)
    if get_worker_info() is None:
        pixels = torch.empty(shape, dtype=torch.uint8)
    else:
        storage = torch.UntypedStorage._new_shared(math.prod(shape))  # pyright: ignore[reportPrivateUsage]
        pixels = torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
    return pixels.permute(0, 3, 1, 2), pixels.numpy()


def pad_labels(labels: Sequence[Labels]) -> Targets:
    """Stack normalised labels of B images, M = the largest count, rounded up, and at least one step."""
    most = max((len(item.classes) for item in labels), default=0)
    count = max(-(-most // _COUNT_STEP), 1) * _COUNT_STEP
    boxes = np.zeros((len(labels), count, 4), dtype=np.float32)
    classes = np.zeros((len(labels), count), dtype=np.int64)
    valid = np.zeros((len(labels), count), dtype=np.bool_)
    for row, item in enumerate(labels):
        num = len(item.classes)
        boxes[row, :num], classes[row, :num], valid[row, :num] = item.boxes, item.classes, True
    return Targets(torch.from_numpy(boxes), torch.from_numpy(classes), torch.from_numpy(valid))
