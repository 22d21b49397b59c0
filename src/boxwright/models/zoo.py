"""The published networks by name: yaml files with a table of multiples, and Darknet cfg files.

Source: published YOLOv5 6.x model table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, cast

import yaml

from boxwright.errors import UserError
from boxwright.models.darknet_cfg import DarknetSpec, read_cfg
from boxwright.models.detection import DetectionSpec
from boxwright.models.spec import ModelSpec

# size: depth multiple, width multiple
MULTIPLES = {"n": (0.33, 0.25), "s": (0.33, 0.50), "m": (0.67, 0.75), "l": (1.0, 1.0), "x": (1.33, 1.25)}
NAMES = {f"yolov5{size}": ("yolov5.yaml", size) for size in MULTIPLES} | {
    f"yolov5{size}6": ("yolov5_p6.yaml", size) for size in MULTIPLES
}
DARKNET_NAMES = ("yolov3", "yolov3-spp", "yolov3-tiny")  # described by a cfg
KNOWN = (*NAMES, *DARKNET_NAMES)


def load_spec(model: str, num_classes: int | None = None) -> DetectionSpec:
    """Find a network by its published name, or read a model yaml.

    Args:
        model: yolov5n ... yolov5x, yolov5n6 ... yolov5x6 (also with .yaml behind), yolov3, yolov3-spp, yolov3-tiny, or
            the path of a model yaml or of a Darknet cfg.
        num_classes: overrides the number of classes.

    Raises:
        UserError: neither a known name nor a readable model yaml.
    """
    path = Path(model)
    spec: DetectionSpec
    if path.is_file() and path.suffix == ".cfg":
        spec = read_cfg(path)
    elif model.removesuffix(".cfg") in DARKNET_NAMES:
        file = f"{model.removesuffix('.cfg')}.cfg"
        spec = DarknetSpec.from_text(_own_text("cfg", file), file)
    elif path.is_file():
        spec = ModelSpec.from_mapping(_read_yaml(path.read_text(encoding="utf-8"), str(path)), str(path))
    elif model.removesuffix(".yaml") in NAMES:
        file, size = NAMES[model.removesuffix(".yaml")]
        text = _own_text("yaml", file)
        depth, width = MULTIPLES[size]
        spec = replace(ModelSpec.from_mapping(_read_yaml(text, file), file), depth_multiple=depth, width_multiple=width)
    else:
        raise UserError(f"no model {model!r}: known names are {', '.join(KNOWN)}, or give the path of a yaml or cfg")
    return spec if num_classes is None else spec.with_classes(num_classes)


def _own_text(folder: str, file: str) -> str:
    return resources.files("boxwright.models").joinpath(folder, file).read_text(encoding="utf-8")


def _read_yaml(text: str, where: str) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid yaml: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{where}: a model yaml is a mapping with nc, anchors, backbone and head")
    return cast(Mapping[str, Any], content)
