"""Workers of one study in processes of their own: no trial twice, none too many, none of a dead worker lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from boxwright.search.claims import FINISHED, Worker
from boxwright.search.study import StudyPlace, open_study, study_place

GENERATIONS = 12
WORKER = """
import os, signal, sys, time
from pathlib import Path
from boxwright.search.claims import Worker
from boxwright.search.study import open_study, quiet_optuna, study_place

folder, generations, dies_at = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
place = study_place("", "", "", folder)
with quiet_optuna():
    study = open_study(place)
    with Worker(study, folder, generations) as worker:
        count = 0
        while worker.num_finished < generations:
            claim = worker.next_trial()
            if claim is None:
                time.sleep(0.02)
                continue
            if count == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            claim.folder.mkdir(parents=True, exist_ok=True)
            with (claim.folder / "runs").open("a") as file:
                file.write(worker.name + "\\n")
            time.sleep(0.01)
            study.tell(claim.number, float(claim.number))
            count += 1
"""


def start(folder: Path, dies_at: int = -1) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(folder), str(GENERATIONS), str(dies_at)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def place(tmp_path: Path) -> StudyPlace:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    (tmp_path / "search").mkdir()
    return study_place("", "", "", tmp_path / "search")


def test_each_trial_is_run_once_and_none_too_many(place: StudyPlace) -> None:
    study = open_study(place)
    dead = start(place.folder, dies_at=2)  # alone, so that it gets as far as that
    assert dead.wait(timeout=300) == -signal.SIGKILL
    workers = [start(place.folder), start(place.folder)]
    said = [worker.communicate(timeout=300)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    states = [trial.state for trial in study.get_trials()]
    assert states.count(TrialState.COMPLETE) == GENERATIONS
    assert set(states) <= {TrialState.COMPLETE, TrialState.FAIL}  # one begun where two saw the last place is given up
    runs = [path.read_text().splitlines() for path in sorted(place.folder.glob("trials/*/runs"))]
    assert [len(names) for names in runs] == [1] * GENERATIONS
    assert len({name for names in runs for name in names}) >= 2


def test_the_last_place_is_for_one(place: StudyPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both look before either begins: the one that comes second gives its trial back."""
    study = open_study(place)
    first, second = Worker(study, place.folder, 1), Worker(study, place.folder, 1)
    add, others = study.add_trial, []

    def add_after_another(trial: optuna.trial.FrozenTrial) -> None:
        monkeypatch.setattr(study, "add_trial", add)
        others.append(second._begin())
        add(trial)

    monkeypatch.setattr(study, "add_trial", add_after_another)
    assert first._begin() is None
    assert [claim.number for claim in others] == [0]
    assert [trial.state for trial in study.get_trials()] == [TrialState.RUNNING, TrialState.FAIL]


def test_a_trial_of_a_living_worker_is_left_to_it(place: StudyPlace) -> None:
    study = open_study(place)
    code = WORKER.replace("time.sleep(0.01)", "print('has it', flush=True); time.sleep(60)")
    command = [sys.executable, "-c", code, str(place.folder), "1", "-1"]
    living = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert living.stdout is not None
    living.stdout.readline()
    with Worker(study, place.folder, 1) as worker:
        assert worker.next_trial() is None
        assert worker.running()[0].startswith("0 on ")
        living.kill()
        living.wait()
        taken = worker.next_trial()
        assert taken is not None
        assert (taken.number, taken.folder) == (0, place.folder / "trials" / "0000")
        assert worker.next_trial() is None  # it is ours now
    living.stdout.close()


def test_a_worker_elsewhere_counts_as_alive(place: StudyPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_study(place)
    there = Worker(study, place.folder / "on another disk", 2)
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    assert there._begin() is not None
    monkeypatch.undo()
    here = Worker(study, place.folder, 2)
    assert here._take_over() is None
    claim = here.next_trial()
    assert claim is not None
    assert claim.number == 1
    assert here.running() == ["0 on elsewhere", f"1 on {os.uname().nodename}"]


def test_pruned_trials_count(place: StudyPlace) -> None:
    study = open_study(place)
    worker = Worker(study, place.folder, 2)
    for state in (TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE):
        claim = worker.next_trial()
        assert claim is not None
        study.tell(claim.number, 1.0 if state == TrialState.COMPLETE else None, state=state)
    assert worker.next_trial() is None
    assert (worker.num_finished, len(FINISHED)) == (2, 2)
