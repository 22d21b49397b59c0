"""A tiny nuScenes root and settings of a network that learns nothing in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boxwright.synthetic.nuscenes_root import write_nuscenes
from boxwright.synthetic.world import WorldSettings

WORLD = WorldSettings(scenes=2, key_frames=2, width=128, height=72, sweeps=1, objects=20, val_fraction=0.5)
VERSION = WORLD.version


def write_root(folder: Path) -> Path:
    """Two scenes of two key frames, one to train on: twelve images each."""
    return write_nuscenes(folder, WORLD)


def tiny_settings(root: Path, project: Path, **changes: Any) -> dict[str, Any]:
    """Settings of three steps an epoch."""
    made = {
        "model": "centerfusion-dla34",
        "data": str(root),
        "version": VERSION,
        "epochs": 2,
        "batch_size": 4,
        "imgsz": [64, 128],
        "network.width": 0.125,
        "radar.sweeps": 2,
        "workers": 0,
        "device": "cpu",
        "noplots": True,
        "seed": 7,
        "project": str(project),
    }
    return made | changes
