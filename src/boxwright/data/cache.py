"""Keep an index on disk, so that the next run starts at once and all ranks and workers share the same pages.

One file a split: a first line, a JSON header (what is no array), then the arrays, which are mapped into memory.
It is taken if what shaped the index (settings, list of images, content of all labels) has the same digest, and every
file that it names has the same size and time of change. So any edit is noticed, also one that keeps size and time of a
label. Files are written under another name and renamed. A cache that cannot be read or written costs time, never
the run.
"""

import hashlib
import json
import logging
import mmap
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.data.files import in_threads, write_atomically
from boxwright.data.index import ARRAYS, DataIndex, Problem
from boxwright.errors import UserError
from boxwright.ops.arrays import Array

_MAGIC = b"boxwright data index 3\n"
_ALIGN = 64  # bytes; arrays start at a multiple of it
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
    if index is None:
        index = build()
        if shaped_by() == key:  # else a label was edited just now: the next run reads it again
            _save(index, key, file)
    return index


def digest(settings: object, listed: Iterable[Path], contents: Sequence[Path]) -> str:
    """Return the digest of settings (as JSON), file names, and file contents, which may be missing."""

    def content_digest(file: Path) -> bytes:
        try:
            return hashlib.sha256(file.read_bytes()).digest()
        except OSError as error:
            return f"missing {error.errno}".encode().ljust(32)  # as long as a digest, so that no two lists agree

    total = hashlib.sha256(json.dumps(settings).encode())
    for path in (*listed, None, *contents):
        total.update((os.fsencode(path) if path else b"") + b"\0")
    total.update(b"".join(in_threads(content_digest, contents)))
    return total.hexdigest()


def _state(index: DataIndex) -> str:
    """Return the digest of size and time of change of every file that the index names."""

    def state(file: Path) -> bytes:
        try:
            status = os.stat(file)
        except OSError:
            return b"missing\0"
        return f"{status.st_size} {status.st_mtime_ns}\0".encode()

    total = hashlib.sha256()
    images = [index.path(i) for i in range(len(index))]
    total.update(b"".join(in_threads(state, [*images, *(problem.path for problem in index.problems)])))
    return total.hexdigest()


def _load(file: Path, key: str) -> DataIndex | None:
    try:
        with file.open("rb") as stream:
            if stream.readline(len(_MAGIC)) != _MAGIC:
                raise ValueError("another version, or no index")
            header = json.loads(stream.readline())
            if header["key"] != key:
                return None
            pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        if zlib.crc32(memoryview(pages)[header["start"] :]) != header["checksum"]:
            raise ValueError("damaged")
        index = _index_of(header, pages)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.info("the index cache %s cannot be used (%s) and is made again", file, error)
        return None
    return index if _state(index) == header["state"] else None


def _index_of(header: dict[str, Any], pages: mmap.mmap) -> DataIndex:
    arrays: dict[str, Any] = {}
    for name, dtype, shape, offset in header["arrays"]:
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(pages, dtype, count, header["start"] + offset).reshape(shape)
    return DataIndex(
        names=tuple(header["names"]),
        category_ids=tuple(header["category_ids"]),
        annotations=Path(header["annotations"]) if header["annotations"] else None,
        problems=tuple(Problem(kind, Path(path), *rest) for kind, path, *rest in header["problems"]),
        **arrays,
    )


def _save(index: DataIndex, key: str, file: Path) -> None:
    parts: list[Array] = [np.ascontiguousarray(getattr(index, name)) for name in ARRAYS]
    layout: list[tuple[str, str, tuple[int, ...], int]] = []
    payload = bytearray()
    for name, part in zip(ARRAYS, parts, strict=True):
        layout.append((name, part.dtype.str, part.shape, len(payload)))
        payload += part.tobytes()
        payload += bytes(-len(payload) % _ALIGN)
    payload += bytes(_ALIGN)  # never empty, and an array of length zero has a place
    header = {
        "key": key,
        "state": _state(index),
        "checksum": zlib.crc32(payload),
        "names": index.names,
        "category_ids": index.category_ids,
        "annotations": os.fspath(index.annotations) if index.annotations else None,
        "problems": [(p.kind, os.fspath(p.path), p.line, p.text, p.drops) for p in index.problems],
        "arrays": layout,
    }
    # The first lines are padded so that the arrays start at an aligned place, which the header names.
    room = len(_MAGIC) + len(json.dumps(header)) + 64  # enough for the number and the padding
    start = -(-room // _ALIGN) * _ALIGN
    head = _MAGIC + json.dumps(header | {"start": start}).encode().ljust(start - len(_MAGIC) - 1) + b"\n"
    try:
        write_atomically(file, head + payload, make_folder=True)
    except UserError as error:  # without a cache the next run only starts later
        _log.info("the index is not kept: %s", error)
