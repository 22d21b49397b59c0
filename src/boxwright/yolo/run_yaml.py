"""The run yaml: one file that a training and a prediction run from, in the keys of the early generation.

It only renames: every key becomes a setting of `RunConfig` or `PredictConfig`, which check its value. Paths are
relative to the yaml. Source: spec B13 (config-driven runs of the early YOLOv5 generation).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from boxwright.errors import UserError
from boxwright.settings.load import Setting, read_yaml_settings

KEYS = {
    "train_path": "images to train on: folders or lists with labels beside, a VOC root or a list of it, a COCO json",
    "val_path": "images to validate on, likewise",
    "convertor_path": "where labels converted from VOC or COCO annotations are written",
    "task_name": "folder of these runs below work_dir",
    "work_dir": "folder of all runs",
    "names": "class names",
    "model": "published name or model yaml; empty: as the weights",
    "hyp": "preset or hyper-parameter yaml",
    "gpu_ids": "a GPU number; -1: the CPU; empty: the first GPU, else the CPU",
    "imgsz": "input side",
    "epochs": "passes over the training images",
    "batch_size": "images a step",
    "eval_interval": "validate and keep epoch_N.pt every N epochs",
    "weights": "where training starts from; what a prediction runs",
    "source": "images to predict on",
    "output_pos": "where predictions go",
}
DEFAULTS: dict[str, Any] = {"work_dir": "work_dir", "imgsz": 416, "epochs": 50, "batch_size": 4, "eval_interval": 5}


@dataclass(frozen=True)
class RunYaml:
    """Args:
    file: the yaml.
    values: by key, each with the place where it is written; keys without a value are absent.
    names: class names in their order; empty: those of the annotations.
    """

    file: Path
    values: Mapping[str, Setting]
    names: tuple[str, ...]

    def need(self, *keys: str) -> None:
        """Raise a UserError that names the keys of these that are missing."""
        missing = [key for key in keys if key not in self.values]
        if missing:
            lines = [f"{key} ({KEYS[key]})" for key in missing]
            raise UserError(f"{self.file} lacks {', '.join(lines)}")

    def paths(self, key: str) -> tuple[Path, ...]:
        """The places that a key names, relative ones from the folder of the yaml."""
        value = self.values[key].value
        items = cast(list[Any], value) if isinstance(value, list) else [value]
        if not items or not all(isinstance(item, str) and item for item in items):
            raise UserError(f"{self.values[key].origin}: {key} is a path or a list of paths, not {value!r}")
        return tuple(self._absolute(item) for item in items)

    def path(self, key: str, default: str = "") -> Path:
        """The one place that a key names."""
        value = self.values[key].value if key in self.values else default
        if not isinstance(value, str) or not value:
            raise UserError(f"{self.values[key].origin}: {key} is a path, not {value!r}")
        return self._absolute(value)

    def training(self) -> dict[str, Setting]:
        """Settings of `RunConfig`; data and folders come from elsewhere."""
        interval = self._value("eval_interval")
        settings = self._common() | {
            "epochs": self._value("epochs"),
            "batch_size": self._value("batch_size"),
            "val_period": interval,
            "save_period": interval,
            "save_name": Setting("epoch_", "the run yaml"),
        }
        if "model" in self.values:
            model = self._value("model")
            beside = self._absolute(str(model.value))
            settings["model"] = Setting(str(beside), model.origin) if beside.is_file() else model
        return settings

    def prediction(self) -> dict[str, Setting]:
        """Settings of `PredictConfig`; folders come from elsewhere."""
        source = self._value("source")
        is_camera = isinstance(source.value, int) or str(source.value).isdecimal()
        text = str(source.value) if is_camera else str(self.path("source"))
        return self._common() | {"source": Setting(text, source.origin)}

    def hyp(self) -> str:
        """Hyper-parameter file or preset; empty: none."""
        if "hyp" not in self.values:
            return ""
        beside = self.path("hyp")
        return str(beside) if beside.is_file() else str(self.values["hyp"].value)

    def _common(self) -> dict[str, Setting]:
        settings = {"imgsz": self._imgsz(), "device": self._device()}
        if "weights" in self.values:
            settings["weights"] = Setting(str(self.path("weights")), self._value("weights").origin)
        return settings

    def _imgsz(self) -> Setting:
        """One side; the early generation wrote [train, test]."""
        setting = self._value("imgsz")
        if not isinstance(setting.value, list):
            return setting
        sides = cast(list[Any], setting.value)
        if not sides or len(set(map(str, sides))) > 1:
            raise UserError(f"{setting.origin}: training and test size must be one number, not {sides}")
        return Setting(sides[0], setting.origin)

    def _device(self) -> Setting:
        setting = self._value("gpu_ids")
        value = setting.value
        numbers = cast(list[Any], value) if isinstance(value, list) else str("" if value is None else value).split(",")
        words = [str(number).strip() for number in numbers if str(number).strip()]
        if len(words) > 1:
            raise UserError(f"{setting.origin}: this version runs on one GPU, not {len(words)}")
        return Setting("cpu" if words == ["-1"] else "".join(words), setting.origin)

    def _value(self, key: str) -> Setting:
        """A value whose place names the key as well, since the setting is called otherwise."""
        if key not in self.values:
            return Setting(DEFAULTS.get(key), "a default of the run yaml")
        return Setting(self.values[key].value, f"{self.values[key].origin}, {key}")

    def _absolute(self, path: str) -> Path:
        return self.file.absolute().parent / Path(path).expanduser()


def read_run_yaml(path: str | Path) -> RunYaml:
    """Read a run yaml.

    Raises:
        UserError: not readable, a key that is not one of `KEYS`, or names that are no texts; names file and line.
    """
    file = Path(path).expanduser()
    values: dict[str, Setting] = {}
    numbered: dict[str, Setting] = {}
    problems: list[str] = []
    for key, setting in read_yaml_settings(file).items():
        group, _, rest = key.partition(".")
        if group == "names" and rest:
            numbered[rest] = setting
        elif key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"a run yaml has {', '.join(KEYS)}; flags set the rest"
            problems.append(f"{setting.origin}: {key} is no key of a run yaml; {hint}")
        elif setting.value is not None and setting.value != "":
            values[key] = setting
    if problems:
        raise UserError("\n  ".join(problems))
    return RunYaml(file, values, _names(values.get("names"), numbered))


def _names(listed: Setting | None, numbered: Mapping[str, Setting]) -> tuple[str, ...]:
    """Class names from a list, from one text, or from a mapping of class numbers."""
    if numbered:
        origin = next(iter(numbered.values())).origin
        if sorted(numbered) != sorted(map(str, range(len(numbered)))):
            raise UserError(f"{origin}: the keys of names run from 0 to {len(numbered) - 1} without a gap")
        found: list[Any] = [numbered[str(i)].value for i in range(len(numbered))]
    elif listed is None:
        return ()
    else:
        origin = listed.origin
        found = cast(list[Any], listed.value) if isinstance(listed.value, list) else [listed.value]
    names = [str(name) for name in found if isinstance(name, str | int) and not isinstance(name, bool)]
    if len(names) != len(found) or not names or len(set(names)) != len(names):
        raise UserError(f"{origin}: names is a list of different class names, not {found}")
    return tuple(names)
