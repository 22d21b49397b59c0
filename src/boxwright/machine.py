"""This process and its operating system: locks, signals, memory, threads, and how it ends. Imports no torch.

What systems do not share stands here, each with a plain fallback. Linux has all of it. Elsewhere a lock that is not
there is given up, a signal that is not there does not come, and a number that cannot be told is 0.
"""

import atexit
import contextlib
import errno
import os
import platform
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

_STATUS, _MEMORY, _PROCESSOR = (Path("/proc") / name for name in ("self/status", "meminfo", "cpuinfo"))
_GROUP = Path("/sys/fs/cgroup")  # what the container may take
# Parameter numbers of mallopt in glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
# 24 us: docs/decisions/0020-threads-of-the-training-step.md has the measurements.
_SPINS = "1000"


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


def start_method() -> str | None:
    """Name how processes that share this one's memory are started: "fork", or None (the system's own way, spawned).

    macOS can fork, but its libraries crash in a process that was forked from one with threads.
    """
    return "fork" if hasattr(os, "fork") and sys.platform != "darwin" else None


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


def available_memory() -> int | None:
    """Measure bytes of memory free for new data, within the limit of the container; None where it cannot be told."""
    limits: list[int] = []
    try:
        lines = _MEMORY.read_text(encoding="ascii").splitlines()
        limits += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        ceiling, used = (_GROUP / "memory.max").read_text().strip(), (_GROUP / "memory.current").read_text()
        if ceiling != "max":
            pages = dict(line.split() for line in (_GROUP / "memory.stat").read_text().splitlines())
            limits.append(int(ceiling) - int(used) + int(pages.get("inactive_file", 0)))  # given up when needed
    except (OSError, ValueError):
        pass
    return min(limits) if limits else None


def processor_name() -> str:
    """Return the model of the processor, or its architecture where the system does not tell."""
    return _of_processor("model name").partition("@")[0].strip() or platform.processor() or platform.machine()


def processor_flags() -> set[str]:
    """Return the extensions that an x86 processor has; empty where the system does not tell."""
    return set(_of_processor("flags").split())


def _of_processor(key: str) -> str:
    """Read a value of the first core; "" where there is none."""
    with contextlib.suppress(OSError), _PROCESSOR.open(encoding="utf-8", errors="replace") as lines:
        return next((value for name, _, value in (line.partition(":") for line in lines) if name.strip() == key), "")
    return ""


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


def spin_briefly() -> None:
    """Limit how long OpenMP's threads spin, unless the user has set that. Call once, before torch is loaded.

    libgomp, which torch brings along on Linux, lets threads that wait for each other spin 300,000 turns, 7 ms at 24 ns
    a turn: longer than a time slice. Where another process holds the core of the thread that is waited for, the
    spinning keeps it from running.
    """
    if os.environ.keys().isdisjoint({"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}):
        os.environ["GOMP_SPINCOUNT"] = _SPINS


def keep_large_buffers() -> bool:
    """Let malloc keep large buffers instead of returning them to the kernel. Call once, before torch allocates.

    A training step on the CPU frees and asks again for the same large tensors; by default each of them is mapped,
    zeroed by the kernel and unmapped. Keeping them made a step 1.35 times faster in CPU time, with the same bits.

    Returns:
        True where they were set; False anywhere but on Linux with glibc.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    import ctypes  # here, since `--help` is to be quick

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    # No mmap at all, and 2 GiB that may lie idle at the top of the heap: more than any step frees at once.
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 256 * 2**20))
    results = [mallopt(parameter, value) for parameter, value in settings]  # all three, even if one is refused
    return results == [1, 1, 1]


@contextlib.contextmanager
def no_shutdown() -> Generator[None]:
    """Let the process end right after its exit functions, with the code of its SystemExit.

    The shutdown would take each object of torch apart: .5 s of CPU, a quarter of what torch costs in all. In one of
    several ranks it even fails: threads of gloo release the tensors of the last collective in their own time, and ask
    Python for its lock to do so. During the shutdown Python before 3.14 ends a thread that asks, within C++ code that
    does not allow it: the process died of SIGABRT after its work was done. Enter before anything else registers an exit
    function: what is registered first is called last.
    """
    codes: list[int] = []

    def end() -> None:
        if codes:  # none after an exception that nobody caught: its traceback is printed by the shutdown
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                    stream.flush()
            os._exit(codes[0])

    atexit.register(end)
    try:
        yield
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            codes.append(error.code or 0)
        raise
    codes.append(0)
