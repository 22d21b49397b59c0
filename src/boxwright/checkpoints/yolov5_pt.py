"""Published YOLOv5 `.pt` files: a whole pickled network, of which we take the tensors and the plain values.

Source: published YOLOv5 behaviour (what a checkpoint holds); the attribute names of `torch.nn.Module`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from boxwright.checkpoints.inert import StandIn
from boxwright.errors import UserError
from boxwright.models.spec import KNOWN_KEYS, ModelSpec


@dataclass(frozen=True)
class PublishedModel:
    """What a published file says about its network; weights are float32."""

    state_dict: dict[str, Tensor]
    spec: ModelSpec
    names: tuple[str, ...]
    strides: tuple[int, ...]
    hyp: dict[str, Any] | None


def read_published(content: object, where: str) -> PublishedModel:
    """Rebuild state dict, names, strides, yaml and hyper-parameters from the inert content of a file.

    The averaged weights are taken where the file has both.

    Args:
        content: as `read_archive` gives it.
        where: the file, for messages.

    Raises:
        UserError: the file holds no detection network of this kind.
    """
    network = _find_network(content, where)
    state_dict = {key: t.float() if t.is_floating_point() else t for key, t in _walk(network, "", set())}
    mapping = network.state.get("yaml")
    if not isinstance(mapping, dict):
        raise UserError(f"{where} holds no model description (yaml), so the network cannot be rebuilt")
    names = _read_names(network.state.get("names"), where)
    mapping = {key: value for key, value in cast(dict[str, Any], mapping).items() if key in KNOWN_KEYS}
    spec = ModelSpec.from_mapping(mapping | {"nc": len(names)}, f"the model yaml in {where}")
    strides = _read_strides(network.state.get("stride"), where)
    anchors = state_dict.get(f"model.{len(spec.rows) - 1}.anchors")
    if anchors is None or anchors.dim() != 3 or anchors.shape[0] != len(strides) or anchors.shape[2] != 2:
        raise UserError(f"{where} holds no anchors of a Detect head with {len(strides)} levels")
    return PublishedModel(
        state_dict=state_dict,
        spec=_with_trained_anchors(spec, anchors * torch.tensor(strides, dtype=torch.float32).view(-1, 1, 1)),
        names=names,
        strides=strides,
        hyp=_plain_mapping(network.state.get("hyp")),
    )


def _find_network(content: object, where: str) -> StandIn:
    network: object = content
    if isinstance(content, dict):
        content = cast(dict[str, Any], content)
        found = [content.get(key) for key in ("ema", "model")]
        network = next((item for item in found if isinstance(item, StandIn | dict)), None)
    while isinstance(network, StandIn) and network.class_name.endswith("DataParallel"):
        network = _children(network).get("module")
    if isinstance(network, dict):
        raise UserError(f"{where} holds weights without a model description; give a whole checkpoint")
    if not isinstance(network, StandIn) or not network.class_name.startswith("models."):
        raise UserError(f"{where} is a file of torch.save but holds no YOLOv5 network and no Boxwright checkpoint")
    layers = list(_children(_children(network).get("model", network)).values())
    head = layers[-1].class_name if layers else "nothing"
    if head != "models.yolo.Detect":
        raise UserError(f"{where} ends in {head}; only detection networks (models.yolo.Detect) are read")
    return network


def _children(module: StandIn) -> Mapping[str, StandIn]:
    modules = module.state.get("_modules")
    items = cast(dict[str, Any], modules).items() if isinstance(modules, dict) else ()
    return {name: child for name, child in items if isinstance(child, StandIn)}


def _walk(module: StandIn, prefix: str, above: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers in the order of `state_dict()`."""
    if id(module) in above or len(above) > 50:
        raise UserError("the checkpoint's network contains itself")
    hidden = module.state.get("_non_persistent_buffers_set")
    for kind in ("_parameters", "_buffers"):
        tensors = module.state.get(kind)
        for name, tensor in cast(dict[str, Any], tensors).items() if isinstance(tensors, dict) else ():
            if isinstance(tensor, Tensor) and not (isinstance(hidden, set) and kind == "_buffers" and name in hidden):
                yield f"{prefix}{name}", tensor
    for name, child in _children(module).items():
        yield from _walk(child, f"{prefix}{name}.", above | {id(module)})


def _read_names(value: object, where: str) -> tuple[str, ...]:
    """Class names, a list or a mapping from class number."""
    if isinstance(value, dict):
        numbered = cast(dict[Any, Any], value)
        value = [numbered.get(i) for i in range(len(numbered))]
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in cast(list[Any], value)):
        raise UserError(f"{where} holds no class names")
    return tuple(cast(list[str], value))


def _read_strides(value: object, where: str) -> tuple[int, ...]:
    if (
        not isinstance(value, Tensor)
        or value.dim() != 1
        or not len(value)
        or not bool(((value >= 1) & (value < 1e4)).all())
    ):
        raise UserError(f"{where} holds no strides")
    return tuple(int(stride) for stride in value)


def _with_trained_anchors(spec: ModelSpec, pixels: Tensor) -> ModelSpec:
    """The yaml keeps the anchors it was written with; where training fitted others, those are the truth."""
    written = torch.tensor(spec.anchors)
    if written.shape == pixels.shape and torch.allclose(written, pixels, rtol=2e-3):  # stored in half precision
        return spec
    return replace(spec, anchors=tuple(tuple((w, h) for w, h in level) for level in pixels.tolist()))


def _plain_mapping(value: object) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    items = cast(dict[str, Any], value).items()
    return {key: item for key, item in items if item is None or type(item) in (bool, int, float, str)}
