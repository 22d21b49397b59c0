"""The YOLOv3-SPP loss and assignment against recorded numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boxwright.yolo.assignment import assign_wh_iou, wh_iou
from boxwright.yolo.loss import YoloV3Loss, scale_gains_v3
from boxwright.yolo.settings import LossConfig
from tests.golden import golden_cases, read_case
from tests.parity.test_loss import maps_of, pad_targets, sort_rows

CASES = golden_cases("loss", "yolov3spp*.json")


def criterion(meta: dict[str, Any]) -> YoloV3Loss:
    hyp = meta["hyp"]
    known = {key: value for key, value in (hyp | meta["options"]).items() if key in LossConfig.model_fields}
    if "plain IoU" in meta["version"]:
        known["iou_kind"] = "iou"
    anchors = torch.tensor(meta["anchors_px"]) / torch.tensor(meta["strides"], dtype=torch.float32)[:, None, None]
    return YoloV3Loss(anchors, meta["nc"], LossConfig(**known, box=hyp["giou"]))


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients(case: Path) -> None:
    arrays, meta = read_case(case)
    maps = maps_of(arrays)
    output = criterion(meta)(maps, pad_targets(arrays["targets"], meta["batch"]))
    output.total.backward()
    np.testing.assert_allclose(output.items.numpy(), [meta["lbox"], meta["lobj"], meta["lcls"]], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(output.total.item(), meta["total"], rtol=1e-5, atol=1e-6)
    for i, level in enumerate(maps):
        assert level.grad is not None
        np.testing.assert_allclose(level.grad.numpy(), arrays[f"grad{i}"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("case", CASES)
def test_assignment(case: Path) -> None:
    arrays, meta = read_case(case)
    loss = criterion(meta)
    targets = pad_targets(arrays["targets"], meta["batch"])
    counts = []
    for i, level in enumerate(maps_of(arrays)):
        found = assign_wh_iou(targets, loss.anchors[i], (level.shape[2], level.shape[3]), loss.config.iou_t)
        taken = found.counts.bool()
        place = torch.stack((found.images, found.anchors, found.rows, found.columns, found.labels), dim=1)
        place = place[taken].numpy()
        sizes = torch.cat((found.boxes, found.anchor_sizes.T), dim=1)[taken].numpy()
        expected_place = np.stack([arrays[f"{key}{i}"] for key in ("b", "a", "gj", "gi", "tcls")], axis=1)
        expected_sizes = np.concatenate((arrays[f"tbox{i}"], arrays[f"anch{i}"]), axis=1)
        order, expected_order = sort_rows(place, sizes), sort_rows(expected_place, expected_sizes)
        np.testing.assert_array_equal(place[order], expected_place[expected_order])
        np.testing.assert_allclose(sizes[order], expected_sizes[expected_order], rtol=1e-5, atol=1e-6)
        counts.append(len(place))
    assert counts == meta["positives_per_layer"]


@pytest.mark.parametrize("file", golden_cases("iou", "yolov3spp*.npz"))
def test_overlap_of_sides(file: Path) -> None:
    arrays, _ = read_case(file)
    ours = wh_iou(torch.from_numpy(arrays["wh1"]), torch.from_numpy(arrays["wh2"])).numpy()
    np.testing.assert_allclose(ours, arrays["wh_iou"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("file", golden_cases("schedule", "yolov3spp*.json"))
def test_gain_scaling(file: Path) -> None:
    before = LossConfig(box=3.54, obj=64.3, cls=37.4)
    cases = json.loads(file.read_text())["hyp_scaling"]
    for case in cases:
        after = scale_gains_v3(before, num_classes=case["nc"], imgsz=case["img_size"])
        assert after.cls == pytest.approx(case["cls"], rel=1e-9)
        assert after.box == case["giou"]
        assert after.obj == pytest.approx(case["obj"], rel=1e-9)
    seed = scale_gains_v3(before, num_classes=20, imgsz=512)
    assert (round(seed.obj, 2), round(seed.cls, 2)) == (102.88, 9.35)
