"""Run a job in one process or in several: those that torchrun has started, or some that are started here by PyTorch's
own launcher, as torchrun would.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from boxwright.engine.allocator import keep_large_buffers
from boxwright.engine.distributed import joined, read_world
from boxwright.engine.interrupt import EXIT_CODES
from boxwright.engine.job_board import one_voice
from boxwright.errors import UserError

_SECONDS_TO_SAVE = 600  # after a signal, before processes are killed
Job = Callable[..., Path]  # (world, *arguments), a function of a module: it is looked up by name in other processes


def is_launched() -> bool:
    """This process is one of those that torchrun, or another launcher of its kind, has started."""
    return "TORCHELASTIC_RUN_ID" in os.environ or read_world().size > 1


def run_job(job: Job, num_processes: int, *arguments: Any) -> Path:
    """Run a job.

    Args:
        job: called as job(world, *arguments) in every process.
        num_processes: of this machine, if no launcher has started this one; arguments are pickled if there are several.

    Returns:
        what the first process returned.

    Raises:
        UserError: a mistake, or a process died.
        SystemExit: a mistake that another process has told, or a signal.
    """
    if num_processes > 1 and not is_launched():
        return _start(job, num_processes, arguments)
    world = read_world()
    if num_processes > 1 and num_processes != world.local_size:
        raise UserError(
            f"the settings ask for {num_processes} processes, but torchrun has started {world.local_size} on this "
            "machine: leave out --nproc and lists of GPUs"
        )
    with one_voice(world), joined(world):
        return job(world, *arguments)


def _start(job: Job, num_processes: int, arguments: tuple[Any, ...]) -> Path:
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
        with _shared_cores(num_processes), _silent_launcher():
            return elastic_launch(launch, _work)(job, *arguments)[0]
    except SignalException as error:
        raise SystemExit(EXIT_CODES.get(error.sigval, 128 + error.sigval)) from None
    except ChildFailedError as error:
        _tell(error)


def _work(job: Job, *arguments: Any) -> Path:
    """What each process does: the same as one that the command line has started."""
    keep_large_buffers()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("boxwright").setLevel(logging.INFO)
    try:
        return run_job(job, 1, *arguments)
    except UserError as error:
        print(f"boxwright: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception:  # the launcher would not show it
        traceback.print_exc()
        raise SystemExit(1) from None


def _tell(failed: ChildFailedError) -> NoReturn:
    """Leave as the process that failed first has left, or say how it died."""
    rank, failure = failed.get_first_failure()
    if failure.exitcode in (2, *EXIT_CODES.values()):  # it has said why
        raise SystemExit(failure.exitcode) from None
    how = f"was killed by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with code {failure.exitcode}"
    raise UserError(
        f"process {rank} of this run {how}, so that all were ended; go on from the last checkpoint with: "
        "boxwright train --resume, if it had saved one"
    ) from None


@contextmanager
def _shared_cores(num_processes: int) -> Generator[None]:
    """Give each process its part of the cores, unless the user has said how many threads there are."""
    name = "OMP_NUM_THREADS"
    if name in os.environ:
        yield
        return
    os.environ[name] = str(max((os.cpu_count() or 1) // num_processes, 1))
    try:
        yield
    finally:
        del os.environ[name]


@contextmanager
def _silent_launcher() -> Generator[None]:
    """What matters of the launcher's own log is told in one sentence; its signal handlers go when it goes."""
    silent = ("torch.distributed.elastic", "torch.multiprocessing")
    named = [*silent, *(name for name in logging.root.manager.loggerDict if name.startswith(silent))]  # own levels
    loggers = [logging.getLogger(name) for name in named]
    levels = [logger.level for logger in loggers]
    handlers = {number: signal.getsignal(number) for number in (*EXIT_CODES, signal.SIGHUP, signal.SIGQUIT)}
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
