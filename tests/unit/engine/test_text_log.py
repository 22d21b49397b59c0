"""log.log tells the course of a run and its warnings."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from torch import nn

from boxwright.engine.callbacks import StartReport
from boxwright.engine.loggers import TextLog
from boxwright.yolo.settings import RunConfig
from tests.unit.engine.line_task import LineTask, make_trainer


def test_a_run_in_plain_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Warns(LineTask):
        def close(self) -> None:
            logging.getLogger("boxwright.data").warning("a row is left out")

    log = tmp_path / "log.log"
    make_trainer(tmp_path, Warns(fitness=[0.5, 0.25]), [TextLog(log)], epochs=2, val_period=2).fit()
    text = log.read_text()
    lines = [line.split(" ", 2)[2] for line in text.splitlines()]  # without date and time
    assert lines[0] == "start"
    assert lines[1].startswith("epoch 1/2, step 5/5  loss ")
    assert lines[2] == "epoch 1/2 done  not validated"
    assert lines[4] == "epoch 2/2 done  error 0.50000  best so far"
    assert lines[5:] == ["a row is left out", "end"]
    logging.getLogger("boxwright").warning("after the end")
    assert log.read_text() == text
    assert "start" not in capsys.readouterr().err


def begin(history: list[dict[str, float]]) -> StartReport:
    return StartReport(Path(), RunConfig(), nn.Identity(), history, 5 * len(history), 5)


def test_a_run_goes_on_in_the_same_file(tmp_path: Path) -> None:
    log = TextLog(tmp_path / "log.log")
    log.teardown()
    log.on_train_start(begin([]))
    log.teardown()
    log.on_train_start(begin([{"epoch": 0.0}]))
    log.teardown()
    texts = [line.split(" ", 2)[2] for line in (tmp_path / "log.log").read_text().splitlines()]
    assert texts == ["start", "end", "resumed after epoch 1", "end"]
