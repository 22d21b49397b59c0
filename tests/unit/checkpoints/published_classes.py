"""Our networks pickled as the published releases did: whole modules of their class names, with few attributes.

Which class, activation and constant a release had is written here from the recorded facts (golden keys/), not taken
from the code under test.
"""

from __future__ import annotations

import copy
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from boxwright.yolo.graph import GraphModel
from boxwright.yolo.weights import fold

COMMON = (
    "Conv Focus Bottleneck BottleneckCSP C3 SPP SPPF Concat Magic DWConv GhostConv GhostBottleneck CrossConv MixConv2d "
    "C3Ghost C3TR C3SPP C3x Contract Expand TransformerBlock TransformerLayer"
).split()
OURS = {"DetectHead": "models.yolo.Detect", "GraphModel": "models.yolo.Model"}
# Release: activation of Conv, activation of the joint batch norm, epsilon of batch norms.
FACTS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], float]] = {
    "v1.0": (lambda: nn.LeakyReLU(0.1), lambda: nn.LeakyReLU(0.1), 1e-4),
    "v2.0": (lambda: nn.LeakyReLU(0.1), lambda: nn.LeakyReLU(0.1), 1e-3),
    "v3.0": (lambda: nn.LeakyReLU(0.1), lambda: nn.LeakyReLU(0.1), 1e-3),
    "v3.1": (nn.Hardswish, lambda: nn.LeakyReLU(0.1), 1e-3),
    **dict.fromkeys(("v4.0", "v5.0", "v6.0", "v6.1", "v7.0"), (nn.SiLU, nn.SiLU, 1e-3)),
}


def fuseforward(self: nn.Module) -> None:
    """What the convolutions of a network with folded batch norms refer to, up to v5.0."""


def forward_fuse(self: nn.Module) -> None:
    """The same from v6.0 on."""


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Modules named as the published ones, for the time of a test."""
    contents = {
        "models.common": tuple(COMMON),
        "models.yolo": ("Model", "Detect", "DetectionModel"),
        "utils.activations": ("Hardswish",),
    }
    made = types.SimpleNamespace()
    for name in ("models", "utils", *contents):
        module = types.ModuleType(name)
        for kind in contents.get(name, ()):
            members = {"__module__": name, "fuseforward": fuseforward, "forward_fuse": forward_fuse}
            setattr(module, kind, type(kind, (nn.Module,), members))
            setattr(made, kind, getattr(module, kind))
        monkeypatch.setitem(sys.modules, name, module)
    return made


def disguise(model: GraphModel, release: str, published: types.SimpleNamespace) -> nn.Module:
    """A copy whose modules are of the published classes, each with its own activation, as they were."""
    network = copy.deepcopy(model)
    act, joint, eps = FACTS[release]
    spec, strides = model.spec, model.strides
    kept = set(nn.Module().__dict__)
    for module in list(network.modules()):
        name = type(module).__name__
        if hasattr(module, "act") and not isinstance(module.act, nn.Identity):
            module.act = joint() if name == "BottleneckCSP" else act()
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps
        if name == "Conv" and module.conv.groups > 1:
            name = "DWConv"
        ours = OURS.get(name, f"models.common.{name}")
        if ours.rpartition(".")[2] in vars(published) and name != "Magic":
            module.__class__ = getattr(published, ours.rpartition(".")[2])
            module.__dict__ = {key: value for key, value in module.__dict__.items() if key in kept}
    network.yaml = spec.to_mapping()
    network.yaml.pop("generation")
    network.stride = torch.tensor([float(stride) for stride in strides])
    network.names = list(model.names)
    return network


def fold_norms(network: nn.Module, published: types.SimpleNamespace, method: str) -> None:
    """Fold batch norms as the releases did before they saved: v1.0 kept an empty `bn`, later ones deleted it."""
    for module in network.modules():
        if isinstance(module, published.Conv | published.DWConv):
            module.conv = fold(module.conv, module.bn)
            if method == "fuseforward":
                module.bn = None
            else:
                del module.bn
            module.forward = getattr(module, method)


def save(path: Path, network: nn.Module, **more: Any) -> Path:
    content = {"epoch": -1, "best_fitness": None, "training_results": None, "model": network, "optimizer": None}
    torch.save(content | more, path)
    return path
