"""Describe a data set: the data yaml, Darknet's `.data` and `.names` files, and the lists of images that they name.

Paths in a data yaml are relative to the yaml, or to its `path:` which is relative to the yaml; where nothing is there,
both are tried from the working folder and from the folder above the yaml, as published releases ran in the folder that
has `data/x.yaml`. `download:` is never run. Darknet ran in the folder above `data` too, so what a `.data` file names is
looked for beside it, in the folder above it and in the present one.

Source: the published formats (docs/spec/yolov3-spp.md, A1).
"""

import difflib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from boxwright.data.files import in_any_case, read_lines
from boxwright.data.images import IMAGE_SUFFIXES, images_below
from boxwright.data.index import MOST_CLASSES
from boxwright.data.split_names import FORMS, SPLITS, Form, Split
from boxwright.data.voc import VocFolder
from boxwright.errors import UserError
from boxwright.reading import read_text, reads, yaml_nodes
from boxwright.terminal import say_once

# A name of shards that begins with a brace, which would be a mapping in yaml.
_UNQUOTED_BRACES = re.compile(
    r"^((?:(?:train|val|test):|[ \t]*-)[ \t]+)(\{[^'\"\s]*\.tar)(?=[ \t]*(?:#.*)?$)", re.MULTILINE
)
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_PACKED = frozenset((".gz", ".tgz", ".zst", ".bz2", ".xz", ".zip"))
_KEYS = (*SPLITS, "path", "names", "nc", "images")
# Of other tools, which write them beside; whatever else stands there is named.
_KEYS_OF_OTHERS = frozenset(
    "download roboflow license author version description date info url task kpt_shape flip_idx channels".split()
)
_SPLIT_OF_KEY: dict[str, Split] = {"train": "train", "valid": "val", "test": "test"}
_UNREAD_KEYS = ("backup", "eval", "results", "top", "labels", "map")  # of Darknet's own training and evaluation


def list_images(sources: Sequence[str], roots: Sequence[Path], named_in: Path) -> list[Path]:
    """List the image files of all sources, sorted by path, each once.

    Args:
        sources: folders (searched with their sub-folders), `.txt` list files with one image a line, or image files.
            A line is relative to the folder of its file (always for `./`) or to a root.
        roots: what relative sources are relative to, the likeliest first.
        named_in: the file that names the sources, for messages.

    Raises:
        UserError: a source is not there; the message lists every place that was looked at.
    """
    found: set[str] = set()
    for source in sources:
        if os.path.splitext(source)[1].lower() in IMAGE_SUFFIXES and not os.path.isdir(source):
            found.add(os.path.join(roots[0], source))
            continue
        place = find_source(source, roots, named_in)
        if os.path.isdir(place):
            found.update(images_below(place))
            continue
        for entry in filter(None, read_lines(place)):
            path = os.path.join(place.parent, entry.removeprefix("./"))
            if not os.path.exists(path):
                others = _places(entry, [place.parent] if entry.startswith("./") else [place.parent, *roots])
                path = next(filter(os.path.exists, others), path)
            found.add(path)
    return [Path(path) for path in sorted(found)]


def find_source(source: str, roots: Sequence[Path], named_in: Path) -> Path:
    """Find a folder or file that a data yaml names; a word if it is not beside the yaml as written.

    For `../x` and `data/x`, `x` is tried as well: exports that were unpacked one level higher than they say (published
    YOLOv5 finds the former as well).

    Raises:
        UserError: it is nowhere; the message lists every place that was looked at.
    """
    if os.name != "nt" and _DRIVE.match(source):
        raise UserError(
            f"{named_in} names {source}, which is on a drive of Windows; name the folder relative to the yaml"
        )
    place = _first_there(_places(source, roots), f"{named_in} names '{source}'")
    if os.fspath(place) not in (beside := _places(source, roots[:1])):
        say_once(f"{named_in}: there is no {beside[0]}; taken is {place}")
    return place


def _places(source: str, roots: Iterable[Path]) -> list[str]:
    """List where a named file may be, the likeliest first."""
    found: list[str] = []
    for name in dict.fromkeys((source, source.replace("\\", "/"))):
        path = os.path.expanduser(name)
        shorter = [name.removeprefix(start) for start in ("../", "data/") if name.startswith(start)]
        found += [os.path.normpath(os.path.join(root, tried)) for root in roots for tried in (path, *shorter)]
    return [*dict.fromkeys(found)]


def _first_there(places: Sequence[str], named: str) -> Path:
    """Return the first place that exists; `named` begins the message of the UserError if there is none."""
    if place := next(filter(os.path.exists, places), None) or next(filter(None, map(in_any_case, places)), None):
        return Path(place)
    raise UserError(f"{named}, which is not there; looked at {' and '.join(places)}")


@dataclass(frozen=True, slots=True)
class DataYaml:
    """What the yaml of a data set says, or would say of one that has none."""

    file: Path  # the yaml itself, or the folder or file that the user named
    roots: tuple[Path, ...]  # folders that the splits may be relative to, the likeliest first
    splits: dict[Split, tuple[str, ...]]  # sources of each split that is named, as written
    names: tuple[str, ...] = ()  # class names; empty if the labels themselves bring them
    images: str | None = None  # folder of images for splits that are COCO json or csv files, if one is named
    form: Form = "yolo"  # of the labels
    voc: VocFolder | None = None  # the annotations if these are VOC xml
    unread: tuple[str, ...] = ()  # keys of the yaml that mean nothing here

    @property
    def is_one_set(self) -> bool:
        """Tell whether this is a json or csv by itself, which stands for every split."""
        return self.file.suffix.lower() in FORMS


@reads("data yaml")
def read_data_yaml(file: Path) -> DataYaml:
    """Read and check a data yaml.

    Raises:
        UserError: not readable, not a mapping, no names, or names that do not fit `nc`.
    """
    entries = _read_mapping(file)
    if entries.get("download"):
        say_once(f"{file}: `download` is not run; fetch the data yourself")
    splits: dict[Split, tuple[str, ...]] = {}
    for key in SPLITS:
        if value := entries.get(key):
            values = cast("list[Any]", value) if isinstance(value, list) else [value]
            if not all(isinstance(item, str) for item in values):
                raise UserError(f"{file}: {key} is a folder, a list file, or a list of those")
            splits[key] = tuple(values)
    suffixes = {Path(source).suffix.lower() for sources in splits.values() for source in sources}
    if packed := suffixes & _PACKED:
        raise UserError(
            f"{file}: it names a {min(packed)}; packed files are not read: name folders, or plain tar shards"
        )
    forms: set[Form] = {"shards" if suffix == ".tar" else FORMS.get(suffix, "yolo") for suffix in suffixes}
    if len(forms) > 1:
        raise UserError(f"{file}: its splits are labelled in several formats ({', '.join(sorted(forms))}); name one")
    (form,) = forms or {"yolo"}
    names = () if form in ("coco", "csv") and entries.get("names") is None else _names(entries, file)
    bases = (file.parent, Path.cwd(), file.parent.parent)
    below = Path(str(entries.get("path") or "").replace("\\", "/")).expanduser()
    roots = tuple(dict.fromkeys(root for base in bases for root in (base / below, base)))
    images = entries.get("images")
    unread = tuple(str(key) for key in entries if key not in _KEYS and key not in _KEYS_OF_OTHERS)
    if unread:
        say_once(f"{file}: keys that are not read: {', '.join(unread)}")
    return DataYaml(file, roots, splits, names, str(images) if images else None, form, unread=unread)


def _read_mapping(file: Path) -> dict[str, Any]:
    """Read a yaml whose keys stand there once, and of which none is a misspelt one.

    Raises:
        UserError: with the line of the key.
    """
    text = _UNQUOTED_BRACES.sub(r"\1'\2'", read_text(file))
    with yaml_nodes(text, file) as (loader, node):
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{file}: a data yaml is a mapping with train, val and names")
        first: dict[tuple[str, str], int] = {}
        for place, mapping in (("", node), *((str(key.value), value) for key, value in node.value)):
            for key, _ in mapping.value if isinstance(mapping, yaml.MappingNode) else ():
                line, name = key.start_mark.line + 1, (place, str(key.value))
                if name in first:
                    within = f" of {place}" if place else ""
                    twice = f"{key.value}{within} is set a second time (first in line {first[name]})"
                    raise UserError(f"{file}:{line}: {twice}")
                first[name] = line
        entries = cast("dict[str, Any]", loader.construct_document(node))
        for key, value in node.value:
            if key.value == "names":  # as they are written: `no` and `on` are words here, 1.0 is not 1
                entries["names"] = _texts(value, entries["names"])
    for (place, key), line in first.items():
        near = difflib.get_close_matches(key.lower(), [known for known in _KEYS if not entries.get(known)], n=1)
        if not place and key not in _KEYS and key not in _KEYS_OF_OTHERS and near:
            raise UserError(f"{file}:{line}: a data yaml has no key {key}; did you mean {near[0]}?")
    return entries


def _texts(node: yaml.Node, value: Any) -> Any:
    """Return the texts of a list or of the values of a mapping; what else stands there as its value."""
    if isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value):
        return [item.value for item in node.value]
    if isinstance(node, yaml.MappingNode) and all(isinstance(item, yaml.ScalarNode) for _, item in node.value):
        return {key.value: item.value for key, item in node.value}
    return value


def _names(entries: dict[str, Any], file: Path) -> tuple[str, ...]:
    names, count = entries.get("names"), entries.get("nc")
    if names is None and isinstance(count, int) and count > 0:
        names = numbered(count, f"{file}: nc")
    if isinstance(names, dict):
        try:
            by_index = {int(key): name for key, name in cast("dict[Any, Any]", names).items()}
        except (TypeError, ValueError):
            raise UserError(f"{file}: the keys of names are class numbers 0, 1, 2, ...") from None
        if sorted(by_index) != list(range(len(by_index))):
            raise UserError(f"{file}: the keys of names must run from 0 to {len(by_index) - 1} without a gap")
        names = [name for _, name in sorted(by_index.items())]
    if not isinstance(names, list | tuple):
        there = "is missing" if names is None else f"is {names!r}"
        raise UserError(f"{file}: names {there}; it is a list of class names or a map from class number to name")
    found = tuple(str(name) for name in cast("list[Any]", names))
    if twice := [name for name, count in Counter(found).items() if count > 1]:
        say_once(f"{file}: several classes are called {' and '.join(map(repr, twice))}")
    if "" in found:
        raise UserError(f"{file}: class {found.index('')} has no name")
    if not found:
        raise UserError(f"{file}: names is empty; a data set has at least one class")
    if isinstance(count, int) and count != len(found):
        raise UserError(f"{file}: nc is {count} but names has {len(found)} entries")
    return found


def numbered(count: int, where: str | Path) -> tuple[str, ...]:
    """Return names of classes that have none: class0, class1, ...

    Raises:
        UserError: more than `MOST_CLASSES`, which is a slip of the finger or worse; `where` names the place.
    """
    if count > MOST_CLASSES:
        raise UserError(f"{where}: a data set of {count:,} classes; at most {MOST_CLASSES:,} are possible")
    return tuple(f"class{i}" for i in range(count))


@reads(".data file")
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
        return _first_there(_places(value, roots), f"{where}: {key} names {value!r}")

    splits: dict[Split, tuple[str, ...]] = {
        split: (str(find(key)),) for key, split in _SPLIT_OF_KEY.items() if key in entries
    }
    count, place = entries.get("classes", ("", ""))
    if count and not (count.isdecimal() and int(count) > 0):
        raise UserError(f"{place}: classes is the number of classes, not {count!r}")
    if "names" in entries:
        path = find("names")
        names = read_names_file(path)
        if count and int(count) != len(names):
            raise UserError(f"{place}: classes is {count} but {path} has {len(names)} names")
    elif count:
        names = numbered(int(count), place)
    else:
        raise UserError(f"{file}: names= (a file with one class a line) or classes= is missing")
    return DataYaml(file, roots, splits, names)


@reads(".names file")
def read_names_file(file: Path) -> tuple[str, ...]:
    """Read class names, one per line; blank lines at the end do not count.

    Raises:
        UserError: unreadable, empty, or a blank line or a name twice; with the line.
    """
    lines = [line.strip() for line in read_text(file).rstrip().splitlines()]
    if not lines:
        raise UserError(f"{file}: a .names file has one class a line, this one is empty")
    first: dict[str, int] = {}
    for number, name in enumerate(lines, 1):
        if not name:
            raise UserError(f"{file}:{number}: a blank line between class names; classes are counted by line")
        if first.setdefault(name, number) < number:
            raise UserError(f"{file}:{number}: the class {name} stands in line {first[name]} already")
    return tuple(lines)
