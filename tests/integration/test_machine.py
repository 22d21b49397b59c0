"""Training, val and predict without locks, limits, forks, /proc and most signals, as on Windows, and without extras."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.integration.small_runs import write_world

# What Windows lacks, taken away before anything of ours is imported; a loader process starts through this file too.
BARE = """
import multiprocessing, os, signal, sys

for name in "fcntl resource termios pwd grp matplotlib tensorboard torchvision".split():
    sys.modules[name] = None
for module, names in (
    (os, "fork forkpty pread pwrite setpgid getpgid killpg getuid geteuid sched_getaffinity O_NOFOLLOW O_NONBLOCK"),
    (signal, "SIGHUP SIGQUIT SIGUSR1 SIGUSR2 pthread_sigmask"),
):
    for name in names.split():
        delattr(module, name)
multiprocessing.get_all_start_methods = lambda: ["spawn"]
multiprocessing.set_start_method("spawn", force=True)

if __name__ == "__main__":
    from boxwright import machine
    from boxwright.cli.main import main

    machine._STATUS = machine._MEMORY = machine._PROCESSOR = machine._GROUP = machine.Path("/nothing")
    for words in open(sys.argv[1]).read().splitlines():
        code = main(words.split("|"))
        if code:
            sys.exit(f"{words} ended with {code}")
    assert machine.peak_memory() == 0 and not machine.HAS_LOCKS and machine.is_alive(0)
    assert machine.available_memory() is None and machine.processor_flags() == set()
"""


def test_without_what_windows_lacks(tmp_path: Path) -> None:
    data, network = write_world(tmp_path, num_images=6)
    weights, images = tmp_path / "runs/t/weights/last.pt", data.parent / "images/train"
    common = f"--imgsz|64|--device|cpu|--project|{tmp_path / 'runs'}|--name"
    verbs = [
        f"train|--data|{data}|--model|{network}|--epochs|1|--batch-size|3|--workers|1|--noautoanchor|{common}|t",
        f"val|--data|{data}|--weights|{weights}|--workers|0|{common}|v",
        f"predict|--source|{images}|--weights|{weights}|--conf-thres|.001|{common}|p",
        f"train|--resume|{tmp_path / 'runs/t'}|--epochs|2|--workers|0",
    ]
    (tmp_path / "bare.py").write_text(BARE)
    (tmp_path / "verbs.txt").write_text("\n".join(verbs))
    command = [sys.executable, "bare.py", "verbs.txt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "cannot be locked (this system has no locks for files): start no second run in it" in done.stderr
    for missing in ("an event file needs tensorboard, which is not installed", "a plot needs matplotlib, which is not"):
        assert missing in done.stderr
    assert len(list((tmp_path / "runs/p").rglob("*.jpg"))) == 6
    assert (tmp_path / "runs/t/report.html").exists()
    assert not list(tmp_path.rglob("*.tmp"))
