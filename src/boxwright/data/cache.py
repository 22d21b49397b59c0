"""Keep an index on disk, so that the next run starts at once and all ranks and workers share the same pages.

One safetensors file a split: the arrays, which are mapped into memory, and as metadata what is no array.
It is taken if what shaped the index (settings, list of images, content of all labels) has the same digest, and every
file that it names has the same size and time of change. So any edit is noticed, also one that keeps size and time of a
label. Files are written under another name and renamed. A cache that cannot be read or written costs time, never
the run.
"""

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from boxwright.data.files import in_threads, write_atomically
from boxwright.data.index import ARRAYS, DataIndex, Problem
from boxwright.errors import UserError
from boxwright.ops.arrays import Array
from boxwright.reading import place_in_tar, read_bytes

_FORMAT = "boxwright data index 7"  # another name for each change of what is kept: files of before are made again
_log = logging.getLogger("boxwright.data")


def user_cache_dir() -> Path:
    """Return the folder of what the tool can make again: XDG_CACHE_HOME/boxwright, or ~/.cache/boxwright."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path(os.path.expanduser("~")) / ".cache") / "boxwright"


def cached_index(
    identity: str, shaped_by: Callable[[], str], build: Callable[[], DataIndex], cache_dir: Path | None = None
) -> DataIndex:
    """Take an index from the cache if nothing has changed; else build and keep it.

    Args:
        identity: names the data set and split; each has one cache file, the next build replaces it.
        shaped_by: gives the digest of all that the index depends on but the image files; see `digest`.
        build: reads the data set.
        cache_dir: folder for caches; None is the user's.
    """
    name = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:24]
    file = (cache_dir or user_cache_dir() / "index") / f"{name}.index"
    key = shaped_by()
    index = _load(file, key)
    if index is not None:
        return index
    index = build()
    if shaped_by() != key:  # a label was edited just now: the next run reads it again
        return index
    arrays = {name: np.array(getattr(index, name)) for name in ARRAYS}  # copies: torch takes none that is read-only
    about = {
        "key": key,
        "state": _state(index),
        "names": index.names,
        "category_ids": index.category_ids,
        "annotations": os.fspath(index.annotations) if index.annotations else None,
        "problems": [(p.kind, os.fspath(p.path), p.line, p.text, p.drops, p.count) for p in index.problems],
    }
    import safetensors.torch  # brings torch along, of which other formats and readers of data know nothing
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    text = json.dumps(about)
    metadata = {_FORMAT: f"{_checksum(arrays, text)} {text}"}  # one entry: those of several have no fixed order
    try:
        write_atomically(file, safetensors.torch.save(tensors, metadata), make_folder=True)
    except UserError as error:  # without a cache the next run only starts later
        _log.info("the index is not kept: %s", error)
    return index


def digest(settings: object, listed: Iterable[Path], contents: Sequence[Path]) -> str:
    """Return the digest of settings (as JSON), file names, and file contents, which may be missing."""

    def content_digest(file: Path) -> bytes:
        try:
            return hashlib.sha256(read_bytes(file)).digest()
        except UserError as error:
            return f"missing {getattr(error.__cause__, 'errno', 0)}".encode().ljust(
                32
            )  # as long as a digest, so that no two lists agree

    total = hashlib.sha256(json.dumps(settings).encode())
    for path in (*listed, None, *contents):
        total.update((os.fspath(path).encode("utf-8", "surrogatepass") if path else b"") + b"\0")
    total.update(b"".join(in_threads(content_digest, contents)))
    return total.hexdigest()


def state(file: Path) -> bytes:
    """Return size and time of change of a file, as bytes."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):  # the latter for names that no file can have
        return b"missing\0"
    return f"{status.st_size} {status.st_mtime_ns}\0".encode()


def _state(index: DataIndex) -> str:
    """Return the digest of size and time of change of every file that the index names."""

    total = hashlib.sha256()
    files = [*index.paths, *(problem.path for problem in index.problems)]
    # Of a tar shard that is one file for all images in it.
    tars = {place[0] for path in files if (place := place_in_tar(path))}
    total.update(b"".join(in_threads(state, sorted(tars) or files)))
    return total.hexdigest()


def _checksum(arrays: Mapping[str, Array], about: str) -> int:
    """Compute the checksum of everything in a cache file that is trusted."""
    total = zlib.crc32(about.encode())
    for name, array in arrays.items():
        total = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), total)
        total = zlib.crc32(array.data, total)
    return total


def _load(file: Path, key: str) -> DataIndex | None:
    try:
        with safetensors.safe_open(file, "pt") as stored:
            checksum, _, text = (stored.metadata() or {}).get(_FORMAT, "").partition(" ")
            if not text:  # of another version: nothing is said
                return None
            arrays: dict[str, Any] = {name: stored.get_tensor(name).numpy() for name in ARRAYS}
        if str(_checksum(arrays, text)) != checksum:
            raise ValueError("damaged")
        about = json.loads(text)
        if about["key"] != key:
            return None
        index = DataIndex(
            names=tuple(about["names"]),
            category_ids=tuple(about["category_ids"]),
            annotations=Path(about["annotations"]) if about["annotations"] else None,
            problems=tuple(Problem(kind, Path(path), *rest) for kind, path, *rest in about["problems"]),
            **arrays,
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        _log.info("the index cache %s cannot be used (%s) and is made again", file, error)
        return None
    return index if _state(index) == about["state"] else None
