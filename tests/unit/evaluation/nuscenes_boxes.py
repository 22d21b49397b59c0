"""Boxes for tests of the nuScenes metric, one plain loop each: read from tables, drawn, measured."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.structures3d import ATTRIBUTE_NAMES, CLASS_NAMES, GlobalBoxes

SCENES = {"mini_train": "scene-0061", "mini_val": "scene-0103"}
CLASS_OF_CATEGORY = {
    "vehicle.car": "car",
    "vehicle.truck": "truck",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.trailer": "trailer",
    "vehicle.construction": "construction_vehicle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.bicycle": "bicycle",
    "movable_object.trafficcone": "traffic_cone",
    "movable_object.barrier": "barrier",
}
Racks = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
UPRIGHT = (1.0, 0.0, 0.0, 0.0)


@dataclass
class Root:
    tokens: list[str]
    annotations: GlobalBoxes
    ego_positions: NDArray[np.float64]
    racks: Racks


def box(
    sample: int = 0,
    label: str = "car",
    center: Sequence[float] = (5.0, 0.0, 0.0),
    size: Sequence[float] = (2.0, 4.0, 1.5),
    rotation: Sequence[float] = UPRIGHT,
    velocity: Sequence[float] = (0.0, 0.0),
    attribute: int = -1,
    score: float = -1.0,
    points: int = -1,
) -> tuple[Any, ...]:
    """One row for `boxes`."""
    return sample, CLASS_NAMES.index(label), center, size, rotation, velocity, attribute, score, points


def boxes(*rows: tuple[Any, ...]) -> GlobalBoxes:
    columns = list(zip(*rows, strict=True)) if rows else [()] * 9
    shapes = [(), (), (3,), (3,), (4,), (2,), (), (), ()]
    kinds = [np.int64, np.int64, float, float, float, float, np.int64, float, np.int64]
    arrays = [
        np.array(column, kind).reshape(len(rows), *shape)
        for column, kind, shape in zip(columns, kinds, shapes, strict=True)
    ]
    return GlobalBoxes(*arrays)


def read_results(file: Path, tokens: Sequence[str]) -> GlobalBoxes:
    """Boxes of a submission, in file order."""
    rows = [
        box(
            tokens.index(token),
            found["detection_name"],
            found["translation"],
            found["size"],
            found["rotation"],
            found["velocity"],
            ATTRIBUTE_NAMES.index(found["attribute_name"]) if found["attribute_name"] else -1,
            found["detection_score"],
        )
        for token, founds in json.loads(file.read_text())["results"].items()
        for found in founds
    ]
    return boxes(*rows)


def read_root(folder: Path, split: str) -> Root:
    """What the metric needs of a tiny root."""
    names = "scene sample sample_annotation sample_data ego_pose attribute category instance calibrated_sensor sensor"
    table = {
        name: {row["token"]: row for row in json.loads((folder / f"{name}.json").read_text())} for name in names.split()
    }
    scene = next(row["token"] for row in table["scene"].values() if row["name"] == SCENES[split])
    tokens = [row["token"] for row in table["sample"].values() if row["scene_token"] == scene]
    lidar = {row["token"] for row in table["sensor"].values() if row["channel"] == "LIDAR_TOP"}
    ego = np.zeros((len(tokens), 3))
    for data in table["sample_data"].values():
        sensor = table["calibrated_sensor"][data["calibrated_sensor_token"]]["sensor_token"]
        if sensor in lidar and data["is_key_frame"] and data["sample_token"] in tokens:
            ego[tokens.index(data["sample_token"])] = table["ego_pose"][data["ego_pose_token"]]["translation"]
    rows: list[tuple[Any, ...]] = []
    racks: list[tuple[Any, ...]] = []
    for note in table["sample_annotation"].values():
        if note["sample_token"] not in tokens:
            continue
        place = tokens.index(note["sample_token"]), note["translation"], note["size"], note["rotation"]
        category = table["category"][table["instance"][note["instance_token"]]["category_token"]]["name"]
        if category == "static_object.bicycle_rack":
            racks.append(place)
        if category not in CLASS_OF_CATEGORY:
            continue
        own = [ATTRIBUTE_NAMES.index(table["attribute"][token]["name"]) for token in note["attribute_tokens"]]
        points = note["num_lidar_pts"] + note["num_radar_pts"]
        rows.append(
            box(
                place[0],
                CLASS_OF_CATEGORY[category],
                *place[1:],
                velocity=_velocity(table, note),
                attribute=own[0] if own else -1,
                points=points,
            )
        )
    return Root(tokens, boxes(*rows), ego, rack_arrays(racks))


def rack_arrays(racks: Sequence[tuple[Any, ...]]) -> Racks:
    samples, centers, sizes, rotations = zip(*racks, strict=True) if racks else ((), (), (), ())
    return (
        np.array(samples, np.int64),
        np.array(centers, float).reshape(-1, 3),
        np.array(sizes, float).reshape(-1, 3),
        np.array(rotations, float).reshape(-1, 4),
    )


def _velocity(table: dict[str, dict[str, Any]], note: dict[str, Any]) -> list[float]:
    ends = [note["prev"] or note["token"], note["next"] or note["token"]]
    first, last = (table["sample_annotation"][end] for end in ends)
    stamps = [table["sample"][end["sample_token"]]["timestamp"] / 1e6 for end in (first, last)]
    elapsed, limit = stamps[1] - stamps[0], 3.0 if note["prev"] and note["next"] else 1.5
    if first is last or elapsed > limit:
        return [math.nan, math.nan]
    return [(b - a) / elapsed for a, b in zip(first["translation"][:2], last["translation"][:2], strict=True)]


def greedy(found: GlobalBoxes, truth: GlobalBoxes, label: int, threshold: float) -> dict[int, int]:
    """The rule word by word: annotation by prediction, both as rows."""
    turns = sorted((i for i in range(len(found)) if found.labels[i] == label), key=lambda i: (found.scores[i], i))
    taken: dict[int, int] = {}
    for prediction in reversed(turns):
        nearest, best = -1, math.inf
        for row in range(len(truth)):
            same = truth.labels[row] == label and truth.samples[row] == found.samples[prediction]
            if not same or row in taken.values():
                continue
            step = found.centers[prediction, :2] - truth.centers[row, :2]
            distance = math.sqrt(step[0] ** 2 + step[1] ** 2)
            if distance < best:
                nearest, best = row, distance
        if best < threshold:
            taken[prediction] = nearest
    return taken


def loop_ap(found: GlobalBoxes, truth: GlobalBoxes, label: int, threshold: float) -> float:
    """Average precision, one recall after another."""
    taken = greedy(found, truth, label, threshold)
    turns = sorted((i for i in range(len(found)) if found.labels[i] == label), key=lambda i: (found.scores[i], i))[::-1]
    positives = int((truth.labels == label).sum())
    if not taken or not positives:
        return 0.0
    hits, points = 0, []
    for turn, prediction in enumerate(turns):
        hits += prediction in taken
        points.append((hits / positives, hits / (turn + 1)))
    values = []
    for wanted in np.linspace(0, 1, 101)[11:]:
        if wanted > points[-1][0]:
            values.append(0.0)
            continue
        values.append(max(float(np.interp(wanted, *zip(*points, strict=True))) - 0.1, 0.0))
    return float(np.mean(values)) / 0.9
