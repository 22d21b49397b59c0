"""Which hyper-parameters are searched, and between which limits: the published table, or a yaml of the user.

Source: gains and limits published with YOLOv5 v7.0 (spec B6, hyper-parameter evolution); facts only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from boxwright.errors import UserError
from boxwright.settings.load import load, suggest
from boxwright.settings.yaml_file import Setting, read_yaml_settings
from boxwright.yolo.hyp import SETTING_OF_KEY
from boxwright.yolo.settings import RunConfig

KEY_OF_SETTING = {setting: key for key, setting in SETTING_OF_KEY.items() if key != "giou"}
PUBLISHED_ANCHORS = 3.0  # a level; where the published search begins when the settings leave anchors to the model


@dataclass(frozen=True, slots=True)
class Range:
    """Args:
    gain: of the published mutation; 0: the hyper-parameter stays as it is, with every sampler.
    low, high: limits, both possible.
    """

    gain: float
    low: float
    high: float

    @property
    def is_searched(self) -> bool:
        return self.gain > 0

    @property
    def is_logarithmic(self) -> bool:
        """It spans so many powers of ten that samplers other than the published one should draw its logarithm."""
        return self.low > 0 and self.high / self.low >= 1000

    def clipped(self, value: float) -> float:
        return min(max(value, self.low), self.high)


Space = Mapping[str, Range]  # by dotted path of the setting

PUBLISHED: Space = {
    "optim.lr0": Range(1, 1e-5, 1e-1),
    "optim.lrf": Range(1, 0.01, 1.0),
    "optim.momentum": Range(0.3, 0.6, 0.98),
    "optim.weight_decay": Range(1, 0.0, 0.001),
    "optim.warmup_epochs": Range(1, 0.0, 5.0),
    "optim.warmup_momentum": Range(1, 0.0, 0.95),
    "optim.warmup_bias_lr": Range(1, 0.0, 0.2),
    "loss.box": Range(1, 0.02, 0.2),
    "loss.cls": Range(1, 0.2, 4.0),
    "loss.cls_pw": Range(1, 0.5, 2.0),
    "loss.obj": Range(1, 0.2, 4.0),
    "loss.obj_pw": Range(1, 0.5, 2.0),
    "loss.iou_t": Range(0, 0.1, 0.7),
    "loss.anchor_t": Range(1, 2.0, 8.0),
    "anchors": Range(2, 2.0, 10.0),
    "loss.fl_gamma": Range(0, 0.0, 2.0),
    "augment.hsv_h": Range(1, 0.0, 0.1),
    "augment.hsv_s": Range(1, 0.0, 0.9),
    "augment.hsv_v": Range(1, 0.0, 0.9),
    "augment.degrees": Range(1, 0.0, 45.0),
    "augment.translate": Range(1, 0.0, 0.9),
    "augment.scale": Range(1, 0.0, 0.9),
    "augment.shear": Range(1, 0.0, 10.0),
    "augment.perspective": Range(0, 0.0, 0.001),
    "augment.flipud": Range(1, 0.0, 1.0),
    "augment.fliplr": Range(0, 0.0, 1.0),
    "augment.mosaic": Range(1, 0.0, 1.0),
    "augment.mixup": Range(1, 0.0, 1.0),
    "augment.copy_paste": Range(1, 0.0, 1.0),
}


def make_space(config: RunConfig, file: str) -> Space:
    """The hyper-parameters that are searched.

    Args:
        config: settings of the trials. Anchors are left out where they are given as sides, or where automatic ones are
            not wanted, as published.
        file: yaml of limits; empty: the published table.

    Raises:
        UserError: see `read_space`; or the file searches the number of anchors, and the settings name their sides.
    """
    space = read_space(Path(file).expanduser()) if file else PUBLISHED
    fixed = config.noautoanchor or not isinstance(config.anchors, int)
    if file and fixed and "anchors" in space:
        raise UserError(f"{file} searches the number of anchors, but --anchors or --noautoanchor says what they are")
    return {name: limits for name, limits in space.items() if limits.is_searched and not (fixed and name == "anchors")}


def read_space(path: Path) -> Space:
    """Read limits from yaml: settings path to [gain, low, high] or [low, high].

    Raises:
        UserError: lists every line that names no hyper-parameter or has no proper limits; or nothing is searched.
    """
    space: dict[str, Range] = {}
    problems: list[str] = []
    for name, setting in read_yaml_settings(path).items():
        target = SETTING_OF_KEY.get(name, name)
        if target not in KEY_OF_SETTING:
            problems.append(f"{setting.origin}: {name} is no hyper-parameter{_hint(name)}")
        elif target in space:
            problems.append(f"{setting.origin}: {name} is limited a second time")
        else:
            try:
                space[target] = _range(target, setting)
            except UserError as error:
                problems.append(str(error))
    if problems:
        raise UserError("\n  ".join(["the search space has mistakes:", *problems]))
    if not any(limits.is_searched for limits in space.values()):
        raise UserError(f"{path} leaves nothing to search: it is lines such as `optim.lr0: [1, 0.00001, 0.1]`")
    return space


def start_values(config: RunConfig, space: Space) -> dict[str, float]:
    """The values of the settings that are searched, within their limits: where a search begins."""
    values: dict[str, float] = {}
    for name, limits in space.items():
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        if name == "anchors" and not value:
            value = PUBLISHED_ANCHORS
        values[name] = limits.clipped(float(value))
    return values


def _hint(name: str) -> str:
    hint = suggest(name, KEY_OF_SETTING) or suggest(name, [*SETTING_OF_KEY])
    return hint or "; it is one that a hyper-parameter file can hold, such as optim.lr0 or loss.box"


def _range(name: str, setting: Setting) -> Range:
    wanted = f"{setting.origin}: {name} takes [gain, low, high] or [low, high]"
    if not isinstance(setting.value, list) or len(cast(Sequence[Any], setting.value)) not in (2, 3):
        raise UserError(f"{wanted}, got {setting.value!r}")
    try:  # yaml takes 1e-5 without a point for a word
        numbers = [float(number) for number in cast("Sequence[Any]", setting.value) if not isinstance(number, bool)]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != len(cast(Sequence[Any], setting.value)) or not all(map(math.isfinite, numbers)):
        raise UserError(f"{wanted}, all of them numbers, got {setting.value!r}")
    gain, low, high = numbers if len(numbers) == 3 else (1.0, *numbers)
    if not low < high or gain < 0:
        raise UserError(f"{wanted}, low below high and no gain below 0, got {setting.value!r}")
    for limit in (low, high):
        load(RunConfig, {name: Setting(limit, setting.origin)})  # a value that no run would take
    return Range(gain, low, high)
