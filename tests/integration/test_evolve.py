"""`boxwright evolve` as a whole: workers that are killed, a search that is repeated, and what is said of mistakes."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml
from optuna.trial import TrialState

from boxwright.cli.main import main
from boxwright.engine.callbacks import Callback, EpochReport
from boxwright.errors import DivergedError, UserError
from boxwright.search import study as evolve_study
from boxwright.search.samplers import generation_of
from boxwright.settings.load import load
from boxwright.yolo.settings import EvolveConfig, RunConfig
from boxwright.yolo.verbs import evolve as evolve_verb
from boxwright.yolo.verbs import train
from boxwright.yolo.verbs.evolve import evolve
from tests.integration.small_runs import write_world

TRIALS, EPOCHS, STEPS = 8, 2, 3  # 12 images in batches of 4
QUIET = {"imgsz": 64, "batch_size": 4, "workers": 0, "device": "cpu", "precision": "fp32", "noautoanchor": True}
SHORT = QUIET | {"epochs": EPOCHS, "generations": 3}

# A worker that a signal hits at a step of its n-th trial. Workers of one start begin when all have loaded torch.
DRIVER = """
import os, signal, sys, time
from pathlib import Path
import boxwright.search.study as study, boxwright.search.worker as worker
from boxwright.cli.main import main
from boxwright.engine.stopping import FiniteWatch
from boxwright.engine.trainer import Trainer

study.HEARTBEAT_SECONDS, study.GRACE_SECONDS, worker._POLL_SECONDS = 1, 4, 0.2
name, number, step_of_signal = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
train_epoch, note_loss, trials, running = Trainer.train_epoch, FiniteWatch.note_loss, {}, []

def count_trials(self, interrupt):
    running[:] = [trials.setdefault(self.folder.name, len(trials) + 1)]
    train_epoch(self, interrupt)

def note_and_signal(self, items, step):
    note_loss(self, items, step)
    if running == [number] and step == step_of_signal:
        os.kill(os.getpid(), getattr(signal, name))

Trainer.train_epoch, FiniteWatch.note_loss = count_trials, note_and_signal
here, number_of_workers = Path(os.environ["START"]), int(os.environ["WORKERS"])
here.mkdir(exist_ok=True)
(here / str(os.getpid())).touch()
while len(list(here.iterdir())) < number_of_workers:
    time.sleep(0.05)
sys.exit(main(["evolve", *sys.argv[4:]]))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Data, and weights that find something, so that fitness is not 0."""
    root = tmp_path_factory.mktemp("evolve ünd mehr")
    data, network = write_world(root, 12)
    learn = {"optimizer": "Adam", "warmup_epochs": 0, "nominal_batch_size": 4, "ema_tau": 10}
    still = {"mosaic": 0, "scale": 0, "translate": 0, "fliplr": 0}
    known = {"data": str(data), "model": str(network), "project": str(root), "name": "start", "noval": True}
    settings = QUIET | known | {"epochs": 50, "noplots": True, "optim": learn, "augment": still}
    folder = train.train(load(RunConfig, settings))
    space = root / "space.yaml"  # few, so that the plots take little time
    space.write_text("optim.lr0: [1.0e-5, 0.1]\noptim.momentum: [0.3, 0.6, 0.98]\nbox: [0.02, 0.2]\nhsv_s: [0, 0.9]\n")
    many_digits = {"optim.lr0": 0.0123456789, "optim.momentum": 0.9123456789, "augment.hsv_s": 0.6123456789}
    known = {"data": str(data), "weights": str(folder / "weights" / "best.pt"), "space": str(space)}
    return {"root": root, "known": known | many_digits}


def flags(world: dict[str, Any], **more: Any) -> list[str]:
    settings = SHORT | world["known"] | more
    words: list[str] = []
    for name, value in settings.items():
        flag = f"--{name}" if "." in name else f"--{name.replace('_', '-')}"
        words += [flag] if value is True else [flag, str(value)]
    return words


def start(here: Path, signal_name: str, trial: int, step: int, *argv: str, workers: int = 1) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "START": str(here), "WORKERS": str(workers)}
    command = [sys.executable, "-c", DRIVER, signal_name, str(trial), str(step), *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def begin(world: dict[str, Any], **more: Any) -> Path:
    settings = SHORT | world["known"] | {"project": str(world["root"])} | more
    return evolve(load(EvolveConfig, settings))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "evolve.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def fitness_of(run: Path) -> float:
    return torch.load(run / "weights" / "last.pt", weights_only=True)["engine"]["best_fitness"]


def test_two_workers_one_killed_and_started_again(tmp_path: Path, world: dict[str, Any]) -> None:
    folder = world["root"] / "shared search"
    argv = [*flags(world, generations=TRIALS), "--study", str(folder)]
    # One dies in the second epoch of its second trial, when there is something to go on with.
    dying = start(tmp_path / "both", "SIGKILL", 2, STEPS + 1, *argv, workers=2)
    living = start(tmp_path / "both", "SIGKILL", 99, 0, *argv, workers=2)
    dead = dying.communicate(timeout=600)
    again = start(tmp_path / "again", "SIGKILL", 99, 0, "--study", str(folder))
    texts = [dead, *(worker.communicate(timeout=600) for worker in (living, again))]
    codes = [worker.returncode for worker in (dying, living, again)]
    assert codes == [-signal.SIGKILL, 0, 0], texts

    study = optuna.load_study(study_name="evolve", storage=f"sqlite:///{folder / 'study.db'}")
    finished = study.get_trials(states=(TrialState.COMPLETE,))
    assert len(finished) == TRIALS
    assert not study.get_trials(states=(TrialState.RUNNING, TrialState.PRUNED, TrialState.WAITING))
    generation = {t.number: generation_of(t, study.get_trials()) for t in finished}
    fitness = {generation[trial.number]: trial.value for trial in finished}
    assert {int(row["trial"]): float(row["fitness"]) for row in rows(folder)} == fitness
    lines = [line for file in folder.glob("trials/*/events.jsonl") for line in file.read_text().splitlines()]
    resumed = [event for event in map(json.loads, lines) if event["event"] == "resume"]
    assert [event["epochs_done"] for event in resumed] == [1]  # the killed one went on after its first epoch

    best = study.best_trial
    assert study.best_value > 0
    assert len({trial.value for trial in finished}) > 1
    kept = sorted(path.parent.parent.name for path in folder.glob("trials/*/weights/last.pt"))
    assert kept == [f"{generation[best.number]:04d}"]

    text = (folder / "hyp_evolve.yaml").read_text()
    assert yaml.safe_load(text)["lr0"] == best.params["optim.lr0"]
    command = next(line for line in text.splitlines() if "boxwright train" in line).removeprefix("#")
    more = ["--project", str(world["root"]), "--name", "repeated", "--device", "cpu", "--workers", "0", "--noplots"]
    assert main([*shlex.split(command)[1:], *more]) == 0
    repeated = world["root"] / "repeated"
    assert fitness_of(repeated) == study.best_value == fitness_of(folder / "trials" / kept[0])


def test_a_search_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path, world: dict[str, Any]) -> None:
    whole = begin(world, name="whole", seed=5)
    folder = world["root"] / "stopped"
    argv = [*flags(world, seed=5), "--study", "stopped", "--project", str(world["root"])]
    stopped = start(tmp_path / "start", "SIGTERM", 2, STEPS + 1, *argv)
    out, err = stopped.communicate(timeout=600)
    assert stopped.returncode == 143, err
    assert f"boxwright evolve --study {shlex.quote(str(folder))}" in out.splitlines()[-1]
    assert len(rows(folder)) == 1
    assert begin(world, study=str(folder), seed=5) == folder
    assert (folder / "evolve.csv").read_text() == (whole / "evolve.csv").read_text()
    assert {path.name for path in folder.iterdir()} >= {"evolve.png", "hyp_evolve.yaml", "study.db", "trials"}
    events = (folder / "trials" / "0001" / "events.jsonl").read_text()
    assert '"resume"' not in events or '"epochs_done": 1' in events

    with pytest.raises(UserError, match=r"begun with other settings: epochs 2, not 3; augment.scale 0.5, not 0.1"):
        begin(world, study=str(folder), seed=5, epochs=3, augment={"scale": 0.1})
    with pytest.raises(UserError, match=r"no\.pt"):
        begin(world, study=str(folder), seed=5, weights=str(world["root"] / "no.pt"))
    assert (folder / "evolve.csv").exists()
    space = world["root"] / "other.yaml"
    space.write_text("loss.box: [0.02, 0.2]\n")
    with pytest.raises(UserError, match="not the search space that this study was begun with"):
        begin(world, study=str(folder), seed=5, space=str(space))


def test_hopeless_trials_are_pruned(world: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """From the sixth trial on: fitness falls from trial to trial."""
    ended: list[int] = []

    def pretend(config: RunConfig, callbacks: tuple[Callback, ...]) -> Path:
        folder, number = Path(config.project, config.name), int(config.name)
        assert not config.noval
        for epoch in range(4):
            score = score_of(1 / (number + 1))
            report = EpochReport(epoch, 4, [{}], score, improved=False)
            for callback in callbacks:
                callback.on_fit_epoch_end(report)
            if any(callback.stop_training for callback in callbacks):
                ended.append(number)
                break
        return folder

    monkeypatch.setattr(evolve_verb, "train", pretend)
    monkeypatch.setattr(evolve_verb, "_result", lambda folder: (0.1, {}, RunConfig()))
    for kind in ("median", "percentile"):
        ended.clear()
        folder = begin(world, name=kind, prune=kind, generations=8)
        states = [row["state"] for row in rows(folder)]
        assert states == ["complete"] * 5 + ["pruned"] * 3
        assert ended == [5, 6, 7]
    assert float(rows(folder)[5]["fitness"]) == pytest.approx(1 / 6)


def score_of(fitness: float) -> Any:
    from boxwright.engine.task import Score

    return Score(fitness, {}, (), None)


def test_a_trial_that_diverges_counts_as_nothing(world: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(config: RunConfig, callbacks: object) -> Path:
        raise DivergedError("the loss is not finite")

    monkeypatch.setattr(evolve_verb, "train", diverge)
    folder = begin(world, name="diverged")
    assert [float(row["fitness"]) for row in rows(folder)] == [0, 0, 0]


def test_a_loss_that_is_not_finite_is_told_apart(world: dict[str, Any]) -> None:
    known = {name: world["known"][name] for name in ("data", "weights")}
    settings = QUIET | known | {"project": str(world["root"])}
    with pytest.raises(DivergedError):
        train.train(load(RunConfig, settings | {"name": "wild", "optim": {"lr0": 1e30, "warmup_bias_lr": 1e30}}))


def test_other_mistakes_end_the_search_and_leave_nothing(tmp_path: Path, world: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"no.yaml"):
        begin(world, project=str(tmp_path / "runs"), data=str(tmp_path / "no.yaml"))
    assert not list((tmp_path / "runs").iterdir())


def answer(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["evolve", *argv]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_mistakes_with_the_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evolve_study, "LOCK_SECONDS", 0.2)
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / "study.db").write_text("this is no database at all" * 100)
    assert "is not an SQLite database" in answer(capsys, "--study", str(tmp_path / "garbage"))
    url = f"sqlite:///{tmp_path / 'locked.db'}"
    optuna.create_study(storage=url, study_name="exp")
    with sqlite3.connect(tmp_path / "locked.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "is locked: another process" in answer(capsys, "--study", url, "--data", "d.yaml")
        other.rollback()
    optuna.load_study(storage=url, study_name="exp").add_trial(optuna.trial.create_trial(value=1.0))
    assert "has trials that boxwright evolve did not make" in answer(capsys, "--study", url, "--data", "d.yaml")
    nowhere = f"sqlite:///{tmp_path / 'no' / 'folder.db'}"
    assert "cannot be opened: is its folder there" in answer(capsys, "--study", nowhere, "--data", "d.yaml")
    line = answer(capsys, "--study", "nodialect://user:secret@host/name", "--data", "d.yaml")
    assert "nodialect://user:***@host/name cannot be opened" in line
    line = answer(capsys, "--study", "postgresql+psycopg2://user:secret@localhost:1/name", "--data", "d.yaml")
    assert "needs a package" in line or "cannot be reached" in line
    assert "secret" not in line
    assert "cannot be opened" in answer(capsys, "--study", "://", "--data", "d.yaml")
    assert "is a file; name the folder" in answer(capsys, "--study", str(tmp_path / "locked.db"), "--data", "d.yaml")
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("*/*"))


def test_mistakes_without_a_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text("optim.lr0: [0.001, 0.1]\noptim.momentun: [0.8, 0.99]\n")
    assert main(["evolve", "--data", "d.yaml", "--space", "space.yaml"]) == 2
    said = capsys.readouterr().err
    assert "space.yaml:2: optim.momentun is no hyper-parameter; did you mean optim.momentum?" in said
    assert "needs --data" in answer(capsys)
    assert "start a worker for each GPU" in answer(capsys, "--data", "d.yaml", "--device", "0,1")
    assert "--prune compares trials" in answer(capsys, "--data", "d.yaml", "--prune", "--noval")
    assert "leave out --noval" in answer(capsys, "--data", "d.yaml", "--optim.schedule", "plateau", "--noval")
    assert "cannot be compared" in answer(capsys, "--data", "d.yaml", "--batch-size", "-1")
    assert "trials/NUMBER/weights" in answer(capsys, "--data", "d.yaml", "--best-weight", "b.pt")
    (tmp_path / "space.yaml").write_text("optim.lr0: [0.001, 0.1]\n")
    cmaes = ("--sampler", "cmaes", "--space", "space.yaml")
    assert "two hyper-parameters or more" in answer(capsys, "--data", "d.yaml", *cmaes)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "boxwright evolve needs optuna, which is not installed: pip" in answer(capsys, "--data", "d.yaml")
    assert not (tmp_path / "runs").exists()
