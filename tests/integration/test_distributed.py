"""Two processes train what one does, also when one of them dies or is told to stop; metrics are those of one."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from boxwright.yolo.settings import ValConfig
from boxwright.yolo.verbs.val import val
from tests.integration.small_runs import DRIVER, write_world
from tests.integration.test_resume import assert_same

IMAGES, BATCH, EPOCHS = 21, 4, 2
STEPS = 6  # the last batch of an epoch has one image, so that the second process has none
TOLERANCE = 1e-5
SETTINGS: dict[str, Any] = {
    "epochs": EPOCHS,
    "batch_size": BATCH,
    "imgsz": 64,
    "workers": 0,
    "device": "cpu",
    "precision": "fp32",
    "sync_bn": True,
    "noautoanchor": True,
    "noplots": True,
    "conf_thres": 0.0,  # so that there is something to measure after a few steps
    "seed": 7,
    "exist_ok": True,
    "loss.obj": 50.0,
    "loss.autobalance": True,
    "optim.nominal_batch_size": BATCH,  # an update a step
    "optim.lr0": 0.05,
    "optim.ema_decay": 0.5,
}
ONE = [sys.executable]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]


class Runs:
    """Starts runs in a folder of their own."""

    def __init__(self, root: Path) -> None:
        data, network = write_world(root, IMAGES)
        self.folder = root / "runs"
        self.settings = SETTINGS | {"data": str(data), "model": str(network), "project": str(self.folder)}
        self.driver = root / "driver.py"
        self.driver.write_text(DRIVER + "\n", encoding="utf-8")

    def start(
        self,
        name: str,
        launcher: list[str],
        *,
        resume: bool = False,
        settings: dict[str, Any] | None = None,
        **order: Any,
    ) -> subprocess.Popen[str]:
        given = (settings or {}) if resume else self.settings | {"name": name} | (settings or {})
        content = {"settings": given, "resume": str(self.folder / name) if resume else "", "signal": "", "at_step": -1}
        command = [*launcher, str(self.driver), json.dumps(content | order)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=self.folder.parent
        )

    def run(self, name: str, launcher: list[str], **order: Any) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        process = self.start(name, launcher, **order)
        out, err = process.communicate(timeout=200)
        return process.returncode, out, err

    def weights(self, name: str, file: str = "last.pt") -> dict[str, Any]:
        return torch.load(self.folder / name / "weights" / file, weights_only=True)

    def rows(self, name: str) -> list[dict[str, float]]:
        with (self.folder / name / "results.csv").open(encoding="utf-8") as file:
            return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]

    def assert_same_end(self, name: str, other: str) -> None:
        """Bit for bit."""
        ours, theirs = self.weights(name), self.weights(other)
        for part in ("state_dict", "ema", "engine"):
            assert_same(ours[part], theirs[part], part)
        assert self.rows(name) == self.rows(other)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """With the run of two processes that nothing disturbed."""
    made = Runs(tmp_path_factory.mktemp("two prozesse"))
    code, out, err = made.run("two", TORCHRUN)
    assert code == 0, err
    assert out.count("results in") == 1, out  # one of them prints
    assert "Warning" not in err, err
    return made


def test_two_processes_train_what_one_does(runs: Runs) -> None:
    code, _, err = runs.run("one", ONE)
    assert code == 0, err
    one, two = runs.weights("one"), runs.weights("two")
    for part in ("state_dict", "ema"):
        torch.testing.assert_close(two[part], one[part], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(
        two["engine"]["criterion"], one["engine"]["criterion"], rtol=0, atol=TOLERANCE
    )  # autobalance
    for ours, theirs in zip(runs.rows("two"), runs.rows("one"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=TOLERANCE)
        assert theirs["metrics/mAP_0.5"] > 0
    start = torch.load(runs.folder / "one" / "weights" / "last.pt", weights_only=True)["engine"]["run"]
    assert (start["epoch"], start["last_update"]) == (EPOCHS, EPOCHS * STEPS - 1)


def test_a_killed_process_is_started_again(runs: Runs) -> None:
    """In the second epoch; torchrun starts both anew, and they go on from the first."""
    launcher = [*TORCHRUN, "--max-restarts", "1"]
    code, out, err = runs.run("killed", launcher, signal="SIGKILL", at_step=STEPS + 2, rank=1)
    assert code == 0, err
    assert f"resuming {runs.folder / 'killed'} after epoch 1" in out
    runs.assert_same_end("killed", "two")


def test_processes_started_here_stop_and_go_on_together(runs: Runs) -> None:
    """A signal to one of them; all end after the same step, with its code."""
    code, out, err = runs.run("told", ONE, settings={"nproc": 2}, signal="SIGTERM", at_step=STEPS + 2, rank=1)
    assert code == 143, err
    assert err.count("stopped by SIGTERM") == 1, err
    assert "Traceback" not in out + err
    engine = runs.weights("told")["engine"]["run"]
    assert (engine["epoch"], engine["step"]) == (1, 3)
    code, _, err = runs.run("told", ONE, resume=True)
    assert code == 0, err
    runs.assert_same_end("told", "two")


def test_all_processes_know_what_the_first_has_measured(runs: Runs) -> None:
    """Statistics of the norms differ between processes here, and the fitness decides on rates, images and the end."""
    settings = {"sync_bn": False, "patience": 1, "image_weights": True, "optim.schedule": "plateau", "epochs": 4}
    settings |= {"optim.plateau_patience": 0, "batch_size": 10, "optim.nominal_batch_size": 10}
    code, _, err = runs.run("apart", ONE, settings=settings | {"nproc": 2})
    assert code == 0, err
    rows = runs.rows("apart")
    found = val(
        ValConfig(
            weights=(str(runs.folder / "apart" / "weights" / "last.pt"),),
            data=str(runs.settings["data"]),
            imgsz=64,
            batch_size=20,
            workers=0,
            device="cpu",
            conf_thres=0.0,
            noplots=True,
            project=str(runs.folder),
            name="apart val",
        )
    )
    assert rows[-1]["metrics/mAP_0.5"] > 0
    assert found.map50 == pytest.approx(rows[-1]["metrics/mAP_0.5"], rel=1e-5)
    assert found.map == pytest.approx(rows[-1]["metrics/mAP_0.5:0.95"], rel=1e-5)


def test_two_machines(runs: Runs) -> None:
    """Two agents of torchrun, with one process each, that meet on this machine."""
    port = 29500 + os.getpid() % 1000
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "--nnodes", "2"]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-id", "job", "--rdzv-endpoint", f"localhost:{port}"]
    agents = [runs.start("machines", [*launcher, "--local-addr", "localhost"]) for _ in range(2)]
    results = [agent.communicate(timeout=200) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], results
    runs.assert_same_end("machines", "two")


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"batch_size": 3}, "--batch-size 3 cannot be shared evenly by 2 processes; take 2 or 4")],
)
def test_mistakes_are_told_in_one_sentence(runs: Runs, settings: dict[str, Any], says: str) -> None:
    code, out, err = runs.run("wrong", ONE, settings={"nproc": 2} | settings)
    assert (code, out, err) == (2, "", f"boxwright: {says}\n")
    assert not (runs.folder / "wrong").exists()
