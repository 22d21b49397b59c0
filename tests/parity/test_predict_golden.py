"""Prediction on real images against what the published system gives: network input, raw predictions and boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boxwright.data.images import read_image
from boxwright.yolo.detector import Detector, load
from tests.golden import SHARED

RECORD = SHARED / "weights" / "golden_outputs.json"
WEIGHTS = SHARED / "weights" / "yolov5n.pt"


@pytest.mark.skipif(not RECORD.exists(), reason=f"needs the published yolov5n and two photographs: not at {SHARED}")
def test_published_outputs() -> None:
    detector = load(WEIGHTS, device="cpu")
    recorded = {name: case for name, case in json.loads(RECORD.read_text()).items() if isinstance(case, dict)}
    assert recorded
    for name, expected in recorded.items():
        check_boxes(detector, name, expected)
        check_network_input_and_predictions(detector, name, expected)


def image_of(name: str) -> Path:
    return RECORD.with_name(f"{name}.jpg")


def check_boxes(detector: Detector, name: str, recorded: dict[str, Any]) -> None:
    result = detector.predict(image_of(name), imgsz=640, conf_thres=0.25, iou_thres=0.45)
    expected = np.array(recorded["detections_xyxy_conf_cls"])
    assert len(result) == len(expected)
    assert result.labels.tolist() == expected[:, 5].astype(int).tolist()
    np.testing.assert_allclose(result.boxes, expected[:, :4], rtol=0, atol=1)
    np.testing.assert_allclose(result.scores, expected[:, 4], rtol=0, atol=0.005)


def check_network_input_and_predictions(detector: Detector, name: str, expected: dict[str, Any]) -> None:
    images, _, _ = detector._prepare(read_image(image_of(name)), 640)
    assert list(images.shape) == expected["net_input"]
    assert float(images.double().sum()) == pytest.approx(expected["input_sum"], rel=1e-7)
    with torch.inference_mode():
        decoded = detector.model.decode(detector.model(images))
    assert list(decoded.shape) == expected["pred_shape"]
    assert float(decoded.double().sum()) == pytest.approx(expected["pred_sum"], rel=1e-6)
    columns = decoded[0].double().mean(0)
    np.testing.assert_allclose(columns.numpy(), expected["pred_mean_per_col"], rtol=1e-4, atol=1e-6)
    rows = expected["rows_obj_gt_0p05"]
    assert sorted(map(int, rows)) == torch.nonzero(decoded[0, :, 4] > 0.05).flatten().tolist()
    for row, values in rows.items():
        np.testing.assert_allclose(decoded[0, int(row)].numpy(), values, rtol=1e-4, atol=2e-2)
