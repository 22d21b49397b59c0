"""Meters: what a step costs, smoothed by median and mean, without waiting for the device.

The device is waited for where a meter is read, which the trainer does every 20 steps. Source: the smoothed value and
metric logger of detection references (docs/spec/yolov3-spp.md, A8): median of a window of 20, mean of all. Sums over
several processes are not here but in distributed.py.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import torch

WINDOW = 20
_STATUS = Path("/proc/self/status")


class Smoothed:
    """A series of numbers: the median of the newest `WINDOW` ones, the mean of all."""

    def __init__(self) -> None:
        self.values: deque[float] = deque(maxlen=WINDOW)
        self.total = 0.0
        self.count = 0

    def update(self, value: float) -> None:
        self.values.append(value)
        self.total += value
        self.count += 1

    @property
    def median(self) -> float:
        return statistics.median(self.values) if self.values else 0.0

    @property
    def global_mean(self) -> float:
        """Return the mean of all values, also those that have left the window."""
        return self.total / max(self.count, 1)


@dataclass(frozen=True, slots=True)
class StepCost:
    """What a step of this process costs."""

    seconds: float  # median of the newest 20 steps, from asking for the batch to the end of the step on the device
    mean_seconds: float  # over the run since it was started or resumed
    wait_seconds: float  # median of the part that was spent waiting for the loader
    mean_wait_seconds: float
    memory: int  # most bytes taken so far: of tensors on a GPU, else of the process

    @property
    def wait_share(self) -> float:
        """Return how much of the time, 0..1, went into waiting for data."""
        return self.mean_wait_seconds / self.mean_seconds if self.mean_seconds else 0.0


class StepClock:
    """Times steps. On a GPU by events, as the host runs ahead of it.

    What comes between `end_step` and the next `begin`, such as validation and reports, belongs to no step.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
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
        """Return the costs so far; waits for the device."""
        if self._unread:
            self._unread[-1][1].synchronize()
        for begin, end in self._unread:
            self.steps.update(begin.elapsed_time(end) / 1000)
        self._unread.clear()
        steps, waits = self.steps, self.waits
        return StepCost(steps.median, steps.global_mean, waits.median, waits.global_mean, peak_memory(self.device))

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
    if _STATUS.exists():  # Linux, where the other number begins with that of the process that started this one
        (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
