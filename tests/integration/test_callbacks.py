"""Callbacks of an installed package in runs of their own: heard, refused, raising; and two runs in one folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import boxwright as bw
from boxwright.engine.callbacks import Callback, EpochReport, RunReport
from boxwright.errors import UserError
from tests.integration.small_runs import write_world

PACKAGE = """
import os
from boxwright.engine.callbacks import Callback

class Notes(Callback):
    "Appends each epoch to a file of the run folder."

    def on_pretrain_routine_start(self, report):
        self.file = report.folder / "notes.txt"

    def on_fit_epoch_end(self, report):
        with self.file.open("a") as file:
            file.write(f"{os.getpid()} {report.epoch}\\n")

class Faulty(Callback):
    def on_train_batch_end(self, place, losses):
        if (place.epoch, place.step) == (1, 2) and "MEND" not in os.environ:
            raise RuntimeError("the disk of notes is gone")

class Stops(Callback):
    def on_train_epoch_start(self, place):
        self.epoch = place.epoch

    def on_val_end(self, score):
        self.stop_training = "as told" if self.epoch == 1 else ""

def not_one():
    return 7
"""
POINTS = """
[boxwright.callbacks]
notes = small_notes:Notes
stops = small_notes:Stops
faulty = small_notes:Faulty
seven = small_notes:not_one
broken = small_notes:gone
"""
SETTINGS: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 4,
    "imgsz": 64,
    "workers": 0,
    "device": "cpu",
    "noplots": True,
    "noautoanchor": True,
}


class Bench:
    """A tiny data set and network, and a package with callbacks beside them."""

    def __init__(self, root: Path) -> None:
        data, network = write_world(root, 8)
        self.runs = root / "runs"
        self.settings = SETTINGS | {"data": str(data), "model": str(network), "project": str(self.runs)}
        self.site = root / "site"
        info = self.site / "small_notes-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: small-notes\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(POINTS)
        (self.site / "small_notes.py").write_text(PACKAGE)

    def start(self, *argv: str, **environment: str) -> subprocess.Popen[str]:
        paths = os.pathsep.join(filter(None, (str(self.site), os.environ.get("PYTHONPATH"))))
        given = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | environment
        command = [sys.executable, "-m", "boxwright", "train", *argv]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=given)

    def train(self, name: str, *argv: str) -> tuple[int, str]:
        flags = [f"--{key.replace('_', '-')}={value}" for key, value in self.settings.items()]
        return ended(self.start(*flags, "--name", name, *argv))


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and stderr."""
    _, errors = process.communicate(timeout=200)
    return process.returncode, errors


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("callbacks ünd so"))


def test_a_callback_is_heard_only_where_it_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(bench.site)
    assert bench.train("named", "--callbacks", "notes")[0] == 0
    notes = (bench.runs / "named" / "notes.txt").read_text().splitlines()
    assert [line.split()[1] for line in notes] == ["0", "1"]
    bw.train(**bench.settings, name="unnamed")
    assert not (bench.runs / "unnamed" / "notes.txt").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "note",
            "there are broken, clearml, comet, faulty, mlflow, notes, seven, stops, wandb",
        ),
        ("seven", "callback 'seven' (small_notes:not_one) is of type int"),
        ("broken", "callback 'broken' (small_notes:gone) cannot be loaded: AttributeError"),
    ],
)
def test_a_wrong_name_is_refused_before_anything_is_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    monkeypatch.syspath_prepend(bench.site)
    with pytest.raises(UserError, match=re.escape(says)):
        bw.train(**bench.settings, name="refused", callbacks=[name])
    assert not (bench.runs / "refused").exists()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_callback_that_raises_ends_the_run_and_it_goes_on(bench: Bench, processes: str) -> None:
    name = f"faulty{processes}"
    names = ["faulty", "notes", "stops"]
    code, errors = bench.train(name, "--callbacks", *names, "--nproc", processes, "--epochs", "3")
    folder = bench.runs / name
    checkpoint = folder / "weights" / "last.pt"
    says = "boxwright: callback Faulty raised in on_train_batch_end: RuntimeError: the disk of notes is gone; "
    assert code == 2
    assert [line for line in errors.splitlines() if "callback Faulty" in line] == [
        f"{says}go on with: boxwright train --resume '{checkpoint}'"
    ]
    assert "Traceback" not in errors
    assert "raise RuntimeError" in (folder / "log.log").read_text()
    code, errors = ended(bench.start("--resume", str(folder), MEND="1"))
    assert (code, "callback Faulty" in errors) == (0, False), errors
    notes = (folder / "notes.txt").read_text().splitlines()
    assert [line.split()[1] for line in notes] == ["0", "1"]  # heard in one process, stopped in all of them
    assert len((folder / "results.csv").read_text().splitlines()) == 3


def test_a_second_run_in_one_folder_is_refused(bench: Bench) -> None:
    """The first one is halted within its first epoch."""
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in (bench.settings | {"epochs": 100000}).items()]
    first = bench.start(*flags, "--name", "shared", "--exist-ok")
    checkpoint = bench.runs / "shared" / "weights" / "last.pt"
    try:
        while first.poll() is None and not checkpoint.exists():
            time.sleep(0.05)
        assert first.poll() is None
        first.send_signal(signal.SIGSTOP)
        refused = f"boxwright: process {first.pid} on "
        code, errors = bench.train("shared", "--exist-ok")
        assert (code, refused in errors) == (2, True), errors
        assert f"trains into run folder {bench.runs / 'shared'}: " in errors
        code, errors = ended(bench.start("--resume", str(checkpoint)))
        assert (code, refused in errors) == (2, True), errors
    finally:
        first.kill()
        first.communicate()
    assert bench.train("shared", "--exist-ok")[0] == 0  # what was killed holds nothing


class Listener(Callback):
    def __init__(self) -> None:
        self.folder = Path()
        self.fitness: list[float] = []

    def on_pretrain_routine_start(self, report: RunReport) -> None:
        self.folder = report.folder

    def on_fit_epoch_end(self, report: EpochReport) -> None:
        assert report.score is not None
        self.fitness.append(report.score.fitness)
        if len(self.fitness) == 2:
            self.stop_training = "two are enough"


def test_objects_in_python(bench: Bench) -> None:
    listener = Listener()
    folder = bw.train(**bench.settings | {"epochs": 9}, name="python", callbacks=[listener])
    assert listener.folder == folder
    assert len(listener.fitness) == 2
    with pytest.raises(UserError, match=r"callbacks\[0\] is of type int, not a subclass of .*Callback"):
        bw.train(**bench.settings, callbacks=[7])  # type: ignore[list-item]

    class Local(Callback):
        pass

    with pytest.raises(UserError, match="callback Local cannot be sent to the 2 processes of this run"):
        bw.train(**bench.settings | {"nproc": 2}, callbacks=[Local()])
