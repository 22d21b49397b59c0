"""Workers of one study in processes of their own: no trial twice, none too many, none of a dead worker lost."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

from boxwright.errors import UserError
from boxwright.search import study as study_module
from boxwright.search import worker as worker_module
from boxwright.search.results import FinishedTrial, finished_trials
from boxwright.search.samplers import SearchSampler
from boxwright.search.space import Range
from boxwright.search.study import StudyLocation, locate_study, open_study, shared_settings
from boxwright.search.worker import OpenTrial, Outcome, run_search

GENERATIONS = 12
SPACE = {"x": Range(1, 0.001, 1.0)}
WORKER = """
import os, signal, sys, time
from pathlib import Path
import boxwright.search.study as s, boxwright.search.worker as w
from boxwright.search.samplers import SearchSampler
from boxwright.search.space import Range

s.HEARTBEAT_SECONDS, s.GRACE_SECONDS, w._POLL_SECONDS = 1, 6, 0.1
folder, generations, dies_at, seconds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
count = 0

def objective(trial):
    global count
    if count == dies_at:
        os.kill(os.getpid(), signal.SIGKILL)
    count += 1
    trial.folder.mkdir(parents=True, exist_ok=True)
    with (trial.folder / "runs").open("a") as file:
        file.write(f"{os.getpid()} {trial.values['x']!r}\\n")
    print("runs", trial.number, flush=True)
    time.sleep(seconds)
    return w.Outcome(trial.values["x"])

location = s.locate_study("", "", "", folder)
with s.quiet_optuna():
    study, _ = s.open_study(location)
    space = {"x": Range(1, 0.001, 1.0)}
    study.sampler = SearchSampler("published", space, {"x": 0.5}, "single", 0)
    w.run_search(study, location, space, generations, objective, lambda trials: None)
"""


def start(
    folder: Path, dies_at: int = -1, generations: int = GENERATIONS, seconds: float = 0.01
) -> subprocess.Popen[str]:
    words = [str(folder), str(generations), str(dies_at), str(seconds)]
    command = [sys.executable, "-c", WORKER, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def location(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyLocation:
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    monkeypatch.setattr(study_module, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(study_module, "GRACE_SECONDS", 2)
    monkeypatch.setattr(worker_module, "_POLL_SECONDS", 0.1)
    (tmp_path / "search").mkdir()
    return locate_study("", "", "", tmp_path / "search")


def opened(location: StudyLocation) -> optuna.Study:
    study, _ = open_study(location)
    study.sampler = SearchSampler("published", SPACE, {"x": 0.5}, "single", 0)
    return study


def search(
    study: optuna.Study, location: StudyLocation, generations: int, objective: Callable[[OpenTrial], Outcome]
) -> list[FinishedTrial]:
    run_search(study, location, SPACE, generations, objective, lambda trials: None)
    return finished_trials(study)


def test_each_trial_is_run_once_and_none_too_many(location: StudyLocation) -> None:
    dead = start(location.folder, dies_at=2)  # alone, so that it gets as far as that
    assert dead.wait(timeout=300) == -signal.SIGKILL
    workers = [start(location.folder, seconds=0.1), start(location.folder, seconds=0.1)]
    output = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], output
    trials = finished_trials(opened(location))
    assert len({trial.number for trial in trials}) == GENERATIONS
    runs = [path.read_text().splitlines() for path in sorted(location.folder.glob("trials/*/runs"))]
    assert [len(names) for names in runs] == [1] * GENERATIONS  # that of the dead worker had not written yet
    assert len({line.split()[0] for names in runs for line in names}) >= 2


def test_a_worker_killed_before_its_first_heartbeat(location: StudyLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna alone never takes its trial for dead, and the others waited for ever."""
    polls = iter(range(200))  # of .1 s; it takes some 50

    def wait(seconds: float) -> None:
        assert next(polls, None) is not None, "the search waits for ever"
        sleep(seconds)

    sleep = worker_module.time.sleep
    monkeypatch.setattr(worker_module.time, "sleep", wait)
    study = opened(location)
    study.ask()  # runs from now on, without the thread that sends heartbeats
    found = search(study, location, 1, lambda trial: Outcome(0.5))
    assert [trial.number for trial in found] == [0]
    assert [trial.state for trial in study.get_trials()] == [TrialState.FAIL, TrialState.COMPLETE]


def test_two_new_workers_create_one_study(location: StudyLocation) -> None:
    workers = [start(location.folder, generations=4) for _ in range(3)]
    output = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0], output
    assert len(finished_trials(opened(location))) == 4


def test_the_last_place_is_for_one(location: StudyLocation) -> None:
    """Both look before either begins: the one that comes second gives its trial up."""
    study, ran = opened(location), list[int]()

    def objective(trial: OpenTrial) -> Outcome:
        ran.append(trial.number)
        if len(ran) == 1:  # while this trial runs, another worker that saw the place begins one
            worker_module._run_one(study_of_another, location, SPACE, 1, objective)
        return Outcome(0.5)

    study_of_another = opened(location)
    assert [trial.number for trial in search(study, location, 1, objective)] == [0]
    assert ran == [0]
    assert [trial.state for trial in study.get_trials()] == [TrialState.COMPLETE, TrialState.FAIL]


def test_a_trial_of_a_living_worker_is_left_to_it(location: StudyLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    living = start(location.folder, generations=1, seconds=3600)
    assert living.stdout is not None
    assert living.stdout.readline() == "runs 0\n"
    study = opened(location)
    ran: list[OpenTrial] = []

    def objective(trial: OpenTrial) -> Outcome:
        ran.append(trial)
        return Outcome(trial.values["x"])

    sleep, polls = time.sleep, list[int]()

    def poll(seconds: float) -> None:
        """Wait longer than the grace period, then kill the other worker."""
        polls.append(1)
        sleep(0.1)
        if len(polls) == 35:
            assert not ran
            living.kill()

    monkeypatch.setattr(worker_module.time, "sleep", poll)
    try:
        trials = search(study, location, 1, objective)
    finally:
        living.kill()
        living.communicate()
    assert [trial.number for trial in trials] == [0]
    (taken,) = ran
    assert taken.folder == location.folder / "trials" / "0000"
    assert taken.values == {"x": 0.5}  # the same hyper-parameters


def test_a_retry_goes_on_in_the_folder_of_the_dead_worker(location: StudyLocation, tmp_path: Path) -> None:
    folders: list[Path] = []

    def stopped(trial: OpenTrial) -> Outcome:
        (trial.folder / "weights").mkdir(parents=True)
        (trial.folder / "weights" / "last.pt").touch()
        folders.append(trial.folder)
        raise KeyboardInterrupt

    def objective(trial: OpenTrial) -> Outcome:
        folders.append(trial.folder)
        return Outcome(1.0)

    study = opened(location)
    with pytest.raises(KeyboardInterrupt):
        search(study, location, 2, stopped)
    elsewhere = StudyLocation(location.url, location.name, tmp_path / "another disk")
    assert [trial.number for trial in search(study, elsewhere, 2, objective)] == [0, 1]
    there, here = location.folder / "trials", elsewhere.folder / "trials"
    assert folders == [there / "0000", there / "0000", here / "0001"]


def test_a_trial_that_was_queued_twice_runs_once(location: StudyLocation) -> None:
    study, ran = opened(location), list[int]()

    def objective(trial: OpenTrial) -> Outcome:
        ran.append(trial.number)
        if ran == [0]:
            raise KeyboardInterrupt
        return Outcome(0.5)

    with pytest.raises(KeyboardInterrupt):
        search(study, location, 2, objective)
    RetryHeartbeatStaleTrialCallback()(study, study.get_trials()[0])  # as another worker at the same moment
    assert [trial.number for trial in search(study, location, 2, objective)] == [0, 1]
    assert ran == [0, 0, 1]


def test_a_worker_whose_trial_was_taken_over_goes_on(
    location: StudyLocation, capsys: pytest.CaptureFixture[str]
) -> None:
    study, ran = opened(location), list[int]()

    def objective(trial: OpenTrial) -> Outcome:
        ran.append(trial.number)
        if ran == [0]:  # this worker sleeps, so another one fails its trial and queues it again
            study.tell(trial.trial.number, state=TrialState.FAIL)
            RetryHeartbeatStaleTrialCallback()(study, study.get_trials()[0])
        return Outcome(0.5)

    assert [trial.number for trial in search(study, location, 2, objective)] == [0, 1]
    assert ran == [0, 0, 1]
    assert "trial 0 was taken over by another worker" in capsys.readouterr().out


def test_a_user_error_keeps_a_trial_that_can_go_on(location: StudyLocation) -> None:
    def objective(trial: OpenTrial) -> Outcome:
        if trial.number == 1:
            (trial.folder / "weights").mkdir(parents=True)
            (trial.folder / "weights" / "last.pt").touch()
        raise UserError("the disk is full")

    study = opened(location)
    for _ in range(2):
        with pytest.raises(UserError, match="disk is full"):
            search(study, location, 3, objective)
    states = [trial.state for trial in study.get_trials()]
    assert states == [TrialState.FAIL, TrialState.FAIL, TrialState.WAITING]
    trials = search(study, location, 3, lambda trial: Outcome(0.1))
    assert [trial.number for trial in trials] == [1, 2, 3]


def test_pruned_trials_count(location: StudyLocation) -> None:
    def objective(trial: OpenTrial) -> Outcome:
        trial.trial.report(0.25, 1)
        return Outcome(0.25, pruned=trial.number == 0, attributes={"metrics": {"mAP": 0.25}})

    trials = search(opened(location), location, 2, objective)
    assert [(trial.fitness, trial.pruned, trial.metrics) for trial in trials] == [
        (0.25, True, {"mAP": 0.25}),
        (0.25, False, {"mAP": 0.25}),
    ]


def test_settings_come_from_the_worker_that_created_the_study(
    location: StudyLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, is_new = open_study(location)
    other, other_is_new = open_study(location)
    assert (is_new, other_is_new) == (True, False)
    content: dict[str, Any] = {"epochs": 3}
    assert shared_settings(study, "key", content) == content
    assert shared_settings(other, "key", None) == content
    monkeypatch.setattr(study_module, "_SETTINGS_SECONDS", 0.2)
    assert shared_settings(other, "another key", None) == {}
    other.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(UserError, match="did not make"):
        shared_settings(other, "another key", None)


def test_a_worker_says_whom_it_waits_for(
    location: StudyLocation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(location)
    trial = study.ask()
    trial.set_user_attr("host", "elsewhere")

    def finish(seconds: float) -> None:
        study.tell(trial, 0.5)

    with monkeypatch.context() as patch:
        patch.setattr(worker_module.time, "sleep", finish)
        search(study, location, 1, lambda trial: Outcome(0.0))
    assert "waiting for trial 0 on elsewhere" in capsys.readouterr().out


def test_a_trial_in_the_queue_is_taken_by_one_worker(location: StudyLocation) -> None:
    """SQLite has no row locks: 4 workers that ask at the same moment took 16 of 80 trials twice."""
    study, taken = opened(location), list[int]()
    for _ in range(80):
        study.enqueue_trial({"x": 0.5})

    def work() -> None:
        own, _ = open_study(location)
        taken.extend(own.ask().number for _ in range(20))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(taken) == list(range(80))


def test_a_folder_that_no_worker_of_the_study_has_marked_is_not_resumed(
    location: StudyLocation, tmp_path: Path
) -> None:
    """A study from someone else may name any folder of this user."""
    foreign = tmp_path / "foreign"
    (foreign / "trials" / "0000" / "weights").mkdir(parents=True)
    (foreign / "trials" / "0000" / "weights" / "last.pt").touch()
    study, _ = open_study(location)
    study.sampler = SearchSampler("published", SPACE, {"x": 0.5}, "single", 0)
    study.enqueue_trial({}, user_attrs={"folder": str(foreign)})
    folders: list[Path] = []

    def objective(trial: OpenTrial) -> Outcome:
        folders.append(trial.folder)
        return Outcome(0.5)

    run_search(study, location, SPACE, 1, objective, lambda trials: None)
    assert folders == [location.folder / "trials" / "0000"]


@pytest.mark.parametrize(
    ("table", "values"),
    [
        ("trial_user_attributes", ("metrics", '"text"')),
        ("trial_user_attributes", ("hyps", "[1]")),
        ("trial_user_attributes", ("metrics", "no json")),
        ("trial_system_attributes", ("failed_trial", '"x"')),
    ],
)
def test_a_study_that_holds_something_else_is_told(
    location: StudyLocation, table: str, values: tuple[str, str]
) -> None:
    study, _ = open_study(location)
    study.tell(study.ask(), 0.5)
    with closing(sqlite3.connect(location.folder / "study.db")) as database:
        database.execute(f"insert into {table} (trial_id, key, value_json) values (1, ?, ?)", values)
        database.commit()
    with pytest.raises(UserError, match="holds what boxwright evolve did not write"):
        open_study(location)
