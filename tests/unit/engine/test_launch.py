"""A job in several processes: what it returns, how user errors and the death of a process are reported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from boxwright.engine.distributed import World
from boxwright.engine.launch import run_job
from boxwright.errors import UserError

JOBS = """
import os, signal, sys, time
from pathlib import Path
import torch
from boxwright.engine.distributed import World
from boxwright.errors import UserError
from boxwright.engine.launch import run_job
from boxwright.terminal import say_once

def talk(world: World, text: str) -> Path:
    say_once("said by the launcher")
    say_once("said by the job")
    with world.first_of_each_machine_first():
        if world.is_first:
            time.sleep(0.5)
            Path("made first").touch()
        assert Path("made first").exists()
    assert world.sum(torch.tensor([world.rank + 1.0, 1.0])).tolist() == [3.0, 2.0]
    assert world.largest(10 * world.rank) == 10
    assert world.all(("rank", world.rank)) == [("rank", 0), ("rank", 1)]
    assert world.at_first(world.rank) == ([0, 1] if world.is_first else [])
    assert world.from_first(f"from {world.rank}") == "from 0"
    tensor = torch.full((2, 3), float(world.rank)).T
    world.copy_from_first([tensor])
    assert not tensor.any()
    print(text, torch.get_num_threads())
    return Path(f"folder {world.rank} of {world.size}")

def listens(world: World) -> Path:
    world.wait()  # all are connected
    own = {os.readlink(file) for file in Path("/proc/self/fd").iterdir() if file.is_symlink()}
    listening = "0A"
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, address, _, state, *rest = line.split()
            if state == listening and f"socket:[{rest[5]}]" in own:
                os.write(2, f"{table} {address.partition(':')[0]}\\n".encode())
    folder = Path(os.environ["BOXWRIGHT_STORE"]).parent
    os.write(2, f"mode {oct(folder.stat().st_mode)[-3:]}\\n".encode())
    world.wait()
    return folder

def all_mistaken(world: World) -> Path:
    raise UserError("this is wrong")

def one_mistaken(world: World) -> Path:
    if world.rank == 1:
        raise UserError("a file of rank 1 is missing")
    world.wait()
    raise AssertionError

def dies(world: World) -> Path:
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    world.wait()
    raise AssertionError

if __name__ == "__main__":
    say_once("said by the launcher")  # which has no log
    try:
        print(run_job(globals()[sys.argv[1]], 2, *sys.argv[2:]))
    except UserError as error:
        print("error:", error)
        sys.exit(2)
"""


def in_two_processes(folder: Path, *job: str) -> tuple[int, list[str], str]:
    """Return exit code, lines of stdout, stderr."""
    script = folder / "jobs.py"
    script.write_text(JOBS, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, str(script), *job], capture_output=True, text=True, timeout=200, env=environment, cwd=folder
    )
    # torch's C++ logs write lines of their own, such as "[rank1]:[W...] ..." of gloo, whenever a peer has gone first.
    out = [line for line in done.stdout.splitlines() if not line.startswith("[")]
    return done.returncode, out, done.stderr


def own_lines(err: str) -> list[str]:
    """Return what Boxwright and Python have written to stderr, without the lines of torch's C++ logs."""
    lines = err.splitlines()
    return [line for line in lines if line.startswith(("boxwright", "Traceback")) or "Error" in line.split(":")[0]]


def test_processes_speak_with_each_other_and_one_speaks_for_all(tmp_path: Path) -> None:
    code, out, err = in_two_processes(tmp_path, "talk", "hello")
    assert (code, own_lines(err)) == (0, [])
    assert ("said by the launcher" in err, err.count("said by the job")) == (False, 1)
    assert out == [f"hello {max((os.cpu_count() or 1) // 2, 1)}", "folder 0 of 2"]


@pytest.mark.parametrize(
    ("job", "says"), [("all_mistaken", "this is wrong"), ("one_mistaken", "a file of rank 1 is missing")]
)
def test_a_user_error_is_printed_once(tmp_path: Path, job: str, says: str) -> None:
    code, out, err = in_two_processes(tmp_path, job)
    assert (code, out, own_lines(err)) == (2, [], [f"boxwright: {says}"])


def test_a_death_is_told(tmp_path: Path) -> None:
    code, out, err = in_two_processes(tmp_path, "dies")
    assert code == 2
    assert out == [
        "error: process 1 of this run was killed by SIGKILL, so that all were ended; go on from the last checkpoint "
        "with: boxwright train --resume, if it had saved one"
    ]
    assert "Traceback" not in err


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_listen_on_loopback_only_and_meet_in_a_private_folder(tmp_path: Path) -> None:
    code, out, err = in_two_processes(tmp_path, "listens")
    assert code == 0, err
    told = err.splitlines()
    assert told.count("tcp 0100007F") == 2  # 127.0.0.1: gloo of each
    assert [line for line in told if line.startswith("tcp") and line != "tcp 0100007F"] == []
    assert told.count("mode 700") == 2
    assert not Path(out[-1]).exists()


def report(world: World) -> Path:
    return Path(f"{world.rank} of {world.size}")


def test_one_process_needs_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_job(report, 1) == Path("0 of 1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")  # torchrun has started one process, the settings ask for two
    with pytest.raises(UserError, match="ask for 2 processes, but torchrun has started 1"):
        run_job(report, 2)


def test_ctrl_c_reaches_the_processes(tmp_path: Path) -> None:
    """The launcher hands it on and leaves with its code."""
    script = tmp_path / "jobs.py"
    waits = """
def waits(world):
    world.wait()  # both have started
    try:
        print("here", flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        raise
"""
    script.write_text(JOBS.replace("\nif __name__", f"{waits}\nif __name__"), encoding="utf-8")
    process = subprocess.Popen([sys.executable, str(script), "waits"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    assert out == "interrupted\n"  # the first process, whose prints are shown, ended by itself
