"""The data yaml: where the images of each split lie and what the classes are called.

`download:` is never run. Paths are relative to the yaml, or to its `path:` which is relative to the yaml.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from boxwright.errors import UserError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
_log = logging.getLogger("boxwright.data")


@dataclass(frozen=True, slots=True)
class DataYaml:
    """Args:
    file: the yaml itself.
    root: folder that the splits are relative to.
    splits: sources of each split that the yaml names, as written.
    names: class names; empty if there are none and COCO json files bring them.
    images: folder of images for splits that are COCO json files, if the yaml names one.
    """

    file: Path
    root: Path
    splits: dict[Split, tuple[str, ...]]
    names: tuple[str, ...]
    images: str | None = None


def read_data_yaml(file: Path) -> DataYaml:
    """Read and check a data yaml.

    Raises:
        UserError: not readable, not a mapping, no names, or names that do not fit `nc`.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the data yaml {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not valid yaml: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: a data yaml is a mapping with train, val and names")
    entries = cast("dict[str, Any]", content)
    if entries.get("download"):
        _log.info("%s: `download` is not run; fetch the data yourself", file)
    root = file.parent / Path(str(entries.get("path") or "")).expanduser()
    splits: dict[Split, tuple[str, ...]] = {
        key: _sources(entries[key], key, file) for key in SPLITS if entries.get(key)
    }
    brings_names = any(source.endswith(".json") for sources in splits.values() for source in sources)
    names = () if brings_names and entries.get("names") is None else _names(entries, file)
    images = entries.get("images")
    return DataYaml(file, root, splits, names, str(images) if images else None)


def _sources(value: Any, key: str, file: Path) -> tuple[str, ...]:
    values = cast("list[Any]", value) if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in values):
        raise UserError(f"{file}: {key} is a folder, a list file, or a list of those")
    return tuple(values)


def _names(entries: dict[str, Any], file: Path) -> tuple[str, ...]:
    names, count = entries.get("names"), entries.get("nc")
    if isinstance(names, dict):
        table = cast("dict[Any, Any]", names)
        try:
            by_index = {int(key): str(name) for key, name in table.items()}
        except (TypeError, ValueError):
            raise UserError(f"{file}: the keys of names are class numbers 0, 1, 2, ...") from None
        if sorted(by_index) != list(range(len(by_index))):
            raise UserError(f"{file}: the keys of names must run from 0 to {len(by_index) - 1} without a gap")
        found = tuple(by_index[i] for i in range(len(by_index)))
    elif isinstance(names, list):
        found = tuple(str(name) for name in cast("list[Any]", names))
    elif names is None and isinstance(count, int) and count > 0:
        found = tuple(f"class{i}" for i in range(count))
    else:
        raise UserError(f"{file}: names is missing; it is a list of class names or a map from class number to name")
    if not found:
        raise UserError(f"{file}: names is empty; a data set has at least one class")
    if isinstance(count, int) and count != len(found):
        raise UserError(f"{file}: nc is {count} but names has {len(found)} entries")
    return found
