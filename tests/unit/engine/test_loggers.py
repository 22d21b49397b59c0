"""What results.csv, events.jsonl, TensorBoard and log.log tell of a run, also of a resumed one."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from boxwright.engine.callbacks import StartReport
from boxwright.engine.loggers import EventsJsonl, ResultsCsv, ResultsTxt, TensorBoard, TextLog
from boxwright.yolo.settings import RunConfig
from tests.unit.engine.line_task import LineTask, make_trainer


def test_events(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    make_trainer(tmp_path, callbacks=[EventsJsonl(path)]).fit()
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [e["event"] for e in events] == ["start", *["step", "epoch"] * 3, "end"]
    assert events[2]["metrics/error"] == 0.5
    assert events[1]["losses"]["loss"] > 0
    assert events[1]["recent"]["loss"] > 0
    assert events[1]["seconds"] >= events[1]["wait_seconds"] > 0
    assert events[1]["memory"] > 2**20


def test_results_are_rewritten_from_the_history(tmp_path: Path) -> None:
    """Rows of epochs that a killed run did not save are gone after the resume."""
    path = tmp_path / "results.csv"
    path.write_text("epoch,train/loss\n1,1\n2,0.5\n3,0.25\n")
    history = [{"epoch": 1.0, "train/loss": 1 / 3}]
    ResultsCsv(path).on_train_start(StartReport(tmp_path, RunConfig(), nn.Identity(), history, 5, 5))
    assert path.read_text() == "epoch,train/loss\n1,0.333333\n"
    assert [file.name for file in tmp_path.iterdir()] == ["results.csv"]


def test_tensorboard_has_the_columns_of_the_results(tmp_path: Path) -> None:
    make_trainer(tmp_path, callbacks=[TensorBoard(tmp_path)]).fit()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    header = (tmp_path / "results.csv").read_text().splitlines()[0].split(",")
    costs = ["seconds", "mean_seconds", "wait_seconds", "mean_wait_seconds", "memory"]
    assert sorted(events.Tags()["scalars"]) == sorted([*header[1:], *(f"cost/{name}" for name in costs)])
    assert [event.step for event in events.Scalars("metrics/error")] == [1, 2, 3]


def test_a_run_in_plain_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Warns(LineTask):
        def close(self) -> None:
            logging.getLogger("boxwright.data").warning("a row is left out")

    log = tmp_path / "log.log"
    make_trainer(tmp_path, Warns(fitness=[0.5, 0.25]), [TextLog(log)], epochs=2, val_period=2).fit()
    text = log.read_text()
    lines = [line.split(" ", 2)[2] for line in text.splitlines()]  # without date and time
    assert lines[0] == "start"
    number = r"[\d.e-]+"
    cost = f"{number} s per step, {number} s waiting for data, {number} GiB, left 0:00:00"
    assert re.fullmatch(f"epoch 1/2, step 5/5  loss {number}  lr {number}  {cost}", lines[1])
    assert re.fullmatch(rf"epoch 1/2 trained in 0:00:00 \({number} s per step\)", lines[2])
    assert lines[3] == "epoch 1/2 done  not validated"
    assert lines[6] == "epoch 2/2 done  error 0.50000  best so far"
    assert lines[7:] == ["a row is left out", "end"]
    logging.getLogger("boxwright").warning("after the end")
    assert log.read_text() == text
    assert "start" not in capsys.readouterr().err


def test_results_in_the_form_of_yolov3_spp(tmp_path: Path) -> None:
    def row(epoch: int, **metrics: float) -> dict[str, float]:
        return {"epoch": epoch, "train/box_loss": 0.5} | {f"metrics/{name}": value for name, value in metrics.items()}

    file = tmp_path / "results.txt"
    rows = [row(1, COCO_AP=0.123456, COCO_AP50=1.0, precision=0.3), row(2), row(3, COCO_AP=-1.0, COCO_AP50=0.25)]
    ResultsTxt(file).on_train_start(begin(rows))
    assert file.read_text() == "epoch:0 0.1235  1.0\nepoch:2 -1.0  0.25\n"


def test_steps_between_two_lines(tmp_path: Path) -> None:
    make_trainer(tmp_path, callbacks=[TextLog(tmp_path / "log.log")], epochs=1, log_period=2).fit()
    steps = re.findall(r"step (\d)/5 ", (tmp_path / "log.log").read_text())
    assert steps == ["2", "4", "5"]


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


@pytest.mark.parametrize("torn", ['{"event": "st', '{"event": "step"', '{"event": "step"}', "\0\0\0", "x\n", ""])
def test_a_torn_end_of_the_events_is_cut_off(tmp_path: Path, torn: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "start"}\n{"event": "end"}\n' + torn)
    events = EventsJsonl(path)
    events.on_train_start(begin([]))
    events.teardown()
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["start", "end", "start", "end"]
    assert ("ended in the middle of a line" in caplog.text) == bool(torn)
