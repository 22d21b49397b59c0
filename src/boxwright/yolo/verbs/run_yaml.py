"""Runs from one yaml: `train --run` and `predict --run`. They prepare data, folders and settings."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from boxwright.data.convert import read_annotated, write_yolo
from boxwright.data.index import DataIndex
from boxwright.engine.run_folder import new_run_folder
from boxwright.errors import UserError
from boxwright.settings.load import Setting, load
from boxwright.yolo.hyp import load_run
from boxwright.yolo.run_yaml import RunYaml, read_run_yaml
from boxwright.yolo.settings import PredictConfig, RunConfig

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
            raise UserError(f"{_place(run, 'weights')}: there is no checkpoint {weights}")
    folder = run.path("output_pos") if "output_pos" in run.values else _date_folder(run)
    folder = new_run_folder(folder.parent, folder.name, exist_ok=True)
    return config.model_copy(update={"project": str(folder.parent), "name": folder.name, "exist_ok": True})


def _refuse_fixed(flags: Mapping[str, Setting], file: str | Path) -> None:
    for name, key in _FIXED.items():
        if name in flags:
            raise UserError(f"{flags[name].origin} does not go with --run: {file} says it by {key}")


def _date_folder(run: RunYaml) -> Path:
    """A new folder work_dir/task_name/DATE/DATE_TIME."""
    now = datetime.now()
    task = run.values["task_name"].value if "task_name" in run.values else ""
    if not isinstance(task, str | int) or Path(str(task)).is_absolute() or ".." in Path(str(task)).parts:
        raise UserError(f"{_place(run, 'task_name')}: task_name is the name of a folder below work_dir, not {task!r}")
    work = run.path("work_dir", "work_dir") / str(task)
    return new_run_folder(work / f"{now:%Y-%m-%d}", f"{now:%Y-%m-%d_%H-%M-%S}")


@dataclass(frozen=True, slots=True)
class _Data:
    """What a run yaml says of data: class names, and for each split its places, read where labels need converting."""

    names: tuple[str, ...]
    splits: Mapping[str, list[tuple[Path, DataIndex | None]]]


def _read_data(run: RunYaml) -> _Data:
    splits: dict[str, list[tuple[Path, DataIndex | None]]] = {}
    names = run.names
    for split, key in (("train", "train_path"), ("val", "val_path")):
        splits[split] = []
        for path in run.paths(key):
            if not path.exists():
                raise UserError(f"{_place(run, key)}: {key} names {path}, which is not there")
            try:
                index = read_annotated(path, split)
            except UserError as error:
                raise UserError(f"{_place(run, key)}: {key}: {error}") from error
            missing = sorted(set(names) - set(index.names)) if index is not None and split == "train" else ()
            if missing and index is not None:
                there = ", ".join(index.names)
                raise UserError(f"{_place(run, 'names')}: {path} has no class {missing[0]!r}; it has {there}")
            names = names or (index.names if index is not None else ())
            splits[split].append((path, index))
    if not names:
        first = splits["train"][0][0]
        raise UserError(f"{run.file} lacks names (class names), which the labels of {first} do not hold")
    return _Data(names, splits)


def _write_data(run: RunYaml, data: _Data, folder: Path) -> Path:
    """A data yaml in the run folder that names images with YOLO labels, converted where they were not."""
    target = run.path("convertor_path") if "convertor_path" in run.values else folder / "converted"
    sources: dict[str, Any] = {}
    for split, places in data.splits.items():
        sources[split] = []
        for number, (path, index) in enumerate(places, 1):
            if index is not None:
                path = write_yolo(index, data.names, target, split if number == 1 else f"{split}{number}")
            sources[split].append(str(path))
    file = folder / "data.yaml"
    text = yaml.safe_dump(sources | {"names": list(data.names)}, sort_keys=False, allow_unicode=True)
    file.write_text(text, encoding="utf-8")
    return file


def _place(run: RunYaml, key: str) -> str:
    return run.values[key].origin if key in run.values else str(run.file)


class TwoStreams(io.TextIOBase):
    """A stream that writes to two others."""

    def __init__(self, *streams: Any) -> None:
        self._streams = streams

    def write(self, text: str, /) -> int:
        for stream in self._streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in self._streams:
            stream.flush()
