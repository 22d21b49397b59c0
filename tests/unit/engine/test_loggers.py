"""What the console, results.csv, events.jsonl and TensorBoard tell of a run."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from boxwright.engine.callbacks import StartReport
from boxwright.engine.loggers import ConsoleLog, EventsJsonl, ResultsCsv, TensorBoard
from boxwright.yolo.settings import RunConfig
from tests.unit.engine.line_task import make_trainer


def lines_of(folder: Path, *, terminal: bool) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=200)
    make_trainer(folder, callbacks=[ConsoleLog(console)]).fit()
    return text.getvalue()


def test_one_plain_line_an_epoch(tmp_path: Path) -> None:
    lines = lines_of(tmp_path, terminal=False).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    for line in lines:
        assert all(word in line for word in ("loss ", "error 0.5000", "lr ", "img/s", "GiB", "left 0:00:0", "best")), (
            line
        )
        assert "\x1b" not in line


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    text = lines_of(tmp_path, terminal=True)
    assert "\x1b" in text
    assert "epoch 3/3" in text


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
    path.write_text("epoch,train/loss\n0,1\n1,0.5\n2,0.25\n")
    history = [{"epoch": 0.0, "train/loss": 1 / 3}]
    ResultsCsv(path).on_train_start(StartReport(tmp_path, RunConfig(), nn.Identity(), history, 5, 5))
    assert path.read_text() == "epoch,train/loss\n0,0.333333\n"
    assert [file.name for file in tmp_path.iterdir()] == ["results.csv"]


def test_tensorboard_has_the_columns_of_the_results(tmp_path: Path) -> None:
    make_trainer(tmp_path, callbacks=[TensorBoard(tmp_path)]).fit()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    header = (tmp_path / "results.csv").read_text().splitlines()[0].split(",")
    costs = ["seconds", "mean_seconds", "wait_seconds", "mean_wait_seconds", "memory"]
    assert sorted(events.Tags()["scalars"]) == sorted([*header[1:], *(f"cost/{name}" for name in costs)])
    assert [event.step for event in events.Scalars("metrics/error")] == [0, 1, 2]
