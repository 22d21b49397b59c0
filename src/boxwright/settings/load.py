"""Merge the settings of a run once: preset or hyp file < config yaml < flags.

Every layer is a flat mapping from dotted path (`optim.lr0`) to a value that knows where it was written, so that all
mistakes are reported together, each with its file and line or its flag.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from boxwright.errors import UserError
from boxwright.settings.base import Frozen
from boxwright.settings.yaml_file import Setting, read_yaml_settings
from boxwright.yolo.hyp import SETTING_OF_KEY, read_hyp

C = TypeVar("C", bound=Frozen)

# What people type who know the setting by another name.
_OTHER_NAMES = {"img": "imgsz", "img_size": "imgsz", "batch": "batch_size", "cfg": "model", "lr": "optim.lr0"}


def load(kind: type[C], settings: Mapping[str, Any] | None = None, *, hyp: str = "", config: str = "") -> C:
    """Build the settings of one verb.

    Args:
        kind: RunConfig, ValConfig or PredictConfig.
        settings: what the caller sets, by dotted path or nested; strongest. Values may be text, as flags are, or a
            `Setting` that says where it was written.
        hyp: a hyper-parameter file in the published flat form, or the name of a preset; weakest.
        config: a yaml of settings, or a run folder that holds a `config.yaml`.

    Raises:
        UserError: lists every setting that is unknown or has a bad value, by dotted path.
    """
    layers = [
        read_hyp(hyp) if hyp else {},
        read_yaml_settings(_config_file(config)) if config else {},
        flatten(settings or {}),
    ]
    merged: dict[str, Setting] = {}
    for layer in layers:
        merged.update(layer)
    return _build(kind, merged)


def dump(config: Frozen) -> dict[str, Any]:
    """Plain values, nested as in the schema; `load(kind, dump(config))` gives the same settings back."""
    return config.model_dump(mode="json")


def dump_yaml(config: Frozen) -> str:
    """The text of a run folder's `config.yaml`."""
    return yaml.safe_dump(dump(config), sort_keys=False, allow_unicode=True)


def setting_names(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """Every setting of the tree by dotted path, in the order of the schema."""
    names: list[str] = []
    for name, field in kind.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Frozen):
            names += setting_names(annotation, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def suggest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the known name nearest to this one, or nothing."""
    known = list(known)
    inside = [other for other in known if other.startswith(f"{name}.")]
    if inside:
        return f"; it is a group of settings, such as {inside[0]}"
    last = name.rpartition(".")[2]
    exact = [_OTHER_NAMES.get(last, ""), SETTING_OF_KEY.get(last, "")]
    candidates = [other for other in exact if other in known] or [k for k in known if k.rpartition(".")[2] == last]
    if not candidates:
        candidates = difflib.get_close_matches(name, known, n=1)
    if not candidates:
        tails = {other.rpartition(".")[2]: other for other in known}
        candidates = [tails[tail] for tail in difflib.get_close_matches(last, list(tails), n=1, cutoff=0.7)]
    return f"; did you mean {candidates[0]}?" if candidates else ""


def _config_file(config: str) -> Path:
    path = Path(config).expanduser()
    file = path / "config.yaml" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"no settings file {file}: --config takes a yaml file or a run folder with a config.yaml")
    return file


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Setting]:
    flat: dict[str, Setting] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value if isinstance(value, Setting) else Setting(value, "")
    return flat


def _build(kind: type[C], settings: Mapping[str, Setting]) -> C:
    known = setting_names(kind)
    problems: list[str] = []
    tree: dict[str, Any] = {}
    for name, setting in settings.items():
        if name not in known:
            problems.append(_line(name, setting.origin, f"no such setting{suggest(name, known)}"))
            continue
        *groups, last = name.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = setting.value
    try:
        built = kind.model_validate(tree)
    except ValidationError as error:
        built = None
        for name, reason in _reasons(error, known):
            problems.append(_line(name, settings[name].origin if name in settings else "", reason))
    if len(problems) == 1:
        raise UserError(f"wrong setting: {problems[0]}")
    if problems:
        raise UserError("\n  ".join([f"{len(problems)} settings are wrong:", *problems]))
    assert built is not None
    return built


def _reasons(error: ValidationError, known: list[str]) -> Iterator[tuple[str, str]]:
    """Each wrong setting once, with a sentence that says what would be right and what was given."""
    seen: set[str] = set()
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"])
        name = next((k for k in known if path == k or path.startswith(f"{k}.")), path)
        if name not in seen:
            seen.add(name)
            reason = problem["msg"].removeprefix("Input ").partition(", unable to parse")[0]
            yield name, f"{reason[0].lower()}{reason[1:]}, got {problem['input']!r}"


def _line(name: str, origin: str, reason: str) -> str:
    return f"{name} ({origin}): {reason}" if origin else f"{name}: {reason}"
