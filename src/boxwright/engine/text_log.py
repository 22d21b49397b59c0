"""log.log: the course of a run in plain lines with the time, and every warning that comes up in it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from boxwright.engine.loggers import EpochReport, StepReport

_FORM = logging.Formatter("%(asctime)s %(message)s")


class TextLog:
    """Appends to a text file; a run that goes on goes on in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._own = logging.Logger(f"boxwright.log {path}", logging.INFO)  # not in the tree: nothing else hears it
        self._file: logging.FileHandler | None = None

    def start(self, history: Sequence[Mapping[str, float]], steps_done: int) -> None:
        self._file = logging.FileHandler(self.path, encoding="utf-8")
        self._file.setFormatter(_FORM)
        self._own.addHandler(self._file)
        logging.getLogger("boxwright").addHandler(self._file)
        self._own.info(f"goes on after epoch {len(history)}" if history else "start")

    def step(self, report: StepReport) -> None:
        losses = "  ".join(f"{name} {value:.5g}" for name, value in report.losses.items())
        place = f"epoch {report.epoch + 1}/{report.epochs}, step {report.step}/{report.steps}"
        self._own.info("%s  %s  lr %.4g", place, losses, report.rates[-1])

    def epoch(self, report: EpochReport) -> None:
        metrics = report.score.metrics if report.score else {}
        values = "  ".join(f"{name} {value:.5f}" for name, value in metrics.items()) or "not validated"
        best = "  best so far" if report.improved else ""
        self._own.info("epoch %d/%d done  %s%s", report.epoch + 1, report.epochs, values, best)

    def close(self) -> None:
        if self._file is None:
            return
        self._own.info("end")
        logging.getLogger("boxwright").removeHandler(self._file)
        self._own.removeHandler(self._file)
        self._file.close()
        self._file = None
