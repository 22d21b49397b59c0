"""The module tree of a published network, as inert stand-ins: walking it, and which release it is of.

A file does not name its release; the classes of its modules, its activations and its buffers tell it.

Source: facts recorded from the published releases (spec B1.3, B14; golden keys/); attribute names of `torch.nn.Module`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from boxwright.checkpoints.inert import StandIn
from boxwright.errors import UserError
from boxwright.yolo.published import CURRENT, RELEASES

HEAD = "models.yolo.Detect"
LAYERS = frozenset(
    "Model DetectionModel Detect Conv Focus Bottleneck BottleneckCSP C3 SPP SPPF Concat Sequential ModuleList Conv2d "
    "BatchNorm2d MaxPool2d ZeroPad2d Upsample".split()
)
# Classes of activations, of torch.nn or of the releases' own, as a model yaml writes them.
ACTIVATIONS = {
    "SiLU": "nn.SiLU()",
    "Swish": "nn.SiLU()",
    "MemoryEfficientSwish": "nn.SiLU()",
    "Hardswish": "nn.Hardswish()",
    "Mish": "nn.Mish()",
    "MemoryEfficientMish": "nn.Mish()",
    "ReLU": "nn.ReLU()",
    "LeakyReLU": "nn.LeakyReLU({})",
}
_DEEPEST, _MOST_MODULES = 50, 50_000  # far above any release: a network that contains itself ends here
_LEAKY_SLOPE = 0.1  # of every release that has LeakyReLU


@dataclass(frozen=True)
class FoundRelease:
    """What the modules say.

    Args:
        generation: a YOLOv5 of published.py; of releases that give equal outputs the latest, since nothing in the
            file tells them apart.
        activation: of every convolution, where it is not that of the generation.
    """

    generation: str
    activation: str | None


def kind(module: StandIn) -> str:
    """The class without its module: `Conv`."""
    return module.class_name.rpartition(".")[2]


def children(module: StandIn) -> Mapping[str, StandIn]:
    return {name: child for name, child in _items(module, "_modules") if isinstance(child, StandIn)}


def tensors(module: StandIn) -> Mapping[str, Tensor]:
    """Parameters, then buffers that belong to the state dict, of the module itself."""
    hidden = module.state.get("_non_persistent_buffers_set")
    hidden = cast(set[Any], hidden) if isinstance(hidden, set) else set[Any]()
    own = [*_items(module, "_parameters"), *(item for item in _items(module, "_buffers") if item[0] not in hidden)]
    return {name: tensor for name, tensor in own if isinstance(tensor, Tensor)}


def walk(module: StandIn) -> Iterator[tuple[str, StandIn]]:
    """Every module with the beginning of its keys ("model.0."), in the order of the state dict.

    Raises:
        UserError: the tree has no end.
    """
    waiting: list[tuple[str, StandIn, int]] = [("", module, 0)]
    for _ in range(_MOST_MODULES):
        prefix, current, depth = waiting.pop()
        yield prefix, current
        below = [(f"{prefix}{name}.", child, depth + 1) for name, child in children(current).items()]
        if below and depth == _DEEPEST:
            break
        waiting += reversed(below)
        if not waiting:
            return
    raise UserError("the checkpoint's network contains itself, or is larger than any published one")


def _items(module: StandIn, what: str) -> list[tuple[str, Any]]:
    found = module.state.get(what)
    return list(cast(dict[str, Any], found).items()) if isinstance(found, dict) else []


def find_release(network: StandIn, where: str) -> FoundRelease:
    """Tell the release of a network that ends in a Detect head.

    Args:
        network: the whole tree.
        where: the file, for messages.

    Raises:
        UserError: a module is of a class that no release has, or the activations are mixed as in no release.
    """
    modules = list(walk(network))
    for prefix, module in modules:
        if kind(module) not in LAYERS and kind(module) not in ACTIVATIONS:
            raise UserError(
                f"{where}: {prefix.rstrip('.')} is of the class {module.class_name}, which no detection network known "
                "here has; nothing was executed"
            )
    head = next(module for _, module in reversed(modules) if module.class_name == HEAD)
    plain, joint = (_activation(modules, block, where) for block in ("Conv", "BottleneckCSP"))
    if "anchor_grid" not in tensors(head):
        generation = "v6.0" if joint == RELEASES["v6.0"].layers.csp_activation else CURRENT
    elif not any(kind(part) == "Conv2d" for _, part in walk(head)):
        generation = "v1.0"  # the predictors are rows of their own
    else:
        by_activation = {RELEASES[release].layers.activation: release for release in ("v3.0", "v3.1")}
        generation = by_activation.get(plain or "", "v5.0")
    facts = RELEASES[generation].layers
    if joint not in (None, facts.csp_activation):
        raise UserError(f"{where}: its BottleneckCSP blocks end in {joint}, as in no release with its layers")
    return FoundRelease(generation, None if plain == facts.activation else plain)


def _activation(modules: list[tuple[str, StandIn]], block: str, where: str) -> str | None:
    """The one activation of all blocks of a kind; None where nothing says."""
    acts = (children(module).get("act") for _, module in modules if kind(module) == block)
    texts = {
        ACTIVATIONS.get(kind(act), act.class_name).format(act.state.get("negative_slope", _LEAKY_SLOPE))
        for act in acts
        if act is not None
    }
    if len(texts) > 1:
        raise UserError(f"{where}: its {block} blocks have several activations: {', '.join(sorted(texts))}")
    return texts.pop() if texts else None
