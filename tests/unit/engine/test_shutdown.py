"""How a process that is one of several ends."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import atexit, sys
from boxwright.engine.shutdown import no_shutdown_of_ranks

class Last:
    def __del__(self):
        print("shut down")

last = Last()
with no_shutdown_of_ranks():
    atexit.register(print, "exit function")
    sys.stdout.write("work ")
    {end}
"""


@pytest.mark.parametrize(
    ("end", "code", "shut_down"),
    [("sys.exit(3)", 3, False), ("pass", 0, False), ("sys.exit()", 0, False), ("1 / 0", 1, True)],
)
def test_a_rank_ends_after_its_exit_functions(end: str, code: int, shut_down: bool) -> None:
    output = "work exit function\n" + "shut down\n" * shut_down
    assert _run(SCRIPT.format(end=end), RANK="0") == (code, output)


def test_a_process_of_its_own_is_shut_down() -> None:
    assert _run(SCRIPT.format(end="sys.exit(3)")) == (3, "work exit function\nshut down\n")


def _run(script: str, **environment: str) -> tuple[int, str]:
    """Return the exit code and what was printed."""
    given = {name: value for name, value in os.environ.items() if name != "RANK"} | environment
    process = subprocess.run([sys.executable, "-c", script], env=given, capture_output=True, text=True, timeout=60)
    return process.returncode, process.stdout
