"""Files of `torch.save`, opened without running anything: the zip form, and the form of before PyTorch 1.6.

Every number of the file is read at most once and nothing is unpacked, so a file cannot claim more memory than it has
bytes. Source: the layout that `torch.save` documents (data.pkl beside data/<key>, stored without compression).
"""

import os
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from boxwright.checkpoints.inert import DamagedError, RefusedError
from boxwright.checkpoints.restricted import read_pickle
from boxwright.errors import UserError

OLD_MAGIC = 0x1950A86A20F9469CFC6C  # first value of a file of before PyTorch 1.6


def read_archive(path: Path) -> object:
    """Read what a `torch.save` file holds, as inert values (see restricted.py).

    Raises:
        UserError: no such file, not a checkpoint, damaged, or it asks for something that a checkpoint does not need.
    """
    if not path.is_file():
        raise UserError(f"no weights at {path}")
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                return _read_zip(file)
            file.seek(0)
            return _read_old(file, path.stat().st_size)
    except RefusedError as error:
        raise UserError(
            f"refuses to load {path}: the file asks for {error}, which no checkpoint needs; nothing was executed"
        ) from error
    except (DamagedError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path} is not a readable checkpoint: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _read_zip(file: BinaryIO) -> object:
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise DamagedError("it is a zip file but not one that torch.save wrote (no data.pkl)")
        folder = pickles[0].removesuffix("data.pkl")
        storages = _ZipStorages(archive, folder)
        if storages.has("byteorder") and storages.read("byteorder") != b"little":
            raise DamagedError("it was written on a big-endian machine")
        return read_pickle(storages.read("data.pkl"), storages)


class _ZipStorages:
    """The storages of one zip archive, each read once."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        self.archive = archive
        self.folder = folder
        self.read_already: dict[str, Tensor] = {}
        assert archive.fp is not None
        self.bytes_left = os.fstat(archive.fp.fileno()).st_size

    def has(self, name: str) -> bool:
        return f"{self.folder}{name}" in self.archive.NameToInfo

    def read(self, name: str) -> bytes:
        info = self.archive.NameToInfo.get(f"{self.folder}{name}")
        if info is None:
            raise DamagedError(f"{name} is missing")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > self.bytes_left:
            raise DamagedError(f"{name} claims more bytes than the file has")
        self.bytes_left -= info.file_size  # entries that overlap would be counted twice, and run out here
        return self.archive.read(info)

    def storage(self, key: str, dtype: torch.dtype, num_items: int) -> Tensor:
        if key not in self.read_already:
            data = bytearray(self.read(f"data/{key}"))
            if len(data) != num_items * dtype.itemsize:
                raise DamagedError(f"storage {key} has {len(data)} bytes instead of {num_items * dtype.itemsize}")
            self.read_already[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return same_use(key, self.read_already[key], dtype, num_items)


def same_use(key: str, tensor: Tensor, dtype: torch.dtype, num_items: int) -> Tensor:
    """Return a storage that was met before, after checking that it is asked for as the same numbers."""
    if tensor.dtype != dtype or tensor.numel() != num_items:
        raise DamagedError(f"storage {key} is used in two ways")
    return tensor


def _read_old(file: BinaryIO, size: int) -> object:
    """Read four pickles (magic, version, machine, content), the keys of the storages, then their numbers in order."""
    storages = _OldStorages(size)
    try:
        if read_pickle(file, storages) != OLD_MAGIC:
            raise DamagedError("it is no file of torch.save")
    except (DamagedError, RefusedError) as error:
        raise DamagedError("it is no file of torch.save") from error
    # Version and machine say nothing that is needed: the sizes of the types are checked with each storage.
    read_pickle(file, storages)
    read_pickle(file, storages)
    content = read_pickle(file, storages)
    keys = read_pickle(file, storages)
    if not isinstance(keys, list) or not all(type(key) is str for key in keys) or set(keys) != set(storages.waiting):
        raise DamagedError("the storages of the file are not those that its content refers to")
    for key in keys:
        storages.fill(key, file)
    return content


class _OldStorages:
    """Storages whose numbers follow after the pickle: made empty, filled later."""

    def __init__(self, file_size: int) -> None:
        self.bytes_left = file_size
        self.waiting: dict[str, Tensor] = {}

    def storage(self, key: str, dtype: torch.dtype, num_items: int) -> Tensor:
        if key not in self.waiting:
            self.bytes_left -= num_items * dtype.itemsize
            if self.bytes_left < 0:
                raise DamagedError(f"storage {key} claims more bytes than the file has")
            self.waiting[key] = torch.zeros(num_items, dtype=dtype)
        return same_use(key, self.waiting[key], dtype, num_items)

    def fill(self, key: str, file: BinaryIO) -> None:
        tensor = self.waiting[key]
        count = int.from_bytes(file.read(8), "little")
        data = bytearray(file.read(tensor.nbytes))
        if count != tensor.numel() or len(data) != tensor.nbytes:
            raise DamagedError(f"storage {key} is cut short")
        if data:
            tensor.copy_(torch.frombuffer(data, dtype=tensor.dtype))
