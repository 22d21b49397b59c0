"""Training loggers: results.csv, events.jsonl, TensorBoard, log.log. Trackers are in trackers.py."""

import importlib.util
import io
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from boxwright.data.files import append, file_errors, write_atomically
from boxwright.engine.callbacks import Callback, EpochReport, Progress, StartReport, StepReport
from boxwright.engine.console import ConsoleLog
from boxwright.engine.device import resolve
from boxwright.engine.environment import environment_line
from boxwright.engine.meters import StepCost, duration
from boxwright.engine.run_folder import typed_command
from boxwright.errors import UserError
from boxwright.extras import not_installed
from boxwright.terminal import say_once, sentence, shown

_log = logging.getLogger("boxwright.train")


class ResultsCsv(Callback):
    """Writes the published results.csv as a whole and renames it, so that it never disagrees with the checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_pretrain_routine_end(self, report: StartReport) -> None:
        self.on_train_start(report)  # which is not called where no epoch is left

    def on_train_start(self, report: StartReport) -> None:
        if report.history:
            self._write(report.history)

    def on_fit_epoch_end(self, report: EpochReport) -> None:
        self._write(report.history)

    def _write(self, history: Sequence[Mapping[str, float]]) -> None:
        """Replace the file. Rows of epochs that were not validated lack columns: these cells stay empty."""
        columns = max(history, key=len)
        lines = [",".join(columns)]
        lines += [",".join(f"{row[name]:.6g}" if name in row else "" for name in columns) for row in history]
        write_atomically(self.path, "\n".join(lines) + "\n")


class ResultsTxt(ResultsCsv):
    """Writes the results file of YOLOv3-SPP: `epoch:N`, counted from 0, and the 12 COCO numbers of that epoch."""

    def _write(self, history: Sequence[Mapping[str, float]]) -> None:
        lines: list[str] = []
        for row in history:
            numbers = [str(round(value, 4)) for name, value in row.items() if name.startswith("metrics/COCO_")]
            lines += [f"epoch:{row['epoch'] - 1:.0f} {'  '.join(numbers)}"] if numbers else []
        write_atomically(self.path, "".join(f"{line}\n" for line in lines))


class EventsJsonl(Callback):
    """Appends one JSON object per line: what happened when.

    `about`: what the run is, by name, for people.
    """

    def __init__(self, path: Path, about: Mapping[str, str] | None = None) -> None:
        self.path = path
        self.about = about or {}
        self._begun = False

    def on_pretrain_routine_end(self, report: StartReport) -> None:
        self._heal()

    def on_train_start(self, report: StartReport) -> None:
        self._begun = True
        self._heal()
        device = next((parameter.device for parameter in report.model.parameters()), torch.device("cpu"))
        precision = resolve(report.config.precision, device).name
        machine = {"device": f"{environment_line(str(device))}; {precision}"}
        begun = {"epochs_done": len(report.history), "command": typed_command(), "about": {**self.about, **machine}}
        self._append("resume" if report.resumed else "start", begun)

    def on_step_report(self, report: StepReport) -> None:
        at = {"epoch": report.epoch + 1, "step": report.step}
        losses = {"losses": dict(report.losses), "recent": dict(report.recent), "rates": report.rates}
        self._append("step", at | losses | asdict(report.cost))

    def on_fit_epoch_end(self, report: EpochReport) -> None:
        self._append("epoch", dict(report.history[-1]) | {"improved": report.improved})

    def teardown(self) -> None:
        if self._begun:
            self._append("end", {})

    def _append(self, event: str, values: dict[str, Any]) -> None:
        """Append a line. The file is closed each time: a process that is killed loses nothing."""
        append(self.path, json.dumps({"event": event, "time": round(time.time(), 3)} | values) + "\n")

    def _heal(self) -> None:
        """Cut off what a crash has left at the end that is no line of JSON."""
        if not self.path.is_file() or self.path.is_symlink():
            return
        with file_errors("write", self.path):
            text = self.path.read_bytes()
            kept = len(text)
            while kept and not _is_json_line(text[text.rfind(b"\n", 0, kept - 1) + 1 : kept]):
                kept = text.rfind(b"\n", 0, kept - 1) + 1
            if kept < len(text):
                os.truncate(self.path, kept)
                _log.warning("%s ended in the middle of a line, which is cut off", self.path)


def _is_json_line(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict) and line.endswith(b"\n")
    except ValueError:
        return False


class TensorBoard(Callback):
    """Writes the scalars of each epoch, and under `cost/` the time and memory of its steps.

    The records are appended here, not by the thread of `SummaryWriter`, in which a full disk is a traceback.

    Args:
        folder: where the event file goes.
        tags: gives tags and values of a row of results.csv; by default each column under its own name, as published.
    """

    def __init__(self, folder: Path, tags: Callable[[Mapping[str, float]], Mapping[str, float]] = dict) -> None:
        self.folder = folder
        self.tags = tags
        self._path: Path | None = None
        self._cost: StepCost | None = None

    def on_train_start(self, report: StartReport) -> None:
        self._path = self.folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._append(file_version="brain.Event:2")
        if report.resumed:  # readers forget what a killed run has written after its last checkpoint
            self._append(step=len(report.history) + 1, session_log={"status": "START"})

    def on_step_report(self, report: StepReport) -> None:
        self._cost = report.cost

    def on_fit_epoch_end(self, report: EpochReport) -> None:
        costs = asdict(self._cost) if self._cost is not None else {}
        values = {f"cost/{name}": value for name, value in costs.items()} | dict(self.tags(report.history[-1]))
        scalars = [{"tag": name, "simple_value": value} for name, value in values.items() if name != "epoch"]
        self._append(step=report.epoch + 1, summary={"value": scalars})

    def _append(self, **event: object) -> None:
        from tensorboard.compat.proto import event_pb2  # slow to import
        from tensorboard.summary.writer.record_writer import RecordWriter

        assert self._path is not None
        record = io.BytesIO()
        written: Any = event_pb2  # its classes are made when it is imported
        RecordWriter(record).write(written.Event(wall_time=time.time(), **event).SerializeToString())
        append(self._path, record.getvalue())


# Tracebacks of user errors, which are printed as one sentence: they go to log.log and to no other handler.
_ERRORS = logging.getLogger("boxwright.user_errors")


class _FileHandler(logging.Handler):
    """Appends lines to a file; what could not be written is an error for its owner, not for whoever logs a line."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self.path = path
        self.error: UserError | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)  # with the frames of an error it has lines of its own
            append(self.path, (shown(text) if record.exc_info else sentence(text)) + "\n")
        except UserError as error:
            self.error = self.error or error


class TextLog(Callback):
    """Appends plain lines with the time, and every warning of the run, to a text file; a resumed run appends to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._own = logging.Logger(f"boxwright.log {path}", logging.INFO)  # not in the tree: only this file gets it
        self._loggers = (self._own, logging.getLogger("boxwright"), _ERRORS)
        self._file: _FileHandler | None = None
        self._start = self._mark = (0, 0.0)  # steps done and time: when the run went on, when the epoch did

    def on_train_start(self, report: StartReport) -> None:
        self._file = _FileHandler(self.path)
        for logger in self._loggers:
            logger.addHandler(self._file)
        _ERRORS.propagate = False
        _ERRORS.setLevel(logging.INFO)
        self._write(f"resumed after epoch {report.first_epoch + len(report.history)}" if report.resumed else "start")
        self._start = (report.steps_done, time.perf_counter())

    def on_train_epoch_start(self, progress: Progress) -> None:
        self._mark = (progress.steps_done, time.perf_counter())

    def on_step_report(self, report: StepReport) -> None:
        losses = "  ".join(f"{name} {value:.5g}" for name, value in report.losses.items())
        at = f"epoch {report.epoch + 1}/{report.epochs}, step {report.step}/{report.steps}"
        cost, (done, since) = report.cost, self._start
        left = (report.epochs * report.steps - report.steps_done) * (time.perf_counter() - since)
        times = f"{cost.seconds:.3g} s per step, {cost.wait_seconds:.2g} s waiting for data"
        memory = f"{cost.memory / 2**30:.2f} GiB, left {duration(left / max(report.steps_done - done, 1))}"
        self._write(f"{at}  {losses}  lr {report.rates[-1]:.4g}  {times}, {memory}")

    def on_train_epoch_end(self, progress: Progress) -> None:
        seconds, steps = time.perf_counter() - self._mark[1], progress.steps_done - self._mark[0]
        self._write(
            f"epoch {progress.epoch + 1}/{progress.epochs} trained in {duration(seconds)} "
            f"({seconds / max(steps, 1):.3g} s per step)"
        )

    def on_fit_epoch_end(self, report: EpochReport) -> None:
        metrics = report.score.metrics if report.score else {}
        values = "  ".join(f"{name} {value:.5f}" for name, value in metrics.items()) or "not validated"
        best = "  best so far" if report.improved else ""
        self._write(f"epoch {report.epoch + 1}/{report.epochs} done  {values}{best}")

    def teardown(self) -> None:
        if self._file is None:
            return
        self._own.info("end")
        for logger in self._loggers:
            logger.removeHandler(self._file)
        self._file = None

    def _write(self, line: str) -> None:
        """Log a line; raise what has kept it, or a line before, from being written."""
        assert self._file is not None
        self._own.info("%s", line)
        if self._file.error is not None:
            raise self._file.error


def default_loggers(
    folder: Path,
    tags: Callable[[Mapping[str, float]], Mapping[str, float]] = dict,
    titles: Mapping[str, str] | None = None,
    about: Mapping[str, str] | None = None,
) -> tuple[Callback, ...]:
    """Make the loggers that every run has.

    Args:
        folder: of the run.
        tags: of TensorBoard.
        titles: of metrics on the console.
        about: what the run is, for events.jsonl.
    """
    has_tensorboard = importlib.util.find_spec("tensorboard") is not None
    if not has_tensorboard:
        missing = not_installed("an event file", "tensorboard", "tensorboard")
        say_once(f"{missing}; going on without it", logging.WARNING)
    return (
        ResultsCsv(folder / "results.csv"),
        EventsJsonl(folder / "events.jsonl", about),
        *([TensorBoard(folder, tags)] if has_tensorboard else []),
        TextLog(folder / "log.log"),
        ConsoleLog(titles),
    )
