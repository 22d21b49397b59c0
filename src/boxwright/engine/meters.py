"""Meters: series of numbers smoothed by median and mean, what a step costs, and a line that says how far a loop is.

A run waits for its device where a meter is read, not where it is updated. Source: the smoothed value and metric logger
of detection references (docs/spec/yolov3-spp.md, A8): median of a window of 20, mean of all, over all processes where
they are synchronised.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from operator import length_hint
from typing import TypeVar

import torch

from boxwright import machine
from boxwright.engine.distributed import World, current_world
from boxwright.errors import UserError

WINDOW = 20
_SHOWN = ("median", "mean", "global_mean", "max", "value")  # what a meter's format may name


class Smoothed:
    """A series of numbers, smoothed over a window of the newest ones and over all.

    Args:
        form: how it is shown, of the names below: `"{median:.4f} ({global_mean:.4f})"`.
        window: how many numbers median, mean and max are taken over.
    """

    def __init__(self, form: str = "{median:.4f} ({global_mean:.4f})", window: int = WINDOW) -> None:
        self.form = form
        self.values: deque[float] = deque(maxlen=window)
        self.total = 0.0
        self.count = 0
        try:
            str(self)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise UserError(f"a meter cannot be shown as {form!r}: it has {', '.join(_SHOWN)} ({error})") from error

    def update(self, value: float, count: int = 1) -> None:
        """Add a number, which stands for `count` equal ones in the mean of all."""
        self.values.append(value)
        self.total += value * count
        self.count += count

    @property
    def median(self) -> float:
        return statistics.median(self.values) if self.values else 0.0

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values) if self.values else 0.0

    @property
    def max(self) -> float:
        return max(self.values, default=0.0)

    @property
    def value(self) -> float:
        """Return the newest one."""
        return self.values[-1] if self.values else 0.0

    @property
    def global_mean(self) -> float:
        """Return the mean of all values, also those that have left the window."""
        return self.total / max(self.count, 1)

    def synchronize(self) -> None:
        """Take the mean of all over the numbers of all ranks; the window stays that of this one. Call it once."""
        parts = current_world().all((self.total, self.count))
        self.total, self.count = sum(total for total, _ in parts), sum(count for _, count in parts)

    def __str__(self) -> str:
        return self.form.format_map({name: getattr(self, name) for name in _SHOWN})


T = TypeVar("T")


class Meters:
    """Meters by name, and a loop that prints them: `for batch in meters.log_every(loader, 50, "Epoch: [1/3]")`.

    Args:
        delimiter: what stands between the parts of a line.
        device: whose memory is shown; None: the current GPU, else the CPU.
    """

    def __init__(self, delimiter: str = "  ", device: torch.device | None = None) -> None:
        self.delimiter = delimiter
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.meters: dict[str, Smoothed] = {}

    def add(self, name: str, meter: Smoothed) -> None:
        """Add a meter with a format of its own; others come with their first number."""
        self.meters[name] = meter

    def update(self, **values: float | torch.Tensor) -> None:
        """Add a number to each of some meters."""
        for name, value in values.items():
            self.meters.setdefault(name, Smoothed()).update(float(value))

    def synchronize(self) -> None:
        """Take the means of all over all ranks, which must have the same meters."""
        for meter in self.meters.values():
            meter.synchronize()

    def __getitem__(self, name: str) -> Smoothed:
        return self.meters[name]

    def __str__(self) -> str:
        return self.delimiter.join(f"{name}: {meter}" for name, meter in self.meters.items())

    def log_every(self, items: Iterable[T], every: int, header: str = "") -> Generator[T]:
        """Yield the items; print the meters after every `every` items and after the last, and the time at the end."""
        total, start = length_hint(items), time.perf_counter()
        data, took = Smoothed("{mean:.4f}"), Smoothed("{mean:.4f}")
        of, width, done = f"/{total}" if total else "", len(str(total)), 0
        mark = start
        for item in items:
            data.update(time.perf_counter() - mark)
            yield item
            done += 1
            took.update(time.perf_counter() - mark)
            if done % every == 0 or done in (1, total):
                left = [f"eta: {duration(took.global_mean * (total - done))}"] if total else []
                cost = [f"time: {took}", f"data: {data}", f"max mem: {peak_memory(self.device) / 2**20:.0f} MiB"]
                meters = [str(self)] if self.meters else []
                print(self.delimiter.join([f"{header} [{done:>{width}}{of}]".strip(), *left, *meters, *cost]))
            mark = time.perf_counter()
        seconds = time.perf_counter() - start
        print(f"{header} Total time: {duration(seconds)} ({seconds / max(done, 1):.4f} s / it)".strip())


def duration(seconds: float) -> str:
    """Format as 0:12:34, or 3d 04h."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}d {hour:02}h" if days else f"{hours}:{minutes:02}:{rest:02}"


@dataclass(frozen=True, slots=True)
class StepCost:
    """What a step costs: medians of this process, means and memory of all."""

    seconds: float  # median of the newest 20 steps, from asking for the batch to the end of the step on the device
    mean_seconds: float  # over the run since it was started or resumed
    wait_seconds: float  # median of the part that was spent waiting for the loader
    mean_wait_seconds: float
    memory: int  # most bytes that a process has taken so far: of tensors on a GPU, else all

    @property
    def wait_share(self) -> float:
        """Return how much of the time, 0..1, went into waiting for data."""
        return self.mean_wait_seconds / self.mean_seconds if self.mean_seconds else 0.0


class StepClock:
    """Times steps. On a GPU by events, as the host runs ahead of it.

    What comes between `end_step` and the next `begin`, such as validation and reports, belongs to no step.
    """

    def __init__(self, device: torch.device, world: World = World()) -> None:  # noqa: B008  # immutable
        self.device = device
        self.world = world
        self.steps = Smoothed()
        self.waits = Smoothed()
        self._started = 0.0
        self._begin: torch.cuda.Event | None = None
        self._unread: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def begin(self) -> None:
        """Start a step: the next batch is asked for."""
        self._started = time.perf_counter()
        self._begin = self._event()

    def got_batch(self) -> None:
        """Book the time since `begin` as waiting for the loader."""
        self.waits.update(time.perf_counter() - self._started)

    def end_step(self) -> None:
        """Finish a step: all its work is done, or queued on the GPU."""
        end = self._event()
        if self._begin is None or end is None:
            self.steps.update(time.perf_counter() - self._started)
        else:
            self._unread.append((self._begin, end))

    def read(self) -> StepCost:
        """Return the costs so far; waits for the device, and for the other ranks, which have to call this too."""
        if self._unread:
            self._unread[-1][1].synchronize()
        for begin, end in self._unread:
            self.steps.update(begin.elapsed_time(end) / 1000)
        self._unread.clear()
        own = (self.steps.total, self.waits.total, self.steps.count, peak_memory(self.device))
        *sums, count, memory = zip(*self.world.all(own), strict=True)
        mean, mean_wait = (math.fsum(seconds) / max(sum(count), 1) for seconds in sums)
        return StepCost(self.steps.median, mean, self.waits.median, mean_wait, max(memory))

    def _event(self) -> torch.cuda.Event | None:
        """Record the present on the GPU's own clock."""
        if self.device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event


def peak_memory(device: torch.device) -> int:
    """Measure the most bytes that tensors of a GPU, or this process, have taken so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return machine.peak_memory()
