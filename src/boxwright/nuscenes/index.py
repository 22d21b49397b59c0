"""The index of a nuScenes version: its key frames, images, radar sweeps and annotations as flat arrays on disk.

Built once from the tables, which are read record by record; later runs, other ranks and workers map the same files.
What is not here: what a split has (split), reading radar files (radar), writing the published format (convert).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.data.cache import user_cache_dir
from boxwright.nuscenes.annotations import hidden_behind_others, seen_in_images
from boxwright.nuscenes.build_annotations import read_annotations
from boxwright.nuscenes.build_sensors import read_samples, read_sensors
from boxwright.nuscenes.index_file import IndexFolder, RowWriter, map_arrays, read_folder, tables_digest
from boxwright.nuscenes.layout import SEEN
from boxwright.nuscenes.tables import TABLES, version_folder

_TABLES = tuple(name for name in TABLES if name not in ("visibility", "log", "map"))  # that shape the index
_CHUNK = 32  # samples whose annotations are projected together


@dataclass(frozen=True, slots=True, eq=False)
class NuscenesIndex:
    """A version of nuScenes. Arrays are read-only files mapped into memory; rows as in `layout`.

    Args:
        root: folder of samples and sweeps.
        version: name of the folder of tables.
        allow_missing: leave out images and radar sweeps whose files are not there.
        stored: folder of the arrays.
        scenes: names, in the order of their samples.
        arrays: by name: samples, sample_tokens, images, image_names, image_name_offsets, radars, radar_names,
            radar_name_offsets, poses, calibrations, annotations, annotation_offsets (by sample), seen, seen_offsets (by
            image).
    """

    root: Path
    version: str
    allow_missing: bool
    stored: Path
    scenes: tuple[str, ...]
    arrays: dict[str, NDArray[Any]]

    @property
    def folder(self) -> Path:
        """The folder of tables."""
        return self.root / self.version

    def image_name(self, image: int) -> str:
        """File of an image, relative to the root."""
        return _name(self.arrays["image_names"], self.arrays["image_name_offsets"], image)

    def radar_name(self, sweep: int) -> str:
        """File of a radar sweep, relative to the root."""
        return _name(self.arrays["radar_names"], self.arrays["radar_name_offsets"], sweep)

    def __reduce__(self) -> tuple[Any, ...]:
        # A process that is started afresh maps the same files; sending the arrays would copy them.
        return _mapped, (self.root, self.version, self.allow_missing, self.stored, self.scenes)


def _mapped(root: Path, version: str, allow_missing: bool, stored: Path, scenes: tuple[str, ...]) -> NuscenesIndex:
    return NuscenesIndex(root, version, allow_missing, stored, scenes, map_arrays(stored))


def _name(text: NDArray[Any], offsets: NDArray[Any], position: int) -> str:
    return text[offsets[position] : offsets[position + 1]].tobytes().decode("utf-8", "surrogateescape")


def open_nuscenes(
    root: str | Path, version: str, *, allow_missing: bool = False, cache_dir: Path | None = None
) -> NuscenesIndex:
    """The index of a version, from the cache if no table has changed, else built from the tables and kept.

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


def _write_seen(made: IndexFolder, images: NDArray[Any], intrinsics: NDArray[Any], offsets: NDArray[np.int64]) -> None:
    """Write what every image shows, some samples at a time. Images stand by sample."""
    annotations = np.load(made.path / "annotations.npy", mmap_mode="r")
    writer = RowWriter(made.path / "seen.npy", SEEN)
    counts = np.zeros(len(images), np.int64)
    for start in range(0, len(offsets) - 1, _CHUNK):
        stop = min(start + _CHUNK, len(offsets) - 1)
        low, high = np.searchsorted(images["sample"], (start, stop))
        rows = np.array(annotations[offsets[start] : offsets[stop]])
        part = images[low:high]
        image, annotation = _pairs(part["sample"] - start, offsets[start : stop + 1] - offsets[start])
        seen, of = seen_in_images(part, intrinsics[part["calibration"]], rows, (image, annotation))
        ends = np.searchsorted(of, np.arange(len(part) + 1))
        for first, last in pairwise(ends):
            some = seen[first:last]
            some["hidden"] = hidden_behind_others(some["box"], some["location"][:, 2], rows["size"][some["annotation"]])
        seen["annotation"] += offsets[start]
        counts[low:high] = np.diff(ends)
        writer.append(seen)
    writer.close()
    made.write("seen_offsets", np.concatenate(([0], np.cumsum(counts))).astype(np.int64))


def _pairs(samples: NDArray[Any], offsets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every image with every annotation of its sample."""
    counts = np.diff(offsets)[samples]
    image = np.repeat(np.arange(len(samples)), counts)
    ends = np.cumsum(counts)
    return image, np.arange(len(image)) - np.repeat(ends - counts, counts) + np.repeat(offsets[samples], counts)
