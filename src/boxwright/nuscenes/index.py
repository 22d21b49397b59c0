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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from boxwright.data.cache import user_cache_dir
from boxwright.data.files import Hidden, file_errors, remove_leftovers
from boxwright.engine.console import with_progress
from boxwright.errors import UserError
from boxwright.nuscenes.build import read_annotations, read_samples, read_sensors
from boxwright.nuscenes.geometry import doubt_intrinsics, hidden_behind_others, seen_in_images
from boxwright.nuscenes.structures import CAMERAS, SEEN
from boxwright.nuscenes.tables import version_folder
from boxwright.ops.arrays import Array, Bools, Ints
from boxwright.reading import open_file
from boxwright.terminal import counted

_LAYOUT = 5  # goes up when the arrays change
_META = "index.json"
_THREADS = 4
_SAMPLES_AT_ONCE = 32  # samples whose annotations are projected together
_TABLES = (  # that shape the index; visibility, log and map do not
    "scene sample sample_data ego_pose calibrated_sensor sensor sample_annotation instance category attribute"
)
_log = logging.getLogger("boxwright.data")


@dataclass(frozen=True, slots=True, eq=False)
class NuscenesIndex:
    """A version of nuScenes. Arrays are read-only files mapped into memory; rows as in `structures`."""

    root: Path  # folder of samples and sweeps
    version: str  # name of the folder of tables
    allow_missing: bool  # leave out images and radar sweeps whose files are not there
    stored: Path  # folder of the arrays
    scenes: tuple[str, ...]  # names, in the order of their samples
    arrays: dict[str, Array]
    # By name: samples, sample_tokens, images, radars, names and name_offsets (by `row` of an image or a radar sweep),
    # poses, calibrations, annotations, annotation_offsets (by sample), seen, seen_offsets (by image).

    @property
    def folder(self) -> Path:
        """Return the folder of tables."""
        return self.root / self.version

    def file_name(self, row: int) -> str:
        """Return the file, relative to the root, of the image or radar sweep that has a `row`."""
        low, high = self.arrays["name_offsets"][row : row + 2]
        return self.arrays["names"][low:high].tobytes().decode("utf-8", "surrogateescape")

    def __reduce__(self) -> tuple[Any, ...]:
        # A process that is started afresh maps the same files; sending the arrays would copy them.
        return _mapped, (self.root, self.version, self.allow_missing, self.stored, self.scenes)


def _mapped(root: Path, version: str, allow_missing: bool, stored: Path, scenes: tuple[str, ...]) -> NuscenesIndex:
    """Map the arrays of a folder into memory, read-only."""
    arrays: dict[str, Array] = {file.stem: np.load(file, mmap_mode="r") for file in sorted(stored.glob("*.npy"))}
    return NuscenesIndex(root, version, allow_missing, stored, scenes, arrays)


def open_nuscenes(
    root: str | Path, version: str, *, allow_missing: bool = False, cache_dir: Path | None = None
) -> NuscenesIndex:
    """Open the index of a version, from the cache if no table has changed; else build it from the tables and keep it.

    Args:
        root: folder that holds samples, sweeps and the version's folder.
        version: any folder of tables, such as v1.0-mini.
        allow_missing: a split leaves out images and radar sweeps whose files are not there, as after a partial
            download; else that is a user error.
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
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = list(pool.map(_digest, [folder / f"{table}.json" for table in _TABLES.split()]))
    key = hashlib.sha256(b"\0".join([str(_LAYOUT).encode(), *parts])).hexdigest()[:32]
    stored = parent / f"{identity}-{key}"
    scenes = _kept_scenes(stored)
    if scenes is None:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            scenes, stored = _build_and_keep(folder, stored)
        except OSError as error:  # as on a full disk, which the folder of temporary files may not be on
            _log.info("the index is not kept: %s", error)
            with file_errors("write the index of", folder):
                scenes, stored = _build_and_keep(folder, Path(tempfile.mkdtemp(prefix="boxwright-"), stored.name))
            atexit.register(shutil.rmtree, stored.parent, ignore_errors=True)
        for old in parent.glob(f"{identity}-*"):
            if old != stored:
                shutil.rmtree(old, ignore_errors=True)
    return _mapped(root, version, allow_missing, stored, tuple(scenes))


def _digest(file: Path) -> bytes:
    """Hash a table, which may be missing, or no file, which is told where it is read."""
    try:
        with open_file(file) as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except UserError as error:
        return str(error).encode(errors="surrogatepass")
    except OSError as error:
        return f"missing {error.errno}".encode()


def _checksum(file: Path) -> int:
    """Compute a checksum, which notices a half-written or damaged array faster than a hash."""
    return zlib.crc32(np.memmap(file, np.uint8, "r").data)


def _kept_scenes(stored: Path) -> list[str] | None:
    """Read the scenes of an index that was kept; None if it is not there or damaged."""
    try:
        meta: dict[str, Any] = json.loads((stored / _META).read_text(encoding="utf-8"))
        scenes, sums = meta["scenes"], meta["checksums"]
        wrong = meta["checksum"] != _checksum_of_meta(scenes, sums) or sums.keys() != {f.name for f in _arrays(stored)}
        if wrong or any(_checksum(stored / name) != total for name, total in sums.items()):
            raise ValueError("damaged")
        return scenes
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.info("the index %s cannot be used (%s) and is made again", stored, error)
        return None


def _arrays(stored: Path) -> list[Path]:
    return sorted(stored.glob("*.npy"))


def _checksum_of_meta(scenes: object, checksums: object) -> int:
    return zlib.crc32(json.dumps([scenes, checksums]).encode())


def _build_and_keep(folder: Path, target: Path) -> tuple[list[str], Path]:
    """Build the index of the tables in a folder, and keep it unless another process was first.

    Returns:
        names of the scenes, and the folder of arrays to be used.
    """
    remove_leftovers(target.parent)
    made = Hidden(target, folder=True)
    try:
        scenes = _build(folder, made.path)
        sums = {file.name: _checksum(file) for file in _arrays(made.path)}
        meta = {"scenes": scenes, "checksums": sums, "checksum": _checksum_of_meta(scenes, sums)}
        (made.path / _META).write_text(json.dumps(meta), encoding="utf-8")
        if _kept_scenes(target) is None:
            shutil.rmtree(target, ignore_errors=True)  # damaged, if it is there
            try:
                made.become(target)
            except OSError:
                if _kept_scenes(target) is None:
                    raise
    finally:
        made.drop()
    return scenes, target


def _build(folder: Path, made: Path) -> list[str]:
    """Read the tables and write the arrays; returns the names of the scenes."""
    samples = read_samples(folder)
    # Annotations first and freed at once: with the sensors they would be the peak of memory.
    annotations = read_annotations(folder, samples)
    offsets = np.searchsorted(annotations["sample"], np.arange(len(samples.rows) + 1)).astype(np.int64)
    np.save(made / "annotations.npy", annotations)
    del annotations
    arrays = read_sensors(folder, samples)
    arrays |= {"samples": samples.rows, "sample_tokens": samples.tokens, "annotation_offsets": offsets}
    for name, array in arrays.items():
        np.save(made / f"{name}.npy", array)
    images, intrinsics = arrays["images"], arrays["calibrations"]["intrinsic"].copy()
    del arrays
    # What every image shows, some samples at a time; images stand by sample.
    annotations = np.load(made / "annotations.npy", mmap_mode="r")
    counts = np.zeros(len(images), np.int64)
    header: dict[str, Any] = {"descr": npy.dtype_to_descr(SEEN), "fortran_order": False, "shape": (0,)}
    with (made / "seen.npy").open("wb") as stream:
        npy.write_array_header_1_0(stream, header)
        for start in with_progress(range(0, len(offsets) - 1, _SAMPLES_AT_ONCE), "projecting annotations"):
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
                depths, sizes = some["location"][:, 2], rows["size"][some["annotation"]]
                some["hidden"] = hidden_behind_others(some["box"], depths, sizes)
            seen["annotation"] += offsets[start]
            counts[low:high] = np.diff(ends)
            stream.write(seen.tobytes())
        # The header of a .npy file leaves room for the number of rows to grow, so it can be written again in place.
        stream.seek(0)
        npy.write_array_header_1_0(stream, header | {"shape": (int(counts.sum()),)})
    np.save(made / "seen_offsets.npy", np.concatenate(([0], np.cumsum(counts))).astype(np.int64))
    return samples.scenes


def absent(index: NuscenesIndex, rows: Ints) -> Bools:
    """Mark (N,) images or radar sweeps, given by their `row`, whose files are missing.

    Folders are listed, since asking for each file takes far longer.
    """
    by_folder: defaultdict[str, list[int]] = defaultdict(list)
    for position, row in enumerate(rows.tolist()):
        by_folder[os.path.dirname(index.file_name(row))].append(position)
    lost = np.zeros(len(rows), np.bool_)
    for folder, positions in by_folder.items():
        try:
            there = set(os.listdir(index.root / folder))
        except OSError:
            there = set[str]()
        lost[positions] = [os.path.basename(index.file_name(row)) not in there for row in rows[positions].tolist()]
    return lost


def doubtful_cameras(index: NuscenesIndex) -> Iterator[str]:
    """Say of each camera whose intrinsics do not fit the size of its images why, and of how many."""
    images, intrinsics = index.arrays["images"], index.arrays["calibrations"]["intrinsic"]
    kinds, counts = np.unique(images[["sensor", "calibration", "width", "height"]], return_counts=True)
    found: defaultdict[int, list[tuple[str, int]]] = defaultdict(list)
    for (sensor, calibration, width, height), count in zip(kinds.tolist(), counts.tolist(), strict=True):
        if doubt := doubt_intrinsics(intrinsics[calibration], width, height):
            found[sensor].append((doubt, count))
    for sensor, doubts in found.items():
        yield f"{CAMERAS[sensor - 1]}, {counted(sum(count for _, count in doubts), 'image')}: {doubts[0][0]}"
