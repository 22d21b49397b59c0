"""A signal to the whole process group, as a terminal, `timeout` or a batch system sends it, spares the workers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.integration.small_runs import write_world

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups here")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_signal_to_the_group(tmp_path: Path, number: signal.Signals, code: int) -> None:
    data, network = write_world(tmp_path)
    last = tmp_path / "runs" / "exp" / "weights" / "last.pt"
    command = [sys.executable, "-m", "boxwright", "train", "--data", str(data), "--model", str(network), "--noplots"]
    command += ["--project", str(tmp_path / "runs"), "--epochs", "1000", "--batch-size", "4", "--imgsz", "64"]
    command += ["--workers", "1", "--device", "cpu", "--noval"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path)}
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a suite under nohup ignores it, and so would its children
    training = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    signal.signal(signal.SIGHUP, before)
    try:
        deadline = time.monotonic() + 120
        while not last.exists() and training.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(training.pid, number)
        _, error = training.communicate(timeout=60)
    finally:
        training.kill()
    assert training.returncode == code, error
    assert "Traceback" not in error
    resume = re.search(r"boxwright train --resume '(.*)'", error)
    assert resume is not None
    assert resume[1] == str(last)
    assert torch.load(last, weights_only=True)["engine"]["run"]["history"]
