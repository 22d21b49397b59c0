"""Read many files in threads, since reading waits for the disk; a block at a time, since most answers are quick."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_THREADS = 8
_BLOCK = 64  # items a task


def in_threads(function: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    """What the function gives for each item, in their order. An exception of any is raised."""
    blocks = [items[i : i + _BLOCK] for i in range(0, len(items), _BLOCK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return [answer for answers in pool.map(lambda block: [*map(function, block)], blocks) for answer in answers]
