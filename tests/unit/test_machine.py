"""How a process ends, and what is told to malloc and OpenMP before torch is loaded."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from boxwright import machine
from boxwright.machine import available_memory, processor_flags, processor_name, spin_briefly, start_method

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


def test_memory_within_the_limit_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "_GROUP", tmp_path)
    assert available_memory() is None  # no Linux
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    assert available_memory() == 5000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    assert available_memory() == 5000 * 1024
    (tmp_path / "memory.max").write_text("4000000\n")
    (tmp_path / "memory.stat").write_text("anon 7\ninactive_file 500000\n")
    assert available_memory() == 1_500_000
    monkeypatch.setattr(machine, "_MEMORY", Path("/proc/meminfo"))
    assert (available_memory() is None) == (not sys.platform.startswith("linux"))


def test_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_PROCESSOR", tmp_path / "cpuinfo")
    assert processor_name() == platform.processor() or platform.machine()
    assert processor_flags() == set()
    core = "processor\t: 0\nmodel name\t: Fast 9 CPU @ 3.00GHz\nflags\t\t: fpu amx_bf16\n\n"
    (tmp_path / "cpuinfo").write_text(core * 2)
    assert (processor_name(), processor_flags()) == ("Fast 9 CPU", {"fpu", "amx_bf16"})


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
