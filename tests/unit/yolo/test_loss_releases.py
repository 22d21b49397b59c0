"""The losses of the early releases: chosen by the network, finite where the published ones failed."""

from __future__ import annotations

import pytest
import torch

from boxwright.data.structures import Targets
from boxwright.yolo.build import build_model
from boxwright.yolo.loss import YoloLoss
from boxwright.yolo.loss_recipe import make_criterion
from boxwright.yolo.published import RELEASES, YOLOV5_RELEASES
from boxwright.yolo.settings import LossConfig
from boxwright.yolo.zoo import load_spec


@pytest.mark.parametrize("release", YOLOV5_RELEASES)
def test_network_chooses_the_loss_of_its_release(release: str) -> None:
    model = build_model(load_spec(f"yolov5s@{release}", 2))
    criterion = make_criterion(model, LossConfig())
    assert isinstance(criterion, YoloLoss)
    assert criterion.rules is RELEASES[release].loss
    other = make_criterion(model, LossConfig(recipe="v2.0"))
    assert isinstance(other, YoloLoss)
    assert other.rules is RELEASES["v2.0"].loss


@pytest.mark.parametrize("name", YOLOV5_RELEASES)
def test_a_centre_on_the_far_edge_is_taken_into_the_last_cell(name: str) -> None:
    """Up to v3.1 the published loss ended with an index out of range."""
    strides = (8, 16, 32)
    anchors = torch.tensor([[[2.0, 2.0]], [[1.5, 1.5]], [[1.0, 1.0]]])
    rules = RELEASES[name].loss
    assert rules is not None
    criterion = YoloLoss(anchors, strides, 2, LossConfig(), rules=rules)
    maps = [torch.zeros(1, 1, 64 // s, 64 // s, 7, requires_grad=True) for s in strides]
    boxes = torch.tensor([[[1.0, 1.0, 0.4, 0.4], [0.0, 1.0, 0.4, 0.4]]])
    targets = Targets(boxes, torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.bool))
    output = criterion(maps, targets)
    output.total.backward()
    assert output.items.isfinite().all()
    assert output.items[0] > 0
    for level in maps:
        assert level.grad is not None
        assert level.grad.isfinite().all()
        assert level.grad[0, 0, -1, -1, :4].abs().sum() > 0
