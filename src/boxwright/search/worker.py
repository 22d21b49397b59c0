"""One worker of a search: run trials until enough have finished; take over those of workers that have died."""

import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna import Study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import Trial, TrialState

from boxwright.errors import UserError
from boxwright.search.results import FinishedTrial, finished_trials
from boxwright.search.samplers import distributions, generation_of
from boxwright.search.space import Space
from boxwright.search.study import MissingHeartbeats, StudyLocation, is_marked, mark_folder

_POLL_SECONDS = 5.0  # how often a worker without a trial looks whether another worker has died
_TAKEN = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True, slots=True)
class OpenTrial:
    """A trial that this worker runs."""

    trial: Trial  # for reports and pruning
    number: int  # generation, counted from 0
    folder: Path  # of its run; it may hold what a worker that died has saved
    values: dict[str, float]  # hyper-parameters by dotted path


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial has reached."""

    fitness: float
    pruned: bool = False
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])  # plain values kept with the trial


def trial_folder(folder: Path, number: int) -> Path:
    """Return the run folder of a trial of the search in `folder`."""
    return folder / "trials" / f"{number:04d}"


def has_checkpoint(folder: Path) -> bool:
    """Whether a run folder holds a checkpoint to go on from."""
    return (folder / "weights" / "last.pt").is_file()


def run_search(
    study: Study,
    location: StudyLocation,
    space: Space,
    generations: int,
    objective: Callable[[OpenTrial], Outcome],
    report: Callable[[list[FinishedTrial]], None],
) -> None:
    """Run trials until the study has as many finished ones as wanted.

    Args:
        study: shared with other workers; its sampler and pruner are set.
        location: of the study.
        space: what is searched.
        generations: finished trials at which the search ends.
        objective: trains one trial.
        report: gets all finished trials after each trial of this worker, and at the end.

    Raises:
        UserError: of a trial. One with a checkpoint is queued again first, to be resumed once the error is fixed.
        SystemExit, KeyboardInterrupt: the search was stopped; the trial is queued again likewise.
    """
    waiting = ""
    heartbeats = MissingHeartbeats(location)
    mark_folder(study, location.folder)
    while True:
        fail_stale_trials(study)
        trials = study.get_trials(deepcopy=False)
        count = Counter(trial.state for trial in trials)
        if count[TrialState.WAITING] or sum(count[state] for state in _TAKEN) < generations:
            _run_one(study, location, space, generations, objective)
            report(finished_trials(study))
            waiting = ""
        elif not count[TrialState.RUNNING]:
            break
        else:
            running = [trial for trial in trials if trial.state == TrialState.RUNNING]
            others = ", ".join(
                f"{generation_of(t, trials)} on {t.user_attrs.get('host', 'an unknown machine')}" for t in running
            )
            if others != waiting:
                print(f"waiting for trial {others}; Ctrl-C leaves the rest to the others", flush=True)
            waiting = others
            heartbeats.watch([trial.number for trial in running])
            time.sleep(_POLL_SECONDS)
    report(finished_trials(study))


def _run_one(
    study: Study, location: StudyLocation, space: Space, generations: int, objective: Callable[[OpenTrial], Outcome]
) -> None:
    """Run the next trial in Optuna's loop, which sends the heartbeat."""
    stopped: list[BaseException] = []
    opened: list[OpenTrial] = []

    def run(trial: Trial) -> float:
        trials = study.get_trials(deepcopy=False)
        # Two workers may both have found one trial left to run. Numbers are given out one by one: the lower one has it.
        # One that waits in the queue has its place too: it runs before the search ends.
        if sum(t.state != TrialState.FAIL for t in trials[: trial.number]) >= generations:
            raise _GivenUpError
        number = generation_of(trials[trial.number], trials)
        # Two workers may queue the same trial again, one of them after it was asleep; the first retry has it.
        if any(generation_of(t, trials) == number for t in trials[: trial.number] if t.state != TrialState.FAIL):
            raise _GivenUpError
        # A retry resumes in the folder of the worker that died, where that is in sight; else it begins anew in our own.
        before = Path(str(trial.user_attrs.get("folder", location.folder)))
        is_ours = is_marked(study, before) and has_checkpoint(trial_folder(before, number))
        root = before if is_ours else location.folder
        trial.set_user_attr("host", socket.gethostname())
        trial.set_user_attr("folder", str(root))
        limits = distributions(space)
        values = {name: trial.suggest_float(name, d.low, d.high, log=d.log) for name, d in limits.items()}
        opened.append(OpenTrial(trial, number, trial_folder(root, number), values))
        try:
            outcome = objective(opened[0])
        except (SystemExit, KeyboardInterrupt) as stop:  # Optuna would leave the trial running, or print a warning
            stopped.append(stop)
            raise _GivenUpError from stop
        if study.get_trials(deepcopy=False)[trial.number].state != TrialState.RUNNING:
            raise _GivenUpError  # no heartbeat came through for long, as on a machine that was asleep
        for name, value in outcome.attributes.items():
            trial.set_user_attr(name, value)
        if outcome.pruned:
            raise optuna.TrialPruned
        return outcome.fitness

    try:
        study.optimize(run, n_trials=1, catch=(_GivenUpError,))
    except (UpdateFinishedTrialError, ValueError):  # Optuna refuses to finish a trial a second time
        if not opened or study.get_trials(deepcopy=False)[opened[0].trial.number].state != TrialState.FAIL:
            raise
        print(f"trial {opened[0].number} was taken over by another worker", flush=True)
    except UserError:
        if opened and has_checkpoint(opened[0].folder):
            _queue_again(study, opened[0])
        raise
    if stopped:
        _queue_again(study, opened[0])
        raise stopped[0]


def _queue_again(study: Study, trial: OpenTrial) -> None:
    RetryHeartbeatStaleTrialCallback()(study, study.get_trials()[trial.trial.number])


class _GivenUpError(Exception):
    """A surplus or stopped trial, discarded."""
