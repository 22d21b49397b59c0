"""Networks described by a Darknet cfg against the recorded ones: layers, keys, parameters, raw maps, boxes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from boxwright.yolo.darknet import DarknetModel
from boxwright.yolo.darknet_cfg import DarknetSpec, read_cfg
from boxwright.yolo.detection import DetectionSpec
from boxwright.yolo.weights import fuse
from boxwright.yolo.zoo import build_model, load_spec
from tests.golden import assert_recorded, golden_cases, read_case
from tests.golden.fill import fill_torch


def build(spec: DetectionSpec) -> DarknetModel:
    model = build_model(spec)
    assert isinstance(model, DarknetModel)
    return model


def without_profiler(keys: list[str]) -> list[str]:
    """The recorded files hold counters that the tool which counted operations left in the modules."""
    return [key for key in keys if not key.endswith(("total_ops", "total_params"))]


@pytest.mark.parametrize("path", golden_cases("darknet", "yolov3-spp_layers.json"))
def test_layers_of_the_own_cfg(path: Path) -> None:
    facts = json.loads(path.read_text())["layers"]
    spec = load_spec("yolov3-spp")
    assert isinstance(spec, DarknetSpec)
    model = build(spec)
    assert len(facts) == len(spec.sections)
    for fact, section, layer in zip(facts, spec.sections, model.layers, strict=True):
        assert (fact["type"], fact["params"]) == (section.kind, layer.num_parameters), fact["index"]
        for key in ("filters", "size", "stride", "batch_normalize", "activation"):
            value = section.get(key)
            if key in fact and section.kind == "convolutional":
                assert fact[key] == (value[0] if isinstance(value, tuple) else value or 0), fact["index"]
        assert fact.get("from", fact.get("layers", [-1])) == list(layer.sources)
    used = [fact["anchors_used"] for fact in facts if fact["type"] == "yolo"]
    assert [[list(anchor) for anchor in level] for level in spec.anchors] == used


@pytest.mark.parametrize("path", golden_cases("keys", "darknet_*.json"))
def test_keys_and_parameters(path: Path) -> None:
    facts = json.loads(path.read_text())
    model = build(load_spec(path.stem.split("_")[1], facts["nc"]))
    recorded = [row for row in facts["state_dict"] if without_profiler([row[0]])]
    assert [[key, list(value.shape)] for key, value in model.state_dict().items()] == [row[:2] for row in recorded]
    assert sum(p.numel() for p in model.parameters()) == facts["n_parameters"]
    assert len(list(model.parameters())) == facts["n_parameter_tensors"]
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)} == set(facts["bn_eps"])


@pytest.mark.parametrize("path", golden_cases("forward", "darknet_*.npz"))
def test_forward(path: Path) -> None:
    case, meta = read_case(path)
    model = build(load_spec("yolov3-spp", meta["nc"]))
    fill_torch(model, meta["fill_gain"])
    assert list(model.strides) == meta["output_strides"]
    images = torch.from_numpy(case["input"])
    with torch.no_grad():
        raw = model.eval()(images)
        fused = fuse(model)(images)
        training = model.train()(images)
    for i, maps in enumerate(raw):
        assert_recorded(maps.numpy(), case, f"raw{i}", rtol=1e-4, atol=5e-4)
        assert_recorded(fused[i].numpy(), case, f"raw{i}", rtol=1e-4, atol=5e-4)
        assert_recorded(training[i].numpy(), case, f"train_raw{i}", rtol=1e-4, atol=5e-4)
    assert_recorded(model.decode(raw).numpy(), case, "decoded", rtol=5e-4, atol=1e-2)


@pytest.mark.parametrize("path", golden_cases("darknet", "tiny.cfg"))
def test_small_cfg(path: Path) -> None:
    spec, (case, _) = read_cfg(path), read_case(path)
    state = {key: torch.from_numpy(case[f"state|{key}"]) for key in build(spec).state_dict()}
    assert list(state) == without_profiler([key.removeprefix("state|") for key in case if key.startswith("state|")])
    model = build(DarknetSpec.from_text(spec.to_text())).eval()
    model.load_state_dict(state)
    with torch.no_grad():
        raw = model(torch.from_numpy(case["input"]))
    for i, maps in enumerate(raw):
        torch.testing.assert_close(maps, torch.from_numpy(case[f"raw{i}"]), rtol=1e-4, atol=5e-4)
    torch.testing.assert_close(model.decode(raw), torch.from_numpy(case["decoded"]), rtol=5e-4, atol=1e-2)
