"""What a command costs before it computes, as a multiple of the CPU time of `python -c "import torch"`.

`--help`, a data set that is missing, `predict` of one image, `val` of six, `train` up to its first step (the
first batch is there) and through it. Whole processes with all that they start, by turns with the import of torch; CPU
time (user and system) and wall time, medians, the first round left out. Then the imports that cost most, of
`python -X importtime`, own time in milliseconds; a module that costs much here and is not needed at once is imported
too early. Data and network are made here and are small: what the images of a real data set cost is not start-up.

Modules are compiled once and kept, as on any machine but those that set PYTHONDONTWRITEBYTECODE. OMP_NUM_THREADS is
left to the commands. Other processes make the CPU time of all of it larger, the ratios hardly.

    python benchmarks/startup.py [--rounds 5] [--imports 15]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from boxwright.synthetic.yolo_set import YoloSetSettings, write_yolo_set

PROBE = """
import os
from boxwright.engine.callbacks import Callback

class Probe(Callback):
    def on_train_batch_start(self, progress, batch):
        if os.environ["PROBE"] == "start":
            raise SystemExit(0)

    def on_train_batch_end(self, progress, losses):
        raise SystemExit(0)
"""
TORCH = ("-c", "import torch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--imports", type=int, default=15, help="how many imports are listed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commands, env = prepare(folder)
        cpu: dict[str, list[float]] = {}
        wall: dict[str, list[float]] = {}
        for number in range(options.rounds + 1):
            for what, argv in commands.items():
                probe = {"PROBE": "start" if what == "train to its first step" else "end"}
                seconds = measured(argv, env | probe)
                if number:  # the first round compiles, and fills the caches of the system
                    cpu.setdefault(what, []).append(seconds[0])
                    wall.setdefault(what, []).append(seconds[1])
        base = median(cpu["import torch"])
        print(f"{'':26}{'CPU s':>8}{'ratio':>8}{'wall s':>8}   medians of {options.rounds}, 1-minute load ", end="")
        print(f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        for what in commands:
            print(f"{what:26}{median(cpu[what]):8.2f}{median(cpu[what]) / base:8.2f}{median(wall[what]):8.2f}")
        for what in ("predict", "val", "train to its first step"):
            print(f"\n{what}: own time of imports, ms")
            for milliseconds, module in imports(commands[what], env | {"PROBE": "start"})[: options.imports]:
                print(f"{milliseconds:8.1f}  {module}")


def prepare(folder: Path) -> tuple[dict[str, Sequence[str]], dict[str, str]]:
    """Write data, weights and the probe into a folder; return the arguments of Python by name, and the environment."""
    site = folder / "site" / "startup_probe-1.0.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: startup-probe\nVersion: 1.0\n")
    (site / "entry_points.txt").write_text("[boxwright.callbacks]\nprobe = startup_probe:Probe\n")
    (folder / "site" / "startup_probe.py").write_text(PROBE)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder / "site"), env.get("PYTHONPATH"))))
    small = YoloSetSettings((("train", 4), ("val", 1)), width=640, height=360)
    data = str(write_yolo_set(folder / "data", small))
    run = ("--device", "cpu", "--project", str(folder / "runs"))
    train = ("-m", "boxwright", "train", "--model", "yolov5n", "--data", data, "--epochs", "1", *run)
    measured((*train, "--name", "made", "--imgsz", "64", "--noplots", "--noval"), env)
    weights = str(folder / "runs" / "made" / "weights" / "last.pt")
    image = str(next((folder / "data").glob("images/val/*.jpg")))
    commands: dict[str, Sequence[str]] = {
        "import torch": TORCH,
        "--help": ("-m", "boxwright", "--help"),
        "train --help": ("-m", "boxwright", "train", "--help"),
        "train, data missing": ("-m", "boxwright", "train", "--data", str(folder / "nowhere.yaml")),
        "predict": ("-m", "boxwright", "predict", "--weights", weights, "--source", image, *run),
        "val": ("-m", "boxwright", "val", "--weights", weights, "--data", data, "--noplots", *run),
        "train to its first step": (*train, "--callbacks", "probe"),
        "train through its first": (*train, "--callbacks", "probe"),
    }
    return commands, env


def measured(argv: Sequence[str], env: Mapping[str, str]) -> tuple[float, float]:
    """Run Python with these arguments; return the seconds of CPU, with those of its children, and of wall time."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *argv], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    said = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 2):  # 2: of a mistake that is measured
        raise RuntimeError(f"{argv} failed:\n{said}")
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - start


def imports(argv: Sequence[str], env: Mapping[str, str]) -> list[tuple[float, str]]:
    """Return the own milliseconds of each package of two names that a command imports, the dearest first."""
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", *argv], env=env, capture_output=True, text=True, check=True
    )
    own: dict[str, float] = {}
    for microseconds, module in re.findall(r"^import time: +(\d+) \| +\d+ \| *(\S+)$", ran.stderr, re.MULTILINE):
        package = ".".join(module.split(".")[:2])
        own[package] = own.get(package, 0.0) + int(microseconds) / 1000
    return sorted(((milliseconds, package) for package, milliseconds in own.items()), reverse=True)


if __name__ == "__main__":
    main()
