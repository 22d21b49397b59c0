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


def recorded() -> dict[str, Any]:
    return {k: v for k, v in json.loads(RECORD.read_text()).items() if isinstance(v, dict)} if RECORD.exists() else {}


IMAGES = [pytest.param(name, id=name) for name in recorded()] or [
    pytest.param("", id="absent", marks=pytest.mark.skip(reason=f"no recorded outputs at {RECORD}"))
]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load(WEIGHTS, device="cpu")


def image_of(name: str) -> Path:
    return RECORD.with_name(f"{name}.jpg")


@pytest.mark.parametrize("name", IMAGES)
def test_boxes(detector: Detector, name: str) -> None:
    result = detector.predict(image_of(name), imgsz=640, conf_thres=0.25, iou_thres=0.45)
    expected = np.array(recorded()[name]["detections_xyxy_conf_cls"])
    assert len(result) == len(expected)
    assert result.labels.tolist() == expected[:, 5].astype(int).tolist()
    np.testing.assert_allclose(result.boxes, expected[:, :4], rtol=0, atol=1)
    np.testing.assert_allclose(result.scores, expected[:, 4], rtol=0, atol=0.005)


@pytest.mark.parametrize("name", IMAGES)
def test_network_input_and_predictions(detector: Detector, name: str) -> None:
    expected = recorded()[name]
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
