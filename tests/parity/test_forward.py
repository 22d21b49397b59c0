"""Outputs of the networks against the published ones, for weights filled by name; augmented ones: test_tta.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boxwright.yolo.detection import DetectionModel
from boxwright.yolo.weights import fuse
from boxwright.yolo.zoo import build_model, load_spec
from tests.golden import assert_recorded, golden_cases, read_case
from tests.golden.fill import fill_torch

RAW = {"rtol": 1e-4, "atol": 5e-4}
BOXES = {"rtol": 1e-4, "atol": 2e-2}  # pixels
SCORES = {"rtol": 1e-4, "atol": 1e-4}
FUSED = {"rtol": 1e-4, "atol": 3e-2}

CASES = [*golden_cases("forward", "v*_yolov5*.npz"), *golden_cases("forward", "yolov3_*.npz")]


def build(meta: dict) -> DetectionModel:
    name = meta["yaml"]
    if name.startswith("yolov5"):
        name = f"{name.removesuffix('.yaml')}@{meta['version']}"
    model = build_model(load_spec(name, meta["nc"]))
    fill_torch(model, meta["fill_gain"])
    return model


def images(file: Path, tag: str) -> torch.Tensor:
    return torch.from_numpy(read_case(file.with_name("inputs.npz"))[0][tag])


def compare_raw(raw: list[torch.Tensor], arrays: dict[str, np.ndarray], prefix: str, **tolerance: float) -> None:
    assert len(raw) == sum(key.startswith(f"{prefix}_raw") for key in arrays)
    for i, level in enumerate(raw):
        assert_recorded(level.detach().numpy(), arrays, f"{prefix}_raw{i}", **tolerance)


@pytest.mark.parametrize("file", CASES)
def test_outputs(file: Path) -> None:
    """In evaluation, folded and in training, as far as the case has these passes: the network is built once."""
    arrays, meta = read_case(file)
    model = build(meta).eval()
    assert list(model.strides) == meta["strides"]
    for tag in meta["inputs"]:
        with torch.no_grad():
            raw = model(images(file, tag))
            decoded = model.decode(raw).numpy()
        compare_raw(raw, arrays, tag, **RAW)
        assert_recorded(decoded, arrays, f"{tag}_decoded", slice(4), **BOXES)
        assert_recorded(decoded, arrays, f"{tag}_decoded", slice(4, None), **SCORES)
    if meta.get("fused"):
        check_fused(file, model, arrays, meta)
    if meta.get("train"):
        check_training(file, model.train(), arrays, meta)


def check_training(file: Path, model: DetectionModel, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """The raw maps of a training pass, and the batch-norm statistics after it."""
    tag = meta["train"]["input"]
    compare_raw(model(images(file, tag)), arrays, f"train_{tag}", **RAW)
    state = model.state_dict()
    after = {key.split("|")[1]: value for key, value in arrays.items() if key.startswith("train_after|")}
    assert after
    for key, value in after.items():
        np.testing.assert_allclose(state[key].numpy(), value, **RAW, err_msg=key)


def check_fused(file: Path, network: DetectionModel, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """The folded parameters, and what the folded network gives."""
    model = fuse(network)
    state = model.state_dict()
    listed = [[key, list(value.shape)] for key, value in state.items() if not key.endswith("anchors")]
    assert listed == [row for row in meta["fused"]["state_dict"] if not row[0].endswith("anchors")]
    for name, value in arrays.items():
        if name.startswith("fused_param|"):
            np.testing.assert_allclose(state[name.split("|")[1]].numpy(), value, rtol=1e-5, atol=1e-6)
    tag = meta["fused"]["input"]
    with torch.no_grad():
        raw = model(images(file, tag))
        decoded = model.decode(raw)
    compare_raw(raw, arrays, f"fused_{tag}", **FUSED)
    assert_recorded(decoded.numpy(), arrays, f"fused_{tag}_decoded", **FUSED)
