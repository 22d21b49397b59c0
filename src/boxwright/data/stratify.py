"""Images divided into lists so that each list has its share of every class.

Source: iterative stratification: Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label Data",
ECML PKDD 2011, algorithm 1. Deviations: a list never takes more than its share of all images, so that sizes are those
asked for; images without any class count as a class of their own; chance is only in the order of the images.

Legend: N images, C classes, S lists.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import UserError


def list_sizes(num_images: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers of images by largest remainder; a list with a share has at least one.

    Raises:
        UserError: shares are negative or do not sum to 1, or there are fewer images than lists.
    """
    if any(not share >= 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"shares are not negative and sum to 1, these are {' '.join(f'{share:g}' for share in shares)}")
    wanted = [share > 0 for share in shares]
    if num_images < sum(wanted):
        raise UserError(f"{num_images} image(s) are too few for {sum(wanted)} lists")
    exact = [num_images * share for share in shares]
    sizes = [int(value + 1e-9) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda s: sizes[s] - exact[s])
    for s in by_remainder[: num_images - sum(sizes)]:
        sizes[s] += 1
    for s in range(len(sizes)):
        if wanted[s] and not sizes[s]:
            sizes[sizes.index(max(sizes))] -= 1
            sizes[s] = 1
    return sizes


def stratify(
    present: NDArray[np.bool_], weights: NDArray[np.int64], sizes: Sequence[int], seed: int
) -> NDArray[np.int64]:
    """Choose a list for each entry.

    Args:
        present: (N, C) which classes an entry has.
        weights: (N,) images that an entry stands for.
        sizes: (S,) images of each list; their sum is that of the weights.
        seed: of the order in which equal entries are looked at.

    Returns:
        (N,) number of the list of each entry. A list is exceeded only by an entry of several images that fits nowhere.
    """
    present = np.concatenate((present, ~present.any(axis=1, keepdims=True)), axis=1)
    counts = (present * weights[:, None]).sum(axis=0)  # images of each class that wait
    room = np.array(sizes, dtype=np.int64)
    desired = np.outer(room / max(room.sum(), 1), counts)  # (S, C) images of each class that each list lacks
    order = np.random.default_rng(seed).permutation(len(present))
    chosen = np.full(len(present), -1, dtype=np.int64)
    while (waiting := np.flatnonzero(counts > 0)).size:
        rarest = waiting[counts[waiting].argmin()]
        for entry in order[present[order, rarest] & (chosen[order] < 0)].tolist():
            target = _neediest(desired[:, rarest], room, int(weights[entry]))
            chosen[entry] = target
            room[target] -= weights[entry]
            desired[target] -= present[entry] * weights[entry]
            counts -= present[entry] * weights[entry]
    return chosen


def _neediest(desired: NDArray[np.float64], room: NDArray[np.int64], weight: int) -> int:
    """The list that lacks most of a class, of those with room for the entry; among equals, that with most room."""
    fitting = np.flatnonzero(room >= weight)
    if not fitting.size:
        return int(room.argmax())
    return int(fitting[np.lexsort((-room[fitting], -desired[fitting]))[0]])
