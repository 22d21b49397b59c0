"""Batches made by worker processes in the order of their keys, and the loaders of training and validation.

What a batch is depends on its key alone; with no workers, batches are made in this process.
"""

import contextlib
import gc
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, chain, count
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from boxwright.data.images import note_reading, share_readings
from boxwright.data.sampler import BatchPlan, Share
from boxwright.errors import UserError
from boxwright.machine import start_method
from boxwright.ops.arrays import Floats, Ints
from boxwright.settings.base import limit

_LONGEST_NAME = 4096  # bytes of a path
_ALIGNMENT = 64  # bytes; no element of an array straddles a line of the processor's cache


def image_buffer(count: int, out_hw: tuple[int, int]) -> tuple[Tensor, NDArray[np.uint8]]:
    """Make the images of a batch, seen twice: (B, 3, H, W) in channels_last memory, and (B, H, W, 3) to fill."""
    pixels = batch_buffer((count, *out_hw, 3), torch.uint8)
    return pixels.permute(0, 3, 1, 2), pixels.numpy()


def batch_buffer(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Make an array of a batch, not set to anything.

    In a worker it is made in the shared memory through which it will be handed over, as torch's own collation does:
    that saves a copy, and keeps blocks of this size out of the heap, which they would fragment.
    """
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    size = math.prod(shape) * dtype.itemsize
    storage = torch.UntypedStorage._new_shared(size)  # pyright: ignore[reportPrivateUsage]
    return torch.empty(0, dtype=dtype).set_(storage).view(shape)


def batch_block(rooms: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> dict[str, Tensor]:
    """Make several arrays of a batch by name, in one block, not set to anything.

    A worker hands over each block by a file descriptor, of which a process may have 1024 open, so arrays share one.
    """
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in rooms.values()]
    starts = list(accumulate((-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes), initial=0))
    block = batch_buffer((max(starts[-1], _ALIGNMENT),), torch.uint8)
    return {
        name: block[start : start + size].view(dtype).view(shape)
        for (name, (shape, dtype)), start, size in zip(rooms.items(), starts, sizes, strict=False)
    }


K = TypeVar("K")  # a key: what a batch is made from, a plain picklable value
B = TypeVar("B")  # a batch; it may have a method pin_memory
TrainKey = tuple[int, int, Share]  # epoch, step, and what is loaded for it
ValKey = tuple[int, Ints]  # step, and the images of it


class _Batches(Dataset[Any], Generic[K, B]):
    """Makes batches in a worker."""

    def __init__(self, make: Callable[[K], B]) -> None:
        self._make = make

    def __getitem__(self, key: K) -> B | UserError:
        try:
            return self._make(key)
        except UserError as error:  # raised here, it would come out with the traceback of the worker in its text
            return UserError(str(error))
        finally:
            note_reading("")


class _Keys(Sampler[K]):
    """The keys that come next."""

    keys: Iterable[K] = ()

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
        self._pins = pin_memory
        self._timeout = limit("loader_timeout")
        # Of each worker: its process, and the image that it reads.
        self._pids = torch.zeros(self.workers, dtype=torch.int64).share_memory_()
        self._readings = torch.zeros((self.workers, _LONGEST_NAME), dtype=torch.uint8).share_memory_()
        self._ended = ""  # what has been ended, and why
        cv2.setNumThreads(0)  # one thread a process: cores are shared out by processes
        if self.workers:
            self._loader = DataLoader(
                _Batches(make),
                sampler=self._keys,
                batch_size=None,
                num_workers=self.workers,
                persistent_workers=True,
                prefetch_factor=2,
                pin_memory=pin_memory,
                worker_init_fn=partial(_start_worker, pids=self._pids, readings=self._readings),
                multiprocessing_context=start_method(),  # forked workers share the pages of the index
                generator=torch.Generator(),  # else every epoch would advance the generator of the run
            )

    def batches(self, keys: Iterable[K]) -> Iterator[B]:
        """Yield batches of these keys, in order. Asking again abandons what was asked for before.

        Raises:
            UserError: an image file cannot be read; the sentence names it. Or a worker has died.
        """
        if self._loader is None:
            for key in keys:
                batch: Any = self._make(key)
                yield batch.pin_memory() if self._pins else batch
            return
        self._keys.keys = keys
        # PyTorch tells of a dead worker by a signal handler, which raises wherever the trainer happens to be, as in the
        # middle of writing a checkpoint. With the handler of before, a dead worker is found where it is waited for.
        handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
        items = cast("Iterator[B | UserError]", iter(self._loader))
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, handler)
        try:
            while True:
                with self._watched():
                    item = next(items, None)
                if item is None:
                    return
                if isinstance(item, UserError):
                    self.close()  # now: left to the garbage collector, workers would be waited for in vain
                    raise item
                yield item
        except (RuntimeError, OSError, EOFError, multiprocessing.AuthenticationError) as error:
            # A worker that dies while it hands over a batch is found as a broken connection; what one has raised itself
            # comes with its traceback in the text.
            of_worker = "in DataLoader worker process" in str(error)
            if of_worker or (isinstance(error, RuntimeError) and "DataLoader worker" not in str(error)):
                raise
            self.close()
            if self._ended:
                raise UserError(self._ended) from None
            raise UserError(
                "a loader process died, perhaps ended by the system when memory ran out: take fewer --workers; "
                "resume a training run with: boxwright train --resume"
            ) from error

    @contextmanager
    def _watched(self) -> Generator[None]:
        """End the workers if no batch comes in time: one that hangs in a file would be waited for without an end."""
        if not self._timeout:
            yield
            return
        timer = threading.Timer(self._timeout, self._end_stuck)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _end_stuck(self) -> None:
        """Kill the workers, and keep the names of the images that they have read for most of the time."""
        since = time.monotonic_ns() - self._timeout * 5 * 10**8
        slots = self._readings.numpy()
        stuck = [slot[8:].tobytes() for slot in slots if 0 < slot[:8].view(np.int64)[0] < since]
        names = [os.fsdecode(name.partition(b"\0")[0]) for name in stuck]
        where = f"; it was reading {' or '.join(dict.fromkeys(names))}" if names else ""
        self._ended = (
            f"a loader process gave nothing for {self._timeout} s and was ended{where}: look at that file and its "
            "disk, or allow more by --loader-timeout"
        )
        for pid in self._pids.tolist():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)

    def close(self) -> None:
        """End the workers. The pool makes batches here from then on."""
        self._loader = None
        self.workers = 0


def _start_worker(number: int, *, pids: Tensor, readings: Tensor) -> None:
    pids[number] = os.getpid()
    share_readings(readings[number].numpy())
    gc.freeze()  # a collection would write to every object of before the fork, whose pages are shared
    cv2.setNumThreads(0)
    sys.excepthook = _without_lost_connections
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which finishes its step with our batches
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # so is SIGTERM to the whole group, as `timeout` and batch systems send it


def _without_lost_connections(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Print no traceback of a worker whose trainer has ended, or given it up, while it handed over a batch."""
    if not issubclass(kind, OSError | EOFError | multiprocessing.AuthenticationError):
        sys.__excepthook__(kind, error, traceback)


class TrainLoader(Generic[B]):
    """Training batches of any kind; the same ones for any number of workers, in any order of asking.

    `len(loader)` is the number of batches in an epoch. Workers are told which images a batch has: the plan is here.
    """

    def __init__(
        self, make: Callable[[TrainKey], B], plan: BatchPlan, workers: int, *, pin_memory: bool = False
    ) -> None:
        self._plan = plan
        self._pool = BatchPool(make, workers, pin_memory=pin_memory)
        self._stream: Iterator[B] = iter(())
        self._next: tuple[int, int] | None = None  # epoch and step of what the stream gives next

    def __len__(self) -> int:
        return len(self._plan)

    def batches(self, epoch: int, start_step: int = 0, weights: Floats | None = None) -> Iterator[B]:
        """Yield the batches of an epoch, from `start_step` on.

        While one epoch after the other is asked for, workers go on into the next without a pause; with weights they
        cannot, because those of the next epoch are not known.

        Args:
            epoch: epoch, from 0.
            start_step: first batch.
            weights: how likely each image is drawn; None: every image comes once.

        Raises:
            UserError: an image file cannot be read.
        """
        if weights is not None:
            self._next = None
            yield from self._pool.batches(self._keys_of(epoch, start_step, weights))
            return
        for step in range(start_step, len(self)):
            if self._next != (epoch, step):
                # Without an end: workers make the first batches of the next epoch while this one is validated.
                later = chain.from_iterable(self._keys_of(number, 0) for number in count(epoch + 1))
                self._stream = self._pool.batches(chain(self._keys_of(epoch, step), later))
            self._next = None  # stays so if the batch fails
            batch = next(self._stream)
            self._next = (epoch, step + 1) if step + 1 < len(self) else (epoch + 1, 0)
            yield batch

    def close(self) -> None:
        """End the workers."""
        self._stream, self._next = iter(()), None
        self._pool.close()

    def _keys_of(self, epoch: int, start_step: int, weights: Floats | None = None) -> Iterator[TrainKey]:
        share = self._plan.epoch(epoch, weights)
        return ((epoch, step, share(step)) for step in range(start_step, len(self)))


class ValLoader(Generic[B]):
    """Validation batches of any kind in a fixed order; `len(loader)` is their number."""

    def __init__(self, make: Callable[[ValKey], B], plan: BatchPlan, workers: int, *, pin_memory: bool = False) -> None:
        self._plan = plan
        self._pool = BatchPool(make, workers, pin_memory=pin_memory)

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[B]:
        share = self._plan.epoch(0)
        return self._pool.batches((step, share(step).images) for step in range(len(self)))

    def close(self) -> None:
        """End the workers."""
        self._pool.close()
