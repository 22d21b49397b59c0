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
        place = _find(source, root, named_in)
        found.update(_in_folder(place) if place.is_dir() else _in_list(place))
    return [Path(path) for path in sorted(found)]


def _find(source: str, root: Path, named_in: Path) -> Path:
    places = list(dict.fromkeys([root / source, named_in.parent / source]))
    for place in places:
        if place.exists():
            return place
    looked = " and ".join(str(place.absolute()) for place in places)
    raise UserError(f"{named_in} names {source!r}, which is not there; looked at {looked}")


def _in_folder(folder: Path) -> list[str]:
    return [
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
    ]


def _in_list(file: Path) -> list[str]:
    """Lines of a list file; relative ones are relative to the file's folder, as published for `./`."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the image list {file}: {error}") from error
    entries = [line.strip() for line in lines if line.strip()]
    return [os.path.normpath(os.path.join(file.parent, entry)) for entry in entries]
