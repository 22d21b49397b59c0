"""The index of a nuScenes version: its key frames, images, radar sweeps and annotations as flat arrays on disk.

Built once from the tables, which are read record by record; later runs, other ranks and workers map the same files.
The folder of an index is named after all that it depends on, the content of the tables, so any edit of a table makes
another index. It is written under another name and renamed when it is whole. An index that cannot be kept costs time,
never the run.
"""

import atexit
import hashlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy

from boxwright.data.cache import user_cache_dir
from boxwright.nuscenes.build import read_annotations, read_samples, read_sensors
from boxwright.nuscenes.geometry import hidden_behind_others, seen_in_images
from boxwright.nuscenes.structures import SEEN
from boxwright.nuscenes.tables import TABLES, version_folder
from boxwright.ops.arrays import Array, Ints

_LAYOUT = 2  # goes up when the arrays change
_META = "index.json"
_THREADS = 4
_CHUNK = 1 << 20
_log = logging.getLogger("boxwright.data")


def tables_digest(folder: Path, tables: Iterable[str]) -> str:
    """Hash the content of tables, which may be missing, and the layout of the index."""
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
    """A folder of arrays being written; nobody sees it before `keep`."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            self.path = Path(tempfile.mkdtemp(dir=parent, suffix=".tmp"))
        except OSError as error:
            _log.info("the index is not kept: %s", error)
            self.path = Path(tempfile.mkdtemp(prefix="boxwright-"))

    def write(self, name: str, array: Array) -> None:
        np.save(self.path / f"{name}.npy", array)

    def discard(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def keep(self, meta: Mapping[str, Any], identity: str, key: str) -> Path:
        """Give the folder its name, unless another process was first, and remove older ones of the same identity."""
        # A checksum of each file notices a half-written or damaged index.
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
    """Rows of a .npy file, written some at a time, so that they are never all in memory."""

    def __init__(self, file: Path, dtype: np.dtype[Any]) -> None:
        self._stream = file.open("wb")
        self._dtype, self._count = dtype, 0
        self._head()

    def append(self, rows: Array) -> None:
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


def read_folder(path: Path) -> tuple[dict[str, Any], dict[str, Array]] | None:
    """Read what was kept in a folder: plain values and mapped arrays; None if it is not there or damaged."""
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


def map_arrays(path: Path) -> dict[str, Array]:
    """Map the arrays of a folder into memory, read-only, by name."""
    return {file.stem: np.load(file, mmap_mode="r") for file in sorted(path.glob("*.npy"))}


def _checksum(file: Path) -> int:
    total = 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            total = zlib.crc32(chunk, total)
    return total


_TABLES = tuple(name for name in TABLES if name not in ("visibility", "log", "map"))  # that shape the index
_SAMPLES_AT_ONCE = 32  # samples whose annotations are projected together


@dataclass(frozen=True, slots=True, eq=False)
class NuscenesIndex:
    """A version of nuScenes. Arrays are read-only files mapped into memory; rows as in `structures`."""

    root: Path  # folder of samples and sweeps
    version: str  # name of the folder of tables
    allow_missing: bool  # leave out images and radar sweeps whose files are not there
    stored: Path  # folder of the arrays
    scenes: tuple[str, ...]  # names, in the order of their samples
    arrays: dict[str, Array]
    # By name: samples, sample_tokens, images, image_names, image_name_offsets, radars, radar_names, radar_name_offsets,
    # poses, calibrations, annotations, annotation_offsets (by sample), seen, seen_offsets (by image).

    @property
    def folder(self) -> Path:
        """Return the folder of tables."""
        return self.root / self.version

    def image_name(self, image: int) -> str:
        """Return the file of an image, relative to the root."""
        return _name(self.arrays["image_names"], self.arrays["image_name_offsets"], image)

    def radar_name(self, sweep: int) -> str:
        """Return the file of a radar sweep, relative to the root."""
        return _name(self.arrays["radar_names"], self.arrays["radar_name_offsets"], sweep)

    def __reduce__(self) -> tuple[Any, ...]:
        # A process that is started afresh maps the same files; sending the arrays would copy them.
        return _mapped, (self.root, self.version, self.allow_missing, self.stored, self.scenes)


def _mapped(root: Path, version: str, allow_missing: bool, stored: Path, scenes: tuple[str, ...]) -> NuscenesIndex:
    return NuscenesIndex(root, version, allow_missing, stored, scenes, map_arrays(stored))


def _name(text: Array, offsets: Array, position: int) -> str:
    return text[offsets[position] : offsets[position + 1]].tobytes().decode("utf-8", "surrogateescape")


def open_nuscenes(
    root: str | Path, version: str, *, allow_missing: bool = False, cache_dir: Path | None = None
) -> NuscenesIndex:
    """Open the index of a version, from the cache if no table has changed; else build it from the tables and keep it.

    Args:
        root: folder that holds samples, sweeps and the version's folder.
        version: any folder of tables, such as v1.0-mini.
        allow_missing: a split leaves out images and radar sweeps whose files are not there, as after a partial
            download; else that is a mistake.
        cache_dir: folder for indices; None is the user's.

    Raises:
        UserError: there is no such version; a table is missing, cut off or damaged; a token points nowhere; or a
            calibration is no rotation.
    """
    root = Path(root).expanduser().absolute()
    folder = version_folder(root, version)
    parent = cache_dir or user_cache_dir() / "nuscenes"
    # Identity is the folder, key its content: an edit replaces the old index instead of leaving it on the disk.
    identity = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:16]
    key = tables_digest(folder, _TABLES)
    kept = read_folder(parent / f"{identity}-{key}")
    if kept is not None:
        meta, arrays = kept
        return NuscenesIndex(root, version, allow_missing, parent / f"{identity}-{key}", tuple(meta["scenes"]), arrays)
    made = IndexFolder(parent)
    try:
        scenes = _build(folder, made)
    except BaseException:
        made.discard()
        raise
    stored = made.keep({"scenes": scenes}, identity, key)
    return _mapped(root, version, allow_missing, stored, tuple(scenes))


def _build(folder: Path, made: IndexFolder) -> list[str]:
    """Read the tables and write the arrays; returns the names of the scenes."""
    samples = read_samples(folder)
    # Annotations first and freed at once: with the sensors they would be the peak of memory.
    annotations = read_annotations(folder, samples)
    offsets = np.searchsorted(annotations["sample"], np.arange(len(samples.rows) + 1)).astype(np.int64)
    made.write("annotations", annotations)
    made.write("annotation_offsets", offsets)
    del annotations
    sensors = read_sensors(folder, samples)
    made.write("samples", sensors.samples)
    made.write("sample_tokens", samples.tokens)
    made.write("images", sensors.images)
    made.write("image_names", sensors.image_names[0])
    made.write("image_name_offsets", sensors.image_names[1])
    made.write("radars", sensors.radars)
    made.write("radar_names", sensors.radar_names[0])
    made.write("radar_name_offsets", sensors.radar_names[1])
    made.write("poses", sensors.poses)
    made.write("calibrations", sensors.calibrations)
    images, calibrations = sensors.images, sensors.calibrations
    del sensors
    _write_seen(made, images, calibrations["intrinsic"], offsets)
    return samples.scenes


def _write_seen(made: IndexFolder, images: Array, intrinsics: Array, offsets: Ints) -> None:
    """Write what every image shows, some samples at a time. Images stand by sample."""
    annotations = np.load(made.path / "annotations.npy", mmap_mode="r")
    writer = RowWriter(made.path / "seen.npy", SEEN)
    counts = np.zeros(len(images), np.int64)
    for start in range(0, len(offsets) - 1, _SAMPLES_AT_ONCE):
        stop = min(start + _SAMPLES_AT_ONCE, len(offsets) - 1)
        low, high = np.searchsorted(images["sample"], (start, stop))
        # A copy in memory: rows of a few samples, which are indexed many times below.
        rows = np.array(annotations[offsets[start] : offsets[stop]])
        part = images[low:high]
        # Every image with every annotation of its sample: how many each has, and where in its sample a pair stands.
        first_of, each = offsets[part["sample"]] - offsets[start], np.diff(offsets)[part["sample"]]
        image = np.repeat(np.arange(len(part)), each)
        annotation = np.arange(len(image)) + np.repeat(first_of - (np.cumsum(each) - each), each)
        seen, of = seen_in_images(part, intrinsics[part["calibration"]], rows, (image, annotation))
        ends = np.searchsorted(of, np.arange(len(part) + 1))
        # An object hides others of the same image only.
        for first, last in pairwise(ends):
            some = seen[first:last]
            some["hidden"] = hidden_behind_others(some["box"], some["location"][:, 2], rows["size"][some["annotation"]])
        seen["annotation"] += offsets[start]
        counts[low:high] = np.diff(ends)
        writer.append(seen)
    writer.close()
    made.write("seen_offsets", np.concatenate(([0], np.cumsum(counts))).astype(np.int64))


def absent(index: NuscenesIndex, kind: Literal["image", "radar"], positions: Ints) -> Ints:
    """Return the sorted positions of images or radar sweeps whose files are missing.

    Folders are listed, since asking for each file takes far longer.
    """
    name_of = index.image_name if kind == "image" else index.radar_name
    by_folder: defaultdict[str, list[int]] = defaultdict(list)
    for position in positions.tolist():
        by_folder[os.path.dirname(name_of(position))].append(position)
    lost: list[int] = []
    for folder, some in by_folder.items():
        try:
            there = set(os.listdir(index.root / folder))
        except OSError:
            there = set[str]()
        lost += [position for position in some if os.path.basename(name_of(position)) not in there]
    return np.array(sorted(lost), np.int64)
