"""Merge the settings of a run once: files < config yaml < flags; read yaml files with the line of each value.

Every layer is a flat mapping from dotted path (`optim.lr0`) to a value that knows where it was written, so that all
mistakes are reported together, each with its file and line or its flag. Nothing in a file is executed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from boxwright.errors import UserError
from boxwright.settings.base import Frozen
from boxwright.settings.flags import flags_of, suggest

C = TypeVar("C", bound=Frozen)


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
    merged = dict(below or {})
    if config:
        merged |= read_yaml_settings(config_file(config))
    return _build(kind, merged | flatten(settings or {}))


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


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Setting]:
    """Turn nested or dotted settings into one flat mapping; values that are no `Setting` get no origin."""
    flat: dict[str, Setting] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, Setting) else Setting(value, "")
    return flat


def _build(kind: type[C], settings: Mapping[str, Setting]) -> C:
    flags = flags_of(kind)
    known = [flag.setting for flag in flags]
    problems: list[str] = []
    tree: dict[str, Any] = {}
    for name, setting in settings.items():
        if name not in known:
            problems.append(_line(name, setting.origin, f"no such setting{suggest(name, flags)}"))
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
            reason = reason.replace("Value should have", "should have").replace(" after validation", "")
            yield name, f"{reason[0].lower()}{reason[1:]}, got {problem['input']!r}"


def _line(name: str, origin: str, reason: str) -> str:
    return f"{name} ({origin}): {reason}" if origin else f"{name}: {reason}"


def read_yaml_settings(path: Path) -> dict[str, Setting]:
    """Read a mapping of settings, nested or with dotted keys, as one flat mapping from dotted path to setting.

    Raises:
        UserError: the file cannot be read, is no yaml mapping, has a tag other than plain values, or names a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"cannot read the settings file {path}: {reason}") from error
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
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
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(f"{place}: not valid yaml: {error.problem or error.context}") from error
    except yaml.YAMLError as error:  # a character that yaml does not allow
        raise UserError(f"{path}: not valid yaml: {' '.join(str(error).split())}") from error


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
