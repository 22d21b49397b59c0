"""The images of a split: folders, list files, or both, in a fixed order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from boxwright.data.image_header import IMAGE_SUFFIXES
from boxwright.errors import UserError


def list_images(sources: Sequence[str], root: Path, named_in: Path) -> list[Path]:
    """Image files of all sources, sorted by path, each once.

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
    """Where a folder or file that a data yaml names lies.

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
    """Images below a folder; links are followed, but no folder is entered twice. Hidden files are not images."""
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
    """Lines of a text file without blanks around them, and without the mark that some editors put first.

    Raises:
        UserError: it is not UTF-8.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no list of files: it is not UTF-8 text") from error
    return [line.strip() for line in text.splitlines()]


def _in_list(file: Path, root: Path) -> list[str]:
    """Lines of a list file: absolute, relative to the file's folder (always for `./`), or to the root of the data."""
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
