"""Files of `torch.save`, opened without running anything: the zip form, and the form of before PyTorch 1.6.

Every number of the file is read at most once and nothing is unpacked, so a file cannot claim more memory than it has
bytes. Source: the layout that `torch.save` documents (data.pkl beside data/<key>, stored without compression).
"""

import mmap
import zipfile
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from boxwright.checkpoints.inert import DamagedError, RefusedError
from boxwright.checkpoints.names import missing_weights
from boxwright.checkpoints.restricted import read_pickle
from boxwright.errors import UserError
from boxwright.reading import reads

OLD_MAGIC = 0x1950A86A20F9469CFC6C  # first value of a file of before PyTorch 1.6
_NONE = "it is no file of torch.save"
_DOWNLOADS = (  # that went wrong: how the file begins
    (b"<", "a web page, not the file that was to be downloaded"),
    (b"version https://git-lfs", "a pointer of Git LFS; `git lfs pull` fetches the file itself"),
)


@reads("checkpoint file")
def read_archive(path: Path) -> object:
    """Read what a `torch.save` file holds, as inert values (see restricted.py).

    Raises:
        UserError: no such file, not a checkpoint, damaged, or it asks for something that a checkpoint does not need.
    """
    if not path.is_file():
        raise UserError(missing_weights(path))
    if path.suffix.lower() in (".cfg", ".yaml", ".yml"):
        raise UserError(f"{path} describes a network and holds no weights: --cfg takes it, --weights a file of weights")
    try:
        with path.open("rb") as file:
            read = read_zip if zipfile.is_zipfile(file) else read_old
            file.seek(0)
            return read(file, path.stat().st_size)
    except RefusedError as error:
        raise UserError(
            f"refuses to load {path}: the file asks for {error}, which no checkpoint needs; nothing was executed"
        ) from error
    except (DamagedError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path} is not a readable checkpoint: {error}") from error


def read_zip(file: BinaryIO, size: int) -> object:
    """Read a zip archive with one pickle, `data.pkl`, and a file for each storage; each is read once."""
    bytes_left = size
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise DamagedError("it is a zip file but not one that torch.save wrote (no data.pkl)")
        folder = pickles[0].removesuffix("data.pkl")
        if any(name.startswith(f"{folder}code/") for name in archive.namelist()):
            raise DamagedError("it is a TorchScript archive, which is read under a name that ends in .torchscript")

        def read(name: str) -> bytes:
            nonlocal bytes_left
            info = archive.NameToInfo.get(f"{folder}{name}")
            if info is None:
                raise DamagedError(f"{name} is missing")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > bytes_left:
                raise DamagedError(f"{name} claims more bytes than the file has")
            bytes_left -= info.file_size  # entries that overlap would be counted twice, and run out here
            return archive.read(info)

        def storage(key: str, dtype: torch.dtype, num_items: int) -> Tensor:
            data = bytearray(read(f"data/{key}"))
            if len(data) != num_items * dtype.itemsize:
                raise DamagedError(f"storage {key} has {len(data)} bytes instead of {num_items * dtype.itemsize}")
            return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)

        if f"{folder}byteorder" in archive.NameToInfo and read("byteorder") != b"little":
            raise DamagedError("it was written on a big-endian machine")
        return read_pickle(read("data.pkl"), storage)


def read_old(file: BinaryIO, size: int) -> object:
    """Read four pickles (magic, version, machine, content), the keys of the storages, then their numbers in order."""
    if not size:
        raise DamagedError("it is empty")
    bytes_left = size
    # Mapped, as a pickle may ask for more bytes at once than there are: a plain file would make room for them.
    file = cast(BinaryIO, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    waiting: dict[str, Tensor] = {}  # made empty, as the numbers follow after the pickle

    def storage(key: str, dtype: torch.dtype, num_items: int) -> Tensor:
        nonlocal bytes_left
        bytes_left -= num_items * dtype.itemsize
        if bytes_left < 0:
            raise DamagedError(f"storage {key} claims more bytes than the file has")
        waiting[key] = torch.zeros(num_items, dtype=dtype)
        return waiting[key]

    try:
        magic = read_pickle(file, storage)
    except (DamagedError, RefusedError):
        magic = None
    if magic != OLD_MAGIC:
        file.seek(0)
        start = file.read(64).lstrip()
        raise DamagedError(next((f"it is {kind}" for begin, kind in _DOWNLOADS if start.startswith(begin)), _NONE))
    # Version and machine say nothing that is needed: the sizes of the types are checked with each storage.
    _, _, content, keys = (read_pickle(file, storage) for _ in range(4))
    if not isinstance(keys, list) or not all(type(key) is str for key in keys) or set(keys) != set(waiting):
        raise DamagedError("the storages of the file are not those that its content refers to")
    for key in keys:
        tensor = waiting[key]
        count, data = int.from_bytes(file.read(8), "little"), bytearray(file.read(tensor.nbytes))
        if count != tensor.numel() or len(data) != tensor.nbytes:
            raise DamagedError(f"storage {key} is cut short")
        if data:
            tensor.copy_(torch.frombuffer(data, dtype=tensor.dtype))
    return content
