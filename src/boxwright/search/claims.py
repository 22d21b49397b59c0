"""Which worker has which trial: workers of one study share a database, and often a folder, and may be killed.

A trial is begun by one insertion into the database that names its worker. A worker holds a lock on a file of its own
for as long as its process lives; the system frees it however the process ends. So a trial that runs in the database,
and whose worker's file is free, is an orphan: another worker takes it over and goes on with it.

Locks are those of POSIX (fcntl): they belong to the process and not to loader processes that it has started. A worker
whose file is not in sight is on another machine with its own disk; it counts as alive.
"""

from __future__ import annotations

import fcntl
import os
import socket
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from optuna import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from boxwright.errors import UserError

_WORKERS = "workers"  # folder of lock files
_COUNTED = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True, slots=True)
class Claim:
    """Args:
    number: of the trial.
    folder: of its run.
    """

    number: int
    folder: Path


class Worker:
    """One process that works on a study. Used as a context: it holds its lock inside.

    Args:
        study: shared with others.
        folder: of the search, as this machine sees it.
        generations: finished trials at which the search ends.
    """

    def __init__(self, study: Study, folder: Path, generations: int) -> None:
        self.study = study
        self.folder = folder
        self.generations = generations
        self.name = uuid.uuid4().hex
        self._file = folder / _WORKERS / f"{self.name}.lock"
        self._handle = -1

    def __enter__(self) -> Worker:
        self._handle = _open(self._file)
        _lock(self._handle, self._file, wait=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:  # else a trial may be running in our name: others must see that our lock is free
            self._file.unlink(missing_ok=True)
        os.close(self._handle)

    @property
    def num_finished(self) -> int:
        return len(self.study.get_trials(deepcopy=False, states=FINISHED))

    def next_trial(self) -> Claim | None:
        """Take over a trial whose worker is dead, or begin one; None: as many run or have finished as are wanted."""
        return self._take_over() or self._begin()

    def running(self) -> list[str]:
        """Trials of others, with their machines, in words."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [f"{trial.number} on {trial.user_attrs.get('host', 'an unknown machine')}" for trial in trials]

    def _begin(self) -> Claim | None:
        if len(self.study.get_trials(deepcopy=False, states=_COUNTED)) >= self.generations:
            return None
        self.study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=self._signature()))
        trials = self.study.get_trials(deepcopy=False, states=_COUNTED)
        mine = max((t for t in trials if t.user_attrs.get("worker") == self.name), key=lambda trial: trial.number)
        # Two workers may both have seen one place left. Numbers are given out one by one: the lower one has it.
        if sum(trial.number < mine.number for trial in trials) >= self.generations:
            self.study.tell(mine.number, state=TrialState.FAIL)
            return None
        return Claim(mine.number, trial_folder(self.folder, mine.number))

    def _take_over(self) -> Claim | None:
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            worker = str(trial.user_attrs.get("worker", ""))
            place = self._place(trial)
            if not worker or worker == self.name or place is None:
                continue
            with _free(place / _WORKERS / f"{worker}.lock") as is_dead:
                if is_dead and self._still_has(trial, worker):
                    for key, value in self._signature().items():  # the name last: before it the trial stays an orphan
                        self.study._storage.set_trial_user_attr(  # pyright: ignore[reportPrivateUsage]
                            trial._trial_id,  # pyright: ignore[reportPrivateUsage]
                            key,
                            value,
                        )
                    return Claim(trial.number, trial_folder(place, trial.number))
        return None

    def _signature(self) -> dict[str, str]:
        return {"host": socket.gethostname(), "folder": str(self.folder), "worker": self.name}

    def _place(self, trial: FrozenTrial) -> Path | None:
        """The folder of the search of that trial's worker, if it can be judged from here whether it lives."""
        theirs = Path(str(trial.user_attrs.get("folder", "")))
        worker = f"{trial.user_attrs.get('worker')}.lock"
        if trial.user_attrs.get("host") == socket.gethostname():
            return theirs
        return self.folder if (self.folder / _WORKERS / worker).exists() else None

    def _still_has(self, trial: FrozenTrial, worker: str) -> bool:
        now = self.study.get_trials(deepcopy=False)[trial.number]
        return now.state == TrialState.RUNNING and now.user_attrs.get("worker") == worker


def trial_folder(folder: Path, number: int) -> Path:
    return folder / "trials" / f"{number:04d}"


@contextmanager
def one_at_a_time(folder: Path) -> Generator[None]:
    """Only one worker of a folder is inside: it opens the study or writes the results."""
    path = folder / _WORKERS / "folder.lock"
    handle = _open(path)
    try:
        _lock(handle, path, wait=True)
        yield
    finally:
        os.close(handle)


@contextmanager
def _free(path: Path) -> Generator[bool]:
    """Whether no living process holds this file; while inside, nobody else finds it free."""
    handle = _open(path)  # made anew where its folder was emptied
    try:
        yield _lock(handle, path, wait=False)
    finally:
        os.close(handle)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"the folder of the search cannot be written: {path}: {error.strerror}") from error


def _lock(handle: int, path: Path, *, wait: bool) -> bool:
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):  # held by another process; systems differ in how they say it
        return False
    except OSError as error:
        raise UserError(f"{path} cannot be locked ({error.strerror}): is it on a disk without locks?") from error
    return True
