"""Smoothed values, losses read from the device, and what a step costs."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from boxwright.data.structures import Batch
from boxwright.engine import meters
from boxwright.engine.callbacks import Callback, Progress, StepReport
from boxwright.engine.meters import WINDOW, Meters, Smoothed, StepClock
from boxwright.engine.task import Autocast, Score, StepLoss, ValWatch
from boxwright.errors import UserError
from tests.unit.engine.line_task import STEPS, LineTask, make_trainer

CPU = torch.device("cpu")


def test_smoothed() -> None:
    meter = Smoothed()
    assert (meter.median, meter.global_mean) == (0, 0)
    for value in (100.0, 1.0, 2.0, 8.0, 3.0):
        for _ in range(WINDOW // 4):
            meter.update(value)
    assert (meter.median, meter.global_mean) == (2.5, 114 / 5)
    assert (meter.mean, meter.max, meter.value) == (3.5, 8, 3)
    assert str(meter) == "2.5000 (22.8000)"
    one = Smoothed("{value:.1f} of {max:.0f}, {mean:g}", window=2)
    one.update(9, count=3)
    one.update(1)
    assert str(one) == "1.0 of 9, 5"
    assert one.global_mean == 7
    with pytest.raises(UserError, match=r"'\{medain\}': it has median, mean"):
        Smoothed("{medain}")


class ThreeRanks:
    """A world of three ranks that have the same."""

    def all(self, value: Any) -> list[Any]:
        return [value, (10.0, 5), (0.0, 0)]


def test_means_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "current_world", ThreeRanks)
    many = Meters()
    many.update(loss=torch.tensor(4.0))
    many.synchronize()
    assert (many["loss"].global_mean, many["loss"].value) == (14 / 6, 4)


def test_a_loop_that_prints(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By this clock a batch takes 2 s to come and 60 s in all."""
    # The start; at each item: it has come, it is done, the mark of the next; the end.
    ticks = iter([0.0, *(60.0 * i + second for i in range(5) for second in (2, 60, 60)), 300.0])

    class Clock:
        perf_counter = staticmethod(lambda: next(ticks))

    monkeypatch.setattr(meters, "time", Clock)
    many = Meters(device=CPU)
    many.add("lr", Smoothed("{value:.3f}"))
    seen: list[int] = []
    for item in many.log_every(range(5), 2, "Epoch: [1/3]"):
        seen.append(item)
        many.update(loss=float(item), lr=0.01)
    lines = capsys.readouterr().out.splitlines()
    assert seen == list(range(5))
    assert [line.partition("  ")[0] for line in lines[:-1]] == [f"Epoch: [1/3] [{n}/5]" for n in (1, 2, 4, 5)]
    assert lines[1].startswith(
        "Epoch: [1/3] [2/5]  eta: 0:03:00  lr: 0.010  loss: 0.5000 (0.5000)  time: 60.0000  data: 2.0000  max mem: "
    )
    assert lines[-1] == "Epoch: [1/3] Total time: 0:05:00 (60.0000 s / it)"


class Listener(Callback):
    def __init__(self) -> None:
        self.reports: list[StepReport] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, progress: Progress, losses: torch.Tensor) -> None:
        self.losses.append(float(losses))

    def on_step_report(self, report: StepReport) -> None:
        self.reports.append(report)


def test_recent_losses_are_medians_of_the_window(tmp_path: Path) -> None:
    listener = Listener()
    make_trainer(tmp_path, callbacks=[listener], epochs=6).fit()
    for epoch, report in enumerate(listener.reports, start=1):
        newest = listener.losses[: epoch * STEPS][-WINDOW:]
        assert report.recent == {"loss": pytest.approx(statistics.median(newest))}


class SlowTask(LineTask):
    """By its own clock, a batch takes 2 s to come, a step 1 s, one step 30 s, and a validation 40 s."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def train_batches(self, epoch: int, start_step: int, class_maps: Sequence[float] = ()) -> Iterator[Batch]:
        for batch in super().train_batches(epoch, start_step):
            self.now += 2
            yield batch

    def loss(self, batch: Batch, epoch: int, step: int) -> StepLoss:
        self.now += 30 if (epoch, step) == (0, 1) else 1
        return super().loss(batch, epoch, step)

    def evaluate(self, model: nn.Module, autocast: Autocast, watch: ValWatch[Any, Any] | None = None) -> Score:
        self.now += 40
        return super().evaluate(model, autocast)


def test_steps_are_timed_without_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listener, task = Listener(), SlowTask()
    monkeypatch.setattr("boxwright.engine.meters.time", task)
    make_trainer(tmp_path, task, callbacks=[listener], epochs=2).fit()
    first, second = (report.cost for report in listener.reports)
    assert (first.seconds, first.mean_seconds) == (3, (4 * 3 + 32) / STEPS)
    assert (second.seconds, second.mean_seconds) == (3, (9 * 3 + 32) / 2 / STEPS)
    assert (second.wait_seconds, second.mean_wait_seconds) == (2, 2)
    assert second.wait_share == 2 / second.mean_seconds
    assert list(listener.reports[0].recent) == ["loss"]


def test_costs_are_means_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        def all(self, own: tuple[float, float, int, int]) -> list[tuple[float, float, int, int]]:
            return [own, (8.0, 6.0, 2, 2**50)]

    clock = StepClock(CPU, Slow())  # type: ignore[arg-type]
    clock.steps.update(2)
    clock.waits.update(1)
    cost = clock.read()
    assert (cost.seconds, cost.wait_seconds) == (2, 1)
    assert (cost.mean_seconds, cost.mean_wait_seconds) == (pytest.approx(10 / 3), pytest.approx(7 / 3))
    assert cost.memory == 2**50


def test_memory_of_the_process() -> None:
    """In a process of its own: the peak only grows, and here it may be that of another test."""
    code = (
        "import torch; from boxwright.engine.meters import peak_memory; cpu = torch.device('cpu'); "
        "before = peak_memory(cpu); block = torch.ones(2**26); print(peak_memory(cpu) - before)"
    )
    grown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 0.5 < int(grown) / 2**28 < 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_steps_of_a_gpu_are_timed_on_it() -> None:
    """The host queues work in microseconds that takes the GPU milliseconds."""
    device = torch.device("cuda", 0)
    a = torch.randn(4096, 4096, device=device)
    clock = StepClock(device)
    (a @ a).sum().item()
    for _ in range(3):
        clock.begin()
        clock.got_batch()
        for _ in range(20):
            a @ a
        clock.end_step()
    assert clock.steps.count == 0
    cost = clock.read()
    assert clock.steps.count == 3
    assert cost.seconds > 0.005
    assert cost.wait_seconds < 0.005
    assert cost.memory >= a.nbytes
