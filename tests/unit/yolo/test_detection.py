"""Other anchors for a network: yaml and cfg networks, levels in either order, and what does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from boxwright.errors import UserError
from boxwright.yolo.detection import DetectionModel
from boxwright.yolo.head import DetectHead
from boxwright.yolo.layers import SPP, SPPF
from boxwright.yolo.weights import fuse
from boxwright.yolo.zoo import build_model, load_spec, read_spec, with_anchors

SMALL_FIRST = [[5, 6, 7.25, 8], [20, 30, 31, 22], [90, 80, 200.5, 100]]


def pixels(model: DetectionModel) -> list[list[list[float]]]:
    """By level, fine ones first."""
    order = sorted(range(len(model.strides)), key=lambda level: model.strides[level])
    return [(model.anchors[level] * model.strides[level]).tolist() for level in order]


def pairs(levels: list[list[float]]) -> list[list[list[float]]]:
    return [[[width, height] for width, height in zip(level[::2], level[1::2], strict=True)] for level in levels]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", ["yolov5n", "yolov5s@v1.0", "yolov3-tiny"])
def test_fine_levels_get_small_anchors(name: str, turned: bool) -> None:
    spec = load_spec(name, 2)
    levels: list[list[float]] = [*SMALL_FIRST][: len(spec.anchors)]
    spec = spec.with_anchors(levels[::-1] if turned else levels)
    model = build_model(spec)
    assert pixels(model) == pairs(levels)
    again = build_model(read_spec(spec.to_mapping(), "test"))  # as from a checkpoint
    assert pixels(again) == pairs(levels)
    assert model(torch.zeros(1, 3, 64, 64))[0].shape[1] == 2


def test_leaky_activations_work_in_place() -> None:
    for name in ("yolov5s@v3.0", "yolov3-tiny"):
        found = [module for module in build_model(load_spec(name, 2)).modules() if isinstance(module, nn.LeakyReLU)]
        assert found
        assert all(module.inplace for module in found)


@pytest.mark.parametrize("name", ["yolov5n", "yolov5s@v4.0", "yolov3-tiny"])
def test_a_network_keeps_its_weights(name: str) -> None:
    model = build_model(load_spec(name, 2), ["cat", "dog"])
    state = torch.get_rng_state()
    levels = [[5, 6, 7, 8, 9, 9], [20, 30, 31, 22, 30, 30], [90, 80, 200, 100, 200, 200]][: len(model.strides)]
    other = with_anchors(model, levels)
    assert torch.equal(torch.get_rng_state(), state)
    assert other.names == model.names
    assert pixels(other) == pairs(levels)
    theirs = other.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(theirs[key], value) == ("anchor" not in key), key
    with torch.no_grad():
        image = torch.rand(1, 3, 64, 64)
        torch.testing.assert_close(other.eval()(image), model.eval()(image))
        assert not torch.equal(other.decode(other(image)), model.decode(model(image)))


@pytest.mark.parametrize("name", ["yolov5n", "yolov3-tiny"])
def test_more_anchors_a_level(name: str) -> None:
    spec = load_spec(name, 2).with_anchors(5)
    assert spec.anchors_to_find
    model = build_model(spec)
    assert [x.shape[1] for x in model(torch.zeros(1, 3, 64, 64))] == [5] * len(model.strides)
    found = with_anchors(model, [[8 * level + i + 1 for i in range(10)] for level in range(len(model.strides))])
    assert not found.spec.anchors_to_find
    assert pixels(found)[0][0] == [1, 2]


@pytest.mark.parametrize(
    ("anchors", "says"),
    [
        ([[1, 2], [3, 4]], "settings: anchors must list 3 levels, one for each input of the last layer, not 2"),
        ([[1, 2], [3, 4], [5]], "anchors of level 2 must be pairs of width and height above 0, not \\[5\\]"),
        ([[1, 2], [3, 4], [5, 6, 7, 8]], "every level must have the same number of anchors"),
        ("many", "must list 3 levels, one for each input of the last layer, not 'many'"),
    ],
)
@pytest.mark.parametrize("name", ["yolov5n", "yolov3-spp"])
def test_anchors_that_do_not_fit(name: str, anchors: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_spec(name).with_anchors(anchors, "settings")


@pytest.fixture(scope="module")
def model() -> DetectionModel:
    torch.manual_seed(0)
    return build_model(load_spec("yolov5n", 4))


def shake(model: DetectionModel) -> DetectionModel:
    """Give the batch norms statistics that differ from those of a new network."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model


def test_sppf_equals_spp() -> None:
    act = nn.SiLU()
    slow, fast = SPP(16, 24, (5, 9, 13), activation=act), SPPF(16, 24, 5, activation=act)
    fast.load_state_dict(slow.state_dict())
    x = torch.randn(2, 16, 20, 17)
    assert torch.equal(slow.eval()(x), fast.eval()(x))


def test_fused_network_equals_the_network() -> None:
    torch.manual_seed(1)
    model = shake(build_model(load_spec("yolov5n", 2))).eval()
    x = torch.rand(1, 3, 64, 96)
    fused = fuse(model)
    with torch.no_grad():
        for a, b in zip(model(x), fused(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())  # the given one is kept
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())


def test_building_leaves_the_statistics_alone(model: DetectionModel) -> None:
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(int(n.num_batches_tracked) == 0 and bool((n.running_mean == 0).all()) for n in norms)
    assert model.training
    assert all(m.training for m in model.modules())


def test_building_is_repeatable() -> None:
    torch.manual_seed(3)
    first = build_model(load_spec("yolov5n", 4)).state_dict()
    torch.manual_seed(3)
    second = build_model(load_spec("yolov5n", 4)).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("training", [True, False])
def test_forward_gives_maps_in_both_modes(model: DetectionModel, training: bool) -> None:
    raw = model.train(training)(torch.zeros(2, 3, 64, 96))
    assert [tuple(x.shape) for x in raw] == [(2, 3, 8, 12, 9), (2, 3, 4, 6, 9), (2, 3, 2, 3, 9)]


def test_maps_are_views_in_channels_last(model: DetectionModel) -> None:
    """The values of one cell lie side by side, so that no copy is needed to gather them."""
    raw = model.eval().to(memory_format=torch.channels_last)(
        torch.zeros(1, 3, 64, 64).to(memory_format=torch.channels_last)
    )
    assert all(x.stride(-1) == 1 and x._base is not None for x in raw)


def test_decode_by_hand() -> None:
    head = DetectHead(2, [[[10, 20], [30, 40]]], [8])
    head.calibrate([16], list(head.m), class_margin=0.99)
    raw = torch.randn(1, 2, 3, 5, 7)
    decoded = head.decode([raw]).numpy().reshape(1, 2, 3, 5, 7)
    s = 1 / (1 + np.exp(-raw.numpy().astype(np.float64)))
    for anchor, (w, h) in enumerate([(10, 20), (30, 40)]):
        for y in range(3):
            for x in range(5):
                cell = s[0, anchor, y, x]
                expected = [
                    (2 * cell[0] - 0.5 + x) * 16,
                    (2 * cell[1] - 0.5 + y) * 16,
                    (2 * cell[2]) ** 2 * w,
                    (2 * cell[3]) ** 2 * h,
                    *cell[4:],
                ]
                np.testing.assert_allclose(decoded[0, anchor, y, x], expected, rtol=1e-5)


def test_decode_range() -> None:
    """Spec, B2: a centre lies within half a cell around its cell, a side within four anchors."""
    head = DetectHead(1, [[[10, 20]]], [8])
    head.calibrate([8], list(head.m), class_margin=0.99)
    extreme = torch.stack([torch.full((6,), 50.0), torch.full((6,), -50.0)]).view(1, 1, 1, 2, 6)
    decoded = head.decode([extreme])[0]
    np.testing.assert_allclose(decoded[0, :4], [1.5 * 8, 1.5 * 8, 40, 80], rtol=1e-5)
    np.testing.assert_allclose(decoded[1, :4], [(-0.5 + 1) * 8, -0.5 * 8, 0, 0], atol=1e-5)


def test_decode_is_float32_whatever_the_network_ran_in(model: DetectionModel) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        raw = model.eval()(torch.zeros(1, 3, 64, 64))
    assert raw[0].dtype == torch.bfloat16
    assert model.decode(raw).dtype == torch.float32


def test_anchors_against_the_strides_are_turned_round() -> None:
    small, large = [[10.0, 10.0]], [[100.0, 100.0]]
    right, wrong = DetectHead(1, [small, large], [8, 8]), DetectHead(1, [large, small], [8, 8])
    right.calibrate([8, 16], list(right.m), class_margin=0.99)
    wrong.calibrate([8, 16], list(wrong.m), class_margin=0.99)
    assert torch.equal(right.anchors, wrong.anchors)
    assert right.anchors.flatten().tolist() == [1.25, 1.25, 6.25, 6.25]


def test_gradients_reach_every_parameter() -> None:
    model = build_model(load_spec("yolov5n", 2))
    sum(x.square().sum() for x in model(torch.rand(1, 3, 64, 64))).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
