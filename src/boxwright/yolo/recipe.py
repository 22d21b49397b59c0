"""What a run takes where its settings are silent, when it trains as YOLOv3-SPP did and not as YOLOv5 v7.0.

Source: defaults published with YOLOv3-SPP for PyTorch (spec A6); the numbers stand in presets/hyp.yolov3-spp.yaml.
"""

from __future__ import annotations

from typing import Any, TypeVar

from boxwright.settings.base import Frozen
from boxwright.yolo.hyp import read_hyp
from boxwright.yolo.settings import RunConfig

V3 = "v3"
_V3_PRESET = "yolov3-spp"
G = TypeVar("G", bound=Frozen)


def with_recipe(config: RunConfig, model_recipe: str, *, has_backbone: bool) -> RunConfig:
    """Settings of a run whose network is known; what was set by hand stays.

    Args:
        config: as the user gave them.
        model_recipe: the loss that the network is made for.
        has_backbone: it is known which layers are its backbone.
    """
    if (config.loss.recipe or model_recipe) != V3:
        return config
    defaults: dict[str, Any] = {name: setting.value for name, setting in read_hyp(_V3_PRESET).items()}
    defaults |= {"optim.release": V3, "optim.cos_lr": True, "augment.release": V3, "multi_scale": True}
    if config.optim.schedule:  # chosen by hand
        defaults.pop("optim.cos_lr")
    # Gradients were not clipped; with these gains their norm is in the hundreds, where 10 would stop the training.
    defaults["optim.clip_norm"] = 0.0
    # The published default; a backbone of random numbers, though, would stay random.
    if config.weights and has_backbone:
        defaults["freeze"] = "backbone"
    groups = {name: _filled(getattr(config, name), defaults, f"{name}.") for name in ("loss", "optim", "augment")}
    return _filled(config, defaults, "").model_copy(update=groups)


def _filled(group: G, defaults: dict[str, Any], prefix: str) -> G:
    """A group of settings with the defaults below `prefix` wherever nothing was set."""
    mine = {name.removeprefix(prefix): value for name, value in defaults.items() if name.startswith(prefix)}
    unset = {name: value for name, value in mine.items() if "." not in name and name not in group.model_fields_set}
    return group.model_copy(update=unset)
