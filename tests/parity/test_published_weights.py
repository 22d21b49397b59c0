"""The published weight file, read by the closed reader, against the plain values recorded from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from boxwright.yolo.weights import Weights, load_model, read_weights, transfer
from boxwright.yolo.zoo import build_model, load_spec
from tests.golden import SHARED
from tests.integration.test_convert import assert_same, convert

PUBLISHED = SHARED / "weights" / "yolov5n.pt"
pytestmark = pytest.mark.skipif(not PUBLISHED.exists(), reason=f"no published weights below {SHARED}")


def test_read_and_converted(tmp_path: Path) -> None:
    weights = read_weights(PUBLISHED)
    check_plain_values_and_shapes(weights)
    check_loads_with_no_mapping_of_names(weights)
    check_transfer_counts(weights)
    check_converted(tmp_path)


def check_plain_values_and_shapes(weights: Weights) -> None:
    facts = json.loads(PUBLISHED.with_name("yolov5n_meta.json").read_text())
    assert weights.source == "yolov5"
    assert {key: list(value.shape) for key, value in weights.state_dict.items()} == facts["keys"]
    assert list(weights.state_dict) == list(facts["keys"])
    assert list(weights.names) == facts["names"]
    assert list(weights.strides) == facts["stride"]
    assert weights.hyp == facts["hyp"]
    rows = weights.spec.to_mapping()
    assert rows.pop("generation") == "v7.0"  # told apart by its layers: the file does not say
    assert rows == facts["yaml"]
    assert all(value.dtype in (torch.float32, torch.int64) for value in weights.state_dict.values())


def check_loads_with_no_mapping_of_names(weights: Weights) -> None:
    model = load_model(PUBLISHED)
    state = model.state_dict()
    assert list(state) == list(weights.state_dict)
    assert all(torch.equal(state[key], value) for key, value in weights.state_dict.items())


def check_transfer_counts(weights: Weights) -> None:
    same = build_model(weights.spec)
    total = len(same.state_dict())
    assert transfer(same, weights) == (total, total)
    assert transfer(same, weights, exclude=("anchor",)) == (total - 1, total)
    other_classes = build_model(load_spec("yolov5n", 3))
    assert transfer(other_classes, weights) == (total - 6, total)  # weight and bias of three levels


def check_converted(folder: Path) -> None:
    through = convert(PUBLISHED, folder / "ü a.safetensors")
    native = convert(through, folder / "b.pt")
    assert [read_weights(file).source for file in (through, native)] == ["safetensors", "native"]
    for file in (through, native):
        assert_same(load_model(file), load_model(PUBLISHED))
