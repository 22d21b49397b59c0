"""What results.csv, events.jsonl, TensorBoard, log.log and MLflow tell of a run, also of a resumed one."""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from boxwright.engine.callbacks import Callback, EpochReport, StartReport, named_callbacks
from boxwright.engine.loggers import EventsJsonl, MlflowLog, ResultsCsv, ResultsTxt, TensorBoard, TextLog
from boxwright.engine.trainer import load_run
from boxwright.errors import UserError
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


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=(tmp_path / "runs ü" / "mlruns").as_uri())


def fit(folder: Path, *callbacks: Callback, resumed: bool = False) -> None:
    """Three epochs of fitness 0.2, 0.6 and 0.4."""
    task = LineTask(fitness=[0.2, 0.6, 0.4])
    trainer = make_trainer(folder, task, callbacks=[MlflowLog(), *callbacks], project=str(folder.parent))
    if resumed:
        trainer.restore(load_run(folder / "weights" / "last.pt"))
        task.num_evaluations = trainer.state.epoch
    trainer.fit()


def only_run(client: Any) -> Any:
    experiment = client.get_experiment_by_name("runs ü")
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def points(client: Any, run: Any, name: str) -> list[tuple[int, float]]:
    return [(entry.step, entry.value) for entry in client.get_metric_history(run.info.run_id, name)]


def test_a_run_in_mlflow(tmp_path: Path, client: Any) -> None:
    fit(tmp_path / "runs ü" / "exp")
    run = only_run(client)
    assert (run.info.run_name, run.info.status) == ("exp", "FINISHED")
    assert run.data.params["optim.nominal_batch_size"] == "4"
    assert run.data.params["epochs"] == "3"
    assert points(client, run, "metrics/error") == [(1, 0.2), (2, 0.6), (3, 0.4)]
    assert sorted(file.path for file in client.list_artifacts(run.info.run_id)) == ["best.pt", "results.csv"]


class Faulty(Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_fit_epoch_end(self, report: EpochReport) -> None:
        if report.epoch == self.epoch:
            raise RuntimeError


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_resumed_run_goes_on_in_the_same_one(tmp_path: Path, client: Any, epoch: int) -> None:
    folder = tmp_path / "runs ü" / "exp"
    with pytest.raises(UserError, match="callback Faulty"):
        fit(folder, Faulty(epoch))
    assert only_run(client).info.status == "FAILED"
    fit(folder, resumed=True)
    run = only_run(client)
    assert run.info.status == "FINISHED"
    assert points(client, run, "metrics/error") == [(1, 0.2), (2, 0.6), (3, 0.4)]


def test_an_epoch_that_was_told_but_not_saved_is_not_there_twice(tmp_path: Path, client: Any) -> None:
    folder, kept = tmp_path / "runs ü" / "exp", b""
    last = folder / "weights" / "last.pt"

    class Keep(Callback):
        def on_fit_epoch_end(self, report: EpochReport) -> None:
            nonlocal kept
            if report.epoch == 1:
                kept = last.read_bytes()
                raise RuntimeError

    with pytest.raises(UserError, match="callback Keep"):
        fit(folder, Keep())
    last.write_bytes(kept)  # as if killed before it was saved
    fit(folder, resumed=True)
    assert points(client, only_run(client), "metrics/error") == [(1, 0.2), (2, 0.6), (3, 0.4)]


def test_a_run_whose_store_is_gone_begins_a_new_one(tmp_path: Path, client: Any, monkeypatch: Any) -> None:
    folder = tmp_path / "runs ü" / "exp"
    with pytest.raises(UserError):
        fit(folder, Faulty(1))
    other = (tmp_path / "elsewhere").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    fit(folder, resumed=True)
    elsewhere = type(client)(tracking_uri=other)
    assert points(elsewhere, only_run(elsewhere), "metrics/error") == [(1, 0.2), (2, 0.6), (3, 0.4)]


def test_a_run_that_goes_on_in_another_working_folder_stays_in_its_store(
    tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        fit(Path("runs ü/exp"), Faulty(1))
    monkeypatch.chdir(tmp_path / "other")
    fit(Path("../runs ü/exp"), resumed=True)
    assert points(client, only_run(client), "metrics/error") == [(1, 0.2), (2, 0.6), (3, 0.4)]
    assert not list((tmp_path / "other").iterdir())


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(UserError, match="--callbacks mlflow needs mlflow, which is not installed: pip install"):
        named_callbacks(["mlflow"])


@pytest.mark.parametrize("torn", ['{"event": "st', '{"event": "step"', '{"event": "step"}', "\0\0\0", "x\n", ""])
def test_a_torn_end_of_the_events_is_cut_off(tmp_path: Path, torn: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "start"}\n{"event": "end"}\n' + torn)
    events = EventsJsonl(path)
    events.on_train_start(begin([]))
    events.teardown()
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["start", "end", "start", "end"]
    assert ("ended in the middle of a line" in caplog.text) == bool(torn)
