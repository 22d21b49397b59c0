"""How many threads the network may use while images are loaded beside it."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def one_core_left(device: torch.device) -> Generator[None]:
    """Train on the CPU with all cores but one, which loads images; OMP_NUM_THREADS, where it is set, decides instead.

    The threads of an operator wait for each other many times a step, spinning. Where another process holds one of their
    cores they wait for whole time slices: on two cores that both had other work too, a step of two threads took up to
    25 times as long as one of one thread. The number may not depend on that of the loader's workers: a sum over
    two threads has other bits than a sum over one, and a resume with other workers must give the same.
    """
    before = torch.get_num_threads()
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, before - 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)
