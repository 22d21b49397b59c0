"""Worker processes that make batches from keys, in the order of the keys, and live as long as the pool.

With no workers, batches are made in this process. Workers decide nothing: what a batch is depends on its key alone.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from boxwright.errors import UserError

K = TypeVar("K")  # a key: what a batch is made from, a plain picklable value
B = TypeVar("B")  # a batch; it may have a method pin_memory


@dataclass(frozen=True, slots=True)
class _Mistake:
    """A user's mistake on its way from a worker."""

    text: str


class _Batches(Dataset[Any], Generic[K, B]):
    """Makes batches in a worker."""

    def __init__(self, make: Callable[[K], B]) -> None:
        self._make = make

    def __getitem__(self, key: K) -> B | _Mistake:
        try:
            return self._make(key)
        except UserError as error:
            return _Mistake(str(error))


class _Keys(Sampler[K]):
    """The keys that come next."""

    def __init__(self) -> None:
        self.keys: Iterable[K] = ()

    def __iter__(self) -> Iterator[K]:
        return iter(self.keys)


class BatchPool(Generic[K, B]):
    """Makes batches in `workers` processes, a few ahead.

    Args:
        make: batch from key; a plain picklable object.
        workers: processes; at most the number of cores, 0 makes batches here.
        pin_memory: hand out batches in page-locked memory, from which copies to a GPU are faster.
    """

    def __init__(self, make: Callable[[K], B], workers: int, *, pin_memory: bool = False) -> None:
        self._make = make
        self._keys: _Keys[K] = _Keys()
        self.workers = min(workers, os.cpu_count() or 1)
        self._loader: DataLoader[Any] | None = None
        cv2.setNumThreads(0)  # one thread a process: cores are shared out by processes
        if self.workers:
            forks = "fork" in multiprocessing.get_all_start_methods()  # forked workers share the pages of the index
            self._loader = DataLoader(
                _Batches(make),
                sampler=self._keys,
                batch_size=None,
                num_workers=self.workers,
                persistent_workers=True,
                prefetch_factor=2,
                pin_memory=pin_memory,
                worker_init_fn=_start_worker,
                multiprocessing_context="fork" if forks else None,
                generator=torch.Generator(),  # else every epoch would advance the generator of the run
            )

    def batches(self, keys: Iterable[K]) -> Iterator[B]:
        """Batches of these keys, in order. Asking again abandons what was asked for before.

        Raises:
            UserError: an image file cannot be read; the sentence names it. Or a worker has died.
        """
        if self._loader is None:
            yield from map(self._make, keys)
            return
        self._keys.keys = keys
        for item in self._items(self._loader):
            if isinstance(item, _Mistake):
                self.close()  # now: left to the garbage collector, workers would be waited for in vain
                raise UserError(item.text)
            yield item

    def _items(self, loader: DataLoader[Any]) -> Iterator[B | _Mistake]:
        """What the workers send.

        PyTorch tells of a dead worker by a signal handler, which raises wherever the trainer happens to be, as in the
        middle of writing a checkpoint. With the handler of before, a dead worker is found where it is waited for.
        """
        handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
        items = cast("Iterator[B | _Mistake]", iter(loader))
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, handler)
        try:
            yield from items
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            self.close()
            raise UserError(
                "a loader process died, perhaps ended by the system when memory ran out: take fewer --workers; "
                "a training goes on with: boxwright train --resume"
            ) from error

    def close(self) -> None:
        """End the workers. The pool makes batches here from then on."""
        self._loader = None
        self.workers = 0


def _start_worker(_: int) -> None:
    gc.freeze()  # a collection would write to every object of before the fork, whose pages are shared
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which finishes its step with our batches
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # so is SIGTERM to the whole group, as `timeout` and batch systems send it
