"""Decoded source images for training: read at reduced scale, and kept in memory or on disk if wished.

An image is decoded at the smallest scale 1/1, 1/2, 1/4, ... at which its longer side still has the input size, cached
or not, so that a cache never changes a sample. What is not here: the validation path, which reads at full scale.
"""

import contextlib
import hashlib
import io
import mmap
import os
import shutil
import sys
from pathlib import Path
from typing import Final

import numpy as np
import torch

from boxwright.data.cache import user_cache_dir
from boxwright.data.files import file_errors, write_atomically
from boxwright.data.images import read_indexed_image, reduced_size, reduction_for
from boxwright.data.index import DataIndex
from boxwright.errors import UserError
from boxwright.ops.arrays import Image

_MEMORY_MARGIN: Final = 1.1  # the cache may not take the last tenth of what is free
_DISK_MARGIN: Final = 1.05  # file systems round up and keep some for themselves
_GB: Final = 1e9


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


class RamCache(SourceImages):
    """Keeps decoded images in one block of memory that all workers share; filled as images are first read."""

    def __init__(self, index: DataIndex, imgsz: int, *, reduce: bool = True, copies: int = 1) -> None:
        super().__init__(index, imgsz, reduce=reduce)
        self._starts = np.concatenate(([0], np.cumsum(_num_bytes(self), dtype=np.int64))).astype(np.int64)
        total, free = int(self._starts[-1]), available_memory()
        needed = total * copies * _MEMORY_MARGIN
        if free is not None and needed > free:
            several = f" in {copies} processes" if copies > 1 else ""
            raise UserError(
                f"--cache ram needs {needed / _GB:.2f} GB for {len(index)} images{several} but {free / _GB:.2f} GB of "
                "memory are available; use --cache disk or none"
            )
        self._pixels = _shared_bytes(total)
        self._filled = _shared_bytes(len(index))

    def load(self, image: int) -> Image:
        height, width = self.size(image)
        start = int(self._starts[image])
        room = self._pixels.numpy()[start : start + 3 * height * width].reshape(height, width, 3)
        filled = self._filled.numpy()
        if not filled[image]:
            room[:] = super().load(image)  # two workers may both do this, with the same bytes
            filled[image] = 1
        return room


class DiskCache(SourceImages):
    """Keeps decoded images as .npy files in a cache folder; they are mapped, so that only what is seen is read.

    A file is named by the path, size and modification time of its image and by the reduction, so that an edited image
    is decoded anew. Files are written beside their name and renamed.
    """

    def __init__(self, index: DataIndex, imgsz: int, folder: Path, *, reduce: bool = True) -> None:
        super().__init__(index, imgsz, reduce=reduce)
        self._folder = folder
        with file_errors("make the folder of --cache disk", folder):
            folder.mkdir(parents=True, exist_ok=True)
        counts, free = _num_bytes(self), free_disk(folder)
        if sum(counts) * _DISK_MARGIN <= free:
            return
        # What is kept already needs no room; looked at only now, since it asks the disk for every image.
        missing = (c for image, c in enumerate(counts) if not (folder / self._name(image)).exists())
        needed = sum(missing) * _DISK_MARGIN
        if needed > free:
            raise UserError(
                f"--cache disk needs {needed / _GB:.2f} GB for {len(index)} images but {free / _GB:.2f} GB are "
                f"available in {folder}; make room there, or use no cache"
            )

    def load(self, image: int) -> Image:
        file = self._folder / self._name(image)
        try:
            pixels = np.load(file, mmap_mode="r", allow_pickle=False)
            if pixels.shape == (*self.size(image), 3) and pixels.dtype == np.uint8:
                return pixels
        except (OSError, ValueError, EOFError):
            pass  # absent or damaged: decode and write it again
        pixels = super().load(image)
        buffer = io.BytesIO()
        np.save(buffer, pixels, allow_pickle=False)
        with contextlib.suppress(UserError):  # a full or read-only disk only means that the image is decoded again
            write_atomically(file, buffer.getbuffer())
        return pixels

    def _name(self, image: int) -> str:
        path = self.index.path(image)
        with file_errors("open", path):
            status = path.stat()
        key = f"{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\0{self.reduction(image)}"
        return hashlib.sha256(os.fsencode(key)).hexdigest()[:40] + ".npy"


def open_source_images(
    index: DataIndex,
    imgsz: int,
    cache: str,
    *,
    cache_folder: Path | None = None,
    reduce: bool = True,
    copies: int = 1,
) -> SourceImages:
    """Open source images with the wanted cache: "" (none), "ram" or "disk".

    Args:
        index, imgsz, reduce: see `SourceImages`.
        cache: which cache.
        cache_folder: where the disk cache lies; by default in the user's cache folder.
        copies: processes of this machine that each have such a cache.

    Raises:
        UserError: memory or disk do not allow it.
    """
    if cache == "ram":
        return RamCache(index, imgsz, reduce=reduce, copies=copies)
    if cache == "disk":
        return DiskCache(index, imgsz, cache_folder or user_cache_dir() / "images", reduce=reduce)
    return SourceImages(index, imgsz, reduce=reduce)


def available_memory() -> int | None:
    """Return bytes of memory free for new data, within the limit of the container; None where it cannot be told."""
    limits: list[int] = []
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            limits += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        group = Path("/sys/fs/cgroup")
        ceiling, used = (group / "memory.max").read_text().strip(), (group / "memory.current").read_text()
        if ceiling != "max":
            pages = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            limits.append(int(ceiling) - int(used) + int(pages.get("inactive_file", 0)))  # given up when needed
    except (OSError, ValueError):
        pass
    return min(limits) if limits else None


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
