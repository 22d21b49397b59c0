"""Several processes that train one model: who this one is, and what they tell each other.

A process that was not started as one of several is `World()`: one process, no process group, and everything below
gives back what it was given. Source: PyTorch's torch.distributed and the environment that torchrun sets. What is not
here: starting processes (jobs/launch.py), what outlives a restart (job_board.py).
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from boxwright.engine.launcher_store import launcher_store, store_of_this_start

T = TypeVar("T")
PATIENCE = timedelta(hours=2)  # others wait so long while one reads the data or measures the best weights


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run, which torch calls ranks.

    Every method is called by all of them, in the same order. Host values go by gloo, also where tensors go by nccl.

    Args:
        rank, size: number of this process, and how many there are.
        local_rank, local_size: the same among those of this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """This is the one that prints, writes and measures."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a tensor over all ranks, without gradient; nothing waits for the device."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def largest(self, number: int) -> int:
        """The largest of a whole number of each rank."""
        if self.size == 1:
            return number
        highest = torch.tensor(number)
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        return int(highest)

    def all(self, value: T) -> list[T]:
        """The value of every rank, by rank. It is pickled."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return cast("list[T]", values)

    def at_first(self, value: T) -> list[T]:
        """The value of every rank, by rank, at the first; an empty list elsewhere. It is pickled."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.gather_object(value, values if self.is_first else None)
        return cast("list[T]", values) if self.is_first else []

    def from_first(self, value: T) -> T:
        """The value of the first rank. It is pickled."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    @torch.no_grad()
    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of the first rank."""
        if self.size == 1:
            return
        for tensor in tensors:
            values = tensor.contiguous()
            dist.broadcast(values, src=0)
            tensor.copy_(values)

    def wait(self) -> None:
        """Until all ranks are here."""
        self.largest(0)

    @contextmanager
    def first_of_each_machine_first(self) -> Generator[None]:
        """Let one process of each machine do something, such as build a cache, and the others after it."""
        if self.local_rank:
            self.wait()
        try:
            yield
        finally:  # also after a mistake, which the others then find for themselves
            if not self.local_rank:
                self.wait()

    def loader_workers(self, wanted: int) -> int:
        """So many loader processes, but over all ranks of this machine no more than it has cores."""
        return min(wanted, max((os.cpu_count() or 1) // self.local_size, 1))


def read_world() -> World:
    """Who this process is, from the environment that torchrun, or another launcher of its kind, has set."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    rank, size, local_rank, local_size = (os.environ.get(name) for name in names)
    return World(int(rank or 0), int(size or 1), int(local_rank or 0), int(local_size or 1))


@contextmanager
def joined(world: World) -> Generator[None]:
    """Connect the processes: gloo, and nccl for tensors of a GPU. A single process does nothing."""
    if world.size == 1:
        yield
        return
    has_gpu = torch.cuda.is_available() and dist.is_nccl_available()
    backend, store = "cpu:gloo,cuda:nccl" if has_gpu else "gloo", launcher_store(PATIENCE.total_seconds())
    if store is None:
        dist.init_process_group(backend, timeout=PATIENCE)
    else:
        own = store_of_this_start(store, world.rank, world.size)
        dist.init_process_group(backend, timeout=PATIENCE, store=own, rank=world.rank, world_size=world.size)
    try:
        yield
    finally:
        dist.destroy_process_group()
