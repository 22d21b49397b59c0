"""Images as training and validation read them, kept in memory or on disk if wished.

Training decodes an image at the smallest scale 1/1, 1/2, 1/4, ... at which its longer side still has the input size.
Validation decodes it in full and resizes it, as published. Both do so cached or not: a cache never changes a sample.
"""

import contextlib
import hashlib
import io
import mmap
import os
import shutil
import sys
import zlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import torch

from boxwright.data.cache import user_cache_dir
from boxwright.data.files import file_errors, write_atomically
from boxwright.data.images import (
    loaded_size,
    read_indexed_image,
    reduced_size,
    reduction_for,
    resize_for_validation,
)
from boxwright.data.index import DataIndex
from boxwright.errors import UserError
from boxwright.machine import available_memory
from boxwright.ops.arrays import Image
from boxwright.reading import place_in_tar
from boxwright.terminal import say_once

_MEMORY_MARGIN: Final = 1.1  # the cache may not take the last tenth of what is free
_DISK_MARGIN: Final = 1.05  # file systems round up and keep some for themselves
_GB: Final = 1e9
_CHECKSUM_BYTES: Final = 4  # of a CRC-32


class SourceImages:
    """Reads the images of an index at the scale that training at `imgsz` needs.

    Args:
        index: the data set.
        imgsz: side of the network input.
        reduce: decode at reduced scale; False reads everything in full (for measurements).
    """

    def __init__(self, index: DataIndex, imgsz: int, *, reduce: bool = True) -> None:
        self.index = index
        self._imgsz = imgsz
        self._reduce = reduce

    def _full_size(self, image: int) -> tuple[int, int]:
        height, width = self.index.sizes[image].tolist()
        return height, width

    def reduction(self, image: int) -> int:
        return reduction_for(self._full_size(image), self._imgsz) if self._reduce else 1

    def size(self, image: int) -> tuple[int, int]:
        """Return height and width of what `load` gives; reads no file."""
        return reduced_size(self._full_size(image), self.reduction(image))

    def extent(self, image: int) -> tuple[float, float]:
        """Return height and width of the image in pixels of `load`, of which the last may be covered in part."""
        height, width = self._full_size(image)
        return height / self.reduction(image), width / self.reduction(image)

    def load(self, image: int) -> Image:
        """Read pixels (H, W, 3) uint8 BGR; not to be written to."""
        return read_indexed_image(self.index.path(image), self._full_size(image), self.reduction(image))

    def form(self, image: int) -> str:
        """Name the form in which `load` gives an image, for a cache on disk."""
        return str(self.reduction(image))


class ValidationImages(SourceImages):
    """Reads images as validation has them: decoded in full, then resized to fit into a height and width."""

    def __init__(self, index: DataIndex, shape: tuple[int, int]) -> None:
        super().__init__(index, max(shape), reduce=False)
        self._shape = shape

    def size(self, image: int) -> tuple[int, int]:
        return loaded_size(self._full_size(image), self._shape)

    def load(self, image: int) -> Image:
        return resize_for_validation(super().load(image), self._shape)

    def form(self, image: int) -> str:
        height, width = self.size(image)
        return f"validation {width}x{height}"


class _Cached(SourceImages):
    """Images of a source that are kept once they were read."""

    def __init__(self, source: SourceImages) -> None:
        self.index = source.index
        self.source = source
        self.size, self.extent, self.reduction, self.form = source.size, source.extent, source.reduction, source.form


class RamCache(_Cached):
    """Keeps images in one block of memory that all workers share; filled as images are first read."""

    def __init__(self, source: SourceImages) -> None:
        super().__init__(source)
        self._starts = np.concatenate(([0], np.cumsum(_num_bytes(source), dtype=np.int64))).astype(np.int64)
        self._pixels = _shared_bytes(int(self._starts[-1]))
        self._filled = _shared_bytes(len(self.index))

    def load(self, image: int) -> Image:
        height, width = self.size(image)
        start = int(self._starts[image])
        room = self._pixels.numpy()[start : start + 3 * height * width].reshape(height, width, 3)
        filled = self._filled.numpy()
        if not filled[image]:
            room[:] = self.source.load(image)  # two workers may both do this, with the same bytes
            filled[image] = 1
        return room


class DiskCache(_Cached):
    """Keeps images as .npy files in a cache folder; they are mapped, so that only what is seen is read.

    A file is named by the path, size and modification time of its image and by the form in which it is read, so that an
    edited image is decoded anew. Files are written beside their name and renamed. A checksum of all bytes ends each
    file; it is compared when a run first reads it.
    """

    def __init__(self, source: SourceImages, folder: Path) -> None:
        super().__init__(source)
        self._folder = folder
        self._checked = _shared_bytes(len(self.index))  # that the file is whole

    def load(self, image: int) -> Image:
        file = self._folder / self.name(image)
        checked = self._checked.numpy()
        try:
            if not checked[image]:  # the file ends with the checksum of what is before
                content = np.memmap(file, np.uint8, "r")
                end = len(content) - _CHECKSUM_BYTES
                if end <= 0 or zlib.crc32(content[:end].data) != int.from_bytes(content[end:].tobytes(), "little"):
                    raise ValueError("damaged")
            pixels = np.load(file, mmap_mode="r", allow_pickle=False)
            if pixels.shape == (*self.size(image), 3) and pixels.dtype == np.uint8:
                checked[image] = 1
                return pixels
        except FileNotFoundError:
            pass
        except (OSError, ValueError, EOFError) as error:
            say_once(f"a cached image is damaged, it is decoded again: {file} ({error})")
        pixels = self.source.load(image)
        buffer = io.BytesIO()
        np.save(buffer, pixels, allow_pickle=False)
        buffer.write(zlib.crc32(buffer.getbuffer()).to_bytes(_CHECKSUM_BYTES, "little"))
        with contextlib.suppress(UserError):  # a full or read-only disk only means that the image is decoded again
            write_atomically(file, buffer.getbuffer())
        return pixels

    def name(self, image: int) -> str:
        """Name the file that an image is kept in."""
        path = self.index.path(image)
        place = place_in_tar(path)
        with file_errors("open", path):
            status = (place[0] if place else path).stat()
        key = f"{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\0{self.form(image)}"
        return hashlib.sha256(os.fsencode(key)).hexdigest()[:40] + ".npy"


def open_source_images(
    index: DataIndex, imgsz: int, cache: str, *, cache_folder: Path | None = None, copies: int = 1
) -> SourceImages:
    """Return the images of an index at the scale that training at `imgsz` needs; cached as `with_cache` says."""
    return with_cache(SourceImages(index, imgsz), cache, cache_folder=cache_folder, copies=copies)


def with_cache(source: SourceImages, cache: str, *, cache_folder: Path | None = None, copies: int = 1) -> SourceImages:
    """Put the wanted cache before source images: "" (none), "ram" or "disk".

    Args:
        source: where images come from.
        cache: which cache.
        cache_folder: where the disk cache lies; by default in the user's cache folder.
        copies: processes of this machine that each have such a cache.

    Raises:
        UserError: memory or disk do not allow it.
    """
    check_room([source], cache, cache_folder=cache_folder, copies=copies)
    if cache == "ram":
        return RamCache(source)
    return DiskCache(source, cache_folder or user_cache_dir() / "images") if cache == "disk" else source


def check_room(
    sources: Sequence[SourceImages], cache: str, *, cache_folder: Path | None = None, copies: int = 1
) -> None:
    """Raise a UserError if the caches of all these source images do not fit together; arguments as of `with_cache`."""
    num_images = sum(len(source.index) for source in sources)
    counts = [_num_bytes(source) for source in sources] if cache else []
    total = sum(map(sum, counts))
    if cache == "ram":
        needed, free = total * copies * _MEMORY_MARGIN, available_memory()
        if free is not None and needed > free:
            several = f" in {copies} processes" if copies > 1 else ""
            raise UserError(
                f"--cache ram needs {needed / _GB:.2f} GB for {num_images} images{several} but {free / _GB:.2f} GB of "
                "memory are available; use --cache disk or none"
            )
    elif cache == "disk":
        folder = cache_folder or user_cache_dir() / "images"
        with file_errors("make the folder of --cache disk", folder):
            folder.mkdir(parents=True, exist_ok=True)
        free = free_disk(folder)
        if total * _DISK_MARGIN <= free:
            return
        # What is kept already needs no room; looked at only now, since it asks the disk for every image.
        caches = [DiskCache(source, folder) for source in sources]
        kept = [(folder / one.name(image)).exists() for one in caches for image in range(len(one.index))]
        needed = sum(n for n, is_kept in zip(chain(*counts), kept, strict=True) if not is_kept) * _DISK_MARGIN
        if needed > free:
            raise UserError(
                f"--cache disk needs {needed / _GB:.2f} GB for {num_images} images but {free / _GB:.2f} GB are "
                f"available in {folder}; make room there, or use no cache"
            )


def free_disk(folder: Path) -> int:
    """Return bytes that can be written into a folder."""
    return shutil.disk_usage(folder).free


def _num_bytes(source: SourceImages) -> list[int]:
    """Return bytes of each decoded image."""
    return [3 * height * width for height, width in map(source.size, range(len(source.index)))]


def _shared_bytes(count: int) -> torch.Tensor:
    """Make zeroed bytes that forked workers see alike.

    On Linux an anonymous mapping: it takes pages only where it is written to, and is not bound by the size of /dev/shm,
    which containers keep small. Elsewhere torch's shared memory, which can be handed to spawned workers.
    """
    if sys.platform == "linux":
        return torch.frombuffer(mmap.mmap(-1, max(count, 1)), dtype=torch.uint8)
    return torch.zeros(max(count, 1), dtype=torch.uint8).share_memory_()
