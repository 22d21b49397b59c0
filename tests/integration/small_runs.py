"""A tiny network and data set, and training in a process of its own that a signal hits at a chosen step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.unit.data.small_sets import write_yolo

NETWORK = """
nc: 2
depth_multiple: 1.0
width_multiple: 1.0
anchors: [[8, 8, 16, 12, 12, 16], [20, 20, 30, 24, 24, 30], [40, 40, 56, 44, 44, 56]]
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
head:
  - [[2, 3, 4], 1, Detect, [nc, anchors]]
"""

DRIVER = """
import json, os, signal, sys
from pathlib import Path
from boxwright.settings.load import load
from boxwright.centerfusion.settings import FusionConfig
from boxwright.yolo.settings import RunConfig
from boxwright.engine.stopping import FiniteWatch
from boxwright.errors import UserError
from boxwright.engine import run as train
from boxwright.systems import training_of

order = json.loads(sys.argv[1])
note_loss = FiniteWatch.note_loss

def note_and_signal(self, items, step):
    note_loss(self, items, step)
    rank, first_try = int(os.environ.get("RANK", "0")), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    if step == order["at_step"] and rank == order.get("rank", 0) and first_try:
        os.kill(os.getpid(), getattr(signal, order["signal"]))

FiniteWatch.note_loss = note_and_signal
if __name__ == "__main__":
    try:
        if order["resume"]:
            train.resume(Path(order["resume"]), order["settings"], training_of)
        else:
            kind = FusionConfig if order["settings"]["model"] == "centerfusion-dla34" else RunConfig
            train.train(load(kind, order["settings"]), training_of(order["settings"]))
    except UserError as error:
        print(f"boxwright: {error}", file=sys.stderr)
        sys.exit(2)
    left = [name for file in Path("/proc/self/task").glob("*/comm") if "gloo" in (name := file.read_text())]
    if left:  # one that runs while the interpreter shuts down may end the process by SIGABRT
        sys.exit(f"{len(left)} threads of the process group are left")
"""


def write_world(root: Path, num_images: int = 22) -> tuple[Path, Path]:
    """A data yaml and a model yaml."""
    labels = {f"image {i}": f"{i % 2} .5 .5 .3 .4\n{(i + 1) % 2} .3 .{3 + i % 4} .2 .2\n" for i in range(num_images)}
    network = root / "tiny.yaml"
    network.parent.mkdir(parents=True, exist_ok=True)
    network.write_text(NETWORK)
    return write_yolo(root / "data", labels), network


def run(
    settings: dict[str, Any], *, resume: Path | None = None, signal: str = "SIGKILL", at_step: int = -1
) -> subprocess.CompletedProcess[str]:
    """Train in a fresh process; the signal hits it after the forward and backward pass of a step."""
    order = {"settings": settings, "resume": str(resume) if resume else "", "signal": signal, "at_step": at_step}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRIVER, json.dumps(order)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def small_settings(root: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a run of six images and a tiny network below a folder."""
    data, network = write_world(root, num_images=6)
    made = {"data": str(data), "model": str(network), "batch_size": 3, "imgsz": 64, "workers": 0, "device": "cpu"}
    return made | {"noplots": True, "project": str(root / "runs")} | changes
