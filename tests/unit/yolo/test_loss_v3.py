"""Properties of the v3 loss and of the choice between recipes: no host sync, static shapes, empty targets, coding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from boxwright.data.structures import Targets
from boxwright.yolo.box_coding import decode_boxes
from boxwright.yolo.build import build_model
from boxwright.yolo.darknet_cfg import DarknetSpec
from boxwright.yolo.loss import YoloLoss
from boxwright.yolo.loss_recipe import make_criterion
from boxwright.yolo.loss_v3 import YoloV3Loss
from boxwright.yolo.settings import LossConfig
from boxwright.yolo.zoo import load_spec
from tests.unit.yolo.test_loss import ANCHORS_PX, NUM_CLASSES, SIDE, STRIDES, Record, make_maps, make_targets

SMALL_CFG = """
[net]
channels=3
[convolutional]
filters=8
size=8
stride=8
activation=leaky
[convolutional]
filters=16
size=2
stride=2
batch_normalize=1
activation=leaky
[convolutional]
filters=21
size=1
activation=linear
[yolo]
mask=3,4,5
anchors=10,14, 23,27, 37,58, 81,82, 135,169, 344,319
classes=2
[route]
layers=0
[convolutional]
filters=21
size=1
activation=linear
[yolo]
mask=1,2,3
anchors=10,14, 23,27, 37,58, 81,82, 135,169, 344,319
classes=2
"""


def make_loss(**settings: Any) -> YoloV3Loss:
    anchors = torch.tensor(ANCHORS_PX) / torch.tensor(STRIDES, dtype=torch.float32)[:, None, None]
    return YoloV3Loss(anchors, NUM_CLASSES, LossConfig(**settings), imgsz=SIDE)


def test_nothing_waits_for_the_device_and_shapes_do_not_depend_on_labels() -> None:
    loss = make_loss()
    recorded = []
    for count in (0, 2, 5):
        maps, targets = make_maps(), make_targets(count)
        with Record() as record:
            loss(maps, targets).total.backward()
        recorded.append(record.calls)
    assert recorded[0] == recorded[1] == recorded[2]


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_gradients_are_finite(kind: str) -> None:
    for maps in (make_maps(), [m.detach().mul(200).requires_grad_() for m in make_maps()]):
        output = make_loss(iou_kind=kind, fl_gamma=1.5, label_smoothing=0.1)(maps, make_targets(4))
        output.total.backward()
        assert output.items.isfinite().all()
        assert all(level.grad is not None and level.grad.isfinite().all() for level in maps)


def test_without_labels_only_objectness_is_left() -> None:
    items = make_loss()(make_maps(), make_targets(0)).items
    assert items[0] == 0
    assert items[1] > 0
    assert items[2] == 0


def test_padding_changes_nothing() -> None:
    short, long = make_targets(2, padded_to=2), make_targets(2, padded_to=9)
    first = short.boxes_cxcywh
    padded = torch.cat((first, long.boxes_cxcywh[:, 2:]), dim=1)
    labels = torch.cat((short.labels, long.labels[:, 2:]), dim=1)
    same = Targets(padded, labels, long.valid)
    assert torch.equal(make_loss()(make_maps(), short).items, make_loss()(make_maps(), same).items)


def test_kinds_differ() -> None:
    found = {kind: float(make_loss(iou_kind=kind)(make_maps(), make_targets(4)).items[0]) for kind in ("iou", "giou")}
    assert float(make_loss()(make_maps(), make_targets(4)).items[0]) == found["giou"]
    assert found["iou"] < found["giou"]


def test_model_chooses_the_recipe_and_settings_override_it() -> None:
    darknet = build_model(DarknetSpec.from_text(SMALL_CFG))
    yolov5 = build_model(load_spec("yolov5n", 2))
    assert isinstance(make_criterion(darknet, LossConfig()), YoloV3Loss)
    assert isinstance(make_criterion(yolov5, LossConfig()), YoloLoss)
    for model, coding in ((darknet, "v3"), (yolov5, "v5")):
        for recipe in ("v3", "v5"):
            criterion = make_criterion(model, LossConfig(recipe=recipe), 64)
            assert isinstance(criterion, YoloV3Loss if recipe == "v3" else YoloLoss)
            assert criterion.coding == coding
            targets = Targets(torch.rand(1, 3, 4), torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 3).bool())
            assert criterion(model(torch.rand(1, 3, 64, 64)), targets).total.isfinite()


def test_level_weights_follow_the_strides() -> None:
    darknet = build_model(DarknetSpec.from_text(SMALL_CFG))
    assert darknet.strides == (16, 8)
    criterion = make_criterion(darknet, LossConfig(recipe="v5"))
    assert isinstance(criterion, YoloLoss)
    assert criterion.balance.tolist() == [1.0, 4.0]


@pytest.mark.parametrize("name", ["darknet", "yolov5n"])
def test_loss_reads_boxes_as_the_network_decodes_them(name: str) -> None:
    model = build_model(DarknetSpec.from_text(SMALL_CFG) if name == "darknet" else load_spec(name, 2))
    maps = [torch.randn_like(raw) for raw in model(torch.rand(1, 3, 64, 64))]
    level, anchor, row, column = 1, 2, 1, 3
    raw = maps[level][0, anchor, row, column]
    inside = decode_boxes(raw[:4, None], model.anchors[level, anchor][:, None], model.box_coding)[:, 0]
    inside[:2] += torch.tensor([column, row])
    rows = model.decode(maps)[0].split([m[0, ..., 0].numel() for m in maps])[level]
    expected = rows.view(*maps[level].shape[1:])[anchor, row, column, :4]
    torch.testing.assert_close(inside * model.strides[level], expected)
