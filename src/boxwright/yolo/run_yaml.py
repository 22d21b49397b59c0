"""The run yaml: one file that a training and a prediction run from, in the keys of the early generation.

It only renames: every key becomes a setting of `RunConfig` or `PredictConfig`, which check its value. Paths are
relative to the yaml. `train --run` and `predict --run` also prepare data and folders.
Source: docs/spec/yolov5.md, B13 (config-driven runs of the early YOLOv5 generation).
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import yaml

from boxwright.data.convert import read_annotated, write_yolo
from boxwright.data.index import DataIndex
from boxwright.engine.run_folder import new_run_folder
from boxwright.errors import UserError
from boxwright.settings.load import Setting, load, read_yaml_settings
from boxwright.yolo.hyp import load_run
from boxwright.yolo.settings import PredictConfig, RunConfig

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
    "batch_size": "images per step",
    "eval_interval": "validate and keep epoch_N.pt every N epochs",
    "weights": "where training starts from; what a prediction runs",
    "source": "images to predict on",
    "output_pos": "where predictions go",
}
DEFAULTS: dict[str, Any] = {"work_dir": "work_dir", "imgsz": 416, "epochs": 50, "batch_size": 4, "eval_interval": 5}


@dataclass(frozen=True)
class RunYaml:
    """What a run yaml says."""

    file: Path  # the yaml
    values: Mapping[str, Setting]  # by key, each with the place where it is written; keys without a value are absent
    names: tuple[str, ...]  # class names in their order; empty: those of the annotations

    def need(self, *keys: str) -> None:
        """Raise a UserError that names the keys of these that are missing."""
        missing = [key for key in keys if key not in self.values]
        if missing:
            lines = [f"{key} ({KEYS[key]})" for key in missing]
            raise UserError(f"{self.file} lacks {', '.join(lines)}")

    def paths(self, key: str) -> tuple[Path, ...]:
        """Return the paths that a key names, relative ones from the folder of the yaml."""
        value = self.values[key].value
        items = cast(list[Any], value) if isinstance(value, list) else [value]
        if not items or not all(isinstance(item, str) and item for item in items):
            raise UserError(f"{self.values[key].origin}: {key} is a path or a list of paths, not {value!r}")
        return tuple(self._absolute(item) for item in items)

    def path(self, key: str, default: str = "") -> Path:
        """Return the one path that a key names."""
        value = self.values[key].value if key in self.values else default
        if not isinstance(value, str) or not value:
            raise UserError(f"{self.values[key].origin}: {key} is a path, not {value!r}")
        return self._absolute(value)

    def training(self) -> dict[str, Setting]:
        """Return settings of `RunConfig`; data and folders come from elsewhere."""
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
        """Return settings of `PredictConfig`; folders come from elsewhere."""
        source = self._value("source")
        is_camera = isinstance(source.value, int) or str(source.value).isdecimal()
        text = str(source.value) if is_camera else str(self.path("source"))
        return self._common() | {"source": Setting(text, source.origin)}

    def hyp(self) -> str:
        """Return the hyper-parameter file or preset; empty: none."""
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
        """Return one side; the early generation wrote [train, test]."""
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
        """Return a value whose origin names the key as well, since the setting has another name."""
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
    """Read class names from a list, from one text, or from a mapping of class numbers."""
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


# Set by the yaml alone: a flag beside it would leave results where nobody looks for them.
_FIXED = {"data": "train_path and val_path", "project": "work_dir", "name": "task_name", "exist_ok": "work_dir"}


def training_settings(file: str | Path, flags: Mapping[str, Setting] | None = None, *, hyp: str = "") -> RunConfig:
    """Make the settings of the training that a run yaml describes, with its data and its run folder.

    Annotations of VOC or COCO are converted to labels below `convertor_path` first. The run folder is
    `work_dir/task_name/DATE/DATE_TIME`.

    Args:
        file: the run yaml.
        flags: settings of the command line; stronger than the yaml.
        hyp: hyper-parameters instead of those of the yaml.

    Returns:
        settings; their run folder is there.

    Raises:
        UserError: something in the yaml, the data or the weights is wrong; names the file and the key.
    """
    run, flags = read_run_yaml(file), flags or {}
    _refuse_fixed(flags, file)
    run.need("train_path", "val_path", *(() if "model" in run.values or "model" in flags else ("weights",)))
    hyp = hyp or run.hyp()
    config = load_run(RunConfig, {**run.training(), **flags}, hyp=hyp)  # before anything is written
    found = _read_data(run)
    folder = _date_folder(run)
    data = _write_data(run, found, folder)
    named = {"data": str(data), "project": str(folder.parent), "name": folder.name, "exist_ok": True}
    return config.model_copy(update=named)


def prediction_settings(file: str | Path, flags: Mapping[str, Setting] | None = None) -> PredictConfig:
    """Make the settings of the prediction that a run yaml describes, with its folder.

    That is `output_pos`, or a date folder like those of training if the yaml names none.

    Args:
        file: the run yaml.
        flags: settings of the command line; stronger than the yaml.

    Returns:
        settings; their run folder is there.
    """
    run, flags = read_run_yaml(file), flags or {}
    _refuse_fixed(flags, file)
    run.need(*(key for key in ("weights", "source") if key not in flags))
    settings = run.prediction() if "source" in run.values else {}
    config = load(PredictConfig, {**settings, **flags})
    for weights in config.weights:
        if not Path(weights).exists():
            raise UserError(f"{_origin(run, 'weights')}: there is no checkpoint {weights}")
    folder = run.path("output_pos") if "output_pos" in run.values else _date_folder(run)
    folder = new_run_folder(folder.parent, folder.name, exist_ok=True)
    return config.model_copy(
        update={"project": str(folder.parent), "name": folder.name, "exist_ok": True, "save_log": True}
    )


def _refuse_fixed(flags: Mapping[str, Setting], file: str | Path) -> None:
    for name, key in _FIXED.items():
        if name in flags:
            raise UserError(f"{flags[name].origin} does not go with --run: {file} says it by {key}")


def _date_folder(run: RunYaml) -> Path:
    """Make a new folder work_dir/task_name/DATE/DATE_TIME."""
    now = datetime.now()
    task = run.values["task_name"].value if "task_name" in run.values else ""
    if not isinstance(task, str | int) or Path(str(task)).is_absolute() or ".." in Path(str(task)).parts:
        raise UserError(f"{_origin(run, 'task_name')}: task_name is the name of a folder below work_dir, not {task!r}")
    work = run.path("work_dir", "work_dir") / str(task)
    return new_run_folder(work / f"{now:%Y-%m-%d}", f"{now:%Y-%m-%d_%H-%M-%S}")


@dataclass(frozen=True, slots=True)
class _Data:
    """What a run yaml says of data: class names, and for each split its paths, read where labels need converting."""

    names: tuple[str, ...]
    splits: Mapping[str, list[tuple[Path, DataIndex | None]]]


def _read_data(run: RunYaml) -> _Data:
    splits: dict[str, list[tuple[Path, DataIndex | None]]] = {}
    names = run.names
    for split, key in (("train", "train_path"), ("val", "val_path")):
        splits[split] = []
        for path in run.paths(key):
            if not path.exists():
                raise UserError(f"{_origin(run, key)}: {key} names {path}, which is not there")
            try:
                index = read_annotated(path, split)
            except UserError as error:
                raise UserError(f"{_origin(run, key)}: {key}: {error}") from error
            missing = sorted(set(names) - set(index.names)) if index is not None and split == "train" else ()
            if missing and index is not None:
                there = ", ".join(index.names)
                raise UserError(f"{_origin(run, 'names')}: {path} has no class {missing[0]!r}; it has {there}")
            names = names or (index.names if index is not None else ())
            splits[split].append((path, index))
    if not names:
        first = splits["train"][0][0]
        raise UserError(f"{run.file} lacks names (class names), which the labels of {first} do not hold")
    return _Data(names, splits)


def _write_data(run: RunYaml, data: _Data, folder: Path) -> Path:
    """Write a data yaml into the run folder; its images have YOLO labels, converted where they were not."""
    target = run.path("convertor_path") if "convertor_path" in run.values else folder / "converted"
    sources: dict[str, Any] = {}
    for split, paths in data.splits.items():
        sources[split] = []
        for number, (path, index) in enumerate(paths, 1):
            if index is not None:
                path = write_yolo(index, data.names, target, split if number == 1 else f"{split}{number}")
            sources[split].append(str(path))
    file = folder / "data.yaml"
    text = yaml.safe_dump(sources | {"names": list(data.names)}, sort_keys=False, allow_unicode=True)
    file.write_text(text, encoding="utf-8")
    return file


def _origin(run: RunYaml, key: str) -> str:
    return run.values[key].origin if key in run.values else str(run.file)
