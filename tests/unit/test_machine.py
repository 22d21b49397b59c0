"""How a process ends, and what is told to malloc and OpenMP before torch is loaded."""

import os
import subprocess
import sys

import pytest

from boxwright.machine import spin_briefly, start_method

SCRIPT = """
import atexit, sys
from boxwright.machine import no_shutdown

class Last:
    def __del__(self):
        print("shut down")

last = Last()
with no_shutdown():
    atexit.register(print, "exit function")
    sys.stdout.write("work ")
    {end}
"""


@pytest.mark.parametrize(
    ("end", "code", "shut_down"),
    [("sys.exit(3)", 3, False), ("pass", 0, False), ("sys.exit()", 0, False), ("1 / 0", 1, True)],
)
def test_a_process_ends_after_its_exit_functions(end: str, code: int, shut_down: bool) -> None:
    process = subprocess.run([sys.executable, "-c", SCRIPT.format(end=end)], capture_output=True, text=True, timeout=60)
    output = "work exit function\n" + "shut down\n" * shut_down
    assert (process.returncode, process.stdout) == (code, output)


def test_malloc_settings_need_no_torch() -> None:
    """In a process of its own: the settings would stay in force here."""
    code = (
        "import sys; from boxwright.machine import keep_large_buffers; done = keep_large_buffers();"
        "import platform; print(done == (platform.libc_ver()[0] == 'glibc'), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.parametrize(
    ("own", "expected"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_threads_spin_briefly_unless_the_user_says_otherwise(
    own: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(own))
    spin_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_loader_processes_are_not_forked_on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    assert start_method() == ("fork" if sys.platform == "linux" else None)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert start_method() is None
