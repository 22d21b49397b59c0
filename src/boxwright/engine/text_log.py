"""log.log: the course of a run in plain lines with the time, and every warning that comes up in it."""

from __future__ import annotations

import logging
from pathlib import Path

from boxwright.engine.callbacks import Callback, EpochReport, StartReport, StepReport

# Tracebacks of mistakes that are told in one sentence: they go to this file and to no other handler.
_MISTAKES = logging.getLogger("boxwright.mistakes")
_FORM = logging.Formatter("%(asctime)s %(message)s")


class TextLog(Callback):
    """Appends to a text file; a run that goes on goes on in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._own = logging.Logger(f"boxwright.log {path}", logging.INFO)  # not in the tree: nothing else hears it
        self._file: logging.FileHandler | None = None

    def on_train_start(self, report: StartReport) -> None:
        self._file = logging.FileHandler(self.path, encoding="utf-8")
        self._file.setFormatter(_FORM)
        self._own.addHandler(self._file)
        logging.getLogger("boxwright").addHandler(self._file)
        _MISTAKES.propagate = False
        _MISTAKES.setLevel(logging.INFO)
        _MISTAKES.addHandler(self._file)
        self._own.info(f"goes on after epoch {len(report.history)}" if report.steps_done else "start")

    def on_step_report(self, report: StepReport) -> None:
        losses = "  ".join(f"{name} {value:.5g}" for name, value in report.losses.items())
        place = f"epoch {report.epoch + 1}/{report.epochs}, step {report.step}/{report.steps}"
        self._own.info("%s  %s  lr %.4g", place, losses, report.rates[-1])

    def on_fit_epoch_end(self, report: EpochReport) -> None:
        metrics = report.score.metrics if report.score else {}
        values = "  ".join(f"{name} {value:.5f}" for name, value in metrics.items()) or "not validated"
        best = "  best so far" if report.improved else ""
        self._own.info("epoch %d/%d done  %s%s", report.epoch + 1, report.epochs, values, best)

    def teardown(self) -> None:
        if self._file is None:
            return
        self._own.info("end")
        logging.getLogger("boxwright").removeHandler(self._file)
        _MISTAKES.removeHandler(self._file)
        self._own.removeHandler(self._file)
        self._file.close()
        self._file = None
