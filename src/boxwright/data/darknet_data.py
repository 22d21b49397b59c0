"""The `.data` file of Darknet: `classes=`, `train=`, `valid=`, `names=`, and the `.names` file with one class a line.

Source: the published formats (spec A1). Darknet ran in the folder above `data`, so what a file names is looked for
beside it, in the folder above it and in the present one.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from boxwright.data.data_yaml import DataYaml, Split
from boxwright.errors import UserError

_SPLIT_OF_KEY: dict[str, Split] = {"train": "train", "valid": "val", "test": "test"}
_OTHER_KEYS = ("classes", "names")
_UNREAD_KEYS = ("backup", "eval", "results", "top", "labels", "map")  # of Darknet's own training and evaluation


class _Entry(NamedTuple):
    value: str
    place: str  # file and line


def read_darknet_data(file: Path) -> DataYaml:
    """Read a `.data` file as what a data yaml says.

    Raises:
        UserError: unreadable, a line that is no `key=value`, an unknown key, something named that is not there, or
            classes that do not fit the names; with file and line.
    """
    entries = _entries(file)
    if not any(key in entries for key in _SPLIT_OF_KEY):
        raise UserError(f"{file}: it names no images: train= and valid= are files with one image a line")
    roots: list[Path] = []
    splits: dict[Split, tuple[str, ...]] = {}
    for key, split in _SPLIT_OF_KEY.items():
        if key in entries:
            found, root = _find(file, key, entries[key])
            splits[split] = (str(found),)
            roots.append(root)
    return DataYaml(file, roots[0], splits, _names(file, entries))


def read_names_file(file: Path) -> tuple[str, ...]:
    """Class names, one a line; blank lines at the end do not count.

    Raises:
        UserError: unreadable, empty, or a blank line or a name twice; with the line.
    """
    lines = [line.strip() for line in _text(file).rstrip().splitlines()]
    if not lines:
        raise UserError(f"{file}: a .names file has one class a line, this one is empty")
    for number, name in enumerate(lines, 1):
        if not name:
            raise UserError(f"{file}:{number}: a blank line between class names; classes are counted by line")
        if lines.index(name) < number - 1:
            raise UserError(f"{file}:{number}: the class {name} stands in line {lines.index(name) + 1} already")
    return tuple(lines)


def _entries(file: Path) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    known = (*_SPLIT_OF_KEY, *_OTHER_KEYS, *_UNREAD_KEYS)
    for number, line in enumerate(_text(file).splitlines(), 1):
        place = f"{file}:{number}"
        line = line.partition("#")[0].strip()
        if not line:
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not value:
            raise UserError(f"{place}: a line is key=value, not {line!r}")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f" (known are {', '.join(known)})"
            raise UserError(f"{place}: a .data file has no key {key}{hint}")
        if key in entries:
            raise UserError(f"{place}: {key} is set a second time (first at {entries[key].place})")
        entries[key] = _Entry(value, place)
    return entries


def _find(file: Path, key: str, entry: _Entry) -> tuple[Path, Path]:
    """The file that an entry names, and the folder from which it is named."""
    roots = list(dict.fromkeys((file.parent, file.parent.parent, Path.cwd())))
    places = [Path(os.path.normpath(root / Path(entry.value).expanduser())) for root in roots]
    for place, root in zip(places, roots, strict=True):
        if place.exists():
            return place, root
    looked = " and ".join(dict.fromkeys(map(str, places)))
    raise UserError(f"{entry.place}: {key} names {entry.value!r}, which is not there; looked at {looked}")


def _names(file: Path, entries: Mapping[str, _Entry]) -> tuple[str, ...]:
    classes = entries.get("classes")
    if classes is not None and not (classes.value.isdecimal() and int(classes.value) > 0):
        raise UserError(f"{classes.place}: classes is the number of classes, not {classes.value!r}")
    if "names" in entries:
        path, _ = _find(file, "names", entries["names"])
        names = read_names_file(path)
        if classes is not None and int(classes.value) != len(names):
            raise UserError(f"{classes.place}: classes is {classes.value} but {path} has {len(names)} names")
        return names
    if classes is None:
        raise UserError(f"{file}: names= (a file with one class a line) or classes= is missing")
    return tuple(f"class{i}" for i in range(int(classes.value)))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {file}: not UTF-8 text") from error
