"""Published files of every release: read, told apart, and of the same outputs as the network that was pickled."""

from __future__ import annotations

import copy
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwright.cli.main import main
from boxwright.errors import UserError
from boxwright.yolo.graph import GraphModel
from boxwright.yolo.weights import load_model, read_weights
from boxwright.yolo.zoo import HUB_NAMES, build_model, load_spec
from tests.unit.checkpoints.published_classes import FACTS, disguise, fold_norms, published, save

__all__ = ["published"]  # a fixture

# What each release is taken for: where nothing in the file tells two apart, and their outputs agree, the later one.
TAKEN_FOR = {"v2.0": "v3.0", "v4.0": "v5.0", "v6.0": "v7.0", "v6.1": "v7.0"}


def narrow(release: str, name: str = "yolov5s") -> GraphModel:
    """The release's own rows with few channels; weights that half precision holds, lively statistics."""
    torch.manual_seed(5)
    spec = load_spec(f"{name}@{release}", 2)
    model = build_model(replace(spec, width_multiple=0.125), ["red", "white"])  # type: ignore[type-var]
    assert isinstance(model, GraphModel)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.002, 0.02)  # small, so that a wrong epsilon shows
        elif name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())
    return model.eval()


def outputs(model: GraphModel, size: tuple[int, int] = (64, 96)) -> Tensor:
    torch.manual_seed(6)
    with torch.no_grad():
        return model.decode(model(torch.rand(1, 3, *size)))


@pytest.mark.parametrize("release", FACTS)
def test_reads_half_precision_and_tells_the_release(
    tmp_path: Path, published: types.SimpleNamespace, release: str
) -> None:
    model = narrow(release)
    loaded = load_model(save(tmp_path / "a.pt", disguise(model, release, published).half()))
    assert isinstance(loaded, GraphModel)
    assert loaded.spec.generation == TAKEN_FOR.get(release, release)
    assert (loaded.names, loaded.strides) == (("red", "white"), model.strides)
    assert list(loaded.state_dict()) == list(model.state_dict())
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
    torch.testing.assert_close(outputs(loaded), outputs(model), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("release", "method"),
    [("v1.0", "fuseforward"), ("v3.1", "fuseforward"), ("v5.0", "fuseforward"), ("v7.0", "forward_fuse")],
)
def test_folded_batch_norms_come_back(
    tmp_path: Path, published: types.SimpleNamespace, release: str, method: str
) -> None:
    model = narrow(release)
    network = disguise(model, release, published)
    fold_norms(network, published, method)
    loaded = load_model(save(tmp_path / "a.pt", network))
    assert list(loaded.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(outputs(loaded), outputs(model), rtol=1e-4, atol=1e-3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", HUB_NAMES)
@pytest.mark.parametrize("folded", [False, True], ids=["as trained", "folded"])
def test_hub_models(tmp_path: Path, published: types.SimpleNamespace, name: str, folded: bool) -> None:
    model = narrow("v7.0", name)
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):  # networks of size l would exceed float32 with the small ones
            value.mul_(100)
    network = disguise(model, "v7.0", published)
    if name == "yolov5s-LeakyReLU":
        for module in network.modules():
            if isinstance(module, published.Conv):
                module.act = nn.LeakyReLU(0.1)
    if folded:
        fold_norms(network, published, "forward_fuse")
    loaded = load_model(save(tmp_path / "a.pt", network))
    assert list(loaded.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(outputs(loaded, (128, 128)), outputs(model, (128, 128)), rtol=1e-4, atol=1e-3)  # type: ignore[arg-type]


def test_hardswish_of_the_releases_own(tmp_path: Path, published: types.SimpleNamespace) -> None:
    model = narrow("v3.1")
    network = disguise(model, "v3.1", published)
    for module in network.modules():
        if isinstance(module, published.Conv):
            module.act = published.Hardswish()
    loaded = load_model(save(tmp_path / "a.pt", network))
    torch.testing.assert_close(outputs(loaded), outputs(model))  # type: ignore[arg-type]


def test_other_epsilon_of_batch_norms_gives_the_same_outputs(tmp_path: Path, published: types.SimpleNamespace) -> None:
    model = narrow("v2.0")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-4
    network = disguise(model, "v2.0", published)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-4
    loaded = load_model(save(tmp_path / "a.pt", network))
    torch.testing.assert_close(outputs(loaded), outputs(model))  # type: ignore[arg-type]


def test_activation_that_the_release_did_not_have(tmp_path: Path, published: types.SimpleNamespace) -> None:
    network = disguise(narrow("v7.0"), "v7.0", published)
    for module in network.modules():
        if isinstance(module, published.Conv):
            module.act = nn.LeakyReLU(0.2)
    loaded = load_model(save(tmp_path / "a.pt", network))
    assert isinstance(loaded, GraphModel)
    assert loaded.spec.activation == "nn.LeakyReLU(0.2)"
    assert {m.negative_slope for m in loaded.modules() if isinstance(m, nn.LeakyReLU)} == {0.2}


def test_missing_attributes_get_their_defaults(tmp_path: Path, published: types.SimpleNamespace) -> None:
    """No names, the strides only in the head, the yaml under another name and with the head's arguments filled in."""
    network = disguise(narrow("v1.0"), "v1.0", published)
    network.described = copy.deepcopy(network.yaml)
    network.described["head"][-1][3] = [2, network.described["anchors"], [64, 32, 16]]
    network.model[-1].stride = network.stride
    for name in ("names", "yaml", "stride"):
        delattr(network, name)
    loaded = load_model(save(tmp_path / "a.pt", network))
    assert (loaded.names, loaded.strides) == (("0", "1"), (32, 16, 8))


@pytest.mark.parametrize("release", ["v5.0", "v7.0"])
def test_anchors_stored_in_pixels(tmp_path: Path, published: types.SimpleNamespace, release: str) -> None:
    model = narrow(release)
    network = disguise(model, release, published)
    network.model[-1].anchors *= network.stride.view(-1, 1, 1)
    loaded = load_model(save(tmp_path / "a.pt", network.half()))
    torch.testing.assert_close(loaded.anchors, model.anchors)
    assert loaded.spec.to_mapping()["anchors"] == model.spec.to_mapping()["anchors"]


def test_anchors_that_training_fitted(tmp_path: Path, published: types.SimpleNamespace) -> None:
    """The yaml only asked for three a level; the head has them in cells, and the early one in pixels, too."""
    model = narrow("v5.0")
    network = disguise(model, "v5.0", published)
    network.yaml["anchors"] = 3
    network.model[-1].anchors *= 2
    network.model[-1].anchor_grid *= 2
    weights = read_weights(save(tmp_path / "a.pt", network.half()))
    assert weights.spec.anchors[0] == ((20, 26), (32, 60), (66, 46))  # type: ignore[attr-defined]
    assert not weights.spec.anchors_to_find  # type: ignore[attr-defined]


def strange_layer(network: nn.Module, published: types.SimpleNamespace) -> None:
    network.model[3] = published.Magic()


def strange_activation(network: nn.Module, published: types.SimpleNamespace) -> None:
    network.model[1].act = nn.Softmax2d()


def mixed_activations(network: nn.Module, published: types.SimpleNamespace) -> None:
    network.model[1].act = nn.ReLU()


def joint_activation(network: nn.Module, published: types.SimpleNamespace) -> None:
    for module in network.modules():
        if isinstance(module, published.BottleneckCSP):
            module.act = nn.SiLU()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (strange_layer, "model.3 is of the class models.common.Magic"),
        (strange_activation, "model.1.act is of the class torch.nn.modules.activation.Softmax2d"),
        (mixed_activations, "its Conv blocks have several activations: nn.LeakyReLU(0.1), nn.ReLU()"),
        (joint_activation, "its BottleneckCSP blocks end in nn.SiLU()"),
    ],
)
def test_what_no_release_has_is_refused_by_name(
    tmp_path: Path, published: types.SimpleNamespace, capsys: pytest.CaptureFixture[str], change: Any, says: str
) -> None:
    network = disguise(narrow("v3.0"), "v3.0", published)
    change(network, published)
    path = save(tmp_path / "a.pt", network)
    assert main(["convert", "weights", str(path), str(tmp_path / "b.pt")]) == 2
    assert says in capsys.readouterr().err


def test_network_that_contains_itself(tmp_path: Path, published: types.SimpleNamespace) -> None:
    """As a chain without end, and as a tree of shared branches that would have 2 to the 40 leaves."""
    network = disguise(narrow("v7.0"), "v7.0", published)
    inner = network.model[2]
    inner._modules["loop"] = inner
    with pytest.raises(UserError, match="contains itself"):
        read_weights(save(tmp_path / "a.pt", network))
    del inner._modules["loop"]
    for _ in range(40):
        inner = nn.Sequential(inner, inner)
    network.model[2] = inner
    with pytest.raises(UserError, match="contains itself, or is larger"):
        read_weights(save(tmp_path / "b.pt", network))


def test_convert_with_another_stem(tmp_path: Path, published: types.SimpleNamespace) -> None:
    model = narrow("v3.1")
    path = save(tmp_path / "a.pt", disguise(model, "v3.1", published).half())
    assert main(["convert", "weights", str(path), str(tmp_path / "b.safetensors"), "--stem", "conv6"]) == 0
    converted = load_model(tmp_path / "b.safetensors")
    assert converted.layers[0].block == "Conv"
    torch.testing.assert_close(outputs(converted), outputs(model), rtol=1e-5, atol=1e-3)  # type: ignore[arg-type]
