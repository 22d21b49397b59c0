"""Read a yaml file of settings and remember the line of each value. Nothing in the file is executed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from boxwright.errors import UserError


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and where it was written: `hyp.yaml:3`, `--epochs`, or a word for a caller."""

    value: Any
    origin: str


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
