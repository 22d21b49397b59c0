"""The nuScenes metric is shown with a dash where a number is not defined; curves of every class with annotations."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from boxwright.drawing.canvas import class_color
from boxwright.nuscenes.metric import evaluate
from boxwright.nuscenes.metric_report import absent_classes, format_metrics, plot_nuscenes_curves
from boxwright.nuscenes.structures import CLASS_NAMES, GlobalBoxes
from tests.unit.nuscenes.nuscenes_boxes import box, boxes


def count_of(file: Path, color: tuple[int, int, int]) -> int:
    image = cv2.imread(str(file))
    assert image is not None
    return int((np.abs(image.astype(int) - color).max(axis=-1) < 30).sum())


def test_curves(tmp_path: Path) -> None:
    truth = boxes(box(), box(1), box(label="barrier"))
    found = boxes(box(center=(5.6, 0.2, 0), score=0.9), box(1, score=0.4), box(label="bus", score=0.1))
    files = plot_nuscenes_curves(evaluate(truth, found, np.zeros((2, 2))), tmp_path / "new")
    names = ["PR_curves.png", "TP_errors.png", "car.png", "barrier.png"]
    assert [file.name for file in files] == names
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == sorted(names)
    car, bus = (class_color(CLASS_NAMES.index(name)) for name in ("car", "bus"))
    for file in files[:2]:
        assert count_of(file, car) > 200
        assert count_of(file, bus) == 0  # it has no annotations, hence no curve


@pytest.mark.parametrize("found", [boxes(), boxes(box(score=0.5))], ids=["nothing", "predictions"])
def test_nothing_to_draw(tmp_path: Path, found: GlobalBoxes) -> None:
    files = plot_nuscenes_curves(evaluate(boxes(), found, np.zeros((1, 2))), tmp_path)
    assert [file.name for file in files] == ["PR_curves.png", "TP_errors.png"]


def test_class_that_is_never_matched(tmp_path: Path) -> None:
    found = boxes(box(center=(15, 0, 0), score=0.5))
    files = plot_nuscenes_curves(evaluate(boxes(box()), found, np.zeros((1, 2))), tmp_path)
    assert files[-1].name == "car.png"
    assert files[-1].exists()


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
    assert lines[-1].startswith("8 of 10 classes have no annotations here and count as AP 0: truck, bus, trailer, ")


def test_classes_without_annotations_that_count() -> None:
    """One beyond the range of its class is as good as none; where all are there, nothing is said."""
    every = [box(label=name, center=(5, index, 0)) for index, name in enumerate(CLASS_NAMES)]
    far = [*every[:-1], box(label=CLASS_NAMES[-1], center=(45, 0, 0))]
    assert absent_classes(evaluate(boxes(*every), boxes(), np.zeros((1, 2)))) == ""
    note = absent_classes(evaluate(boxes(*far), boxes(), np.zeros((1, 2))))
    assert note == "1 of 10 classes has no annotations here and counts as AP 0: barrier"


def test_short() -> None:
    metrics = evaluate(boxes(), boxes(), np.zeros((1, 2)))
    assert len(format_metrics(metrics, verbose=False).splitlines()) == 3
