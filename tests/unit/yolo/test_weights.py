"""One door for weight files: native ones, whole networks as published, transfer of what fits."""

from __future__ import annotations

import copy
import pickle
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from boxwright.checkpoints.native import save_checkpoint
from boxwright.errors import UserError
from boxwright.yolo.detection import DetectionModel
from boxwright.yolo.spec import ModelSpec
from boxwright.yolo.weights import PackedConv2d, Weights, fuse, load_model, pack, read_weights, transfer
from boxwright.yolo.zoo import build_model, load_spec

TINY = {
    "nc": 2,
    "depth_multiple": 0.33,
    "width_multiple": 0.25,
    "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]],
    "backbone": [[-1, 1, "Conv", [32, 6, 2, 2]], [-1, 1, "Conv", [64, 3, 2]], [-1, 3, "C3", [64]]],
    "head": [[-1, 1, "Conv", [64, 3, 2]], [[2, 3], 1, "Detect", ["nc", "anchors"]]],
}


def tiny(names: tuple[str, ...] = ("red", "white"), seed: int = 0) -> DetectionModel:
    torch.manual_seed(seed)
    return build_model(ModelSpec.from_mapping(TINY), names)


def native(path: Path, model: DetectionModel, **more: Any) -> Path:
    description = {"spec": model.spec.to_mapping(), "names": list(model.names), "strides": list(model.strides)}
    save_checkpoint(path, {"model": description, "state_dict": model.state_dict(), **more})
    return path


def same_weights(left: nn.Module, right: nn.Module) -> bool:
    ours, theirs = left.state_dict(), right.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_native_round_trip(tmp_path: Path) -> None:
    model = tiny()
    loaded = load_model(native(tmp_path / "a.pt", model))
    assert same_weights(loaded, model)
    assert loaded.names == ("red", "white")
    assert loaded.strides == (4, 8)
    assert not loaded.training


def test_averaged_weights_come_first(tmp_path: Path) -> None:
    raw, averaged = tiny(seed=0), tiny(seed=1)
    weights = read_weights(native(tmp_path / "a.pt", raw, ema=averaged.state_dict()))
    assert torch.equal(weights.state_dict["model.0.conv.weight"], averaged.state_dict()["model.0.conv.weight"])
    assert weights.source == "native"


def test_half_precision_is_widened(tmp_path: Path) -> None:
    model = tiny()
    halves = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    weights = read_weights(native(tmp_path / "a.pt", model, ema=halves))
    assert weights.state_dict["model.0.conv.weight"].dtype == torch.float32
    assert weights.state_dict["model.0.bn.num_batches_tracked"].dtype == torch.int64


def test_weights_that_do_not_belong_to_their_description(tmp_path: Path) -> None:
    model = tiny()
    state = model.state_dict()
    del state["model.0.conv.weight"]
    with pytest.raises(UserError, match=r"1 entries do not fit .* such as model\.0\.conv\.weight"):
        load_model(native(tmp_path / "a.pt", model, ema=state))


def test_transfer_copies_everything_between_equals() -> None:
    source, target = tiny(seed=1), tiny(seed=2)
    size = len(source.state_dict())
    assert transfer(target, weights_of(source)) == (size, size)
    assert same_weights(target, source)


def test_transfer_leaves_what_has_another_shape() -> None:
    """A head for other classes keeps its random weights; the layers before it get the trained ones."""
    source, target = tiny(seed=1), build_model(replace(ModelSpec.from_mapping(TINY), num_classes=5))
    before = target.head.m[0].weight.detach().clone()
    copied, total = transfer(target, weights_of(source))
    assert copied == total - 4  # weight and bias of two levels
    assert torch.equal(target.model[0].conv.weight, source.model[0].conv.weight)
    assert torch.equal(target.head.m[0].weight, before)


def test_excluded_entries_stay() -> None:
    source, target = tiny(seed=1), tiny(seed=2)
    source.head.anchors += 1
    kept = target.head.anchors.clone()
    copied, total = transfer(target, weights_of(source), exclude=("anchor",))
    assert copied == total - 1
    assert torch.equal(target.head.anchors, kept)


def test_weights_of_nothing_that_fits_is_an_error() -> None:
    strange = tiny()
    weights = weights_of(strange)
    with pytest.raises(UserError, match="none of its weights fits"):
        transfer(build_model(load_spec("yolov5n")), weights, exclude=("model",))


def weights_of(model: DetectionModel) -> Weights:
    return Weights(model.state_dict(), model.spec, model.names, model.strides, None, "native", Path("x.pt"))


@pytest.fixture
def published_classes(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Modules named as the published ones, to pickle a network the way published files do."""
    common, yolo, package = (
        types.ModuleType("models.common"),
        types.ModuleType("models.yolo"),
        types.ModuleType("models"),
    )
    for module, names in ((common, ("Conv", "C3", "Bottleneck")), (yolo, ("Model", "Detect", "Segment"))):
        for name in names:
            cls = type(name, (nn.Module,), {"__module__": module.__name__})
            setattr(module, name, cls)
    for module in (common, yolo, package):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return types.SimpleNamespace(common=common, yolo=yolo)


def as_published(model: DetectionModel, classes: types.SimpleNamespace, head: str = "Detect") -> nn.Module:
    """The same tree of modules, tensors and attributes under the published class names."""
    known = {"Conv": classes.common.Conv, "C3": classes.common.C3, "Bottleneck": classes.common.Bottleneck}
    known |= {"DetectHead": getattr(classes.yolo, head), "GraphModel": classes.yolo.Model}
    for module in model.modules():
        if type(module).__name__ in known:
            kept = {k: module.__dict__[k] for k in nn.Module().__dict__ if k in module.__dict__}
            module.__class__ = known[type(module).__name__]
            module.__dict__ = kept
    return model


def published_file(path: Path, classes: types.SimpleNamespace, old_format: bool = False, **attributes: Any) -> Path:
    model = tiny()
    head = attributes.pop("head", "Detect")
    network = as_published(model, classes, head)
    network.yaml, network.names, network.nc = dict(TINY), ["red", "white"], 2
    network.stride, network.hyp = torch.tensor([4.0, 8.0]), {"lr0": 0.01}
    for key, value in attributes.items():
        setattr(network, key, value)
    torch.save(
        {"epoch": -1, "model": network.half(), "ema": None, "opt": {"save_dir": Path("runs")}},
        path,
        _use_new_zipfile_serialization=not old_format,
    )
    return path


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("old_format", [False, True])
def test_published_file(tmp_path: Path, published_classes: types.SimpleNamespace, old_format: bool) -> None:
    path = published_file(tmp_path / "a.pt", published_classes, old_format)
    weights = read_weights(path)
    assert weights.source == "yolov5"
    assert (weights.names, weights.strides, weights.hyp) == (("red", "white"), (4, 8), {"lr0": 0.01})
    expected = {k: v.half().float() if v.is_floating_point() else v for k, v in tiny().state_dict().items()}
    assert list(weights.state_dict) == list(expected)
    assert all(torch.equal(weights.state_dict[key], expected[key]) for key in expected)
    assert load_model(path).strides == (4, 8)


def test_published_file_with_names_by_number(tmp_path: Path, published_classes: types.SimpleNamespace) -> None:
    path = published_file(tmp_path / "a.pt", published_classes, names={1: "white", 0: "red"})
    assert read_weights(path).names == ("red", "white")


def test_anchors_fitted_in_training_win_over_the_yaml(tmp_path: Path, published_classes: types.SimpleNamespace) -> None:
    old = {"anchors": [[1, 2, 3, 4], [5, 6, 7, 8]]}
    path = published_file(tmp_path / "a.pt", published_classes, yaml=TINY | old)
    assert read_weights(path).spec.anchors == (((10, 13), (16, 30)), ((30, 61), (62, 45)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": "Segment"}, r"ends in models\.yolo\.Segment"),
        ({"yaml": None}, "no model description"),
        ({"names": None}, "no class names"),
        ({"names": ["red", 3]}, "no class names"),
        ({"stride": "x"}, "no strides"),
        ({"stride": torch.tensor([float("inf")])}, "no strides"),
        (
            {"yaml": TINY | {"backbone": [[-1, 1, "Magic", [1]]]}},
            "no anchors|unknown block Magic|names no earlier layer",
        ),
    ],
)
def test_incomplete_published_file(
    tmp_path: Path, published_classes: types.SimpleNamespace, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_model(published_file(tmp_path / "a.pt", published_classes, **change))


def test_bare_weights_have_no_description(tmp_path: Path) -> None:
    torch.save({"model": tiny().state_dict()}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="without a model description"):
        read_weights(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_old_file_cut_short(tmp_path: Path, published_classes: types.SimpleNamespace) -> None:
    path = published_file(tmp_path / "a.pt", published_classes, old_format=True)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="is cut short"):
        read_weights(path)


def test_plain_pickle_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match=r"no file of torch\.save"):
        read_weights(tmp_path / "a.pkl")


@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov5s@v2.0", "yolov5s@v3.0", "yolov5s-ghost"])
def test_packed_network_of_every_generation(name: str) -> None:
    torch.manual_seed(0)
    folded = fuse(build_model(load_spec(name, 2)))
    network = pack(copy.deepcopy(folded))
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    packed = [module for module in convolutions if isinstance(module, PackedConv2d)]
    assert len(packed) in (0, len(convolutions))
    x = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        for a, b in zip(folded(x), network(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert list(network.state_dict()) == list(folded.state_dict())
    network.requires_grad_(True)
    torch.stack([level.sum() for level in network(x)]).sum().backward()
    assert all(module.weight.grad is not None for module in convolutions)
