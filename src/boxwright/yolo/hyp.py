"""Hyper-parameter files in the flat form that YOLOv5 published (`lr0: 0.01`, `box: 0.05`), and the presets by name.

Source: names and meanings of the keys of the published YOLOv5 files (v1.0 to v7.0).
"""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path

from boxwright.errors import UserError
from boxwright.settings.yaml_file import Setting, read_yaml_settings
from boxwright.yolo.settings import AugmentConfig

# iou_t stands in every published file; only YOLOv3-SPP reads it.
_LOSS_KEYS = ("box", "cls", "cls_pw", "obj", "obj_pw", "anchor_t", "iou_t", "fl_gamma", "label_smoothing")
_OPTIM_KEYS = (
    "lr0",
    "lrf",
    "momentum",
    "weight_decay",
    "warmup_epochs",
    "warmup_momentum",
    "warmup_bias_lr",
)
SETTING_OF_KEY: dict[str, str] = {
    **{key: f"optim.{key}" for key in _OPTIM_KEYS},
    **{key: f"loss.{key}" for key in _LOSS_KEYS},
    **{key: f"augment.{key}" for key in AugmentConfig.model_fields if key != "release"},
    "anchors": "anchors",
    "giou": "loss.box",  # what files up to v3.0 call the box gain
}


def preset_names() -> list[str]:
    """The presets that `--hyp` knows by name, without `hyp.` and `.yaml`."""
    files = (file.name for file in (resources.files("boxwright.yolo") / "presets").iterdir())
    return sorted(name.removeprefix("hyp.").removesuffix(".yaml") for name in files if name.endswith(".yaml"))


def find_hyp(name: str) -> Path:
    """The file of a path or of a preset name: `my.yaml`, `scratch-low`, `hyp.scratch-low.yaml`.

    Raises:
        UserError: neither; names the place looked at and the presets.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    presets = preset_names()
    preset = name.removeprefix("hyp.").removesuffix(".yaml")
    if preset in presets:
        return Path(str(resources.files("boxwright.yolo") / "presets" / f"hyp.{preset}.yaml"))
    near = difflib.get_close_matches(preset, presets, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(
        f"no hyper-parameters {name}: not a file ({path.absolute()}), nor a preset ({', '.join(presets)}){hint}"
    )


def read_hyp(name: str) -> dict[str, Setting]:
    """Read a flat hyper-parameter file as settings by dotted path.

    Raises:
        UserError: no such file or preset; not yaml; lists every key that no published file has, with file and line.
    """
    path = find_hyp(name)
    settings: dict[str, Setting] = {}
    problems: list[str] = []
    for key, setting in read_yaml_settings(path).items():
        if key not in SETTING_OF_KEY:
            near = difflib.get_close_matches(key.rpartition(".")[2], SETTING_OF_KEY, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            problems.append(f"{setting.origin}: {key} is not a hyper-parameter{hint}")
            continue
        target = SETTING_OF_KEY[key]
        if target in settings:
            problems.append(f"{setting.origin}: {key} sets {target} a second time (first at {settings[target].origin})")
        settings[target] = setting
    if problems:
        raise UserError("\n  ".join(["the hyper-parameter file has mistakes:", *problems]))
    return settings
