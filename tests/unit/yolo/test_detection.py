"""Other anchors for a network: yaml and cfg networks, levels in either order, and what does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from boxwright.errors import UserError
from boxwright.yolo.detection import DetectionModel
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
