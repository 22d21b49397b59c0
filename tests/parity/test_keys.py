"""Names, shapes, layers and counts of the networks against the published ones, case by case from the files."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from boxwright.yolo import detection, graph
from boxwright.yolo.detection import DetectionSpec
from boxwright.yolo.graph import GraphModel
from boxwright.yolo.head import prior_bias
from boxwright.yolo.weights import fuse
from boxwright.yolo.zoo import NAMES, build_model, load_spec
from tests.golden import golden_cases

# Margin in the class prior by release, a fact of the golden README.
CLASS_MARGINS = {"v6.1": 0.999999, "v6.2": 0.999999, "v7.0": 0.99999}
EARLY_MARGIN = 0.99


CASES = golden_cases("keys", "v*_*.json")


def skeleton(spec: DetectionSpec, side: int = 64) -> GraphModel:
    """The network as `build_model` makes it, but quickly and small: nothing is drawn, strides are measured on `side`
    pixels (one cell of the coarsest level), and in the end only the anchors have numbers, all else shapes and types.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Conv2d, "reset_parameters", lambda self: None)
        for module in (detection, graph):
            patch.setattr(module, "DRY_RUN_SIDE", side)
        model = build_model(spec)
    assert isinstance(model, GraphModel)
    anchors = model.head.anchors
    model.to("meta")
    model.head.anchors = anchors
    return model


@cache
def published(file: Path) -> tuple[dict[str, Any], GraphModel]:
    """The facts of a case, and the network of that name; a case may have anchors of its own."""
    facts = json.loads(file.read_text())
    anchors = tuple(tuple((w, h) for w, h in level) for level in facts["anchors_in_pixels"])
    own = facts["model"].endswith("-article")  # has anchors of its own
    name = facts["model"].split("-")[0] if own else facts["model"]
    spec = load_spec(f"{name}.yaml" if name.startswith("yolov3") else f"{name}@{facts['version']}", facts["nc"])
    if not own:
        assert spec.anchors == anchors
    return facts, skeleton(replace(spec, anchors=anchors))


@pytest.mark.parametrize("file", CASES)
def test_network_is_the_published_one(file: Path) -> None:
    facts, model = published(file)
    parameters = dict(model.named_parameters())
    rows = [
        [
            key,
            list(value.shape),
            str(value.dtype).removeprefix("torch."),
            "parameter" if key in parameters else "buffer",
        ]
        for key, value in model.state_dict().items()
    ]
    assert rows == facts["state_dict"]
    assert sum(p.numel() for p in parameters.values()) == facts["n_parameters"]
    assert len(parameters) == facts["n_parameter_tensors"]
    assert list(model.strides) == facts["strides"]
    assert model.head.anchors.tolist() == facts["anchors_buffer"]
    assert sorted(model._kept) == facts["save_indices"]

    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [{n.eps for n in norms}, {n.momentum for n in norms}] == [set(facts["bn_eps"]), set(facts["bn_momentum"])]
    assert {type(m).__name__ for m in model.modules() if not list(m.children())} >= set(facts["activation"])

    fused = fuse(model)
    assert sum(p.numel() for p in fused.parameters()) == facts["n_parameters_fused"]
    if facts["version"] == "v7.0":  # releases up to v6.1 counted an activation object per convolution
        assert sum(1 for _ in model.modules()) == facts["n_modules"]
        assert sum(1 for _ in fused.modules()) == facts["n_modules_fused"]


@pytest.mark.parametrize("file", CASES)
def test_layers_are_the_published_ones(file: Path) -> None:
    facts, model = published(file)
    infos = model.layers
    assert len(infos) == len(facts["layers"])
    for info, row in zip(infos, facts["layers"], strict=True):
        sources = row["from"] if isinstance(row["from"], list) else [row["from"]]
        assert [info.index, list(info.sources)] == [row["i"], sources]
        assert [info.block, info.repeats, info.num_parameters] == [row["type"], row["n"], row["params"]]
        if row["type"] != "Detect":  # trailing defaults are not printed there
            assert json.loads(json.dumps(info.args))[: len(row["args"])] == row["args"]


PARAMETER_COUNTS = {  # spec, B1.4: nc -> model -> integer
    80: {"yolov5n": 1872157, "yolov5s": 7235389, "yolov5m": 21190557, "yolov5l": 46563709, "yolov5x": 86749405},
    1: {"yolov5n": 1765270, "yolov5s": 7022326, "yolov5m": 20871318, "yolov5l": 46138294, "yolov5x": 86217814},
    20: {"yolov5n": 1790977, "yolov5s": 7073569},
}


@pytest.mark.parametrize(("nc", "name"), [(nc, name) for nc, counts in PARAMETER_COUNTS.items() for name in counts])
def test_parameter_counts_of_the_spec(nc: int, name: str) -> None:
    model = skeleton(load_spec(name, nc))
    assert sum(p.numel() for p in model.parameters()) == PARAMETER_COUNTS[nc][name]


@pytest.mark.parametrize(
    ("name", "millions"),
    [("yolov5n6", 3.2), ("yolov5s6", 12.6), ("yolov5m6", 35.7), ("yolov5l6", 76.8), ("yolov5x6", 140.7)],
)
def test_published_size_of_p6(name: str, millions: float) -> None:
    assert name in NAMES
    model = skeleton(load_spec(name))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)  # as printed there
    assert model.strides == (8, 16, 32, 64)


def yolov5_priors(file: Path) -> dict[str, Any]:
    """What each release adds to its head's bias; YOLOv3-SPP has another rule and comes with its own issue."""
    versions = json.loads(file.read_text())["versions"]
    return {version: cases for version, cases in versions.items() if re.fullmatch(r"v\d+\.\d+", version)}


@pytest.mark.parametrize("file", golden_cases("keys", "head_bias_offsets.json"))
def test_head_starts_at_the_published_prior(file: Path) -> None:
    versions = yolov5_priors(file)
    for version, cases in versions.items():
        for case in cases:
            for level in case["layers"]:
                margin = CLASS_MARGINS.get(version, EARLY_MARGIN)
                objectness, classes = prior_bias(level["stride"], case["nc"], margin)
                assert objectness == pytest.approx(level["objectness"], abs=1e-5)
                assert classes == pytest.approx(level["classes"], abs=1e-5)
                assert level["box"] == 0


@pytest.mark.parametrize("file", golden_cases("keys", "head_bias_offsets.json"))
def test_prior_is_added_to_the_random_bias(file: Path) -> None:
    versions = yolov5_priors(file)
    for case in versions[max(versions)]:
        torch.manual_seed(0)
        model = build_model(load_spec("yolov5n", case["nc"]))
        for conv, level in zip(model.head.m, case["layers"], strict=True):
            bias = conv.bias.detach().view(3, -1)
            bound = conv.in_channels**-0.5  # torch draws biases within +- 1 / sqrt(fan in)
            assert (bias[:, :4].abs() <= bound).all()
            assert ((bias[:, 4] - level["objectness"]).abs() <= bound + 1e-5).all()
            assert ((bias[:, 5:] - level["classes"]).abs() <= bound + 1e-5).all()
            assert bias[:, :4].abs().max() > 0
