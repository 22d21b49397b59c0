"""Which images form which batch, and the random generator of each sample: functions of (seed, epoch, ...), no state.

Philox is a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the key
and the high words of the counter name the stream, the low words count the draws. So no state is carried from one sample
to the next, and a sample is the same in whichever process and in whichever order it is made.
What is not here: reading images (loader.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.random import Generator, Philox  # imported here: else every worker would import it for itself
from numpy.typing import NDArray

from boxwright.errors import UserError
from boxwright.ops.arrays import Floats, Ints
from boxwright.terminal import counted

SAMPLE: Final = 0  # stream of the draws that make one training sample
ORDER: Final = 1  # stream of the order of an epoch
QUAD: Final = 2  # stream of what becomes of four samples

_WORD = 2**64 - 1


def sample_generator(seed: int, epoch: int, index: int, stream: int = SAMPLE, repeat: int = 0) -> Generator:
    """Return the random generator of one sample.

    Args:
        seed: seed of the run; negative ones are taken modulo 2^64.
        epoch: epoch, from 0.
        index: position of the image in the data index.
        stream: separates draws made for different ends.
        repeat: how often the image came before in this epoch, where images are drawn with replacement.

    Returns:
        A generator with 2^64 blocks of its own; no two (seed, epoch, index, stream, repeat) share a block.
    """
    key = np.array([seed & _WORD, stream & _WORD], dtype=np.uint64)
    counter = np.array(
        [0, index & _WORD, epoch & _WORD, repeat & _WORD], dtype=np.uint64
    )  # low word first: it counts the draws
    return Generator(Philox(key=key, counter=counter))


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank loads of a batch."""

    images: Ints  # (n,) positions in the data index
    repeats: Ints  # (n,) how often the same image came before in this epoch. It is drawn anew each time.

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The batches of every epoch."""

    order: Ints  # (N,) image positions in the order of an epoch that is not shuffled
    batch_size: int  # images a batch, over all ranks; the last batch of an epoch may be smaller
    seed: int | None = None  # shuffle by (seed, epoch); None keeps `order`
    rank: int = 0  # this rank takes groups rank, rank + num_ranks, ... of every batch.
    num_ranks: int = 1
    # images that stay together, a divisor of batch_size. The last group is filled up from the epoch's start.
    group: int = 1
    drop_last: bool = False  # leave out the last batch of an epoch where it is smaller

    def __post_init__(self) -> None:
        if not len(self.order):
            raise UserError("the data set has no image to load: check its paths with `boxwright check`")
        if not len(self):
            raise UserError(
                f"the data set has {counted(len(self.order), 'image')}: too few to fill a batch of {self.batch_size}: "
                f"take --batch-size {len(self.order)} or less"
            )

    def __len__(self) -> int:
        if self.drop_last:
            return len(self.order) // self.batch_size
        return -(-len(self.order) // self.batch_size)

    def epoch(self, epoch: int, weights: Floats | None = None) -> Callable[[int], Share]:
        """Return the shares of this rank by step.

        Args:
            epoch: epoch, from 0.
            weights: (images of the index,) how likely each is drawn; then as many as in an epoch are drawn with
                replacement. None takes every image once.
        """
        images = self.order
        if self.seed is not None:
            rng = sample_generator(self.seed, epoch, 0, ORDER)
            if weights is None:
                images = rng.permutation(self.order)
            else:
                chances = weights[self.order]
                if not chances.any():  # every class is found without an error
                    chances = np.ones(len(self.order))
                images = rng.choice(self.order, len(self.order), p=chances / chances.sum())
        # Filled up from the start of the epoch, so that the last group is whole.
        images = np.resize(images, -(-len(images) // self.group) * self.group)
        # How many equal images come before each: its place in a stable sorting, less that of the first of them.
        places = np.argsort(images, kind="stable")
        ranked = images[places]
        repeats = np.empty_like(places)
        repeats[places] = np.arange(len(images)) - np.searchsorted(ranked, ranked)

        def share(step: int) -> Share:
            rows = np.arange(step * self.batch_size, min((step + 1) * self.batch_size, len(images)))
            own = rows.reshape(-1, self.group)[self.rank :: self.num_ranks].ravel()
            return Share(images[own], repeats[own])

        return share


def plan_rect(
    sizes_hw: NDArray[np.int32], *, imgsz: int, batch_size: int, stride: int, pad: float
) -> tuple[Ints, Ints]:
    """Sort images by proportion and give each batch the smallest shape that holds its images.

    Source: published YOLOv5 6.x behaviour (spec A7, golden dataset/rect). Sorting is stable, so that equal proportions
    come in the order of the index on every machine.

    Args:
        sizes_hw: (N, 2) height, width of the images.
        imgsz: longer side of an image in the network input.
        batch_size: images a batch.
        stride: shapes are multiples of this.
        pad: border added, in strides.

    Returns:
        (N,) image positions by rising height / width, and the (batches, 2) height, width of the network input.
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
    return order, np.ceil(sides).astype(np.int64) * stride
