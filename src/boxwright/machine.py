"""What operating systems do not share, each with a plain fallback: file locks, signals, limits, counters.

Linux has all of it. Elsewhere a lock that is not there is given up, a signal that is not there does not come, and a
number that cannot be told is None; nothing else in the code asks which system it is on.
"""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Generator, Iterable
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
try:
    import resource
except ImportError:  # Windows
    resource = None
try:
    import termios
except ImportError:  # Windows
    termios = None

# Of os.open: bytes as they are, links not followed, and no waiting for who writes into a pipe.
OPEN_FLAGS = sum(getattr(os, name, 0) for name in ("O_BINARY", "O_NOFOLLOW", "O_NONBLOCK"))
HAS_LOCKS = fcntl is not None

_STATUS = Path("/proc/self/status")


def signals(*names: str) -> list[signal.Signals]:
    """Return the signals of these names that this system has."""
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


def is_hangup(number: int) -> bool:
    """Return whether a signal says that the terminal was closed."""
    return number in signals("SIGHUP")


@contextlib.contextmanager
def blocked(numbers: Iterable[signal.Signals]) -> Generator[None]:
    """Hold signals back; a process that is started meanwhile holds them back until it lets them in."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock(numbers: Iterable[signal.Signals]) -> None:
    """Let signals in that the process which started this one holds back."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def try_lock(descriptor: int, *, for_process: bool = False) -> None:
    """Lock an open file without waiting.

    Args:
        descriptor: open for writing, if the lock is for the process.
        for_process: the process holds the lock (POSIX record lock), and not the open file, which children share.

    Raises:
        BlockingIOError: somebody else holds it.
        OSError: the file system, or the operating system, has no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOLCK, "this system has no locks for files")
    lock = fcntl.lockf if for_process else fcntl.flock
    try:
        lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except PermissionError as error:  # what some systems say where others say that it would block
        raise BlockingIOError(*error.args) from None


def is_alive(process: int) -> bool:
    """Return whether a process of this machine runs; True where that cannot be told."""
    if os.name == "nt":  # where os.kill would end it, or send it Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True


def terminal_is_gone(descriptor: int) -> bool:
    """Return whether an open file is a terminal that was closed."""
    if termios is None:
        return False
    try:
        termios.tcgetattr(descriptor)
    except termios.error as error:
        return error.args[0] == errno.EIO
    return False


def has_memory_limit() -> bool:
    """Return whether this process may take only so much address space (`ulimit -v`)."""
    return resource is not None and resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def peak_memory() -> int:
    """Measure the most bytes of memory that this process has taken so far; 0 where the system does not tell."""
    if _STATUS.exists():  # Linux, where the other number begins with that of the process that started this one
        (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def wait_for_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    windows = os.name == "nt"
    if windows and path.is_dir():  # cannot be opened there
        return
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
