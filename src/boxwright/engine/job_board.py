"""A few words that the processes of a run leave for each other outside of their collectives, and for those that
torchrun starts in their place: the folder of the run, and what went wrong.

They are kept in the store of the launcher.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from torch.distributed import DistError  # pyright: ignore[reportPrivateImportUsage]

from boxwright.engine.distributed import World
from boxwright.engine.launcher_store import launcher_store
from boxwright.errors import UserError

_FOLDER = "boxwright run folder"
_MISTAKE = "boxwright mistake"
_SECONDS = 3.0  # how long a mistake of another process is waited for


def remember_folder(folder: Path) -> None:
    """Leave word of the run folder for a restart; called by the first rank."""
    store = launcher_store()
    if store is not None:
        store.set(_FOLDER, os.fsencode(folder.absolute()).decode("utf-8", "surrogateescape"))


def folder_before_restart() -> Path | None:
    """The run folder that this job already has, if torchrun has started its processes anew."""
    store = launcher_store()
    if store is None or not store.check([_FOLDER]):
        return None
    return Path(os.fsdecode(store.get(_FOLDER)))


@contextmanager
def one_voice(world: World) -> Generator[None]:
    """Only the first rank prints; a mistake that all ranks find is told by one, and the others leave with code 2.

    Raises:
        UserError: a mistake, told here; or the connection to another rank is lost.
        SystemExit: code 2, the mistake is told elsewhere.
    """
    if world.size == 1:
        yield
        return
    with _silence(not world.is_first):
        try:
            yield
        except UserError as error:
            if _told(str(error)):
                time.sleep(1)  # the launcher ends all when one ends: let the other one speak first
                raise SystemExit(2) from error
            raise
        except RuntimeError as error:
            if not _is_lost_connection(error):
                raise
            if _wait_for_mistake():
                raise SystemExit(2) from error
            raise UserError(
                f"rank {world.rank} lost the connection to another process of this run, which ended or was killed; "
                "if torchrun does not start it again: boxwright train --resume goes on from the last checkpoint"
            ) from error


@contextmanager
def _silence(wanted: bool) -> Generator[None]:
    """Neither prints nor warnings; mistakes are still told."""
    logger = logging.getLogger("boxwright")
    level = logger.level
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere if wanted else sys.stdout):
        logger.setLevel(logging.ERROR if wanted else level)
        try:
            yield
        finally:
            logger.setLevel(level)


def _told(text: str) -> bool:
    """Whether another rank has told this mistake; if not, this one now does."""
    store, key = launcher_store(), f"{_MISTAKE} {_attempt()}"
    return store is not None and store.compare_set(key, "", text) == text.encode() and store.add(f"{key} told", 1) > 1


def _wait_for_mistake() -> bool:
    """Whether another rank tells a mistake within a few seconds."""
    store, end = launcher_store(), time.monotonic() + _SECONDS
    try:
        while store is not None and time.monotonic() < end:
            if store.check([f"{_MISTAKE} {_attempt()}"]):
                return True
            time.sleep(0.1)
    except RuntimeError:  # the store is gone
        pass
    return False


def _is_lost_connection(error: RuntimeError) -> bool:
    words = str(error).lower()
    return isinstance(error, DistError) or "gloo" in words or "connection" in words


def _attempt() -> str:
    """Number of restarts so far."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
