"""Run folders: exp, exp2, exp3 ... below a project folder, and the lock that lets one process at a time write there."""

import itertools
import logging
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from boxwright.data.files import Hidden, absolute_path, file_errors, open_without_links, remove_leftovers
from boxwright.errors import UserError
from boxwright.machine import try_lock
from boxwright.settings.base import TrainingConfig
from boxwright.settings.load import Setting, require_inside
from boxwright.terminal import shown

_LOCK = ".boxwright_running"
_PURPOSE = {"last.pt": " (for --resume)", "last.previous.pt": " (the one before it)"}
_NUM_NAMED = 3  # weight files that are listed one by one
_log = logging.getLogger("boxwright.train")
C = TypeVar("C", bound=TrainingConfig)


def new_run_folder(project: str | Path, name: str, exist_ok: bool = False) -> Path:
    """Make the folder of a new run and return it.

    Args:
        project: folder of runs, e.g. runs/train.
        name: wished name; where it is taken, a number from 2 upwards is appended.
        exist_ok: write into the folder of that name even if it is there.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    if shown(f"{project}{name}") != f"{project}{name}":  # logs and plots could not name their files
        raise UserError(f"run folder {Path(project, name)} has control characters, or bytes that are no UTF-8 text")
    for number in itertools.count(1):
        folder = Path(project, name if number == 1 else f"{name}{number}")
        try:
            folder.mkdir(parents=True, exist_ok=exist_ok)
            Hidden(folder / "can_write").drop()
            remove_leftovers(folder)
        except FileExistsError:
            if exist_ok:  # a plain file is in the way
                raise UserError(f"run folder {folder} cannot be made: a file of that name is there") from None
        except OSError as error:
            raise UserError(
                f"run folder {folder} cannot be written ({error.strerror}); choose another place with --project"
            ) from error
        else:
            return folder
    raise AssertionError  # numbers do not end


def typed_command() -> str:
    """Return the command line that this process was started by; empty where it is not one of Boxwright."""
    program = Path(sys.argv[0])
    ours = program.name == "boxwright" or program.parts[-2:] == ("boxwright", "__main__.py")
    return shlex.join(["boxwright", *sys.argv[1:]]) if ours else ""


def drop_checkpoints(folder: Path) -> None:
    """Remove last.pt, the one before it and best.pt of an earlier run from a folder that a new run takes."""
    for path in (folder / "weights" / name for name in (*_PURPOSE, "best.pt")):
        if path.exists():
            _log.warning("%s of an earlier run is removed: this run writes its own (--exist-ok)", path)
            path.unlink()


def drop_if_not_begun(folder: Path) -> None:
    """Remove the folder that a run has made if an error has ended it before its first step."""
    if not any((folder / name).exists() for name in ("log.log", "results.csv", "weights")):
        shutil.rmtree(folder, ignore_errors=True)


def with_checked_saving(config: C) -> C:
    """Refuse settings of saving that contradict each other or cannot be met; return them with a full path.

    Raises:
        UserError: names the flag.
    """
    periodic = [
        f"--{name.replace('_', '-')}" for name in ("save_period", "save_epochs") if name in config.model_fields_set
    ]
    if config.save_best_only and periodic:
        raise UserError(f"--save-best-only keeps best.pt alone, {periodic[0]} keeps other epochs: leave one out")
    if not config.best_weight:
        return config
    path = _best_weight(config)  # a resume may start in another folder
    if path.exists() and (not config.exist_ok or not path.is_file()):
        raise UserError(f"--best-weight {path} is there already; name a new file, or let it be replaced: --exist-ok")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"--best-weight {path}: there is no folder {path.parent} that can be written to")
    return config.model_copy(update={"best_weight": str(path)})


def with_stored_places(config: C, folder: Path, typed: Mapping[str, object]) -> C:
    """Refuse a file of best weights that only a checkpoint names, which may come from someone else, and lies elsewhere.

    Args:
        config: settings of a checkpoint, and those that were typed on top.
        folder: of the run.
        typed: the latter.

    Raises:
        UserError: it lies neither below the working folder nor in the run folder, or would not be a file of weights.
    """
    if not config.best_weight:
        return config
    path, checkpoint = _best_weight(config), folder / "weights" / "last.pt"
    if "best_weight" not in typed:
        setting = Setting(str(path), str(checkpoint))
        require_inside(path, folder / "config.yaml", setting, "best_weight", "give it again as --best-weight")
    return config.model_copy(update={"best_weight": str(path)})


def _best_weight(config: TrainingConfig) -> Path:
    if shown(config.best_weight) != config.best_weight:
        raise UserError(f"--best-weight {config.best_weight!r} has control characters, or bytes that are no UTF-8 text")
    path = absolute_path(config.best_weight)
    if path.suffix not in (".pt", ".pth"):
        raise UserError(f"--best-weight {path}: a file of weights ends in .pt or .pth")
    return path


def keep_best_alone(folder: Path) -> None:
    """Remove the state of a run that is done, see `save_best_only`; without best weights it stays."""
    if not (folder / "weights" / "best.pt").exists():
        _log.warning("there are no best weights, as no validation gave a number: last.pt is kept (--save-best-only)")
        return
    for name in _PURPOSE:
        (folder / "weights" / name).unlink(missing_ok=True)


def weights_on_disk(folder: Path) -> str:
    """Say what the weights of a run take on disk, the largest file first; empty where there are none."""
    sizes = sorted(((file.stat().st_size / 1e6, file.name) for file in (folder / "weights").glob("*.pt")), reverse=True)
    if not sizes:
        return ""
    named = [f"{name} {size:.1f} MB{_PURPOSE.get(name, '')}" for size, name in sizes[:_NUM_NAMED]]
    if more := sizes[_NUM_NAMED:]:
        named.append(f"{len(more)} more {sum(size for size, _ in more):.1f} MB")
    return f"weights on disk: {', '.join(named)}"


@contextmanager
def only_run_in(folder: Path) -> Generator[None]:
    """Keep other processes from training into a run folder.

    The lock is one of the operating system (POSIX record lock): it ends with the process, however that ends, and loader
    processes that outlive it by seconds do not hold it.

    Raises:
        UserError: another process trains into the folder; names it.
    """
    path = folder / _LOCK
    while True:
        descriptor = open_without_links(path, os.O_RDWR)
        try:
            try_lock(descriptor, for_process=True)
        except OSError as error:
            holder = os.read(descriptor, 200).decode(errors="replace")
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise UserError(
                    f"process {holder or 'of unknown number'} trains into run folder {folder}: "
                    "wait until it ends, or take another --name"
                ) from None
            _log.warning("%s cannot be locked (%s): start no second run in it", folder, error.strerror)
            yield  # the file system knows no locks
            return
        if os.fstat(descriptor).st_nlink:
            break
        os.close(descriptor)  # who held it before has deleted this file: the next one has its own
    try:
        with file_errors("write", path):
            os.truncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is still locked, see above
        os.close(descriptor)
