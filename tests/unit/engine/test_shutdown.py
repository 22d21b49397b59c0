"""How a process ends."""

import subprocess
import sys

import pytest

SCRIPT = """
import atexit, sys
from boxwright.engine.shutdown import no_shutdown

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
