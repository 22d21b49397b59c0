"""The nuScenes metric equals the stored numbers of the published evaluation, on the tiny root, to 1e-9."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright.nuscenes.index import open_nuscenes
from boxwright.nuscenes.metric import NuscenesMetrics, evaluate
from boxwright.nuscenes.split import NuscenesSplit
from tests.golden import golden_cases, nuscenes_tiny
from tests.unit.nuscenes.nuscenes_boxes import read_results

SUBMISSIONS = golden_cases("eval", "submission_*.json", family="centerfusion")
TOLERANCE = 1e-9


def measure(file: Path, cache: Path) -> tuple[NuscenesMetrics, int]:
    name = file.stem.removeprefix("submission_")
    index = open_nuscenes(nuscenes_tiny(file.parents[1]), "v1.0-mini", cache_dir=cache)
    split = NuscenesSplit(index, name.rsplit("_", 1)[0])
    predictions = read_results(file, split.sample_tokens)
    return evaluate(split.ground_truth(), predictions, split.ego_positions(), split.bike_racks()), len(predictions)


def stored(file: Path) -> dict[str, Any]:
    return json.loads(file.with_name("metrics.json").read_text())[file.stem.removeprefix("submission_")]


def flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {key: leaf for name, item in value.items() for key, leaf in flat(item, f"{path}/{name}").items()}
    return {path: math.nan if value is None else value}


@pytest.mark.parametrize("file", SUBMISSIONS)
def test_summary_equals_the_stored_one(file: Path, tmp_path: Path) -> None:
    metrics, _ = measure(file, tmp_path)
    expected = flat(stored(file)["metrics"])
    # through text, so that keys are what a reader of the file sees
    found = flat(json.loads(json.dumps(metrics.summary())))
    assert set(found) - set(expected) == {"/eval_time"}
    assert set(expected) <= set(found)
    for key, value in expected.items():
        if isinstance(value, float):
            assert found[key] == pytest.approx(value, abs=TOLERANCE, rel=0, nan_ok=True), key
        else:
            assert found[key] == value, key


@pytest.mark.parametrize("file", SUBMISSIONS)
def test_as_many_boxes_count(file: Path, tmp_path: Path) -> None:
    metrics, count = measure(file, tmp_path)
    assert metrics.num_truth.sum() == stored(file)["n_gt_after_filter"]
    assert metrics.num_predictions.sum() == stored(file)["n_pred_after_filter"]
    assert count == stored(file)["n_pred"]


@pytest.mark.parametrize("file", SUBMISSIONS)
def test_ranges_hold_every_annotation(file: Path, tmp_path: Path) -> None:
    metrics, _ = measure(file, tmp_path)
    np.testing.assert_array_equal(metrics.range_truth.sum(axis=1), metrics.num_truth)
