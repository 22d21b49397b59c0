"""Merge the settings of a run once: files < config yaml < flags; read yaml files with the line of each value.

Every layer is a flat mapping from dotted path (`optim.lr0`) to a value that knows where it was written, so that all
mistakes are reported together, each with its file and line or its flag. Nothing in a file is executed.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from boxwright.errors import UserError
from boxwright.reading import read_text, yaml_nodes
from boxwright.settings.base import Frozen, as_list
from boxwright.settings.flags import flags_of, suggest
from boxwright.terminal import counted

_log = logging.getLogger("boxwright.settings")
C = TypeVar("C", bound=Frozen)
_PLACES = ("project", "target", "out", "plots", "schedule", "best_weight")  # settings that say where to write


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and where it was written."""

    value: Any
    origin: str  # `hyp.yaml:3`, `--epochs`, or a word for a caller; empty: Python


def load(
    kind: type[C],
    settings: Mapping[str, Any] | None = None,
    *,
    config: str = "",
    below: Mapping[str, Setting] | None = None,
) -> C:
    """Build the settings of one verb.

    Args:
        kind: class of the settings.
        settings: what the caller sets, by dotted path or nested; strongest. Values may be text, as flags are, or a
            `Setting` that says where it was written.
        config: a yaml of settings, or a run folder that holds a `config.yaml`.
        below: settings from elsewhere, weaker than all others.

    Raises:
        UserError: lists every setting that is unknown or has a bad value, by dotted path.
    """
    # Later layers win.
    given = flatten(settings or {})
    from_yaml = read_yaml_settings(config_file(config)) if config else {}
    if config:
        _check_places({name: setting for name, setting in from_yaml.items() if name not in given}, config_file(config))
        from_yaml |= _fitted_milestones(kind, from_yaml, given)
    merged = {**(below or {}), **from_yaml, **given}
    flags = flags_of(kind)
    known = [flag.setting for flag in flags]
    problems = {name: f"no such setting{suggest(name, flags)}" for name in merged if name not in known}
    tree: dict[str, Any] = {}
    for name in merged:
        if name not in problems:
            *groups, last = name.split(".")
            reduce(lambda node, group: node.setdefault(group, {}), groups, tree)[last] = merged[name].value
    try:
        built = kind.model_validate(tree)
        if not problems:
            return built
    except ValidationError as error:
        for problem in error.errors():
            path = ".".join(str(part) for part in problem["loc"])
            # Items of a list and members of a union have paths below that of their setting.
            name = next((k for k in known if path == k or path.startswith(f"{k}.")), path)
            reason = (
                problem["msg"].removeprefix("Input ").removeprefix("Value error, ").partition(", unable to parse")[0]
            )
            reason = reason.replace("Value should have", "should have").replace(" after validation", "")
            reason = reason.removeprefix("Value error, ")  # what a validator of ours says
            problems.setdefault(name, f"{reason[0].lower()}{reason[1:]}, got {problem['input']!r}")
    origins = {name: f" ({merged[name].origin})" for name in problems if name in merged and merged[name].origin}
    lines = [f"{name}{origins.get(name, '')}: {reason}" for name, reason in problems.items()]
    if len(lines) == 1:
        raise UserError(f"wrong setting: {lines[0]}")
    raise UserError("\n  ".join([f"{len(lines)} settings are wrong:", *lines]))


def _fitted_milestones(
    kind: type[Frozen], recipe: Mapping[str, Setting], given: Mapping[str, Setting]
) -> dict[str, Setting]:
    """Move the falls of a settings file's rate to where they lie in a run of another length, and say so.

    A caller's other schedule has none.
    """
    named, length, schedule = recipe.get("optim.milestones"), given.get("epochs"), given.get("optim.schedule")
    if named is None or "optim.milestones" in given:
        return {}
    if schedule is not None and schedule.value != "multi-step":
        return {"optim.milestones": replace(named, value=[])}
    if length is None or "epochs" not in kind.model_fields:
        return {}
    own = recipe["epochs"].value if "epochs" in recipe else kind.model_fields["epochs"].default
    try:
        before, epochs = int(own), int(length.value)
        falls = [int(fall) for fall in as_list(named.value)]
    except (TypeError, ValueError):  # reported with all other wrong values
        return {}
    if epochs == before or not all(0 < fall < before for fall in falls):
        return {}
    moved = sorted({max(fall * epochs // before, 1) for fall in falls} - {epochs})
    fitted = {"optim.milestones": replace(named, value=moved)}
    if not moved:  # a run of one epoch
        fitted["optim.schedule"] = replace(named, value="step")
    to, instead = (" and ".join(map(str, places)) for places in (moved, falls))
    where = f"after epoch {to} instead of {instead}: --optim.milestones sets it" if moved else "nowhere"
    file = Path(named.origin.rpartition(":")[0]).name
    _log.info("%s is for %s; of %d, the rate falls %s", file, counted(before, "epoch"), epochs, where)
    return fitted


def _check_places(settings: Mapping[str, Setting], file: Path) -> None:
    """Refuse what a settings file says about where to write if that leads elsewhere."""
    for name in _PLACES:
        if (setting := settings.get(name)) is not None and isinstance(setting.value, str) and setting.value:
            require_inside(
                Path(setting.value).expanduser(), file, setting, name, f"give it as --{name.replace('_', '-')}"
            )
    name = settings.get("name")
    if name is not None and (Path(str(name.value)).is_absolute() or ".." in Path(str(name.value)).parts):
        raise UserError(f"{name.origin}: name is the name of a folder below the project, not {name.value!r}")
    project = settings.get("project")
    if name is not None and project is not None and isinstance(project.value, str):
        above = Path(project.value).expanduser().resolve()
        if not (above / str(name.value)).resolve().is_relative_to(above):
            raise UserError(f"{name.origin}: name {name.value!r} is a link that leads out of {project.value}")


def require_inside(path: Path, file: Path, setting: Setting, name: str, advice: str) -> None:
    """Refuse a path that is written to, unless it lies below the working folder or beside the file that names it.

    Args:
        path: as the file means it.
        file: may come from someone else.
        setting: the path as it is written there, and where.
        name: of the setting.
        advice: how a user says that it is meant so.
    """
    folder, target = file.resolve().parent, path.resolve()
    is_own = file.name == "config.yaml" and target == folder.parent  # the project of a run folder
    if not is_own and not any(target.is_relative_to(root) for root in (Path.cwd().resolve(), folder)):
        raise UserError(
            f"{setting.origin}: {name} {setting.value!r} lies neither below the working folder nor beside this file; "
            f"if that is meant, {advice}"
        )


def dump(config: Frozen) -> dict[str, Any]:
    """Return plain values, nested as in the class; `load(kind, dump(config))` gives the same settings back."""
    return config.model_dump(mode="json")


def dump_yaml(config: Frozen) -> str:
    """Write the text of a run folder's `config.yaml`."""
    return yaml.safe_dump(dump(config), sort_keys=False, allow_unicode=True)


def config_file(config: str) -> Path:
    """Find the file that `--config` names: a yaml, or the config.yaml of a run folder.

    Raises:
        UserError: there is none.
    """
    path = Path(config).expanduser()
    file = path / "config.yaml" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"no settings file {file}: --config takes a yaml file or a run folder with a config.yaml")
    return file


def model_in(config: str) -> str:
    """Return the model that a yaml of settings or a run folder names; empty: none, or there is no such file."""
    path = Path(config).expanduser()
    file = path / "config.yaml" if path.is_dir() else path
    named = read_yaml_settings(file).get("model") if file.is_file() else None
    return "" if named is None else str(named.value)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Setting]:
    """Turn nested or dotted settings into one flat mapping; values that are no `Setting` get no origin."""
    flat: dict[str, Setting] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, Setting):
            flat[prefix + key] = value
        else:
            flat[prefix + key] = Setting(str(value) if isinstance(value, Path) else value, "")
    return flat


def read_yaml_settings(path: Path) -> dict[str, Setting]:
    """Read a mapping of settings, nested or with dotted keys, as one flat mapping from dotted path to setting.

    Raises:
        UserError: the file cannot be read, is no yaml mapping, has a tag other than plain values, or names a key twice.
    """
    with yaml_nodes(read_text(path), path) as (loader, root):
        if root is None:
            return {}
        if not isinstance(root, yaml.MappingNode):
            raise UserError(f"{path}:1: settings are lines of the form `key: value`, this file holds something else")
        found: dict[str, Setting] = {}
        for key, value, line in _leaves(loader, root, path):
            if key in found:
                raise UserError(f"{path}:{line}: {key} is set a second time (first at {found[key].origin})")
            found[key] = Setting(value, f"{path}:{line}")
        return found


def _leaves(
    loader: yaml.SafeLoader, node: yaml.MappingNode, path: Path, prefix: str = ""
) -> Iterator[tuple[str, Any, int]]:
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{path}:{line}: the name of a setting is a word, not a list or mapping")
        key = f"{prefix}{key_node.value}"
        if isinstance(value_node, yaml.MappingNode):
            yield from _leaves(loader, value_node, path, f"{key}.")
        else:
            yield key, loader.construct_object(value_node, deep=True), line
