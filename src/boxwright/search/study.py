"""The Optuna study of a search: its database, its heartbeat, and one sentence for whatever is wrong with the database.

A worker's running trial sends a heartbeat to the database. When the heartbeat stops, any other worker fails the trial
and queues it again (Optuna's `RetryHeartbeatStaleTrialCallback`), so that no trial is lost with its worker.
"""

import functools
import logging
import math
import time
import uuid
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.exceptions import DuplicatedStudyError, OptunaError
from optuna.pruners import BasePruner, MedianPruner, NopPruner, PercentilePruner
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from pydantic import TypeAdapter
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError, SQLAlchemyError

from boxwright.data.files import write_atomically
from boxwright.errors import UserError
from boxwright.search.samplers import generation_of

LOCK_SECONDS = 30.0  # how long another process may keep an SQLite file locked
HEARTBEAT_SECONDS = 15
GRACE_SECONDS = 60  # without a heartbeat for this long, a worker counts as dead
_CONNECT_SECONDS = 15
_TIMEOUT_NAMES = {"sqlite": "timeout", "psycopg2": "connect_timeout", "psycopg": "connect_timeout"} | dict.fromkeys(
    ("pymysql", "mysqldb"), "connect_timeout"
)
_SQLITE_REASONS = {
    "database is locked": (
        f"is locked: another process has kept it for more than {LOCK_SECONDS:g} seconds; end it, or wait"
    ),
    "unable to open database file": "cannot be opened: is its folder there, and may it be written to?",
    "readonly": "cannot be written: the file or its folder is read-only",
    "not a database": "cannot be read: the file is not an SQLite database",
}
_PERCENTILE = 25.0  # prune percentile: end a trial below the best quarter at its epoch
_SECONDS_OF_TABLES = 2.0  # in which another worker has created the tables of a new database
_TOKEN, _MARK = (
    "boxwright token",
    ".study",
)  # a user attribute, and the file in the folder of each worker that repeats it
_SETTINGS_SECONDS = 10.0  # how long the worker that created a study may take to write its settings


@dataclass(frozen=True, slots=True)
class StudyLocation:
    url: str  # of SQLAlchemy
    name: str  # of the study in that database
    folder: Path  # where this worker keeps trials and results


def locate_study(study: str, project: str, name: str, new_folder: Path | None) -> StudyLocation:
    """Resolve `--study`.

    Args:
        study: URL of a database, folder of a search or its name below project; ignored if there is a new folder.
        project, name: folder of a worker whose study is in a database; the name is the study's too.
        new_folder: of a search that begins.
    """
    if "\0" in study:
        raise UserError(f"--study {study!r} has a character that no file and no address has")
    if new_folder is None and "://" in study:
        return StudyLocation(study, name, Path(project, name).expanduser().absolute())
    given = Path(study).expanduser()
    folder = new_folder or (
        given if given.is_absolute() or len(given.parts) > 1 else Path(project).expanduser() / given
    )
    if folder.is_file():
        raise UserError(
            f"--study {study} is a file; name the folder that its search writes to, or a URL: sqlite:///{study}"
        )
    folder = folder.absolute()
    return StudyLocation(f"sqlite:///{folder / 'study.db'}", "evolve", folder)


def open_storage(location: StudyLocation) -> RDBStorage:
    """Connect to the database of a study, and create its tables where there are none.

    Raises:
        SQLAlchemyError, OptunaError, ImportError: see `database_errors`.
    """
    url = make_url(location.url)
    option = _TIMEOUT_NAMES.get(url.get_driver_name()) or _TIMEOUT_NAMES.get(url.get_backend_name())
    seconds = LOCK_SECONDS if url.get_backend_name() == "sqlite" else _CONNECT_SECONDS
    connect = functools.partial(
        RDBStorage,
        location.url,
        engine_kwargs={"connect_args": {option: seconds}} if option else {},
        heartbeat_interval=HEARTBEAT_SECONDS,
        grace_period=GRACE_SECONDS,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
    )
    try:
        storage = connect()
    except (OperationalError, IntegrityError) as error:
        # Another worker that starts at the same moment may just be creating the same tables.
        if isinstance(error, OperationalError) and "already exists" not in str(error):
            raise
        time.sleep(_SECONDS_OF_TABLES)
        storage = connect()
    if url.get_backend_name() == "sqlite":
        # SQLite has no SELECT ... FOR UPDATE: without the lock from the start of a transaction, two workers read a
        # trial as waiting and both take it (16 of 80 trials with four workers).
        event.listen(storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage


def open_study(location: StudyLocation) -> tuple[optuna.Study, bool]:
    """Open a study, or create it where there is none.

    Returns:
        the study, and whether this worker created it. The database decides: of several workers exactly one creates it.

    Raises:
        UserError: the database cannot be reached, is locked, or is none; a driver is missing; the URL is wrong.
    """
    with database_errors(location):
        storage = open_storage(location)
        try:
            study = optuna.create_study(storage=storage, study_name=location.name, direction="maximize")
            study.set_user_attr(_TOKEN, uuid.uuid4().hex)
            return study, True
        except DuplicatedStudyError:
            study = optuna.load_study(storage=storage, study_name=location.name)
            _check_content(study, location)
            return study, False


def _check_content(study: optuna.Study, location: StudyLocation) -> None:
    """Raise a UserError if a study does not hold what this program writes: it may come from someone else."""
    kinds: dict[str, TypeAdapter[Any]] = {
        "metrics": TypeAdapter(dict[str, float]),
        "hyps": TypeAdapter(dict[str, Any]),
        "host": TypeAdapter(str),
        "folder": TypeAdapter(str),
    }
    try:
        if len(study.directions) != 1:
            raise ValueError("it has more than one objective")
        # Optuna's own notes say which trial is a retry of which.
        trials = study.get_trials(deepcopy=False)
        for trial in trials:
            generation_of(trial, trials)
            for name, kind in kinds.items():
                if name in trial.user_attrs:
                    kind.validate_python(trial.user_attrs[name])
    except (SQLAlchemyError, OptunaError):
        raise
    except Exception as error:  # whatever Optuna raises where a value is none of its own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"the study in {_shown(location)} holds what boxwright evolve did not write: {reason}"
        ) from error


def mark_folder(study: optuna.Study, folder: Path) -> None:
    """Note in the folder of a worker that this study may resume what lies there."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / _MARK, str(study.user_attrs.get(_TOKEN, "")))


def is_marked(study: optuna.Study, folder: Path) -> bool:
    """Whether a worker of this study has written its note into a folder.

    The study says in which folder a trial lies. A study of someone else could name any folder, but not what is noted
    there.
    """
    try:
        return bool(token := study.user_attrs.get(_TOKEN)) and (folder / _MARK).read_text(encoding="utf-8") == token
    except (OSError, ValueError):
        return False


class MissingHeartbeats:
    """Give a heartbeat to running trials that never had one, because their worker was killed before its first.

    Optuna counts no trial as dead that has no heartbeat. Whether one has any is not public, so each trial that is seen
    running for longer than the grace period gets one: to that of a living worker it makes no difference, and that of a
    dead worker is stale one period later.
    """

    def __init__(self, location: StudyLocation) -> None:
        self._location = location
        self._since: dict[int, float] = {}  # when a trial was first seen, by number; infinity: it has its heartbeat

    def watch(self, running: Sequence[int]) -> None:
        """Take note of the numbers of all trials that run."""
        now = time.monotonic()
        self._since = {number: self._since.get(number, now) for number in running}
        late = [number for number, since in self._since.items() if now - since > GRACE_SECONDS]
        if not late:
            return
        storage = open_storage(self._location)
        study_id = storage.get_study_id_from_name(self._location.name)
        for number in late:
            storage.record_heartbeat(storage.get_trial_id_from_study_id_trial_number(study_id, number))
            self._since[number] = math.inf
        storage.remove_session()


def shared_settings(study: optuna.Study, key: str, own: dict[str, Any] | None) -> dict[str, Any]:
    """Return the settings that all workers of a study share.

    Args:
        study: of the search.
        key: user attribute that holds them.
        own: those of the worker that created the study, which are written; None: read them.

    Raises:
        UserError: the study has trials, but no such settings.
    """
    if own is not None:
        study.set_user_attr(key, own)
        return own
    end = time.monotonic() + _SETTINGS_SECONDS
    while (kept := study.user_attrs.get(key)) is None:
        if study.get_trials(deepcopy=False):
            raise UserError(f"the study {study.study_name} has trials that boxwright evolve did not make; name another")
        if time.monotonic() > end:
            return {}
        time.sleep(0.1)
    if not isinstance(kept, dict):
        raise UserError(
            f"the settings in the study {study.study_name} are none of boxwright evolve; name another study"
        )
    return kept


@contextmanager
def database_errors(location: StudyLocation) -> Generator[None]:
    """Turn errors of the study's database into a UserError of one sentence, without the password of its URL."""
    try:
        yield
    except (SQLAlchemyError, OptunaError, ImportError) as error:
        # Optuna wraps what SQLAlchemy raises; the reason is in the innermost database error.
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, DatabaseError):
            cause = cause.__cause__
        words = " ".join(str(getattr(cause, "orig", None) or cause).split())
        if isinstance(cause, ImportError):
            reason = f"needs a package that is not installed: {words}"
        elif isinstance(cause, OperationalError):
            reason = f"cannot be reached: {words}"
        else:
            reason = (
                f"cannot be opened: {words}; it takes a URL such as sqlite:///study.db or postgresql://user@host/name"
            )
        # SQLite says what is wrong in words only.
        reason = next((said for sign, said in _SQLITE_REASONS.items() if sign in words), reason)
        raise UserError(f"the study in {_shown(location)} {reason}") from error


def _shown(location: StudyLocation) -> str:
    """Return the URL of a study without its password; a malformed one as it is."""
    with suppress(SQLAlchemyError):
        return make_url(location.url).render_as_string(hide_password=True)
    return location.url


def make_pruner(kind: Literal["", "median", "percentile"]) -> BasePruner:
    """Return a pruner that ends a trial whose best fitness is below that of others at the same epoch.

    It compares from the sixth trial on.
    """
    if kind == "median":
        return MedianPruner()
    return PercentilePruner(_PERCENTILE) if kind == "percentile" else NopPruner()


@contextmanager
def quiet_optuna() -> Generator[None]:
    """Suppress Optuna's log and its warnings about experimental features."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="optuna")
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
