"""The run yaml: one file that a training and a prediction run from, in the keys of the early generation.

It only renames: every key becomes a setting of `RunConfig` or `PredictConfig`, which check its value. Paths are
relative to the yaml. `train --run` and `predict --run` also prepare data and folders.
Source: docs/spec/yolov5.md, B13 (config-driven runs of the early YOLOv5 generation).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import yaml

from boxwright.data.convert import read_annotated, write_yolo
from boxwright.data.files import write_atomically
from boxwright.data.index import DataIndex
from boxwright.data.split_names import Split
from boxwright.engine.run_folder import new_run_folder
from boxwright.errors import UserError
from boxwright.reading import parsing
from boxwright.settings.flags import nearest
from boxwright.settings.load import Setting, load, read_yaml_settings, require_inside
from boxwright.yolo.hyp import load_run
from boxwright.yolo.settings import PredictConfig, RunConfig

_log = logging.getLogger("boxwright.run_yaml")
KEYS = {
    "train_path": "images to train on: folders or lists with labels beside, a VOC root or a list of it, a COCO json",
    "val_path": "images to validate on, likewise",
    "convertor_path": "where labels converted from VOC or COCO annotations are written",
    "task_name": "folder of these runs below work_dir",
    "work_dir": "folder of all runs",
    "names": "class names",
    "model": "published name or model yaml; empty: as the weights",
    "hyp": "preset or hyper-parameter yaml",
    "gpu_ids": "a GPU number, or several to train on; -1: the CPU; empty: the first GPU, else the CPU",
    "imgsz": "input side",
    "epochs": "passes over the training images",
    "batch_size": "images per step",
    "eval_interval": "validate and keep epoch_N.pt every N epochs",
    "weights": "where training starts from; what a prediction runs, empty: the newest of this task",
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
        settings = self._common() | {name: self._value(name) for name in ("epochs", "batch_size")}
        settings |= dict.fromkeys(("val_period", "save_period"), self._value("eval_interval"))
        settings["save_name"] = Setting("epoch_", "the run yaml")
        if "model" in self.values:
            model = self._value("model")
            beside = self._absolute(str(model.value))
            with parsing(self.file, "run yaml"):  # a name may be too long for a path
                settings["model"] = Setting(str(beside), model.origin) if beside.is_file() else model
        return settings

    def prediction(self) -> dict[str, Setting]:
        """Return settings of `PredictConfig`; folders come from elsewhere."""
        source = self._value("source")
        is_camera = isinstance(source.value, int) or str(source.value).isdecimal()
        text = str(source.value) if is_camera else str(self.path("source"))
        settings = self._common() | {"source": Setting(text, source.origin)}
        first, _, others = str(settings["device"].value).partition(",")
        if others:
            _log.info("%s: a prediction runs on the first GPU, %s", settings["device"].origin, first)
            settings["device"] = Setting(first, settings["device"].origin)
        if "imgsz" not in self.values:  # the default is one of training: what is predicted with knows its own size
            del settings["imgsz"]
        else:  # of [train, test]
            settings["imgsz"] = Setting(settings["imgsz"].value[-1:], settings["imgsz"].origin)
        return settings

    def hyp(self) -> str:
        """Return the hyper-parameter file or preset; empty: none."""
        if "hyp" not in self.values:
            return ""
        beside = self.path("hyp")
        with parsing(self.file, "run yaml"):
            return str(beside) if beside.is_file() else str(self.values["hyp"].value)

    def origin(self, key: str) -> str:
        """Return where a key is written; of one that is not there, the file."""
        return self.values[key].origin if key in self.values else str(self.file)

    def _common(self) -> dict[str, Setting]:
        side, device = self._value("imgsz"), self._value("gpu_ids")
        sides = cast(list[Any], side.value if isinstance(side.value, list) else [side.value])
        listed = "" if device.value is None else device.value  # 0 is a GPU
        numbers = cast(list[Any], listed if isinstance(listed, list) else str(listed).split(","))
        gpus = [word for word in (str(number).strip() for number in numbers) if word]
        settings = {
            "imgsz": Setting(sides, side.origin),
            "device": Setting("cpu" if gpus == ["-1"] else ",".join(gpus), device.origin),
        }
        if "weights" in self.values:
            settings["weights"] = Setting(str(self.path("weights")), self._value("weights").origin)
        return settings

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
            near = nearest(key, KEYS)
            hint = f"did you mean {near}?" if near else f"a run yaml has {', '.join(KEYS)}; flags set the rest"
            problems.append(f"{setting.origin}: {key} is no key of a run yaml; {hint}")
        elif setting.value is not None and setting.value != "":
            values[key] = setting
    if problems:
        raise UserError("\n  ".join(problems))
    if numbered:  # names: {0: a, 1: b}
        first = next(iter(numbered.values())).origin
        if sorted(numbered) != sorted(map(str, range(len(numbered)))):
            raise UserError(f"{first}: the keys of names run from 0 to {len(numbered) - 1} without a gap")
        values["names"] = Setting([numbered[str(i)].value for i in range(len(numbered))], first)
    if "names" not in values:
        return RunYaml(file, values, ())
    listed = values["names"].value
    found = cast(list[Any], listed if isinstance(listed, list) else [listed])
    are_names = all(isinstance(name, str | int) and not isinstance(name, bool) for name in found)
    names = tuple(map(str, found))
    if not are_names or not names or len(set(names)) != len(names):
        raise UserError(f"{values['names'].origin}: names is a list of different class names, not {found}")
    return RunYaml(file, values, names)


# Set by the yaml alone: a flag beside it would leave results where nobody looks for them.
_FIXED = {"data": "train_path and val_path", "project": "work_dir", "name": "task_name", "exist_ok": "work_dir"}


def training_settings(file: str | Path, flags: Mapping[str, Setting], *, hyp: str = "") -> RunConfig:
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
    run = _read(file, flags)
    run.need("train_path", "val_path", *(() if "model" in run.values or "model" in flags else ("weights",)))
    config = load_run(RunConfig, {**run.training(), **flags}, hyp=hyp or run.hyp())  # before anything is written
    _check_gpus(run, config.device)
    names, splits = _read_data(run)
    folder = _date_folder(run)
    target = run.path("convertor_path") if "convertor_path" in run.values else folder / "converted"
    data: dict[str, list[str]] = {}
    for split, paths in splits.items():
        data[split] = []
        for number, (path, index) in enumerate(paths, 1):
            if index is not None:
                path = write_yolo(index, names, target, split if number == 1 else f"{split}{number}")
            data[split].append(str(path))
    text = yaml.safe_dump(data | {"names": list(names)}, sort_keys=False, allow_unicode=True)
    write_atomically(folder / "data.yaml", text)
    named = {"project": str(folder.parent), "name": folder.name, "exist_ok": True}
    return config.model_copy(update=named | {"data": str(folder / "data.yaml")})


def prediction_settings(file: str | Path, flags: Mapping[str, Setting]) -> PredictConfig:
    """Make the settings of the prediction that a run yaml describes, with its folder.

    That is `output_pos`, or a date folder like those of training if the yaml names none.

    Args:
        file: the run yaml.
        flags: settings of the command line; stronger than the yaml.

    Returns:
        settings; their run folder is there.
    """
    run = _read(file, flags)
    flags = _with_trained_weights(run, flags)
    run.need(*(key for key in ("weights", "source") if key not in flags))
    config = load(PredictConfig, {**(run.prediction() if "source" in run.values else {}), **flags})
    _check_gpus(run, config.device)
    for weights in config.weights:
        if not Path(weights).exists():
            raise UserError(f"{run.origin('weights')}: there is no checkpoint {weights}")
    folder = run.path("output_pos") if "output_pos" in run.values else _date_folder(run)
    folder = new_run_folder(folder.parent, folder.name, exist_ok=True)
    named = {"project": str(folder.parent), "name": folder.name, "exist_ok": True}
    return config.model_copy(update=named | {"save_log": True})


def _read(file: str | Path, flags: Mapping[str, Setting]) -> RunYaml:
    """Read a run yaml, and refuse flags for what it alone says."""
    run = read_run_yaml(file)
    for name, key in _FIXED.items():
        if name in flags:
            raise UserError(f"{flags[name].origin} does not go with --run: {file} says it by {key}")
    for key in ("work_dir", "output_pos", "convertor_path"):
        if key in run.values:
            require_inside(run.path(key), run.file, run.values[key], key, "start the run in a folder above it")
    return run


def _check_gpus(run: RunYaml, device: str) -> None:
    """Refuse GPUs that are not there, before a folder is made."""
    if "gpu_ids" not in run.values or device in ("", "cpu"):
        return
    from boxwright.engine.device import select_device  # imports torch

    try:
        for name in device.split(","):
            select_device(name)
    except UserError as error:
        raise UserError(f"{run.origin('gpu_ids')}, gpu_ids: {error}; gpu_ids: -1 is the CPU") from error


def _task_folder(run: RunYaml) -> Path:
    """Return work_dir/task_name."""
    task = run.values["task_name"].value if "task_name" in run.values else ""
    if not isinstance(task, str | int) or Path(str(task)).is_absolute() or ".." in Path(str(task)).parts:
        raise UserError(f"{run.origin('task_name')}: task_name is the name of a folder below work_dir, not {task!r}")
    folder = run.path("work_dir", "work_dir") / str(task)
    if task:  # which may be a link
        place = run.values["task_name"]
        require_inside(folder, run.file, place, "task_name", "start the run in a folder above it")
    return folder


def _date_folder(run: RunYaml) -> Path:
    """Make a new folder work_dir/task_name/DATE/DATE_TIME."""
    now = datetime.now()
    return new_run_folder(_task_folder(run) / f"{now:%Y-%m-%d}", f"{now:%Y-%m-%d_%H-%M-%S}")


def _with_trained_weights(run: RunYaml, flags: Mapping[str, Setting]) -> Mapping[str, Setting]:
    """Add the weights of the newest run of the task where none are named; say so, and say if others are named."""
    if "weights" in flags:
        return flags
    task = _task_folder(run)
    files = [*task.glob("*/*/weights/best.pt"), *task.glob("*/*/weights/last.pt")]
    if not files:
        return flags
    newest = max(files, key=lambda file: file.stat().st_mtime)
    best = newest.with_name("best.pt")
    newest = best if best.is_file() else newest
    if "weights" not in run.values:
        _log.info("%s names no weights: those of the newest run of its task are taken, %s", run.file, newest)
        return {**flags, "weights": Setting(str(newest), f"the newest run below {task}")}
    named = run.path("weights")
    if named.is_file() and newest.stat().st_mtime > named.stat().st_mtime:
        _log.info("%s: these weights are older than those of this task's newest run, %s", run.origin("weights"), newest)
    return flags


def _read_data(run: RunYaml) -> tuple[Sequence[str], dict[Split, list[tuple[Path, DataIndex | None]]]]:
    """Read class names, and the paths of each split, with their annotations where labels need converting."""
    splits: dict[Split, list[tuple[Path, DataIndex | None]]] = {"train": [], "val": []}
    names: Sequence[str] = run.names
    for split, paths in splits.items():
        key = f"{split}_path"
        for path in run.paths(key):
            if not path.exists():
                raise UserError(f"{run.origin(key)}: {key} names {path}, which is not there")
            try:
                index = read_annotated(path, split)
            except UserError as error:
                raise UserError(f"{run.origin(key)}: {key}: {error}") from error
            paths.append((path, index))
            if index is None:
                continue
            # Validation may lack a class; training on one that has no labels is a misspelt name.
            if split == "train" and (missing := sorted(set(names) - set(index.names))):
                there = ", ".join(index.names)
                raise UserError(f"{run.origin('names')}: {path} has no class {missing[0]!r}; it has {there}")
            names = names or index.names
    if not names:
        first = splits["train"][0][0]
        raise UserError(f"{run.file} lacks names (class names), which the labels of {first} do not hold")
    return names, splits
