"""A nuScenes root written by hand, as small as one can be: tables as dictionaries that a test may spoil first.

Two scenes of three key frames, half a second apart; the car drives 1 m along global x between them. Six cameras, five
radars with a sweep between key frames, a lidar. A car that drives ahead at 2 m/s, a standing pedestrian, a bicycle rack
and an animal, which is ignored.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from boxwright.nuscenes.structures import CAMERAS, RADAR_FIELDS

VERSION = "v1.0-mini"
RADARS = ("RADAR_FRONT", "RADAR_FRONT_LEFT", "RADAR_FRONT_RIGHT", "RADAR_BACK_LEFT", "RADAR_BACK_RIGHT")
WIDTH, HEIGHT = 160, 90
FORWARD = [0.5, -0.5, 0.5, -0.5]
"""Turns the camera's z to the car's x."""
TURN = [0.0, 0.0, 0.0, 1.0]
"""Half a turn about z: looks back."""
LEVEL = [1.0, 0.0, 0.0, 0.0]
_SIZES = (4, 4, 4, 1, 2, 4, 4, 4, 4, 4, 1, 1, 1, 1, 1, 1, 1, 1)
_TYPES = "FFFIIFFFFFIIIIIIII"
Tables = dict[str, list[dict[str, Any]]]


def tables(scenes: tuple[str, ...] = ("scene-0061", "scene-0103"), samples: int = 3) -> Tables:
    """All thirteen tables; tokens say what they name."""
    made: Tables = {
        "log": [{"token": "log", "logfile": "log", "vehicle": "v", "date_captured": "2018-07-24", "location": "here"}],
        "map": [{"token": "map", "log_tokens": ["log"], "category": "semantic_prior", "filename": "maps/map.png"}],
        "visibility": [{"token": "4", "level": "v80-100", "description": ""}],
        "attribute": [{"token": "moving", "name": "vehicle.moving"}, {"token": "still", "name": "pedestrian.standing"}],
        "category": [
            {"token": name, "name": name}
            for name in ("vehicle.car", "human.pedestrian.adult", "static_object.bicycle_rack", "animal")
        ],
        "sensor": [],
        "calibrated_sensor": [],
        "scene": [],
        "sample": [],
        "ego_pose": [],
        "sample_data": [],
        "instance": [],
        "sample_annotation": [],
    }
    focal = [[100.0, 0.0, WIDTH / 2], [0.0, 100.0, HEIGHT / 2], [0.0, 0.0, 1.0]]
    for channel in (*CAMERAS, *RADARS, "LIDAR_TOP"):
        camera = channel.startswith("CAM")
        made["sensor"].append({"token": f"s-{channel}", "channel": channel})
        made["calibrated_sensor"].append(
            {
                "token": f"c-{channel}",
                "sensor_token": f"s-{channel}",
                "translation": [0.0, 0.0, 1.5 if camera else 0.5],
                "rotation": FORWARD if camera else LEVEL,
                "camera_intrinsic": focal if camera else [],
            }
        )
    for number, scene in enumerate(scenes):
        made["scene"].append({"token": scene, "name": scene, "log_token": "log", "nbr_samples": samples})
        _scene(made, scene, 1_000_000_000 * (number + 1), samples)
    return made


def _scene(made: Tables, scene: str, start: int, samples: int) -> None:
    for k in range(samples):
        time, token = start + 500_000 * k, f"{scene}-{k}"
        ends = {
            "prev": f"{scene}-{k - 1}" if k else "",
            "next": f"{scene}-{k + 1}" if k + 1 < samples else "",
        }
        made["sample"].append({"token": token, "timestamp": time, "scene_token": scene, **ends})
        for channel in (*CAMERAS, *RADARS, "LIDAR_TOP"):
            if channel in RADARS and k:
                _measure(made, token, channel, time - 250_000, f"{token}-{channel}-sweep", k - 0.5, False)
            _measure(made, token, channel, time, f"{token}-{channel}", float(k), True)
        for name, category, attributes, place, size in (
            ("car", "vehicle.car", ["moving"], [20.0 + 2 * k, 0.0, 0.8], [1.8, 4.0, 1.6]),
            ("man", "human.pedestrian.adult", ["still"], [15.0, 3.0, 0.9], [0.6, 0.6, 1.8]),
            ("rack", "static_object.bicycle_rack", [], [18.0, -5.0, 0.5], [2.0, 3.0, 1.0]),
            ("dog", "animal", [], [12.0, -2.0, 0.3], [0.3, 0.8, 0.5]),
        ):
            if not k:
                made["instance"].append({"token": f"{scene}-{name}", "category_token": category})
            made["sample_annotation"].append(
                {
                    "token": f"{token}-{name}",
                    "sample_token": token,
                    "instance_token": f"{scene}-{name}",
                    "visibility_token": "4",
                    "attribute_tokens": attributes,
                    "translation": place,
                    "size": size,
                    "rotation": LEVEL,
                    "prev": f"{scene}-{k - 1}-{name}" if k else "",
                    "next": f"{scene}-{k + 1}-{name}" if k + 1 < samples else "",
                    "num_lidar_pts": 5,
                    "num_radar_pts": 1,
                }
            )


def _measure(made: Tables, sample: str, channel: str, time: int, token: str, x: float, key: bool) -> None:
    camera = channel.startswith("CAM")
    suffix = "jpg" if camera else "pcd"
    made["ego_pose"].append({"token": token, "timestamp": time, "rotation": LEVEL, "translation": [x, 0.0, 0.0]})
    before = [row["token"] for row in made["sample_data"] if row["calibrated_sensor_token"] == f"c-{channel}"]
    same_scene = [name for name in before if name.rsplit("-", 2)[0][:10] == token[:10]]
    made["sample_data"].append(
        {
            "token": token,
            "sample_token": sample,
            "ego_pose_token": token,
            "calibrated_sensor_token": f"c-{channel}",
            "timestamp": time,
            "fileformat": suffix,
            "is_key_frame": key,
            "height": HEIGHT if camera else 0,
            "width": WIDTH if camera else 0,
            "filename": f"{'samples' if key else 'sweeps'}/{channel}/{token}.{suffix}",
            "prev": same_scene[-1] if same_scene else "",
            "next": "",
        }
    )


def write_root(root: Path, made: Tables, *, version: str = VERSION, blobs: bool = True) -> Path:
    """Write tables and, if wanted, a file for each image and radar sweep."""
    folder = root / version
    folder.mkdir(parents=True)
    for table, records in made.items():
        (folder / f"{table}.json").write_text(json.dumps(records))
    if not blobs:
        return root
    image = cv2.imencode(".jpg", np.full((HEIGHT, WIDTH, 3), 90, np.uint8))[1].tobytes()
    radar = pcd([point(10.0, 1.0, vx=2.0), point(12.0, -1.0, vx=-1.0)])
    for record in made["sample_data"]:
        if "LIDAR" not in record["filename"]:
            file = root / record["filename"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(image if file.suffix == ".jpg" else radar)
    return root


def point(x: float, y: float, vx: float = 0.0, **states: float) -> dict[str, float]:
    """A return that passes the state filters, unless states say otherwise."""
    return {"x": x, "y": y, "vx_comp": vx, "ambig_state": 3, "invalid_state": 0, **states}


def pcd(points: list[dict[str, float]], fields: tuple[str, ...] = RADAR_FIELDS, tail: bytes = b"\0") -> bytes:
    """A radar sweep as nuScenes writes it."""
    count = len(points)
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\n"
        f"FIELDS {' '.join(fields)}\nSIZE {' '.join(map(str, _SIZES))}\nTYPE {' '.join(_TYPES)}\n"
        f"COUNT {' '.join('1' * len(fields))}\nWIDTH {count}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n"
        f"POINTS {count}\nDATA binary\n"
    )
    kinds = [f"<{'f' if kind == 'F' else 'i'}{size}" for kind, size in zip(_TYPES, _SIZES, strict=True)]
    rows = np.zeros(count, list(zip(RADAR_FIELDS, kinds, strict=True)))
    for row, values in zip(rows, points, strict=True):
        for name, value in values.items():
            row[name] = value
    return header.encode() + rows.tobytes() + tail
