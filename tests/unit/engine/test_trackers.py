"""What MLflow, Weights & Biases, ClearML and Comet are told of a run, also of a resumed one.

The last three are played by modules with the part of their interface that is used; where the packages are installed,
their offline files are read, too.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import signal
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from boxwright.engine import trackers
from boxwright.engine.callbacks import Callback, EpochReport, named_callbacks
from boxwright.engine.trackers import MlflowLog
from boxwright.engine.trainer import load_run
from boxwright.errors import UserError
from tests.unit.engine.line_task import LineTask, make_trainer

NAMES = ("wandb", "clearml", "comet")
POINTS = [(1, 0.2), (2, 0.6), (3, 0.4)]


def fit(folder: Path, tracker: str | Callback, *callbacks: Callback, resumed: bool = False) -> None:
    """Three epochs of fitness 0.2, 0.6 and 0.4."""
    task = LineTask(fitness=[0.2, 0.6, 0.4])
    own = named_callbacks([tracker]) if isinstance(tracker, str) else [tracker]
    trainer = make_trainer(folder, task, callbacks=[*own, *callbacks], project=str(folder.parent))
    if resumed:
        trainer.restore(load_run(folder / "weights" / "last.pt"))
        task.num_evaluations = trainer.state.epoch
    trainer.fit()


class Faulty(Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_fit_epoch_end(self, report: EpochReport) -> None:
        if report.epoch == self.epoch:
            raise RuntimeError


class Run:
    """What a service knows of a run."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.name = self.project = ""
        self.online = False
        self.settings: dict[str, Any] = {}
        self.points: list[tuple[int, float]] = []  # of metrics/error
        self.files: list[str] = []
        self.ends: list[bool] = []  # whether each part of it was finished


class Service:
    """Runs by their ids, behind the fake modules."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.key: str | None = None  # of an account

    def open(self, known: str | None) -> Run:
        key = known or f"run{len(self.runs)}"
        return self.runs.setdefault(key, Run(key))

    def only_run(self) -> Run:
        (run,) = self.runs.values()
        return run


def fake_wandb(service: Service) -> dict[str, Any]:
    class WandbRun:
        def __init__(self, run: Run, folder: str) -> None:
            self.run, self.id, self.url, self.dir = run, run.key, "an address", f"{folder}/wandb/files"

        def log(self, row: dict[str, float], *, step: int) -> None:
            self.run.points.append((step, row["metrics/error"]))

        def save(self, file: str, *, base_path: str, policy: str) -> None:
            assert policy == "now"
            self.run.files.append(Path(file).relative_to(base_path).name)

        def finish(self, *, exit_code: int) -> None:
            self.run.ends.append(exit_code == 0)

    def init(
        *, project: str, dir: str, id: str | None, name: str, config: dict[str, Any], mode: str, settings: Any, **_: Any
    ) -> WandbRun:
        run = service.open(id)
        run.project, run.name, run.settings, run.online = project, name, config, mode == "online"
        assert settings.console == "off"
        return WandbRun(run, dir)

    given = SimpleNamespace(api_key=service.key, base_url="https://wandb.invalid", mode="online")
    return {"init": init, "Settings": SimpleNamespace, "setup": lambda: SimpleNamespace(settings=given)}


def fake_clearml(service: Service) -> dict[str, Any]:
    class Task:
        offline = False

        def __init__(self, run: Run) -> None:
            self.run, self.id = run, run.key

        @classmethod
        def is_offline(cls) -> bool:
            return cls.offline

        @classmethod
        def set_offline(cls, offline: bool) -> None:
            cls.offline = offline

        @classmethod
        def init(
            cls,
            *,
            project_name: str,
            task_name: str,
            reuse_last_task_id: str | bool,
            continue_last_task: int | bool,
            auto_connect_frameworks: Any,
            **_: Any,
        ) -> Task:
            assert not any(auto_connect_frameworks.values())
            assert isinstance(continue_last_task, bool) != bool(reuse_last_task_id)  # a number keeps its iterations
            task = cls(service.open(reuse_last_task_id or None))
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it takes the signals of the process
            task.run.project, task.run.name, task.run.online = project_name, task_name, not cls.offline
            if cls.offline:
                task.get_offline_mode_folder().mkdir(parents=True, exist_ok=True)
            return task

        def get_offline_mode_folder(self) -> Path:

            return Path(os.environ["CLEARML_CACHE_DIR"], "offline", self.id)

        def set_parameters(self, settings: dict[str, Any]) -> None:
            self.run.settings = settings

        def get_output_log_web_page(self) -> str:
            return "an address"

        def get_logger(self) -> Task:
            return self

        def report_scalar(self, title: str, series: str, value: float, *, iteration: int) -> None:
            if (title, series) == ("metrics", "error"):
                self.run.points.append((iteration, value))

        def flush(self) -> None:
            pass

        def upload_artifact(self, name: str, file: str, *, wait_on_upload: bool) -> None:
            assert wait_on_upload
            assert Path(file).is_file()
            self.run.files.append(name)

        def mark_failed(self) -> None:
            assert not self.offline  # which asks the server
            self.run.ends.append(False)

        def close(self) -> None:
            self.run.ends.append(True)

    return {"Task": Task}


def fake_comet(service: Service) -> dict[str, Any]:
    class Experiment:
        alive, url = True, "an address"

        def __init__(self, run: Run) -> None:
            self.run = run

        def get_key(self) -> str:
            return self.run.key

        def log_parameters(self, settings: dict[str, Any]) -> None:
            self.run.settings = settings

        def log_metrics(self, row: dict[str, float], *, step: int, epoch: int) -> None:
            assert step == epoch
            self.run.points.append((epoch, row["metrics/error"]))

        def log_asset(self, file: str, *, file_name: str, overwrite: bool) -> None:
            assert Path(file).is_file()
            assert overwrite
            self.run.files.append(file_name)

        def log_other(self, name: str, value: str) -> None:
            self.run.ends.append(value == "finished")

        def end(self) -> None:
            pass

    def start(*, project_name: str, experiment_key: str | None, mode: str, online: bool, experiment_config: Any) -> Any:
        assert mode == ("get" if experiment_key else "create")
        run = service.open(experiment_key)
        run.project, run.name, run.online = project_name, experiment_config.name, online
        return Experiment(run)

    config = {"comet.api_key": service.key, "comet.offline": os.environ.get("COMET_OFFLINE")}
    return {"start": start, "ExperimentConfig": SimpleNamespace, "get_config": config.get}


FAKES = {"wandb": fake_wandb, "clearml": fake_clearml, "comet": fake_comet}
MODULES = {"wandb": "wandb", "clearml": "clearml", "comet": "comet_ml"}


def forget_accounts(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """No account of whoever runs the tests is used."""

    home.mkdir(exist_ok=True)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    for variable in [name for name in os.environ if name.startswith(("WANDB_", "CLEARML_", "COMET_"))]:
        monkeypatch.delenv(variable)


def play(monkeypatch: pytest.MonkeyPatch, tracker: str, service: Service) -> None:
    module = ModuleType(MODULES[tracker])
    for name, value in FAKES[tracker](service).items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    session = SimpleNamespace(get_api_server_host=lambda: "http://clearml.invalid")
    monkeypatch.setitem(sys.modules, f"{module.__name__}.backend_api", SimpleNamespace(Session=session))
    monkeypatch.setattr(trackers, "_check_that_it_answers", lambda address: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs ü" / "exp"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Service:
    forget_accounts(monkeypatch, tmp_path / "home")
    return Service()


@pytest.mark.parametrize("tracker", NAMES)
def test_a_run(
    folder: Path, tracker: str, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "boxwright.train")
    play(monkeypatch, tracker, service)
    fit(folder, tracker)
    run = service.only_run()
    assert (run.project, run.name, run.online, run.ends) == ("runs ü", "exp", False, [True])
    assert run.settings["epochs"] == 3
    assert run.settings["optim.nominal_batch_size"] == 4
    assert run.points == POINTS
    assert run.files == ["results.csv", "best.pt"]
    assert f": offline files in {folder.parent / tracker}" in caplog.text


@pytest.mark.parametrize("tracker", NAMES)
@pytest.mark.parametrize("epoch", [0, 1])
def test_a_resumed_run_goes_on_in_its_own_run(
    folder: Path, tracker: str, epoch: int, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(monkeypatch, tracker, service)
    with pytest.raises(UserError, match="callback Faulty"):
        fit(folder, tracker, Faulty(epoch))
    fit(folder, tracker, resumed=True)
    run = service.only_run()
    assert run.points == POINTS
    assert run.ends == [tracker == "clearml", True]  # ClearML has no state for an offline task that was stopped


@pytest.mark.parametrize("tracker", NAMES)
@pytest.mark.parametrize("online", [False, True])
def test_no_epoch_of_a_killed_run_is_missing(
    folder: Path, tracker: str, online: bool, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline files of ClearML and Comet are complete only when they are closed: a new run gets all epochs."""
    service.key = "a key" if online else None
    if online and tracker == "clearml":
        monkeypatch.setenv("CLEARML_API_ACCESS_KEY", "a key")
    play(monkeypatch, tracker, service)
    with monkeypatch.context() as patch:
        patch.setattr(trackers.Tracker, "teardown", lambda self: None)  # as if killed
        with pytest.raises(UserError, match="callback Faulty"):
            fit(folder, tracker, Faulty(1))
    assert service.only_run().online == online
    fit(folder, tracker, resumed=True)
    *_, run = service.runs.values()
    assert run.points == POINTS
    assert len(service.runs) == (1 if online or tracker == "wandb" else 2)


@pytest.mark.parametrize("tracker", NAMES)
def test_another_project_begins_a_new_run(
    folder: Path, tracker: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(monkeypatch, tracker, service)
    with pytest.raises(UserError, match="callback Faulty"):
        fit(folder, tracker, Faulty(1))
    (folder.parent / "exp" / f"{tracker}_run.txt").write_text("elsewhere\nan id\n2\n")
    fit(folder, tracker, resumed=True)
    assert [run.points for run in service.runs.values()] == [POINTS[:2], POINTS]


@pytest.mark.parametrize("tracker", NAMES)
def test_a_failed_run_says_so_to_its_server(
    folder: Path, tracker: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.key = "a key"
    monkeypatch.setenv("CLEARML_API_ACCESS_KEY", "a key")
    play(monkeypatch, tracker, service)
    with pytest.raises(UserError, match="callback Faulty"):
        fit(folder, tracker, Faulty(0))
    assert service.only_run().online
    assert service.only_run().ends[0] is False


def test_a_login_of_wandb_is_found(
    folder: Path, tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home" / "netrc").write_text("machine wandb.invalid login user password secret\n")
    play(monkeypatch, "wandb", service)
    fit(folder, "wandb")
    assert service.only_run().online


def test_the_mode_of_wandb_is_the_users(folder: Path, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.key = "a key"
    play(monkeypatch, "wandb", service)
    monkeypatch.setenv("WANDB_MODE", "offline")
    fit(folder, "wandb")
    assert not service.only_run().online


def test_wandb_online_without_a_key_does_not_ask(
    folder: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(monkeypatch, "wandb", service)
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(UserError, match=r"there is no API key: run `wandb login`, or set WANDB_API_KEY"):
        fit(folder, "wandb")
    assert not service.runs


def test_a_server_that_is_not_there_is_told_at_once() -> None:
    with pytest.raises(UserError, match=r"the server http://127.0.0.1:9 does not answer: .*refused"):
        trackers._check_that_it_answers("http://127.0.0.1:9")


@pytest.mark.parametrize("tracker", ["mlflow", *NAMES])
def test_without_the_package(tracker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MODULES.get(tracker, "mlflow.tracking"), None)
    package = {"mlflow": "mlflow-skinny", "comet": "comet.ml"}.get(tracker, tracker)  # comet-ml in our metadata
    with pytest.raises(UserError, match=f"^--callbacks {tracker} needs .* not installed: pip install {package}$"):
        named_callbacks([tracker])


@pytest.mark.parametrize("kind", [trackers.WandbLog, trackers.ClearmlLog, trackers.CometLog])
def test_weights_are_left_out_on_request(
    kind: type[trackers.Tracker], folder: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(monkeypatch, kind.name, service)
    fit(folder, kind(weights=False))
    assert service.only_run().files == ["results.csv"]


def test_clearml_takes_neither_signals_nor_the_folder_of_the_next_run(
    folder: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(monkeypatch, "clearml", service)
    handlers: list[object] = []

    class Watch(Callback):
        def on_fit_epoch_end(self, report: EpochReport) -> None:
            handlers.append(signal.getsignal(signal.SIGTERM))

    fit(folder, "clearml", Watch())
    assert handlers
    assert signal.SIG_IGN not in handlers
    assert "CLEARML_CACHE_DIR" not in os.environ


def test_comet_is_offline_where_the_user_asks_for_it(
    folder: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.key = "a key"
    monkeypatch.setenv("COMET_OFFLINE", "1")
    play(monkeypatch, "comet", service)
    fit(folder, "comet")
    assert not service.only_run().online


@pytest.mark.parametrize("tracker", NAMES)
def test_a_tracker_can_be_sent_to_processes(tracker: str, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, tracker, service)
    (callback,) = named_callbacks([tracker])
    assert pickle.loads(pickle.dumps(callback)).weights


def offline_points(tracker: str, project: Path) -> list[tuple[int, float]]:
    """Read metrics/error from the files that a real package has left."""
    if tracker == "wandb":
        files = sorted(project.glob("wandb/offline-run-*/*.wandb"))
        assert len({file.name for file in files}) == 1  # parts of one run
        # Protocol buffers: a row, and the same values as the summary. Neither epoch nor step is text.
        found = [re.findall(rb"metrics/error\x82\x01\x03(\d\.\d)", file.read_bytes()) for file in files]
        values = [value for part in found for value in dict.fromkeys(part)]
        return [(epoch, float(value)) for epoch, value in enumerate(values, 1)]
    archives = [zipfile.ZipFile(file) for file in sorted(project.glob("**/*.zip"), key=lambda f: f.stat().st_mtime)]
    if tracker == "clearml":
        (archive,) = archives
        parts = [json.loads(line) for line in archive.read("metrics.jsonl").splitlines()]
        return [
            (p["iter"], p["value"])
            for part in parts
            for p in part
            if (p["metric"], p["variant"]) == ("metrics", "error")
        ]
    lines = [json.loads(line) for archive in archives for line in archive.read("messages.json").splitlines()]
    metrics = [line["payload"]["metric"] for line in lines if line["type"] == "metric_msg"]
    return [(m["epoch"], m["metricValue"]) for m in metrics if m["metricName"] == "metrics/error"]


@pytest.mark.parametrize("tracker", NAMES)
def test_offline_files_of_the_package(
    folder: Path, tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a venv with `pip install wandb clearml comet_ml`."""
    forget_accounts(monkeypatch, tmp_path / "home")
    pytest.importorskip(MODULES[tracker], reason=f"{MODULES[tracker]} is not installed: its extra is not part of dev")
    if tracker == "clearml":  # which waits ten seconds for a thread that it does not start offline
        from clearml.backend_interface.metrics.reporter import BackgroundReportService

        monkeypatch.setattr(BackgroundReportService, "_BackgroundReportService__daemon_live_check_timeout", 0.1)
    with pytest.raises(UserError, match="callback Faulty"):
        fit(folder, tracker, Faulty(1))
    if tracker == "wandb":
        time.sleep(1.1)  # its folders are named by the second
    fit(folder, tracker, resumed=True)
    assert offline_points(tracker, folder.parent) == POINTS


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=(tmp_path / "runs ü" / "mlruns").as_uri())


def only_run(client: Any) -> Any:
    experiment = client.get_experiment_by_name("runs ü")
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def points(client: Any, run: Any, name: str) -> list[tuple[int, float]]:
    return [(entry.step, entry.value) for entry in client.get_metric_history(run.info.run_id, name)]


def test_a_run_in_mlflow(tmp_path: Path, client: Any) -> None:
    fit(tmp_path / "runs ü" / "exp", MlflowLog())
    run = only_run(client)
    assert (run.info.run_name, run.info.status) == ("exp", "FINISHED")
    assert run.data.params["optim.nominal_batch_size"] == "4"
    assert run.data.params["epochs"] == "3"
    assert points(client, run, "metrics/error") == [(1, 0.2), (2, 0.6), (3, 0.4)]
    assert sorted(file.path for file in client.list_artifacts(run.info.run_id)) == ["best.pt", "results.csv"]


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_resumed_run_goes_on_in_the_same_one(tmp_path: Path, client: Any, epoch: int) -> None:
    folder = tmp_path / "runs ü" / "exp"
    with pytest.raises(UserError, match="callback Faulty"):
        fit(folder, MlflowLog(), Faulty(epoch))
    assert only_run(client).info.status == "FAILED"
    fit(folder, MlflowLog(), resumed=True)
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
        fit(folder, MlflowLog(), Keep())
    last.write_bytes(kept)  # as if killed before it was saved
    fit(folder, MlflowLog(), resumed=True)
    assert points(client, only_run(client), "metrics/error") == [(1, 0.2), (2, 0.6), (3, 0.4)]


def test_a_run_whose_store_is_gone_begins_a_new_one(tmp_path: Path, client: Any, monkeypatch: Any) -> None:
    folder = tmp_path / "runs ü" / "exp"
    with pytest.raises(UserError):
        fit(folder, MlflowLog(), Faulty(1))
    other = (tmp_path / "elsewhere").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    fit(folder, MlflowLog(), resumed=True)
    elsewhere = type(client)(tracking_uri=other)
    assert points(elsewhere, only_run(elsewhere), "metrics/error") == [(1, 0.2), (2, 0.6), (3, 0.4)]


def test_a_run_that_goes_on_in_another_working_folder_stays_in_its_store(
    tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        fit(Path("runs ü/exp"), MlflowLog(), Faulty(1))
    monkeypatch.chdir(tmp_path / "other")
    fit(Path("../runs ü/exp"), MlflowLog(), resumed=True)
    assert points(client, only_run(client), "metrics/error") == [(1, 0.2), (2, 0.6), (3, 0.4)]
    assert not list((tmp_path / "other").iterdir())
