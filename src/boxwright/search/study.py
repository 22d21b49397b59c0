"""The study of a search: opened in its database, and every mistake with that database told in one sentence."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import OptunaError
from optuna.pruners import BasePruner, MedianPruner, NopPruner, PercentilePruner
from optuna.samplers import BaseSampler, CmaEsSampler, TPESampler
from optuna.storages import RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError

from boxwright.errors import UserError
from boxwright.search.genetic_sampler import GeneticSampler
from boxwright.search.space import Space
from boxwright.yolo.evolve_settings import EvolveConfig

LOCK_SECONDS = 30.0  # how long another process may keep an SQLite file locked
_CONNECT_SECONDS = 15
_TIMEOUT_NAMES = {"sqlite": "timeout", "psycopg2": "connect_timeout", "psycopg": "connect_timeout"} | dict.fromkeys(
    ("pymysql", "mysqldb"), "connect_timeout"
)
_PERCENTILE = 25.0  # prune percentile: a trial below the best quarter at its epoch ends
_EXTRA = "pip install 'boxwright[tune]'"


@dataclass(frozen=True, slots=True)
class StudyPlace:
    """Args:
    url: of SQLAlchemy.
    name: of the study in that database.
    folder: where this worker keeps trials and results.
    """

    url: str
    name: str
    folder: Path


def study_place(study: str, project: str, name: str, new_folder: Path | None) -> StudyPlace:
    """Where `--study` is.

    Args:
        study: URL of a database, folder of a search or its name below project; not used if there is a new folder.
        project, name: folder of a worker whose study lies in a database; the name is the study's too.
        new_folder: of a search that begins.
    """
    if new_folder is None and "://" in study:
        return StudyPlace(study, name, Path(project, name).expanduser().absolute())
    given = Path(study).expanduser()
    folder = new_folder or (
        given if given.is_absolute() or len(given.parts) > 1 else Path(project).expanduser() / given
    )
    if folder.is_file():
        raise UserError(
            f"--study {study} is a file; name the folder that its search writes to, or a URL: sqlite:///{study}"
        )
    folder = folder.absolute()
    return StudyPlace(f"sqlite:///{folder / 'study.db'}", "evolve", folder)


def open_study(place: StudyPlace) -> optuna.Study:
    """Open a study, or begin it where there is none.

    Raises:
        UserError: the database cannot be reached, is locked, or is none; a driver is missing; the URL is wrong.
    """
    with storage_mistakes(place):
        url = make_url(place.url)
        option = _TIMEOUT_NAMES.get(url.get_driver_name()) or _TIMEOUT_NAMES.get(url.get_backend_name())
        seconds = LOCK_SECONDS if url.get_backend_name() == "sqlite" else _CONNECT_SECONDS
        arguments = {"connect_args": {option: seconds}} if option else {}
        storage = RDBStorage(place.url, engine_kwargs=arguments)
        return optuna.create_study(
            storage=storage, study_name=place.name, direction="maximize", load_if_exists=True, sampler=_Unused()
        )


@contextmanager
def storage_mistakes(place: StudyPlace) -> Generator[None]:
    """Tell what goes wrong with the database of a study in one sentence, without its password."""
    try:
        yield
    except (SQLAlchemyError, OptunaError, ImportError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, DatabaseError):
            cause = cause.__cause__
        raise UserError(f"the study in {shown_url(place.url)} {_reason(cause)}") from error


def shown_url(url: str) -> str:
    """A URL without its password; a wrong one as it is."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return url


def _reason(error: BaseException) -> str:
    words = " ".join(str(getattr(error, "orig", None) or error).split())
    if isinstance(error, ImportError):
        return f"needs a package that is not installed: {words}"
    if "database is locked" in words:
        return f"is locked: another process has kept it for more than {LOCK_SECONDS:g} seconds; end that one, or wait"
    if "unable to open database file" in words:
        return "cannot be opened: is its folder there, and may it be written to?"
    if "readonly" in words:
        return "cannot be written: the file or its folder is read-only"
    if "not a database" in words:
        return "cannot be read: the file is not an SQLite database"
    if isinstance(error, OperationalError):
        return f"cannot be reached: {words}"
    return f"cannot be opened: {words}; it takes a URL such as sqlite:///study.db or postgresql://user@host/name"


def make_sampler(config: EvolveConfig, space: Space, start: Mapping[str, float], number: int) -> BaseSampler:
    """The sampler of one trial. The first trial tries the values that the search starts from, with every sampler.

    Raises:
        UserError: CMA-ES needs a package.
    """
    if config.sampler == "published" or number == 0:
        return GeneticSampler(space, start, config.parents, config.seed)
    # Workers share no generator: each trial has its own, or all of them would draw the same.
    seed = int(np.random.SeedSequence([config.seed % 2**64, number]).generate_state(1)[0])
    if config.sampler == "tpe":
        return TPESampler(seed=seed)
    try:
        import cmaes  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise UserError(f"--sampler cmaes needs the package cmaes: {_EXTRA}") from None
    return CmaEsSampler(x0=dict(start), seed=seed, warn_independent_sampling=False)


def make_pruner(config: EvolveConfig) -> BasePruner:
    """Ends a trial whose best fitness so far lies below those of others at that epoch; from the sixth trial on."""
    if config.prune == "median":
        return MedianPruner()
    return PercentilePruner(_PERCENTILE) if config.prune == "percentile" else NopPruner()


@contextmanager
def quiet_optuna() -> Generator[None]:
    """Its log, and its warnings of what is experimental, say nothing to our users."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="optuna")
            warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
            warnings.filterwarnings("ignore", message="`x0` has been deprecated", category=FutureWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


class _Unused(BaseSampler):
    """Stands in the study until a trial gets its own."""

    def infer_relative_search_space(self, study: optuna.Study, trial: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, study: optuna.Study, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: optuna.Study, trial: Any, param_name: str, param_distribution: Any) -> Any:
        raise AssertionError("each trial draws from a sampler of its own")
