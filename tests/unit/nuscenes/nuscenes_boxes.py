"""Boxes for tests of the nuScenes metric, one plain loop each: read from a submission, written down, measured."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.nuscenes.structures import ATTRIBUTE_NAMES, CLASS_NAMES, GlobalBoxes

UPRIGHT = (1.0, 0.0, 0.0, 0.0)


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
