"""Which images form which batch: functions of (seed, epoch, step), no state.

What is not here: reading them (loader.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.data.rng import ORDER, sample_generator
from boxwright.errors import UserError


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The batches of every epoch.

    Args:
        order: (N,) image positions in the order of an epoch that is not shuffled.
        batch_size: images a batch, over all ranks; the last batch of an epoch may be smaller.
        seed: shuffle by (seed, epoch); None keeps `order`.
        rank, num_ranks: this rank takes images rank, rank + num_ranks, ... of every batch.
    """

    order: NDArray[np.int64]
    batch_size: int
    seed: int | None = None
    rank: int = 0
    num_ranks: int = 1
    _last: dict[int, NDArray[np.int64]] = field(default_factory=dict[int, Any], repr=False, compare=False)

    def __post_init__(self) -> None:
        if not len(self.order):
            raise UserError("the data set has no image to load: check its paths with `boxwright check`")

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def batch(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Image positions of this rank's share of a batch; none where a last batch has fewer than ranks."""
        start = step * self.batch_size
        batch = self._epoch_order(epoch)[start : start + self.batch_size]
        return batch[self.rank :: self.num_ranks]

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        if self.seed is None:
            return self.order
        if epoch not in self._last:
            self._last.clear()  # a copy of what (seed, epoch) gives, not state
            self._last[epoch] = sample_generator(self.seed, epoch, 0, ORDER).permutation(self.order)
        return self._last[epoch]


@dataclass(frozen=True, slots=True)
class RectPlan:
    """Batches of images of like proportions.

    Args:
        order: (N,) image positions by rising height / width.
        shapes_hw: (batches, 2) network input of each batch.
    """

    order: NDArray[np.int64]
    shapes_hw: NDArray[np.int64]


def plan_rect(sizes_hw: NDArray[np.int32], *, imgsz: int, batch_size: int, stride: int, pad: float) -> RectPlan:
    """Sort images by proportion and give each batch the smallest shape that holds its images.

    Source: published YOLOv5 6.x behaviour (spec A7, golden dataset/rect). Sorting is stable, so that equal proportions
    come in the order of the index on every machine.

    Args:
        sizes_hw: (N, 2) height, width of the images.
        imgsz: longer side of an image in the network input.
        batch_size: images a batch.
        stride: shapes are multiples of this.
        pad: border added, in strides.
    """
    aspect = sizes_hw[:, 0] / sizes_hw[:, 1]
    order = np.argsort(aspect, kind="stable")
    shapes: list[tuple[float, float]] = []
    for start in range(0, len(order), batch_size):
        batch = aspect[order[start : start + batch_size]]
        if batch[-1] < 1:
            shapes.append((batch[-1], 1.0))
        elif batch[0] > 1:
            shapes.append((1.0, 1.0 / batch[0]))
        else:
            shapes.append((1.0, 1.0))
    sides = np.array(shapes).reshape(-1, 2) * imgsz / stride + pad
    return RectPlan(order, np.ceil(sides).astype(np.int64) * stride)
