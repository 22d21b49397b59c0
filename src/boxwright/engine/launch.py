"""Run a job in one process or in several: those that torchrun has started, or some that are started here."""

import logging
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence, Set
from contextlib import contextmanager, redirect_stdout, suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from torch.distributed import DistError  # pyright: ignore[reportPrivateImportUsage]
from torch.multiprocessing.spawn import start_processes

from boxwright.engine.distributed import STORE_FILE, World, joined, launcher_store, read_world
from boxwright.engine.stopping import EXIT_CODES
from boxwright.errors import MEMORY_ADVICE, UserError, is_out_of_memory
from boxwright.machine import blocked, is_hangup, keep_large_buffers, no_shutdown, signals, unblock
from boxwright.terminal import SayHandler, said, say, word_wrap

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
_POLL_SECONDS = 0.2
_SIGNALS = signals("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
_RESULT = "result"  # file for the path that the first process returns
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
    """Start the processes and wait for them; return what the first one returned.

    PyTorch's own launcher listens on all interfaces and unpickles what comes. These meet in a file of a folder that
    only this user can enter, and talk on the loopback interface.
    """
    sys.stdout.flush()
    with TemporaryDirectory(prefix="boxwright-") as folder, _around_processes(num_processes) as received:
        with blocked(_SIGNALS):  # until `_work` can answer them
            context = start_processes(_work, (num_processes, folder, said, job, *arguments), num_processes, join=False)
        assert context is not None
        processes = cast(list[BaseProcess], context.processes)
        failed = _wait_for(processes, received)
        if received:
            raise SystemExit(EXIT_CODES.get(received[0], 128 + received[0]))
        if failed is not None:
            code = processes[failed].exitcode or 0
            if code in (2, *EXIT_CODES.values()):  # it has printed why
                raise SystemExit(code)
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            raise UserError(
                f"process {failed} of this run {how}, so that all were ended; go on from the last checkpoint with: "
                "boxwright train --resume, if it had saved one"
            )
        return Path(os.fsdecode(Path(folder, _RESULT).read_bytes()))


def _wait_for(processes: Sequence[BaseProcess], received: Sequence[signal.Signals]) -> int | None:
    """Wait until all processes have ended, and end the others when one fails or a signal comes.

    Args:
        processes: by rank.
        received: signals to this process, which grow meanwhile. The first is handed on, so that the processes save; a
            second one ends them at once.

    Returns:
        the rank that failed first, or None.
    """
    failed: int | None = None
    ends = math.inf  # when those that are left are killed
    while alive := [process for process in processes if process.is_alive()]:
        wait([process.sentinel for process in alive], timeout=_POLL_SECONDS)
        if failed is None:
            failed = next((rank for rank, process in enumerate(processes) if process.exitcode), None)
        if ends == math.inf and (received or failed is not None):
            ends = time.monotonic() + _SECONDS_TO_SAVE
            for process in alive:
                with suppress(ProcessLookupError):
                    os.kill(process.pid or 0, received[0] if received else signal.SIGTERM)
        if time.monotonic() > ends or len(received) > 1:
            for process in alive:
                process.kill()
    return failed if failed is not None else next((rank for rank, p in enumerate(processes) if p.exitcode), None)


def _work(rank: int, num_processes: int, folder: str, said_before: Set[str], job: Job, *arguments: Any) -> None:
    """Run the job in one of the processes, as one that the command line has started."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_processes, "LOCAL_WORLD_SIZE": num_processes}
    os.environ.update({name: str(place) for name, place in places.items()})
    os.environ[STORE_FILE] = str(Path(folder, "store"))
    said.update(said_before)
    keep_large_buffers()
    logger = logging.getLogger("boxwright")
    logger.addHandler(SayHandler())
    logger.setLevel(logging.INFO)
    with no_shutdown():
        try:
            unblock(_SIGNALS)
            with word_wrap():
                result = run_job(job, 1, *arguments)
            if rank == 0:
                Path(folder, _RESULT).write_bytes(os.fsencode(result))
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
def _around_processes(num_processes: int) -> Generator[list[signal.Signals]]:
    """Share the cores among the processes, unless the user has set the number of threads; yield a list that gets the
    signals to this process.
    """
    shares_cores = "OMP_NUM_THREADS" not in os.environ
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // num_processes, 1)))
    received: list[signal.Signals] = []
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if is_hangup(number) and signal.getsignal(number) == signal.SIG_IGN:  # as under nohup
                continue
            handlers[number] = signal.signal(number, lambda number, frame: received.append(signal.Signals(number)))
    try:
        yield received
    finally:
        if shares_cores:
            del os.environ["OMP_NUM_THREADS"]
        for number, handler in handlers.items():
            signal.signal(number, handler)
