"""Samples to one Batch: images side by side in one buffer, labels padded to a common count.

Legend: B images, M labels an image at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from boxwright.data.structures import Targets
from boxwright.yolo.shapes import Labels

_COUNT_STEP = 16  # M is rounded up to this, so that a compiled step sees few different shapes
_ALIGNMENT = 64  # bytes; no element of an array straddles a line of the processor's cache


def image_buffer(count: int, out_hw: tuple[int, int]) -> tuple[Tensor, NDArray[np.uint8]]:
    """Room for the images of a batch, seen twice: (B, 3, H, W) in channels_last memory, and (B, H, W, 3) to fill."""
    pixels = batch_buffer((count, *out_hw, 3), torch.uint8)
    return pixels.permute(0, 3, 1, 2), pixels.numpy()


def batch_buffer(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Room for an array of a batch, not set to anything.

    In a worker it is made in the shared memory through which it will be handed over, as torch's own collation does:
    that saves a copy, and keeps blocks of this size out of the heap, which they would fragment.
    """
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    size = math.prod(shape) * dtype.itemsize
    storage = torch.UntypedStorage._new_shared(size)  # pyright: ignore[reportPrivateUsage]
    return torch.empty(0, dtype=dtype).set_(storage).view(shape)


def batch_block(rooms: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> dict[str, Tensor]:
    """Room for several arrays of a batch by name, in one block, not set to anything.

    A worker hands over each block by a file descriptor, of which a process may have 1024 open, so arrays share one.
    """
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in rooms.values()]
    starts = list(accumulate((-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes), initial=0))
    block = batch_buffer((max(starts[-1], _ALIGNMENT),), torch.uint8)
    return {
        name: block[start : start + size].view(dtype).view(shape)
        for (name, (shape, dtype)), start, size in zip(rooms.items(), starts, sizes, strict=False)
    }


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
