"""Kills (-9) at random moments, resumed with other numbers of workers: the bits of a run that nothing disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.integration.small_runs import write_world
from tests.integration.test_resume import assert_same_run

EPOCHS = 4


def _train(words: list[str], seconds: float | None = None) -> tuple[int, str]:
    """Run `boxwright train`, and kill all of its processes after some seconds; return code and what it said."""
    command = [sys.executable, "-m", "boxwright", "train", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        if seconds is not None:
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        _, said = process.communicate()
    return process.returncode, said


def audit_kills(root: Path, kills: int, ranks: int = 1, seed: int = 0) -> int:
    """Kill a run again and again until `kills` have hit it before its end; return how many resumes that took.

    Raises:
        AssertionError: a resume failed, or the end differs from that of the undisturbed run.
    """
    rng = np.random.default_rng(seed)
    data, network = write_world(root)
    words = ["--data", str(data), "--model", str(network), "--epochs", str(EPOCHS), "--batch-size", "4", "--imgsz"]
    words += ["64", "--device", "cpu", "--noplots", "--project", str(root / "runs"), "--seed", "7"]
    words += ["--nproc", str(ranks)] if ranks > 1 else []
    start = time.monotonic()
    code, said = _train([*words, "--name", "whole", "--workers", "0"])
    assert code == 0, said
    length, hits, resumes, round_ = time.monotonic() - start, 0, 0, 0
    while hits < kills:
        round_ += 1
        folder = root / "runs" / f"killed{round_}"
        while True:
            workers = ["--workers", str(rng.integers(0, 3))]
            is_begun = any((folder / "weights").glob("last*.pt"))
            goes_on = ["--resume", str(folder)] if is_begun else [*words, "--name", folder.name, "--exist-ok"]
            seconds = float(rng.uniform(0.3, 1.1)) * length if hits < kills else None
            code, said = _train([*goes_on, *workers], seconds)
            resumes += is_begun
            if code == 0:
                break
            hits += 1
            assert "Traceback" not in said, said
        assert_same_run(folder, root / "runs" / "whole")
        left = [str(file) for file in folder.rglob(".*.tmp")]
        assert not left, left
    return resumes


def main(kills: int, root: Path) -> bool:
    """Print the figures; an AssertionError says what differs."""
    for ranks in (1, 2):
        resumes = audit_kills(root / f"ranks{ranks}", kills // 2, ranks)
        print(f"{kills // 2} kills of {ranks} rank(s), {resumes} resumes: the same bits")
    return True
