"""From a description to a network: one door for all kinds of descriptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from boxwright.yolo.darknet import DarknetModel
from boxwright.yolo.darknet_cfg import DarknetSpec
from boxwright.yolo.detection import DetectionModel, DetectionSpec
from boxwright.yolo.graph import GraphModel
from boxwright.yolo.spec import ModelSpec


def build_model(spec: DetectionSpec, names: Sequence[str] | None = None) -> DetectionModel:
    """Build a network with random weights, in training mode.

    Args:
        spec: what to build.
        names: one name a class.

    Raises:
        UserError: the description names something unknown, or its layers do not fit together.
    """
    if isinstance(spec, DarknetSpec):
        return DarknetModel(spec, names)
    assert isinstance(spec, ModelSpec)
    return GraphModel(spec, names)


def read_spec(mapping: Mapping[str, Any], where: str) -> DetectionSpec:
    """Turn what `DetectionSpec.to_mapping` gave, as a checkpoint holds it, into the description again.

    Raises:
        UserError: malformed.
    """
    if "cfg" in mapping:
        return DarknetSpec.from_text(str(mapping["cfg"]), where)
    return ModelSpec.from_mapping(mapping, where)


def with_anchors(model: DetectionModel, anchors: object) -> DetectionModel:
    """The same network and weights with other anchors, as many a level; on the CPU, in training mode.

    Args:
        model: stays as it is.
        anchors: in pixels, in the form of a model yaml; levels may run in either order.

    Raises:
        UserError: they do not fit its levels.
    """
    with torch.random.fork_rng(devices=[]):  # the random weights are overwritten at once
        made = build_model(model.spec.with_anchors(anchors), model.names)
    kept = {name: value for name, value in model.state_dict().items() if "anchor" not in name}
    made.load_state_dict(kept, strict=False)
    return made
