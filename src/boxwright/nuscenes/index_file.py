"""Keep the index of a nuScenes version on disk: a folder of .npy files that all ranks and workers map into memory.

The folder is named after all that the index depends on: the content of the tables. So any edit of a table makes another
index. It is written under another name and renamed when it is whole. An index that cannot be kept costs time, never the
run.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

_LAYOUT = 2  # goes up when the arrays change
_META = "index.json"
_THREADS = 4
_CHUNK = 1 << 20
_log = logging.getLogger("boxwright.data")


def tables_digest(folder: Path, tables: Iterable[str]) -> str:
    """Digest of the content of tables, which may be missing, and of the layout of the index."""
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = list(pool.map(_content, [folder / f"{table}.json" for table in tables]))
    return hashlib.sha256(b"\0".join([str(_LAYOUT).encode(), *parts])).hexdigest()[:32]


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        return f"missing {error.errno}".encode()


class IndexFolder:
    """A folder of arrays being written; nobody sees it before `keep`.

    Args:
        parent: where indices lie; made if it is not there.
    """

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            self.path = Path(tempfile.mkdtemp(dir=parent, suffix=".tmp"))
        except OSError as error:
            _log.info("the index is not kept: %s", error)
            self.path = Path(tempfile.mkdtemp(prefix="boxwright-"))

    def write(self, name: str, array: NDArray[Any]) -> None:
        np.save(self.path / f"{name}.npy", array)

    def discard(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def keep(self, meta: Mapping[str, Any], identity: str, key: str) -> Path:
        """Give the folder its name, unless another process was first, and remove older ones of the same identity."""
        sums = {file.name: _checksum(file) for file in sorted(self.path.glob("*.npy"))}
        (self.path / _META).write_text(json.dumps({**meta, "checksums": sums}), encoding="utf-8")
        target = self._parent / f"{identity}-{key}"
        if read_folder(target) is not None:  # another process was first
            self.discard()
            return target
        shutil.rmtree(target, ignore_errors=True)  # damaged, if it is there
        try:
            os.replace(self.path, target)
        except OSError:
            if read_folder(target) is None:
                atexit.register(self.discard)
                return self.path
            self.discard()
        for old in self._parent.glob(f"{identity}-*"):
            if old != target:
                shutil.rmtree(old, ignore_errors=True)
        return target


class RowWriter:
    """Writes rows to a .npy file some at a time, so that they are never all in memory."""

    def __init__(self, file: Path, dtype: np.dtype[Any]) -> None:
        self._stream = file.open("wb")
        self._dtype, self._count = dtype, 0
        self._head()

    def append(self, rows: NDArray[Any]) -> None:
        self._stream.write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self._count += len(rows)

    def close(self) -> None:
        self._stream.seek(0)
        self._head()
        self._stream.close()

    def _head(self) -> None:
        # The header of a .npy file leaves room for the number of rows to grow, so it can be written again in place.
        header = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self._count,)}
        npy.write_array_header_1_0(self._stream, header)


def read_folder(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """What was kept in a folder: plain values and arrays mapped into memory; None if it is not there or damaged."""
    try:
        meta: dict[str, Any] = json.loads((path / _META).read_text(encoding="utf-8"))
        if any(_checksum(path / name) != total for name, total in meta["checksums"].items()):
            raise ValueError("damaged")
        return meta, map_arrays(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.info("the index %s cannot be used (%s) and is made again", path, error)
        return None


def map_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a folder by name, read-only and mapped into memory."""
    return {file.stem: np.load(file, mmap_mode="r") for file in sorted(path.glob("*.npy"))}


def _checksum(file: Path) -> int:
    total = 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            total = zlib.crc32(chunk, total)
    return total
