"""What glibc's malloc and OpenMP are told before torch is loaded. Imports no torch.

malloc keeps large buffers instead of returning them to the kernel after each layer. A training step on the CPU frees
and asks again for the same large tensors; by default each of them is mapped, zeroed by the kernel and unmapped. Keeping
them made a step 1.35 times faster in CPU time, with the same bits.

OpenMP's threads sleep soon when they wait for each other. libgomp, which torch brings along on Linux, lets them spin
300,000 turns, 7 ms at 24 ns a turn: longer than a time slice. Where another process holds the core of the thread that
is waited for, the spinning keeps it from running.
"""

import ctypes
import os
import platform
import sys

# Parameter numbers of mallopt in glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4
# 0.1 ms: longer than most gaps between two operators, so that on a quiet machine threads seldom sleep.
_SPINS = "4000"


def spin_briefly() -> None:
    """Limit how long OpenMP's threads spin, unless the user has set that. Call once, before torch is loaded."""
    if os.environ.keys().isdisjoint({"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}):
        os.environ["GOMP_SPINCOUNT"] = _SPINS


def keep_large_buffers() -> bool:
    """Set the three malloc settings of this process. Call once, before torch allocates.

    Returns:
        True where they were set; False anywhere but on Linux with glibc.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    # No mmap at all, and 2 GiB that may lie idle at the top of the heap: more than any step frees at once.
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 256 * 2**20))
    results = [mallopt(parameter, value) for parameter, value in settings]  # all three, even if one is refused
    return results == [1, 1, 1]
