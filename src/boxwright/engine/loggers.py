"""Where the course of a run is told: console, results.csv, events.jsonl, TensorBoard. All hear the same reports."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from boxwright.engine.callbacks import Callback, EpochReport, StartReport, StepReport
from boxwright.engine.meters import StepCost
from boxwright.engine.text_log import TextLog

_V3_LOSSES = (("giou", "box"), ("obj", "obj"), ("cls", "cls"))


class ResultsCsv(Callback):
    """The published results.csv: rewritten as a whole and renamed, so that it never disagrees with the checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_start(self, report: StartReport) -> None:
        if report.history:
            self._write(report.history)

    def on_fit_epoch_end(self, report: EpochReport) -> None:
        self._write(report.history)

    def _write(self, history: Sequence[Mapping[str, float]]) -> None:
        lines = [",".join(history[0])]
        lines += [",".join(_cell(name, row[name]) for name in history[0]) for row in history]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        os.replace(temporary, self.path)


def _cell(name: str, value: float) -> str:
    return str(int(value)) if name == "epoch" else f"{value:.6g}"


class EventsJsonl(Callback):
    """One json object a line: what happened when."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begun = False

    def on_train_start(self, report: StartReport) -> None:
        self._begun = True
        self._append("resume" if report.steps_done else "start", {"epochs_done": len(report.history)})

    def on_step_report(self, report: StepReport) -> None:
        place = {"epoch": report.epoch, "step": report.step}
        losses = {"losses": dict(report.losses), "recent": dict(report.recent), "rates": report.rates}
        self._append("step", place | losses | asdict(report.cost))

    def on_fit_epoch_end(self, report: EpochReport) -> None:
        self._append("epoch", dict(report.history[-1]) | {"improved": report.improved})

    def teardown(self) -> None:
        if self._begun:
            self._append("end", {})

    def _append(self, event: str, values: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "time": round(time.time(), 3)} | values) + "\n")


class TensorBoard(Callback):
    """Scalars of an epoch, and under `cost/` the time and memory of its steps.

    Args:
        folder: where the event file goes.
        tags: makes them of a row of results.csv; by default each column under its own name, as published.
    """

    def __init__(self, folder: Path, tags: Callable[[Mapping[str, float]], Mapping[str, float]] = dict) -> None:
        self.folder = folder
        self.tags = tags
        self._writer: Any = None
        self._cost: StepCost | None = None

    def on_train_start(self, report: StartReport) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._writer = SummaryWriter(str(self.folder), purge_step=len(report.history) if report.steps_done else None)

    def on_step_report(self, report: StepReport) -> None:
        self._cost = report.cost

    def on_fit_epoch_end(self, report: EpochReport) -> None:
        for name, value in (asdict(self._cost) if self._cost is not None else {}).items():
            self._writer.add_scalar(f"cost/{name}", value, report.epoch)
        for name, value in self.tags(report.history[-1]).items():
            if name != "epoch":
                self._writer.add_scalar(name, value, report.epoch)

    def teardown(self) -> None:
        if self._writer is not None:
            self._writer.close()


def logs_of_run(folder: Path, *, as_v3: bool = False) -> tuple[Callback, ...]:
    """The logs that every run has, in its folder and on the console; `as_v3`: TensorBoard with tags of YOLOv3-SPP."""
    return (
        ResultsCsv(folder / "results.csv"),
        EventsJsonl(folder / "events.jsonl"),
        TensorBoard(folder, v3_tags if as_v3 else dict),
        TextLog(folder / "log.log"),
        ConsoleLog(),
    )


def v3_tags(row: Mapping[str, float]) -> dict[str, float]:
    """What YOLOv3-SPP published in TensorBoard (spec A1), of a row of results.csv."""
    losses = {f"train/{name}_loss": row[f"train/{column}_loss"] for name, column in _V3_LOSSES}
    return {
        **losses,
        "train/loss": sum(losses.values()),
        "learning_rate": row["x/lr0"],
        "mAP@[IoU=0.50:0.95]": row["metrics/COCO_AP"],
        "mAP@[IoU=0.5]": row["metrics/COCO_AP50"],
        "mAR@[IoU=0.50:0.95]": row["metrics/COCO_AR100"],
    }


class ConsoleLog(Callback):
    """A progress bar over the run on a terminal; one line an epoch either way."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._progress: Progress | None = None
        self._start = self._mark = (0, 0.0)  # steps done and time: when the run went on, when the epoch did
        self._newest: StepReport | None = None
        self._images_per_second = 0.0

    def on_train_start(self, report: StartReport) -> None:
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[info]}"))
            self._progress = Progress(*columns, console=self.console, transient=True)
            self._progress.start()
        self._start = self._mark = (report.steps_done, time.perf_counter())

    def on_step_report(self, report: StepReport) -> None:
        done = report.epoch * report.steps + report.step
        steps, seconds = done - self._mark[0], time.perf_counter() - self._mark[1]
        self._images_per_second = steps * report.batch_size / max(seconds, 1e-9)
        self._newest = report
        if self._progress is None:
            return
        if not self._progress.task_ids:
            self._progress.add_task("", total=report.epochs * report.steps, info="")
        losses = " ".join(f"{name.removesuffix('_loss')} {value:.4f}" for name, value in report.losses.items())
        self._progress.update(
            self._progress.task_ids[0],
            completed=done,
            description=f"epoch {report.epoch + 1}/{report.epochs}",
            info=f"{losses}  {self._pace(report)}",
        )

    def on_fit_epoch_end(self, report: EpochReport) -> None:
        row = report.history[-1]
        values = [f"{name.split('/')[1]} {value:.4g}" for name, value in row.items() if name.startswith("train/")]
        if report.score is not None:
            values += [f"{name} {value:.4f}" for name, value in report.score.metrics.items()]
        if self._newest is not None:
            values.append(self._pace(self._newest))
        if report.improved:
            values.append("best")
        line = f"epoch {report.epoch + 1}/{report.epochs}  {'  '.join(values)}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        if self._newest is not None:
            self._mark = ((report.epoch + 1) * self._newest.steps, time.perf_counter())

    def teardown(self) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _pace(self, report: StepReport) -> str:
        """Rate, speed of the running epoch, a step's time, memory, and the time left at the pace of the run so far."""
        done = report.epoch * report.steps + report.step
        seconds = time.perf_counter() - self._start[1]
        left = (report.epochs * report.steps - done) * seconds / max(done - self._start[0], 1)
        speed = f"{self._images_per_second:.1f} img/s"
        step = f"step {report.cost.seconds:.3g} s, {report.cost.wait_share:.0%} of it waiting for data"
        memory = f"{report.cost.memory / 2**30:.1f} GiB"
        return f"lr {report.rates[-1]:.2g}  {speed}  {step}  {memory}  left {timedelta(seconds=round(left))}"
