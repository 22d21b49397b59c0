"""Run a job in one process or in several: those that torchrun has started, or some that are started here by PyTorch's
own launcher, as torchrun would.
"""

import logging
import os
import signal
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from torch.distributed import DistError  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from boxwright.engine.allocator import keep_large_buffers
from boxwright.engine.distributed import World, joined, launcher_store, read_world
from boxwright.engine.stopping import EXIT_CODES
from boxwright.errors import MEMORY_ADVICE, UserError, is_out_of_memory
from boxwright.terminal import SayHandler, say, word_wrap

_FOLDER = "boxwright run folder"  # key in the store of the launcher, which outlives a restart
_SECONDS = 3.0  # how long a user error of another process is waited for


def remember_folder(folder: Path) -> None:
    """Store the run folder for a restart; called by the first rank."""
    store = launcher_store()
    if store is not None:
        store.set(_FOLDER, os.fsencode(folder.absolute()).decode("utf-8", "surrogateescape"))


def folder_before_restart() -> Path | None:
    """Find the run folder that this job already has, if torchrun has started its processes anew."""
    store = launcher_store()
    if store is None or not store.check([_FOLDER]):
        return None
    return Path(os.fsdecode(store.get(_FOLDER)))


@contextmanager
def only_first_rank(world: World) -> Generator[None]:
    """Let only the first rank print; print a user error once across ranks, the others exit with code 2.

    Raises:
        UserError: found here first; or the connection to another rank is lost.
        SystemExit: code 2, another rank prints the error.
    """
    if world.size == 1:
        yield
        return
    logger = logging.getLogger("boxwright")
    level = logger.level
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(sys.stdout if world.is_first else nowhere):
        if not world.is_first:
            logger.setLevel(logging.ERROR)
        try:
            yield
        except UserError as error:
            # The first to leave its error in the store prints it, and who counts later finds that it is printed.
            store, key, text = launcher_store(), _error_key(), str(error)
            if (
                store is not None
                and store.compare_set(key, "", text) == text.encode()
                and store.add(f"{key} count", 1) > 1
            ):
                time.sleep(1)  # the launcher ends all ranks when one ends: let the other one print first
                raise SystemExit(2) from error
            raise
        except RuntimeError as error:
            words = str(error).lower()  # gloo raises plain RuntimeErrors, whose words differ by version
            if not (isinstance(error, DistError) or "gloo" in words or "connection" in words):
                raise
            if _wait_for_user_error():
                raise SystemExit(2) from error
            raise UserError(
                f"rank {world.rank} lost the connection to another process of this run, which ended or was killed; "
                "if torchrun does not start it again: boxwright train --resume goes on from the last checkpoint"
            ) from error
        finally:
            logger.setLevel(level)


def _wait_for_user_error() -> bool:
    """Whether another rank finds a user error within a few seconds."""
    store, end = launcher_store(), time.monotonic() + _SECONDS
    try:
        while store is not None and time.monotonic() < end:
            if store.check([_error_key()]):
                return True
            time.sleep(0.1)
    except RuntimeError:  # the store is gone
        pass
    return False


def _error_key() -> str:
    """Name the place of a user error in the store, anew for each restart."""
    return f"boxwright user error {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


_SECONDS_TO_SAVE = 600  # after a signal, before processes are killed
Job = Callable[..., Path]  # (world, *arguments), a function of a module: it is looked up by name in other processes


def is_launched() -> bool:
    """Whether torchrun, or another launcher of its kind, has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or read_world().size > 1


def run_job(job: Job, num_processes: int, *arguments: Any) -> Path:
    """Run a job.

    Args:
        job: called as job(world, *arguments) in every process.
        num_processes: of this machine, if no launcher has started this one; arguments are pickled if there are several.

    Returns:
        what the first process returned.

    Raises:
        UserError: something is wrong, or a process died.
        SystemExit: another process prints the user error, or a signal ended the job.
    """
    if num_processes > 1 and not is_launched():
        return _start(job, num_processes, arguments)
    world = read_world()
    if num_processes > 1 and num_processes != world.local_size:
        raise UserError(
            f"the settings ask for {num_processes} processes, but torchrun has started {world.local_size} on this "
            "machine: leave out --nproc and lists of GPUs"
        )
    with only_first_rank(world), joined(world):
        return job(world, *arguments)


def _start(job: Job, num_processes: int, arguments: tuple[Any, ...]) -> Path:
    """Start the processes and wait for them; return what the first one returned."""
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        local_addr="localhost",
    )
    sys.stdout.flush()
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_SECONDS_TO_SAVE))  # 30, which a large step may take
    try:
        with _around_launcher(num_processes):
            return elastic_launch(launch, _work)(job, *arguments)[0]
    except SignalException as error:
        raise SystemExit(EXIT_CODES.get(error.sigval, 128 + error.sigval)) from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode in (2, *EXIT_CODES.values()):  # it has printed why
            raise SystemExit(failure.exitcode) from None
        signal_name = failure.signal_name() if failure.exitcode < 0 else ""
        how = f"was killed by {signal_name}" if signal_name else f"ended with code {failure.exitcode}"
        raise UserError(
            f"process {rank} of this run {how}, so that all were ended; go on from the last checkpoint with: "
            "boxwright train --resume, if it had saved one"
        ) from None


def _work(job: Job, *arguments: Any) -> Path:
    """Run the job in one of the processes, as one that the command line has started."""
    keep_large_buffers()
    logger = logging.getLogger("boxwright")
    logger.addHandler(SayHandler())
    logger.setLevel(logging.INFO)
    try:
        with word_wrap():
            return run_job(job, 1, *arguments)
    except UserError as error:
        say(f"boxwright: {error}", to_stderr=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:  # the launcher would not show it
        if is_out_of_memory(error):
            say(f"boxwright: {MEMORY_ADVICE}", to_stderr=True)
            raise SystemExit(2) from None
        traceback.print_exc()
        raise SystemExit(1) from None


@contextmanager
def _around_launcher(num_processes: int) -> Generator[None]:
    """Share the cores among the processes, unless the user has set the number of threads; silence the launcher's own
    log, whose news become one sentence; restore the signal handlers that it replaces.
    """
    shares_cores = "OMP_NUM_THREADS" not in os.environ
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // num_processes, 1)))
    silent = ("torch.distributed.elastic", "torch.multiprocessing")
    named = [*silent, *(name for name in logging.root.manager.loggerDict if name.startswith(silent))]  # own levels
    levels = {logger: logger.level for logger in map(logging.getLogger, named)}
    handlers = {number: signal.getsignal(number) for number in (*EXIT_CODES, signal.SIGHUP, signal.SIGQUIT)}
    for logger in levels:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        if shares_cores:
            del os.environ["OMP_NUM_THREADS"]
        for logger, level in levels.items():
            logger.setLevel(level)
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
