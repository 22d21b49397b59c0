"""Networks by name, yaml or cfg: read their description, and build them from it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, cast

import torch

from boxwright.data.files import found_below
from boxwright.errors import UserError
from boxwright.reading import load_yaml, read_text
from boxwright.yolo.darknet import DarknetModel
from boxwright.yolo.darknet_cfg import DarknetSpec, read_cfg
from boxwright.yolo.detection import DetectionModel, DetectionSpec
from boxwright.yolo.graph import GraphModel
from boxwright.yolo.published import CURRENT, RELEASES, YOLOV5_RELEASES
from boxwright.yolo.spec import ModelSpec

# size: depth multiple, width multiple
MULTIPLES = {"n": (0.33, 0.25), "s": (0.33, 0.50), "m": (0.67, 0.75), "l": (1.0, 1.0), "x": (1.33, 1.25)}
_FIRST_WITH_NANO = "v6.0"
DARKNET_YAML_NAMES = ("yolov3", "yolov3-spp", "yolov3-tiny")  # with .yaml behind: the same as rows of a model yaml
DARKNET_NAMES = (  # by cfg
    *DARKNET_YAML_NAMES,
    *("yolov4", "yolov4-tiny", "yolov4-tiny-3l", "yolov4-csp", "yolov4x-mish"),
)
HUB_NAMES = (
    *("yolov5-p2", "yolov5-p34", "yolov5-p6", "yolov5-p7", "yolov5-bifpn", "yolov5-fpn", "yolov5-panet"),
    *("yolov5s-ghost", "yolov5s-transformer", "yolov5s-LeakyReLU"),
)
NAMES = (
    *(f"yolov5{size}" for size in MULTIPLES),
    *(f"yolov5{size}6" for size in MULTIPLES),
    *HUB_NAMES,
    *DARKNET_NAMES,
)


def load_spec(model: str, num_classes: int | None = None) -> DetectionSpec:
    """Find a network by its published name, or read a model yaml or a Darknet cfg.

    Args:
        model: yolov5n ... yolov5x, yolov5n6 ... yolov5x6; with a release behind it (`yolov5s@v3.0`) as it was then;
            yolov3, yolov3-spp, yolov3-tiny (with .yaml behind: in the grammar of model yamls); or a path.
        num_classes: overrides the number of classes.

    Raises:
        UserError: neither a known name nor a readable file.
    """
    path = Path(model)
    spec: DetectionSpec
    if path.is_file() and path.suffix == ".cfg":
        spec = read_cfg(path)
    elif path.is_file():
        spec = _read_yaml(read_text(path), str(path))
    elif model.removesuffix(".cfg") in DARKNET_NAMES:
        file = f"{model.removesuffix('.cfg')}.cfg"
        spec = DarknetSpec.from_text(_own_text("cfg", file), file)
    elif model.removesuffix(".yaml") in DARKNET_YAML_NAMES:
        spec = _read_yaml(_own_text("yaml", model), model)
    elif (name := model.partition("@")[0].removesuffix(".yaml")) in HUB_NAMES:
        if "@" in model and not model.endswith(f"@{CURRENT}"):
            raise UserError(f"no model {model!r}: {name} is known here as release {CURRENT} has it")
        spec = _read_yaml(_own_text("yaml/hub", f"{name}.yaml"), model)
    else:
        spec = yolov5_spec(model)
    return spec if num_classes is None else spec.with_classes(num_classes)


def yolov5_spec(model: str) -> ModelSpec:
    """Find a YOLOv5 by size and release, such as `yolov5s6` or `yolov5s@v3.0`.

    Raises:
        UserError: the release is not known here, or had no such network.
    """
    name, _, release = model.partition("@")
    release = release or CURRENT
    match = re.fullmatch(r"yolov5([nsmlx])(6?)(\.yaml)?", name)
    if not match:
        known = f"{', '.join(NAMES)}, yolov5s@v3.0 and the like for earlier releases"
        there = found_below(model)
        raise UserError(f"no model {model!r}: known names are {known}, or give the path of a yaml or cfg{there}")
    if release not in YOLOV5_RELEASES:
        raise UserError(f"no model {model!r}: the releases of YOLOv5 known here are {', '.join(YOLOV5_RELEASES)}")
    file = RELEASES[release].layers.model_yamls[bool(match[2])]
    if not file or (match[1] == "n" and release < _FIRST_WITH_NANO):
        raise UserError(f"no model {model!r}: release {release} had no {name}")
    depth, width = MULTIPLES[match[1]]
    spec = _read_yaml(_own_text("yaml", file), file)
    return replace(spec, depth_multiple=depth, width_multiple=width, generation=release)


def _own_text(folder: str, file: str) -> str:
    return resources.files("boxwright.yolo").joinpath(folder, file).read_text(encoding="utf-8")


def _read_yaml(text: str, where: str) -> ModelSpec:
    content = load_yaml(text, where)
    if not isinstance(content, dict):
        raise UserError(f"{where}: a model yaml is a mapping with nc, anchors, backbone and head")
    return ModelSpec.from_mapping(cast(Mapping[str, Any], content), where)


# Networks that have been found to be of a reasonable size.
_SKETCHED: dict[str, None] = {}
_MOST_SKETCHED = 64


def build_model(spec: DetectionSpec, names: Sequence[str] | None = None) -> DetectionModel:
    """Build a network with random weights, in training mode.

    Raises:
        UserError: the description names something unknown, or its layers do not fit together.
    """

    def build() -> DetectionModel:
        return DarknetModel(spec, names) if isinstance(spec, DarknetSpec) else GraphModel(cast(ModelSpec, spec), names)

    if (known := repr(spec)) not in _SKETCHED:
        with torch.device("meta"):  # without memory: what is too large is refused here
            build()
        _SKETCHED[known] = None
        while len(_SKETCHED) > _MOST_SKETCHED:
            _SKETCHED.pop(next(iter(_SKETCHED)))
    return build()


def read_spec(mapping: Mapping[str, Any], where: str) -> DetectionSpec:
    """Turn what `DetectionSpec.to_mapping` gave, as a checkpoint holds it, into the description again.

    Raises:
        UserError: malformed.
    """
    if "cfg" in mapping:
        return DarknetSpec.from_text(str(mapping["cfg"]), where)
    return ModelSpec.from_mapping(mapping, where)


def with_anchors(model: DetectionModel, anchors: object) -> DetectionModel:
    """Return the same network and weights with other anchors, as many a level; on the CPU, in training mode.

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
