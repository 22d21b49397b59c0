"""What training a YOLO loads: no camera and radar, and not much at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.integration.small_runs import small_settings

PROGRAM = """
import json, sys
from boxwright.settings.load import load
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.verbs.train import train

train(load(RunConfig, json.loads(sys.argv[1])))
print(json.dumps(sorted(name for name in sys.modules if name.partition(".")[0] == "boxwright")))
"""


def test_training_a_yolo_loads_no_camera_and_radar(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, epochs=1, batch_size=6, noval=True, nosave=True)
    command = [sys.executable, "-c", PROGRAM, json.dumps(settings)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=120)
    loaded = json.loads(done.stdout.splitlines()[-1])
    rooms = {name.split(".")[1] for name in loaded if "." in name}
    assert {"yolo", "engine", "data"} <= rooms
    assert rooms.isdisjoint({"centerfusion", "nuscenes", "synthetic", "cli", "search"})
    assert len(loaded) <= 110
