"""Describe a data set: the data yaml, Darknet's `.data` and `.names` files, and the lists of images that they name.

Paths in a data yaml are relative to the yaml, or to its `path:` which is relative to the yaml; `download:` is never
run. Darknet ran in the folder above `data`, so what a `.data` file names is looked for beside it, in the folder above
it and in the present one.

Source: the published formats (docs/spec/yolov3-spp.md, A1).
"""

import difflib
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from boxwright.data.files import read_text
from boxwright.data.images import IMAGE_SUFFIXES
from boxwright.errors import UserError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
_SPLIT_OF_KEY: dict[str, Split] = {"train": "train", "valid": "val", "test": "test"}
_UNREAD_KEYS = ("backup", "eval", "results", "top", "labels", "map")  # of Darknet's own training and evaluation
_log = logging.getLogger("boxwright.data")


def list_images(sources: Sequence[str], root: Path, named_in: Path) -> list[Path]:
    """List the image files of all sources, sorted by path, each once.

    Args:
        sources: folders (searched with their sub-folders) or `.txt` list files with one image a line. A line is
            relative to the folder of its file (always for `./`) or to the root.
        root: what relative sources are relative to.
        named_in: the file that names the sources, for messages.

    Raises:
        UserError: a source is not there; the message lists every place that was looked at.
    """
    found: set[str] = set()
    for source in sources:
        place = find_source(source, root, named_in)
        if place.is_dir():
            found.update(_in_folder(place))
            continue
        for entry in filter(None, read_lines(place)):
            path, beside_root = os.path.join(place.parent, entry.removeprefix("./")), os.path.join(root, entry)
            is_below_root = not entry.startswith("./") and not os.path.exists(path) and os.path.exists(beside_root)
            found.add(beside_root if is_below_root else path)
    return [Path(path) for path in sorted(found)]


def find_source(source: str, root: Path, named_in: Path) -> Path:
    """Find a folder or file that a data yaml names.

    Looked at: below the root, beside the yaml, and, for `../x`, `x` below the root (exports that were unpacked one
    level higher than their yaml says; published YOLOv5 finds those as well).
    """
    places = [root / source, named_in.parent / source]
    if source.startswith("../"):
        places.append(root / source.removeprefix("../"))
    return _first_there(places, f"{named_in} names {source!r}")


def _first_there(places: Iterable[Path], named: str) -> Path:
    """Return the first place that exists; `named` begins the message of the UserError if there is none."""
    tried = list(dict.fromkeys(os.path.normpath(place) for place in places))
    for place in tried:
        if os.path.exists(place):
            return Path(place)
    raise UserError(f"{named}, which is not there; looked at {' and '.join(tried)}")


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
    """Read the lines of a text file without blanks around them."""
    return [line.strip() for line in read_text(file).splitlines()]


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
        content = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
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
    if names is None and isinstance(count, int) and count > 0:
        names = _numbered(count)
    if isinstance(names, dict):
        try:
            by_index = {int(key): name for key, name in cast("dict[Any, Any]", names).items()}
        except (TypeError, ValueError):
            raise UserError(f"{file}: the keys of names are class numbers 0, 1, 2, ...") from None
        if sorted(by_index) != list(range(len(by_index))):
            raise UserError(f"{file}: the keys of names must run from 0 to {len(by_index) - 1} without a gap")
        names = [name for _, name in sorted(by_index.items())]
    if not isinstance(names, list | tuple):
        raise UserError(f"{file}: names is missing; it is a list of class names or a map from class number to name")
    found = tuple(str(name) for name in cast("list[Any]", names))
    if not found:
        raise UserError(f"{file}: names is empty; a data set has at least one class")
    if isinstance(count, int) and count != len(found):
        raise UserError(f"{file}: nc is {count} but names has {len(found)} entries")
    return found


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"class{i}" for i in range(count))


def read_darknet_data(file: Path) -> DataYaml:
    """Read a `.data` file as what a data yaml says.

    Raises:
        UserError: unreadable, a line that is no `key=value`, an unknown key, something named that is not there, or
            classes that do not fit the names; with file and line.
    """
    entries: dict[str, tuple[str, str]] = {}  # key -> value, and its file and line
    known = (*_SPLIT_OF_KEY, "classes", "names", *_UNREAD_KEYS)
    for number, line in enumerate(read_text(file).splitlines(), 1):
        where = f"{file}:{number}"
        line = line.partition("#")[0].strip()
        if not line:
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not value:
            raise UserError(f"{where}: a line is key=value, not {line!r}")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f" (known are {', '.join(known)})"
            raise UserError(f"{where}: a .data file has no key {key}{hint}")
        if key in entries:
            raise UserError(f"{where}: {key} is set a second time (first at {entries[key][1]})")
        entries[key] = value, where
    if not any(key in entries for key in _SPLIT_OF_KEY):
        raise UserError(f"{file}: it names no images: train= and valid= are files with one image a line")
    roots = (file.parent, file.parent.parent, Path.cwd())

    def find(key: str) -> Path:
        value, where = entries[key]
        return _first_there((root / Path(value).expanduser() for root in roots), f"{where}: {key} names {value!r}")

    splits: dict[Split, tuple[str, ...]] = {
        split: (str(find(key)),) for key, split in _SPLIT_OF_KEY.items() if key in entries
    }
    # Images in the lists are named from the folder from which the first list is.
    value = next(entries[key][0] for key in _SPLIT_OF_KEY if key in entries)
    root = next(root for root in roots if (root / Path(value).expanduser()).exists())
    count, place = entries.get("classes", ("", ""))
    if count and not (count.isdecimal() and int(count) > 0):
        raise UserError(f"{place}: classes is the number of classes, not {count!r}")
    if "names" in entries:
        path = find("names")
        names = read_names_file(path)
        if count and int(count) != len(names):
            raise UserError(f"{place}: classes is {count} but {path} has {len(names)} names")
    elif count:
        names = _numbered(int(count))
    else:
        raise UserError(f"{file}: names= (a file with one class a line) or classes= is missing")
    return DataYaml(file, root, splits, names)


def read_names_file(file: Path) -> tuple[str, ...]:
    """Read class names, one per line; blank lines at the end do not count.

    Raises:
        UserError: unreadable, empty, or a blank line or a name twice; with the line.
    """
    lines = [line.strip() for line in read_text(file).rstrip().splitlines()]
    if not lines:
        raise UserError(f"{file}: a .names file has one class a line, this one is empty")
    for number, name in enumerate(lines, 1):
        if not name:
            raise UserError(f"{file}:{number}: a blank line between class names; classes are counted by line")
        if lines.index(name) < number - 1:
            raise UserError(f"{file}:{number}: the class {name} stands in line {lines.index(name) + 1} already")
    return tuple(lines)
