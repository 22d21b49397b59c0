"""Describe a data set: the data yaml, Darknet's `.data` and `.names` files, and the lists of images that they name.

Paths in a data yaml are relative to the yaml, or to its `path:` which is relative to the yaml; `download:` is never
run. Darknet ran in the folder above `data`, so what a `.data` file names is looked for beside it, in the folder above
it and in the present one.

Source: the published formats (docs/spec/yolov3-spp.md, A1).
"""

import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import yaml

from boxwright.data.images import IMAGE_SUFFIXES
from boxwright.errors import UserError


def list_images(sources: Sequence[str], root: Path, named_in: Path) -> list[Path]:
    """List the image files of all sources, sorted by path, each once.

    Args:
        sources: folders (searched with their sub-folders) or `.txt` list files with one image a line.
        root: what relative sources are relative to.
        named_in: the file that names the sources, for messages.

    Raises:
        UserError: a source is not there; the message lists every place that was looked at.
    """
    found: set[str] = set()
    for source in sources:
        place = find_source(source, root, named_in)
        found.update(_in_folder(place) if place.is_dir() else _in_list(place, root))
    return [Path(path) for path in sorted(found)]


def find_source(source: str, root: Path, named_in: Path) -> Path:
    """Find a folder or file that a data yaml names.

    Looked at: below the root, beside the yaml, and, for `../x`, `x` below the root (exports that were unpacked one
    level higher than their yaml says; published YOLOv5 finds those as well).
    """
    places = [root / source, named_in.parent / source]
    if source.startswith("../"):
        places.append(root / source.removeprefix("../"))
    places = [Path(os.path.normpath(place)) for place in dict.fromkeys(places)]
    for place in places:
        if place.exists():
            return place
    looked = " and ".join(dict.fromkeys(str(place) for place in places))
    raise UserError(f"{named_in} names {source!r}, which is not there; looked at {looked}")


def _in_folder(folder: Path) -> list[str]:
    """List images below a folder; links are followed, but no folder is entered twice. Hidden files are not images."""
    found: list[str] = []
    entered: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders.sort()
        found += [
            os.path.join(parent, name)
            for name in names
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")
        ]
    return found


def read_lines(file: Path) -> list[str]:
    """Read the lines of a text file without blanks around them, and without the mark that some editors put first.

    Raises:
        UserError: it is not UTF-8.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no list of files: it is not UTF-8 text") from error
    return [line.strip() for line in text.splitlines()]


def _in_list(file: Path, root: Path) -> list[str]:
    """Read a list file: its lines are absolute or relative to its folder (always for `./`) or to the data's root."""
    try:
        lines = read_lines(file)
    except OSError as error:
        raise UserError(f"cannot read the image list {file}: {error}") from error
    found: list[str] = []
    for entry in filter(None, lines):
        path = os.path.join(file.parent, entry.removeprefix("./"))
        beside_root = os.path.join(root, entry)
        if not entry.startswith("./") and not os.path.exists(path) and os.path.exists(beside_root):
            path = beside_root
        found.append(path)
    return found


Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
_log = logging.getLogger("boxwright.data")


@dataclass(frozen=True, slots=True)
class DataYaml:
    """What the yaml of a data set says."""

    file: Path  # the yaml itself
    root: Path  # folder that the splits are relative to
    splits: dict[Split, tuple[str, ...]]  # sources of each split that the yaml names, as written
    names: tuple[str, ...]  # class names; empty if there are none and COCO json files bring them
    images: str | None = None  # folder of images for splits that are COCO json files, if the yaml names one


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
    splits: dict[Split, tuple[str, ...]] = {}
    for key in SPLITS:
        if value := entries.get(key):
            values = cast("list[Any]", value) if isinstance(value, list) else [value]
            if not all(isinstance(item, str) for item in values):
                raise UserError(f"{file}: {key} is a folder, a list file, or a list of those")
            splits[key] = tuple(values)
    brings_names = any(source.endswith(".json") for sources in splits.values() for source in sources)
    names = () if brings_names and entries.get("names") is None else _names(entries, file)
    images = entries.get("images")
    return DataYaml(file, root, splits, names, str(images) if images else None)


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
    return DataYaml(file, roots[0], splits, _darknet_names(file, entries))


def read_names_file(file: Path) -> tuple[str, ...]:
    """Read class names, one per line; blank lines at the end do not count.

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
    """Return the file that an entry names, and the folder from which it is named."""
    roots = list(dict.fromkeys((file.parent, file.parent.parent, Path.cwd())))
    places = [Path(os.path.normpath(root / Path(entry.value).expanduser())) for root in roots]
    for place, root in zip(places, roots, strict=True):
        if place.exists():
            return place, root
    looked = " and ".join(dict.fromkeys(map(str, places)))
    raise UserError(f"{entry.place}: {key} names {entry.value!r}, which is not there; looked at {looked}")


def _darknet_names(file: Path, entries: Mapping[str, _Entry]) -> tuple[str, ...]:
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
