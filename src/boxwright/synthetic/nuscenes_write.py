"""Write the world of camera and radar as a nuScenes root: images, radar and lidar files, maps and tables.

Layout: samples/CHANNEL/ (key frames), sweeps/CHANNEL/ (radar between them), maps/, VERSION/ (tables and `splits.json`,
which names the scenes of train and val: they are in no official list). Each file is a function of the settings.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from boxwright.errors import UserError
from boxwright.synthetic.fusion_catalog import CATEGORIES, VISIBILITY, Rig, make_rig
from boxwright.synthetic.fusion_world import FusionWorldSettings
from boxwright.synthetic.nuscenes_scene import SceneWriter
from boxwright.synthetic.nuscenes_tables import Tables, token

ATTRIBUTES = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "pedestrian.moving",
)
_FIRST_NAME = 9001  # of a scene; official ones end at scene-1110


def write_nuscenes(
    root: Path, settings: FusionWorldSettings | None = None, *, on_progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write a nuScenes root; while it is written it lies beside its place, under another name.

    Args:
        root: a folder that is not there yet, or is empty.
        settings: what to write.
        on_progress: called with scenes done and scenes in all.

    Returns:
        `root`.

    Raises:
        UserError: `root` is a file or holds something, or it cannot be written.
    """
    settings = settings or FusionWorldSettings()
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root} is there already; a synthetic nuScenes root is written into a new or an empty folder")
    try:
        root.absolute().parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.absolute().parent))
    except OSError as error:
        raise UserError(f"{root}: the folder cannot be made: {error.strerror}") from error
    try:
        _write_root(beside, settings, on_progress)
        beside.chmod(0o755)
        if root.exists():
            root.rmdir()
        os.replace(beside, root)
    except OSError as error:
        raise UserError(f"{root} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return root


def _write_root(root: Path, settings: FusionWorldSettings, on_progress: Callable[[int, int], None] | None) -> None:
    cv2.setNumThreads(1)  # polygons are small: more threads only wait for each other
    tables_folder = root / settings.version
    tables_folder.mkdir()
    names = [f"scene-{_FIRST_NAME + index}" for index in range(settings.scenes)]
    with Tables(tables_folder) as tables:
        _write_vocabulary(tables, make_rig(np.random.default_rng(0), settings.width, settings.height))
        for index, name in enumerate(names):
            SceneWriter(root, settings, tables, index, name).write()
            if on_progress:
                on_progress(index + 1, settings.scenes)
        _write_map(root, tables, [token(settings.seed, "log", index) for index in range(settings.scenes)])
    split = settings.scenes - settings.num_val
    text = json.dumps({"train": names[:split], "val": names[split:]}, indent=1)
    (tables_folder / "splits.json").write_text(text + "\n", encoding="utf-8")


def _write_vocabulary(tables: Tables, rig: Rig) -> None:
    for name in CATEGORIES:
        tables.add("category", {"token": token("category", name), "name": name, "description": f"Synthetic {name}"})
    for name in ATTRIBUTES:
        tables.add("attribute", {"token": token("attribute", name), "name": name, "description": f"Synthetic {name}"})
    for number, level, _ in VISIBILITY:
        tables.add("visibility", {"token": number, "level": level, "description": f"visibility is {level} percent"})
    sensors = [(camera.name, "camera") for camera in rig.cameras] + [(mount.channel, "radar") for mount in rig.radars]
    for channel, modality in (*sensors, (rig.lidar.channel, "lidar")):
        tables.add("sensor", {"token": token("sensor", channel), "channel": channel, "modality": modality})


def _write_map(root: Path, tables: Tables, logs: Sequence[str]) -> None:
    """Write an empty map that all drives share."""
    name = token("map")
    (root / "maps").mkdir()
    done, data = cv2.imencode(".png", np.full((64, 64), 255, np.uint8))
    if not done:
        raise OSError("OpenCV cannot encode the map")
    (root / "maps" / f"{name}.png").write_bytes(data.tobytes())
    record = {"category": "semantic_prior", "token": name, "filename": f"maps/{name}.png", "log_tokens": list(logs)}
    tables.add("map", record)
