"""Random generators of the data room: each is a function of (seed, epoch, index, stream) and of nothing else.

Philox is a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the key
and the high words of the counter name the stream, the low words count the draws. So no state is carried from one sample
to the next, and a sample is the same in whichever process and in whichever order it is made.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.random import Generator, Philox  # imported here: else every worker would import it for itself

SAMPLE: Final = 0  # stream of the draws that make one training sample
ORDER: Final = 1  # stream of the order of an epoch
QUAD: Final = 2  # stream of what becomes of four samples

_WORD = 2**64 - 1


def sample_generator(seed: int, epoch: int, index: int, stream: int = SAMPLE, repeat: int = 0) -> Generator:
    """The generator of one sample.

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
