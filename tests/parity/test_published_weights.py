"""The published weight file, read by the closed reader, against the plain values recorded from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from boxwright.yolo.weights import load_model, read_weights, transfer
from boxwright.yolo.zoo import build_model, load_spec
from tests.golden import SHARED

FILES = [
    pytest.param(path, id=path.stem)
    for path in sorted(SHARED.glob("weights/*.pt"))
    if path.with_name(f"{path.stem}_meta.json").exists()
] or [pytest.param(None, id="absent", marks=pytest.mark.skip(reason=f"no published weights below {SHARED}"))]


@pytest.mark.parametrize("path", FILES)
def test_plain_values_and_shapes(path: Path) -> None:
    facts = json.loads(path.with_name(f"{path.stem}_meta.json").read_text())
    weights = read_weights(path)
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


@pytest.mark.parametrize("path", FILES)
def test_loads_with_no_mapping_of_names(path: Path) -> None:
    weights = read_weights(path)
    model = load_model(path)
    state = model.state_dict()
    assert list(state) == list(weights.state_dict)
    assert all(torch.equal(state[key], value) for key, value in weights.state_dict.items())


@pytest.mark.parametrize("path", FILES)
def test_transfer_counts_as_published(path: Path) -> None:
    weights = read_weights(path)
    same = build_model(weights.spec)
    total = len(same.state_dict())
    assert transfer(same, weights) == (total, total)
    assert transfer(same, weights, exclude=("anchor",)) == (total - 1, total)
    other_classes = build_model(load_spec(path.stem, 3))
    assert transfer(other_classes, weights) == (total - 6, total)  # weight and bias of three levels
