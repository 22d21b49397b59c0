"""The text of the nuScenes metric shows its numbers, and a dash where there is none."""

from __future__ import annotations

import numpy as np

from boxwright.nuscenes.metric import evaluate
from boxwright.nuscenes.metric_tables import format_metrics
from tests.unit.nuscenes.nuscenes_boxes import box, boxes


def test_tables() -> None:
    truth = boxes(box(center=(5, 0, 0)), box(label="traffic_cone", center=(0, 25, 0)))
    found = boxes(box(center=(5.25, 0, 0), score=0.5), box(label="traffic_cone", center=(0, 29.5, 0), score=0.5))
    lines = format_metrics(evaluate(truth, found, np.zeros((1, 2)))).splitlines()
    rows = [line.split() for line in lines]
    assert rows[1] == ["mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE"]
    assert rows[2][:2] == ["all", "0.100"]
    assert ["car", "1", "1", "1.000", "0.250", "0.000", "0.000", "0.000", "1.000"] in rows
    assert ["traffic_cone", "1", "1", "0.000", "1.000", "1.000", "-", "-", "-"] in rows
    assert ["car", "1.000", "-", "-", "-", "-"] in rows
    assert ["traffic_cone", "-", "-", "0.000", "-", "-"] in rows
    assert ["mean", "1.000", "-", "0.000", "-", "-"] in rows
    assert ["mATE", "0.250", "-", "1.000", "-", "-"] in rows
    assert ["labels", "1", "0", "1", "0", "0"] in rows


def test_short() -> None:
    metrics = evaluate(boxes(), boxes(), np.zeros((1, 2)))
    assert len(format_metrics(metrics, verbose=False).splitlines()) == 3
