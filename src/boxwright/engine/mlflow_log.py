"""Logging to MLflow: settings as params, columns of results.csv as metrics, results and best weights as artifacts.

MLFLOW_TRACKING_URI names the server; without it, plain files go to `mlruns` of the project folder, and nothing goes
over a network. `boxwright train --callbacks mlflow` names it. Needs the extra `mlflow`.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boxwright.engine.callbacks import Callback, EndReport, EpochReport, StartReport
from boxwright.errors import UserError
from boxwright.settings.base import TrainingConfig
from boxwright.settings.load import dump

_KEY = "mlflow_run.txt"  # in the run folder: tracking URI and id of its MLflow run


class MlflowLog(Callback):
    """Logs a run to MLflow. A resumed run continues its MLflow run, whose params stay those of its start.

    `weights`: store best.pt, too, when the run is done.
    """

    def __init__(self, *, weights: bool = True) -> None:
        self.weights = weights
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
        # A server that is not there costs seconds, not minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise UserError("--callbacks mlflow needs MLflow: pip install 'boxwright[mlflow]'") from error
        self._make_client = MlflowClient
        self._client: Any = None
        self._run = ""
        self._epochs_logged = 0
        self._status = "FAILED"

    def on_train_start(self, report: StartReport) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (report.folder.resolve().parent / "mlruns").as_uri()
        if "://" not in uri or uri.startswith("file:"):
            # MLflow 3 asks for this variable before it writes plain files; its other local form is an SQL database.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._client = self._make_client(tracking_uri=uri)
        key = report.folder / _KEY
        known_uri, _, run = key.read_text(encoding="utf-8").strip().partition("\n") if key.exists() else ("", "", "")
        if report.steps_done and known_uri == uri and self._goes_on(run):
            self._run = run
            self._client.update_run(run, status="RUNNING")
        else:
            self._run = self._created(report.folder, report.config)
            key.write_text(f"{uri}\n{self._run}\n", encoding="utf-8")
        self._log_epochs(report.history)

    def on_fit_epoch_end(self, report: EpochReport) -> None:
        self._log_epochs(report.history)

    def on_train_end(self, report: EndReport) -> None:
        files = ["config.yaml", "results.csv", *(["weights/best.pt"] if self.weights else [])]
        for file in (report.folder / name for name in files):
            if file.exists():
                self._client.log_artifact(self._run, str(file))
        self._status = "FINISHED"

    def teardown(self) -> None:
        if self._run:
            self._client.set_terminated(self._run, self._status)

    def _goes_on(self, run: str) -> bool:
        """Whether the MLflow run that this run began with is still there; count the epochs that it has."""
        from mlflow.exceptions import MlflowException

        try:
            metrics = self._client.get_run(run).data.metrics
        except MlflowException:
            return False
        # An epoch after which the process was killed before it was saved is trained again, to the same numbers.
        losses = [name for name in metrics if name.startswith("train/")]
        steps = [entry.step for entry in self._client.get_metric_history(run, losses[0])] if losses else []
        self._epochs_logged = max(steps, default=-1) + 1
        return True

    def _created(self, folder: Path, config: TrainingConfig) -> str:
        """Create an MLflow run with the settings as params; return its id."""
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or folder.resolve().parent.name
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment is not None else self._client.create_experiment(name)
        run = self._client.create_run(number, run_name=folder.name).info.run_id
        params = [Param(key, str(value)) for key, value in _flat(dump(config)).items()]
        for start in range(0, len(params), 100):  # the most that MLflow takes at once
            self._client.log_batch(run, params=params[start : start + 100])
        return run

    def _log_epochs(self, history: Sequence[Mapping[str, float]]) -> None:
        """Log the rows that were not logged before."""
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        for epoch in range(self._epochs_logged, len(history)):
            row = {name: value for name, value in history[epoch].items() if name != "epoch"}
            self._client.log_batch(self._run, [Metric(name, value, now, epoch) for name, value in row.items()])
        self._epochs_logged = max(self._epochs_logged, len(history))


def _flat(settings: Mapping[str, Any], group: str = "") -> dict[str, Any]:
    """Name settings by dotted paths."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{group}{name}.") if isinstance(value, Mapping) else {f"{group}{name}": value}
    return found
