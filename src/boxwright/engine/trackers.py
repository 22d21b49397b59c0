"""Experiment trackers as callbacks: MLflow, Weights & Biases, ClearML and Comet.

`boxwright train --callbacks NAME` asks for one, and only then is its package imported. What a service gets: settings,
each row of results.csv, and at the end config.yaml, results.csv and best.pt; no code, no console output, nothing of the
machine. Where the service's own configuration (variables, files, a login) names no server or key, the run is written to
files below the project folder and nothing goes over a network.
"""

import contextlib
import importlib
import logging
import netrc
import os
import re
import signal
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from ssl import SSLError
from typing import Any, ClassVar
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from boxwright.data.files import write_atomically
from boxwright.engine.callbacks import Callback, EndReport, EpochReport, StartReport
from boxwright.errors import UserError
from boxwright.extras import needed
from boxwright.machine import signals
from boxwright.settings.load import dump

_log = logging.getLogger("boxwright.train")


class Tracker(Callback):
    """What the trackers share: settings and each epoch are logged once, and a resumed run goes on in its own run.

    The file NAME_run.txt of the run folder keeps where the service's run is, its id, and how many epochs it has.
    Without that file a resumed run begins a new one.

    `weights`: store best.pt, too, when the run is done.
    """

    name: ClassVar[str]  # that it is asked for by
    module: ClassVar[str]
    variables: ClassVar[Mapping[str, str]] = {}  # of the environment, read when it is imported; the user's go first
    outlives_a_kill = True  # what was logged is there although `end` was never called; else it is logged again

    def __init__(self, *, weights: bool = True) -> None:
        self.weights = weights
        for variable, value in self.variables.items():
            os.environ.setdefault(variable, value)
        with needed(f"--callbacks {self.name}", self.name):
            assert self.library
        self.folder = Path()  # of the run
        self._place = self._run = ""
        self._epochs_logged = 0
        self._finished = False

    @property
    def library(self) -> Any:
        """Return the service's package. It is no attribute: a tracker is sent to the processes of a run."""
        return importlib.import_module(self.module)

    @abstractmethod
    def place(self, project: Path) -> str:
        """Return where runs of a project folder go, with the name that the service has for it."""

    @abstractmethod
    def begin(self, name: str, settings: Mapping[str, Any], known: str) -> str:
        """Begin a run, or go on with one.

        Args:
            name: of the run.
            settings: by dotted paths.
            known: id of the run to go on with; empty: there is none.

        Returns:
            the id of the run; another than `known`: that one is not there any more.
        """

    @abstractmethod
    def log_epoch(self, row: Mapping[str, float], epoch: int) -> None:
        """Log a row of results.csv; `epoch` counts from 1."""

    @abstractmethod
    def store(self, file: Path) -> None:
        """Store a file of the run folder."""

    @abstractmethod
    def end(self, finished: bool) -> None:
        """End the service's run."""

    def on_train_start(self, report: StartReport) -> None:
        self.folder = report.folder.resolve()
        self._place = self.place(self.folder.parent)
        kept = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        place, known, epochs, *_ = [*kept, "", "", ""]
        known = known if report.resumed and place == self._place else ""
        self._run = self.begin(self.folder.name, _flat(dump(report.config)), known)
        self._epochs_logged = int(epochs) if self._run == known and epochs.isdecimal() else 0
        self._log_epochs(report.history)

    def on_fit_epoch_end(self, report: EpochReport) -> None:
        self._log_epochs(report.history)

    def on_train_end(self, report: EndReport) -> None:
        files = ["config.yaml", "results.csv", *(["weights/best.pt"] if self.weights else [])]
        for file in (self.folder / name for name in files):
            if file.exists():
                self.store(file)
        self._finished = True

    def teardown(self) -> None:
        if self._run:
            self.end(self._finished)
            self._keep()

    def _log_epochs(self, history: Sequence[Mapping[str, float]]) -> None:
        """Log the rows that were not logged before.

        An epoch after which the process was killed before it was saved is trained again, to the same numbers.
        """
        for epoch in range(self._epochs_logged, len(history)):
            self.log_epoch({name: value for name, value in history[epoch].items() if name != "epoch"}, epoch + 1)
        self._epochs_logged = max(self._epochs_logged, len(history))
        if self.outlives_a_kill:
            self._keep()

    @property
    def _file(self) -> Path:
        return self.folder / f"{self.name}_run.txt"

    def _keep(self) -> None:
        write_atomically(self._file, f"{self._place}\n{self._run}\n{self._epochs_logged}\n")


class MlflowLog(Tracker):
    """Logs to MLflow: settings as params, columns of results.csv as metrics, files as artifacts.

    MLFLOW_TRACKING_URI names the server; without it, plain files go to `mlruns` of the project folder. The params of a
    resumed run stay those of its start.
    """

    name, module = "mlflow", "mlflow.tracking"
    variables: ClassVar = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # A server that is not there costs seconds, not minutes.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    }

    def place(self, project: Path) -> str:
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (project / "mlruns").as_uri()
        if "://" not in uri or uri.startswith("file:"):
            # MLflow 3 asks for this variable before it writes plain files; its other local form is an SQL database.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._client: Any = self.library.MlflowClient(tracking_uri=uri)
        return uri

    def begin(self, name: str, settings: Mapping[str, Any], known: str) -> str:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        if known:
            try:
                self._client.update_run(known, status="RUNNING")
            except MlflowException:
                pass  # it was deleted
            else:
                return known
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME") or self.folder.parent.name
        experiment = self._client.get_experiment_by_name(title)
        number = experiment.experiment_id if experiment is not None else self._client.create_experiment(title)
        run = self._client.create_run(number, run_name=name).info.run_id
        params = [Param(setting, str(value)) for setting, value in settings.items()]
        for start in range(0, len(params), 100):  # the most that MLflow takes at once
            self._client.log_batch(run, params=params[start : start + 100])
        return run

    def log_epoch(self, row: Mapping[str, float], epoch: int) -> None:
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        self._client.log_batch(self._run, [Metric(name, value, now, epoch) for name, value in row.items()])

    def store(self, file: Path) -> None:
        self._client.log_artifact(self._run, str(file))

    def end(self, finished: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if finished else "FAILED")


class WandbLog(Tracker):
    """Logs to Weights & Biases. Offline unless WANDB_MODE, an API key or a login says otherwise.

    WANDB_PROJECT, WANDB_ENTITY and WANDB_DIR name the project, the team and the folder of offline files.
    """

    name, module = "wandb", "wandb"
    variables: ClassVar = {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true", "WANDB_INIT_TIMEOUT": "30"}

    def place(self, project: Path) -> str:
        service = self.library.setup().settings
        has_key = bool(service.api_key) or _in_netrc(service.base_url)
        mode = os.environ.get("WANDB_MODE") or service.mode
        if os.environ.get("WANDB_MODE") == "online" and not has_key:  # which would ask on standard input
            raise UserError("WANDB_MODE is online, but there is no API key: run `wandb login`, or set WANDB_API_KEY")
        self._mode = mode if has_key or mode != "online" else "offline"
        self._project = re.sub(r"[/\\#?%:]", "_", os.environ.get("WANDB_PROJECT") or project.name)  # it takes no others
        return f"{self._mode} {self._project}"

    def begin(self, name: str, settings: Mapping[str, Any], known: str) -> str:
        quiet = self.library.Settings(console="off", x_disable_stats=True, x_disable_meta=True, disable_git=True)
        self._service_run: Any = self.library.init(
            project=self._project,
            dir=os.environ.get("WANDB_DIR") or str(self.folder.parent),
            id=known or None,
            name=name,
            config=dict(settings),
            mode=self._mode,
            resume="allow",
            reinit="create_new",  # leaves a run of the user alone
            save_code=False,
            settings=quiet,
        )
        if self._mode == "online":
            _log.info("Weights & Biases: %s", self._service_run.url)
        elif self._mode == "offline":
            place = Path(self._service_run.dir).parent
            _log.info("Weights & Biases: offline files in %s; `wandb sync` uploads them", place)
        return self._service_run.id

    def log_epoch(self, row: Mapping[str, float], epoch: int) -> None:
        self._service_run.log(dict(row), step=epoch)

    def store(self, file: Path) -> None:
        self._service_run.save(str(file), base_path=str(self.folder), policy="now")

    def end(self, finished: bool) -> None:
        self._service_run.finish(exit_code=0 if finished else 1)


class ClearmlLog(Tracker):
    """Logs to ClearML. Offline unless clearml.conf or CLEARML_API_ACCESS_KEY names an account.

    CLEARML_PROJECT names the project, CLEARML_OFFLINE_MODE=1 asks for offline files, CLEARML_CACHE_DIR says where.
    """

    name, module = "clearml", "clearml"

    def place(self, project: Path) -> str:
        given = os.environ.get("CLEARML_CONFIG_FILE")
        files = [Path(given)] if given else [Path.home() / "clearml.conf", Path.home() / "trains.conf"]
        has_key = bool(os.environ.get("CLEARML_API_ACCESS_KEY")) or any(file.expanduser().exists() for file in files)
        self._project = os.environ.get("CLEARML_PROJECT") or project.name
        self._chose_folder = False
        self.outlives_a_kill = has_key and not self.library.Task.is_offline()
        if self.outlives_a_kill:
            session = importlib.import_module("clearml.backend_api").Session
            _check_that_it_answers(session.get_api_server_host())  # ClearML would try again for half an hour
            return f"online {self._project}"
        self._chose_folder = "CLEARML_CACHE_DIR" not in os.environ
        os.environ.setdefault("CLEARML_CACHE_DIR", str(project / "clearml"))
        self.library.Task.set_offline(True)
        return f"offline {os.environ['CLEARML_CACHE_DIR']} {self._project}"

    def begin(self, name: str, settings: Mapping[str, Any], known: str) -> str:
        is_offline = self.library.Task.is_offline()
        if known and is_offline and not Path(os.environ["CLEARML_CACHE_DIR"], "offline", known).is_dir():
            known = ""
        handlers = {number: signal.getsignal(number) for number in signals("SIGTERM", "SIGINT", "SIGQUIT")}
        self._task: Any = self.library.Task.init(
            project_name=self._project,
            task_name=name,
            reuse_last_task_id=known or False,
            continue_last_task=0 if known else False,  # a number: epochs count from 1 all the same
            auto_connect_arg_parser=False,
            auto_connect_frameworks=dict.fromkeys(_PATCHED_BY_CLEARML, False),
            auto_resource_monitoring=False,
            auto_connect_streams=False,
        )
        for number, handler in handlers.items():  # ClearML takes them; the run is to be saved first
            with contextlib.suppress(ValueError, TypeError):  # no main thread; a handler that is not of Python
                signal.signal(number, handler)
        if not known:
            self._task.set_parameters(dict(settings))
        if is_offline:
            place = self._task.get_offline_mode_folder()
            _log.info("ClearML: offline files in %s; Task.import_offline_session uploads the zip", place)
        else:
            _log.info("ClearML: %s", self._task.get_output_log_web_page())
        return self._task.id

    def log_epoch(self, row: Mapping[str, float], epoch: int) -> None:
        logger = self._task.get_logger()
        for name, value in row.items():
            title, _, series = name.partition("/")
            logger.report_scalar(title, series or title, value, iteration=epoch)
        logger.flush()

    def store(self, file: Path) -> None:
        self._task.upload_artifact(file.name, str(file), wait_on_upload=True)

    def end(self, finished: bool) -> None:
        if not finished and not self.library.Task.is_offline():
            self._task.mark_failed()
        self._task.close()
        if self._chose_folder:  # the next run may be of another project
            del os.environ["CLEARML_CACHE_DIR"]


# What ClearML records by itself; its names for them. All of it is switched off.
_PATCHED_BY_CLEARML = (
    *("catboost", "detect_repository", "fastai", "gradio", "hydra", "joblib", "jsonargparse", "lightgbm", "matplotlib"),
    *("megengine", "pytorch", "scikit", "tensorboard", "tensorflow", "tfdefines", "xgboost"),
)


class CometLog(Tracker):
    """Logs to Comet. Offline unless COMET_API_KEY or .comet.config has an API key.

    COMET_PROJECT_NAME and COMET_WORKSPACE name the project, COMET_OFFLINE=1 asks for offline files,
    COMET_OFFLINE_DIRECTORY says where.
    """

    name, module = "comet", "comet_ml"
    variables: ClassVar = {"COMET_DISABLE_AUTO_LOGGING": "1", "COMET_ERROR_TRACKING_ENABLE": "false"}

    def place(self, project: Path) -> str:
        configured = self.library.get_config
        self.outlives_a_kill = bool(configured("comet.api_key")) and not configured("comet.offline")
        self._project = configured("comet.project_name") or project.name
        self._offline_folder = os.environ.get("COMET_OFFLINE_DIRECTORY") or str(project / "comet")
        return f"{'online' if self.outlives_a_kill else f'offline {self._offline_folder}'} {self._project}"

    def begin(self, name: str, settings: Mapping[str, Any], known: str) -> str:
        watched = ("code", "graph", "env_details", "git_metadata", "git_patch")
        nothing: dict[str, Any] = {f"log_{what}": False for what in watched} | {"parse_args": False}
        nothing |= {f"auto_{what}_logging": False for what in ("param", "metric", "output")}
        self._experiment: Any = self.library.start(
            project_name=self._project,
            experiment_key=known or None,
            mode="get" if known else "create",
            online=self.outlives_a_kill,
            experiment_config=self.library.ExperimentConfig(
                name=name, offline_directory=self._offline_folder, display_summary_level=0, **nothing
            ),
        )
        if not self._experiment.alive:
            raise UserError("Comet did not begin the experiment; its own lines above say why")
        if not known:
            self._experiment.log_parameters(dict(settings))
        if self.outlives_a_kill:
            _log.info("Comet: %s", self._experiment.url)
        else:
            _log.info("Comet: offline files in %s; `comet upload` uploads them", self._offline_folder)
        return self._experiment.get_key()

    def log_epoch(self, row: Mapping[str, float], epoch: int) -> None:
        self._experiment.log_metrics(dict(row), step=epoch, epoch=epoch)

    def store(self, file: Path) -> None:
        self._experiment.log_asset(str(file), file_name=file.name, overwrite=True)

    def end(self, finished: bool) -> None:
        self._experiment.log_other("status", "finished" if finished else "stopped")
        self._experiment.end()


def _check_that_it_answers(address: str) -> None:
    """Refuse a server that cannot be reached; what it answers does not matter."""
    try:
        urlopen(address, timeout=20).close()
    except OSError as error:
        if not isinstance(error, HTTPError) and not isinstance(getattr(error, "reason", None), SSLError):
            raise UserError(f"the server {address} does not answer: {getattr(error, 'reason', error)}") from error


def _in_netrc(url: str) -> bool:
    """Return whether the user's netrc has a login for the host of an address: `wandb login` writes it there."""
    try:
        return urlsplit(url).hostname in netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False


def _flat(settings: Mapping[str, Any], group: str = "") -> dict[str, Any]:
    """Name settings by dotted paths."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{group}{name}.") if isinstance(value, Mapping) else {f"{group}{name}": value}
    return found
