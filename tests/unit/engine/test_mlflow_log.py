"""A run in MLflow's store of local files: what is in it, also of a run that was stopped and went on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from boxwright.engine.callbacks import Callback, EpochReport, named_callbacks
from boxwright.engine.checkpointing import load_run, restore
from boxwright.engine.mlflow_log import MlflowLog
from boxwright.errors import UserError
from tests.unit.engine.line_task import LineTask, make_trainer


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
        restore(trainer, load_run(folder / "weights" / "last.pt"))
        task.num_evaluations = trainer.state.epoch
    trainer.fit()


def only_run(client: Any) -> Any:
    experiment = client.get_experiment_by_name("runs ü")
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def points(client: Any, run: Any, name: str) -> list[tuple[int, float]]:
    return [(entry.step, entry.value) for entry in client.get_metric_history(run.info.run_id, name)]


def test_a_run(tmp_path: Path, client: Any) -> None:
    fit(tmp_path / "runs ü" / "exp")
    run = only_run(client)
    assert (run.info.run_name, run.info.status) == ("exp", "FINISHED")
    assert run.data.params["optim.nominal_batch_size"] == "4"
    assert run.data.params["epochs"] == "3"
    assert points(client, run, "metrics/error") == [(0, 0.2), (1, 0.6), (2, 0.4)]
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
    assert points(client, run, "metrics/error") == [(0, 0.2), (1, 0.6), (2, 0.4)]


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
    assert points(client, only_run(client), "metrics/error") == [(0, 0.2), (1, 0.6), (2, 0.4)]


def test_a_run_whose_store_is_gone_begins_a_new_one(tmp_path: Path, client: Any, monkeypatch: Any) -> None:
    folder = tmp_path / "runs ü" / "exp"
    with pytest.raises(UserError):
        fit(folder, Faulty(1))
    other = (tmp_path / "elsewhere").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    fit(folder, resumed=True)
    elsewhere = type(client)(tracking_uri=other)
    assert points(elsewhere, only_run(elsewhere), "metrics/error") == [(0, 0.2), (1, 0.6), (2, 0.4)]


def test_a_run_that_goes_on_in_another_working_folder_stays_in_its_store(
    tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        fit(Path("runs ü/exp"), Faulty(1))
    monkeypatch.chdir(tmp_path / "other")
    fit(Path("../runs ü/exp"), resumed=True)
    assert points(client, only_run(client), "metrics/error") == [(0, 0.2), (1, 0.6), (2, 0.4)]
    assert not list((tmp_path / "other").iterdir())


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(UserError, match=r"pip install 'boxwright\[mlflow\]'"):
        named_callbacks(["mlflow"])
