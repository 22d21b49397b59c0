"""Keep the index of a YOLO txt data set on disk, so that the next run starts at once.

The key is the path, size and modification time of every image, the content of every label file, and the class names:
any edit is noticed, also one that keeps size and time of a label. Files are npz without pickle, written under another
name and renamed. A cache that cannot be read or written costs time, never the run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.data.index import DataIndex, Problem
from boxwright.data.yolo_dataset import read_yolo

_VERSION = b"boxwright data index 1"
_THREADS = 8
_ARRAYS = tuple(f.name for f in fields(DataIndex) if f.name not in ("names", "category_ids", "annotations", "problems"))
_log = logging.getLogger("boxwright.data")


def user_cache_dir() -> Path:
    """Where the tool keeps what it can make again: XDG_CACHE_HOME/boxwright, or ~/.cache/boxwright."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "boxwright"


def cached_index(
    images: Sequence[Path], labels: Sequence[Path], names: Sequence[str], cache_dir: Path | None = None
) -> DataIndex:
    """The index of these images, from the cache if nothing has changed, else read and kept.

    Args:
        images: image files.
        labels: their label files, which may be missing.
        names: class names.
        cache_dir: folder for caches; None is the user's.
    """
    file = (cache_dir or user_cache_dir() / "index") / f"{_fingerprint(images, labels, names)}.npz"
    index = _load(file, names)
    if index is None:
        index = read_yolo(images, names)
        _save(index, file)
    return index


def _fingerprint(images: Sequence[Path], labels: Sequence[Path], names: Sequence[str]) -> str:
    digest = hashlib.sha256(_VERSION)
    digest.update(json.dumps(list(names)).encode())
    with ThreadPoolExecutor(_THREADS) as pool:
        for part in pool.map(_fingerprint_one, images, labels):
            digest.update(part)
    return digest.hexdigest()[:32]


def _fingerprint_one(image: Path, label: Path) -> bytes:
    try:
        status = image.stat()
        seen = f"{status.st_size} {status.st_mtime_ns}"
    except OSError:
        seen = "missing"
    try:
        content = hashlib.sha256(label.read_bytes()).digest()
    except OSError:
        content = b"missing"
    return hashlib.sha256(os.fsencode(image.absolute()) + b"\0" + seen.encode() + b"\0" + content).digest()


def _load(file: Path, names: Sequence[str]) -> DataIndex | None:
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays: dict[str, Any] = {name: stored[name] for name in _ARRAYS}
            problems = [_problem(row) for row in json.loads(stored["problems"].tobytes())]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
        _log.warning("the index cache %s cannot be read (%s) and is made again", file, error)
        return None
    return DataIndex(
        names=tuple(names), category_ids=tuple(range(1, len(names) + 1)), problems=tuple(problems), **arrays
    )


def _save(index: DataIndex, file: Path) -> None:
    problems = [[p.kind, os.fspath(p.path), p.line, p.text, p.drops] for p in index.problems]
    encoded: NDArray[np.uint8] = np.frombuffer(json.dumps(problems).encode(), dtype=np.uint8)
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp", delete=False) as temporary:
            np.savez(temporary, problems=encoded, **{name: getattr(index, name) for name in _ARRAYS})
        os.replace(temporary.name, file)
    except OSError as error:
        _log.info("the index is not kept: %s", error)
        if temporary is not None:
            Path(temporary.name).unlink(missing_ok=True)


def _problem(row: list[Any]) -> Problem:
    kind, path, line, text, drops = row
    return Problem(kind, Path(path), line, text, drops)
