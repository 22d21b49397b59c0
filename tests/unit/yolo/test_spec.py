"""Model yaml: what is accepted, and the sentence for what is not."""

from __future__ import annotations

import copy
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from boxwright.errors import UserError
from boxwright.yolo.spec import ModelSpec
from boxwright.yolo.zoo import DARKNET_YAML_NAMES, NAMES, build_model, load_spec, read_spec

GOOD: dict[str, Any] = {
    "nc": 3,
    "depth_multiple": 0.33,
    "width_multiple": 0.25,
    "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]],
    "backbone": [[-1, 1, "Conv", [32, 6, 2, 2]], [-1, 1, "Conv", [64, 3, 2]], [-1, 3, "C3", [64]]],
    "head": [
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 2], 1, "Concat", [1]],
        [[5, 3], 1, "Detect", ["nc", "anchors"]],
    ],
}


DETECT = [[-1, 2], 1, "Detect", ["nc", "anchors"]]


def changed(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(GOOD) | changes


def row(index: int, value: Any) -> dict[str, Any]:
    mapping = copy.deepcopy(GOOD)
    part = "backbone" if index < 3 else "head"
    mapping[part][index if index < 3 else index - 3] = value
    return mapping


def test_good_yaml_builds_and_runs() -> None:
    model = build_model(ModelSpec.from_mapping(GOOD))
    assert model.strides == (4, 8)
    assert [tuple(x.shape) for x in model(torch.zeros(1, 3, 64, 32))] == [(1, 2, 16, 8, 8), (1, 2, 8, 4, 8)]


ROUND_TRIPS = [
    *NAMES,
    *(f"{name}.yaml" for name in DARKNET_YAML_NAMES),
    "yolov5x@v1.0",
    "yolov5s@v3.0",
    "yolov5l6@v5.0",
]


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_mapping_round_trip(name: str) -> None:
    spec = load_spec(name, 7)
    again = read_spec(spec.to_mapping(), "a checkpoint")
    assert again.to_mapping() == spec.to_mapping()
    assert again.num_classes == 7


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({k: v for k, v in GOOD.items() if k != "nc"}, "missing key nc"),
        (changed(backbones=[]), "unknown key backbones"),
        (changed(nc=0), "nc must be a whole number of at least 1, not 0"),
        (changed(nc="three"), "nc must be a whole number"),
        (changed(width_multiple=-1), "width_multiple must be a number above 0"),
        (changed(depth_multiple="big"), "depth_multiple must be a number above 0"),
        (changed(anchors=[[10, 13]]), "anchors must list 2 levels"),
        (changed(anchors=[[10, 13, 16], [30, 61, 62, 45]]), "anchors of level 0 must be pairs"),
        (changed(anchors=[[10, 13], [30, 61, 62, 45]]), "same number of anchors"),
        (changed(anchors=[[10, "a"], [30, 61]]), "anchors of level 0"),
        (changed(backbone="rows"), "backbone must be a list of rows"),
        (changed(head=[]), "last row of head must be Detect"),
        (row(1, [-1, 1, "Conv"]), r"backbone row 2 \(layer 1\): a row is \[from, number, block, arguments\]"),
        (
            row(2, [-1, 1, "Magic", [64]]),
            r"backbone row 3 \(layer 2\): unknown block Magic \(known are Bottleneck, BottleneckCSP, C3,",
        ),
        (row(5, [[-1, 12], 1, "Concat", [1]]), r"head row 3 \(layer 5\): from 12 names no earlier layer"),
        (row(5, [[-1, -9], 1, "Concat", [1]]), "from -9 names no earlier layer"),
        (row(5, [["x"], 1, "Concat", [1]]), "from must be a layer number"),
        (row(5, [[], 1, "Concat", [1]]), "from must be a layer number"),
        (row(0, [0, 1, "Conv", [32, 6, 2, 2]]), "from 0 names no earlier layer"),
        (row(3, [[1, 2], 1, "Conv", [64]]), r"Conv takes one layer, not \[1, 2\]"),
        (row(1, [-1, 1, "Conv", []]), r"Conv takes \[channels: int, kernel: int"),
        (row(1, [-1, 1, "Conv", [64, 3, 2, 1, 1, 1, 7]]), r"Conv takes .*, not \[64, 3, 2, 1, 1, 1, 7\]"),
        (row(1, [-1, 1, "Conv", ["wide"]]), r"Conv takes .*, not \['wide'\]"),
        (row(1, [-1, 0, "Conv", [64]]), "number must be a whole number of at least 1"),
        (row(1, [-1, 1, "Conv", [64, 3, 2, 1, 0]]), "Conv takes"),
        (row(4, [-1, 1, "nn.Upsample", ["None", 3, "nearest"]]), "the layers do not fit together"),
        (changed(activation="os.system('x')"), "unknown activation"),
        (changed(activation="nn.LeakyReLU(__import__('os'))"), "unknown activation"),
    ],
)
def test_mistakes_are_named(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build_model(ModelSpec.from_mapping(mapping, "my.yaml"))
    assert "activation" in message or "my.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("nn.SiLU()", torch.nn.SiLU),
        ("nn.LeakyReLU(0.1)", torch.nn.LeakyReLU),
        ("Hardswish", torch.nn.Hardswish),
        ("nn.ReLU(inplace=True)", torch.nn.ReLU),
        ("nn.LeakyReLU(0.1, inplace=True)", torch.nn.LeakyReLU),
    ],
)
def test_activation_of_the_yaml(text: str, kind: type) -> None:
    model = build_model(ModelSpec.from_mapping(changed(activation=text)))
    assert isinstance(model.model[0].act, kind)
    assert getattr(model.model[0].act, "negative_slope", 0.1) == 0.1
    assert ModelSpec.from_mapping(model.spec.to_mapping()).activation == text


def test_number_of_anchors_instead_of_anchors() -> None:
    spec = ModelSpec.from_mapping(changed(anchors=4))
    assert spec.anchors_to_find
    assert spec.to_mapping()["anchors"] == 4
    assert ModelSpec.from_mapping(spec.to_mapping()).anchors == spec.anchors
    model = build_model(spec)
    assert model.head.anchors.shape == (2, 4, 2)
    assert (model.head.anchors.sum(-1) > 0).all()


def test_yaml_files(tmp_path: Path) -> None:
    path = tmp_path / "mein modell.yaml"
    path.write_text("nc: 80\nanchors: 3\nbackbone: []\nhead: [[[-1], 1, Detect, [nc, anchors]]]\n", encoding="utf-8")
    assert load_spec(str(path), 5).num_classes == 5
    path.write_text("nc: [", encoding="utf-8")
    with pytest.raises(UserError, match=r"mein modell\.yaml:1: not valid yaml"):
        load_spec(str(path), None)
    path.write_text("- a\n", encoding="utf-8")
    with pytest.raises(UserError, match="a model yaml is a mapping"):
        load_spec(str(path), None)
    with pytest.raises(UserError, match="no model 'yolov5q': known names are yolov5n, "):
        load_spec("yolov5q", None)
    assert load_spec("yolov5s.yaml", None) == load_spec("yolov5s", None)


def test_a_raw_map_is_no_larger_than_the_image() -> None:
    with pytest.raises(UserError, match="a raw map has more cells than the image has pixels"):
        build_model(ModelSpec.from_mapping(changed(head=[[-1, 1, "nn.Upsample", ["None", 16, "nearest"]], DETECT])))


def test_names_must_match_the_classes() -> None:
    assert build_model(ModelSpec.from_mapping(GOOD), ["a", "b\nc", "d"]).names == ("a", r"b\x0ac", "d")
    with pytest.raises(UserError, match="3 classes but 2 names"):
        build_model(ModelSpec.from_mapping(GOOD), ["a", "b"])


YAML = """nc: {nc}
depth_multiple: {depth}
width_multiple: {width}
anchors: {anchors}
backbone: {rows}
head: [[[-1], 1, Detect, [nc, anchors]]]
"""
USUAL: dict[str, Any] = {"nc": 2, "depth": 1.0, "width": 1.0, "anchors": 3, "rows": "[[-1, 1, Conv, [16, 3, 8]]]"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rows": "[[-1, 1000000000, Conv, [16]]]"}, "row 1 .*number can be at most 2,000"),
        ({"rows": "[[-1, 1500, Conv, [8, 3, 8]], [-1, 1500, C3, [8]]]"}, "row 2 .*layers; at most 2,000"),
        ({"rows": "[[-1, 90, Conv, [8]]]", "depth": 99.0}, "row 1 .*8,910 layers; at most"),
        ({"rows": "[[-1, 1, Conv, [1000000000000, 6]]]"}, "row 1 .*parameters, .*GB; at most"),
        ({"rows": "[[-1, 1, Conv, [100000, 6]]]", "width": 99.0}, "row 1 .*parameters"),
        ({"rows": "[[-1, 1, Conv, [16, 3, 8]], [-1, 1, C3, [16, True, 1, 1.0e9]]]"}, "row 2 "),
        (
            {"rows": "[[-1, 1, Conv, [16, 3, 1]], [-1, 1, nn.Upsample, [None, 1000, nearest]]]"},
            "do not fit together: a map",
        ),
        ({"rows": "[[-1, 1, Conv, [16, 3, 1, 100000]]]"}, "together: a map"),
        ({"rows": "[[-1, 1, Conv, [16, 3, 1]], [-1, 1, C3TR, [16]]]"}, "together: a map"),
        ({"rows": "[[-1, 1, Conv, [16, 3, 1]], [-1, 1, nn.ConvTranspose2d, [8, 99, 99]]]"}, "together: a map"),
        ({"rows": "[[-1, 1, Conv, [16, 1]], [-1, 1, nn.ZeroPad2d, [[9999, 9999, 9999, 9999]]]]"}, "together: a map"),
        ({"rows": "[[-1, 1, Conv, [16, 3, 8, {a: 1}]]]"}, "x.yaml"),
        ({"rows": "[[-1, 1, Conv, [.inf, 3]]]"}, "row 1 .*Conv takes"),
        ({"rows": "[[-1, 1, Conv, [2026-01-01, 3]]]"}, "row 1 .*Conv takes"),
        ({"rows": "[[-1, 1, Concat, [1.5]]]"}, "do not fit together"),
        ({"nc": 10**9}, "nc can be at most 100,000"),
        ({"nc": "9" * 5000}, "nc must be a whole number"),
        ({"nc": 99_999, "rows": "[[-1, 1, Conv, [1024, 3, 8]]]"}, "head row 1 .*parameters"),
        ({"anchors": 10**9}, "anchors must list"),
        ({"anchors": "[[10, .inf]]"}, "pairs of width and height"),
        ({"width": 1e9}, "width_multiple must be a number above 0 and below 100"),
    ],
)
def test_a_network_beyond_all_reason_is_refused_before_memory_is_taken(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(YAML.format(**(USUAL | changes)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=says):
        build_model(load_spec(str(file)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_a_sketch_on_the_meta_device_moves_no_random_number() -> None:
    spec = load_spec("yolov5n", 3)
    torch.manual_seed(0)
    first = build_model(spec).state_dict()  # sketched, or known from another test
    torch.manual_seed(0)
    second = build_model(spec).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
