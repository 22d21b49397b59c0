"""What a search has found, as files: evolve.csv with a line a trial, hyp_evolve.yaml with the best hyper-parameters.

Source: names of the files and order of the columns as published with YOLOv5 (spec B6); three columns follow them here.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from boxwright.errors import UserError
from boxwright.search.space import KEY_OF_SETTING
from boxwright.settings.load import setting_names
from boxwright.yolo.settings import RunConfig

METRICS = (
    *("metrics/precision", "metrics/recall", "metrics/mAP_0.5", "metrics/mAP_0.5:0.95"),
    *("val/box_loss", "val/obj_loss", "val/cls_loss"),
)
_PLACES = ("project", "name", "exist_ok", "noplots", "nosave", "workers", "device", "nproc")  # change no result


@dataclass(frozen=True, slots=True)
class FinishedTrial:
    """Args:
    number: from 0.
    fitness: of the epoch that best.pt is of; of the last one measured if it was pruned.
    pruned: it was ended early.
    metrics: those of METRICS.
    hyps: every hyper-parameter by its name in a hyp file, searched or not.
    """

    number: int
    fitness: float
    pruned: bool
    metrics: Mapping[str, float]
    hyps: Mapping[str, Any]


def best_of(trials: Sequence[FinishedTrial]) -> FinishedTrial | None:
    """The fittest that was not pruned; of equal ones the first."""
    whole = [trial for trial in trials if not trial.pruned]
    return max(whole, key=lambda trial: (trial.fitness, -trial.number)) if whole else None


def hyps_of(config: RunConfig) -> dict[str, Any]:
    """All hyper-parameters of a run, by their names in a hyp file."""
    values: dict[str, Any] = {}
    for name, key in KEY_OF_SETTING.items():
        value = _get(config, name)
        if name != "anchors" or value:  # 0 anchors: those of the model
            values[key] = [list(level) for level in value] if isinstance(value, tuple) else value
    return values


def write_csv(trials: Sequence[FinishedTrial], path: Path) -> None:
    """Write a line a trial; numbers have all their digits."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.hyps))
    lines = [",".join((*METRICS, *keys, "trial", "fitness", "state"))]
    for trial in trials:
        numbers = [trial.metrics.get(name, 0.0) for name in METRICS] + [trial.hyps.get(key, "") for key in keys]
        cells = [f'"{cell}"' if isinstance(cell, list) else str(cell) for cell in numbers]
        lines.append(
            ",".join([*cells, str(trial.number), str(trial.fitness), "pruned" if trial.pruned else "complete"])
        )
    write_text(path, "\n".join(lines) + "\n")


def write_hyp(best: FinishedTrial, config: RunConfig, num_trials: int, path: Path) -> None:
    """Write a hyp file that `train` reads, with all digits, and in its comments the command that repeats the trial.

    Args:
        best: the trial.
        config: settings that all trials share.
        num_trials: finished ones.
        path: of the file.
    """
    metrics = ", ".join(f"{name.partition('/')[2]} {best.metrics.get(name, 0.0):.4f}" for name in METRICS)
    lines = [
        f"# Hyper-parameters of the best of {num_trials} trials: trial {best.number}, fitness {best.fitness!r}.",
        f"# {metrics}",
        "# The same run again, to the last digit on the same device:",
        f"#   boxwright train --hyp {shlex.quote(str(path))} {as_flags(config)}",
        "",
    ]
    write_text(path, "\n".join(lines) + yaml.safe_dump(dict(best.hyps), sort_keys=False))


def as_flags(config: RunConfig) -> str:
    """The flags of `train` for settings that are no hyper-parameters and not the default; the seed always."""
    default, words = RunConfig(), list[str]()
    for name in setting_names(RunConfig):
        value = _get(config, name)
        if name in KEY_OF_SETTING or name in _PLACES or (value == _get(default, name) and name != "seed"):
            continue
        flag = f"--{name}" if "." in name else f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else f"{flag}=false")
        elif isinstance(value, tuple):
            words += [flag, *map(str, value)]
        else:
            words += [flag, shlex.quote(str(value))]
    return " ".join(words)


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: the whole new one is there, or the old one.

    Raises:
        UserError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; the trials so far are in the study") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _get(config: RunConfig, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value
