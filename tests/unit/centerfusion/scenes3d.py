"""Small sources of camera + radar: images of smooth colours with random objects and radar points."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from boxwright.centerfusion.augment import Draws
from boxwright.centerfusion.samples import SampleArrays, SampleMaker, allocate
from boxwright.centerfusion.settings import FusionConfig
from boxwright.nuscenes.structures import ImageAnnotations, ImageRecord

SMALL = FusionConfig(imgsz=(96, 160))


def objects(count: int, hw: tuple[int, int], seed: int = 0) -> ImageAnnotations:
    """Objects all over an image; some reach beyond it."""
    rng = np.random.default_rng(seed)
    height, width = hw
    sides = rng.uniform(10, 60, (count, 2))
    corners = rng.uniform(0, (width, height), (count, 2))
    velocity = rng.normal(0, 3, (count, 3))
    velocity[::4] = np.nan
    return ImageAnnotations(
        labels=rng.integers(0, 10, count),
        boxes_xywh=np.concatenate([corners, sides], axis=1),
        dims=rng.uniform(1, 4, (count, 3)),
        locations=rng.uniform(-5, 5, (count, 3)),
        depths=rng.uniform(3, 50, count),
        rotation_y=rng.uniform(-np.pi, np.pi, count),
        alpha=rng.uniform(-np.pi, np.pi, count),
        amodel_centers=corners + sides / 2,
        attributes=rng.integers(-1, 8, count),
        velocity_cam=velocity,
        is_crowd=np.zeros(count, np.bool_),
    )


def points(count: int, seed: int = 0) -> np.ndarray:
    """(18, count) radar points before the camera."""
    rng = np.random.default_rng(seed)
    radar = rng.normal(0, 5, (18, count))
    radar[2] = rng.uniform(2, 70, count)
    radar[0] *= radar[2] / 20
    radar[1] = 1.0
    return radar


def record(path: Path, hw: tuple[int, int], annotations: ImageAnnotations) -> ImageRecord:
    height, width = hw
    calib = np.array([[0.8 * width, 0, width / 2, 0], [0, 0.8 * width, height / 2, 0], [0, 0, 1, 0]], dtype=np.float64)
    return ImageRecord(path, width, height, 1, 0, calib, np.eye(4), annotations)


@dataclass
class Scenes:
    """A source kept in memory; counts how often radar was asked for."""

    records: list[ImageRecord]
    radars: list[np.ndarray]
    radar_reads: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)

    def record(self, position: int) -> ImageRecord:
        return self.records[position]

    def radar(self, position: int) -> np.ndarray:
        self.radar_reads.append(position)
        return self.radars[position]


def write_image(path: Path, hw: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = cv2.resize(rng.integers(0, 256, (5, 8, 3), np.uint8), hw[::-1], interpolation=cv2.INTER_CUBIC)
    data = cv2.imencode(path.suffix, pixels)[1]
    data.tofile(path)


def write_grain(path: Path, hw: tuple[int, int]) -> None:
    """Write an image in which neighbours differ."""
    pixels = np.random.default_rng(0).integers(0, 256, (*hw, 3), np.uint8)
    cv2.imencode(path.suffix, pixels)[1].tofile(path)


def write_scenes(folder: Path, count: int, hw: tuple[int, int] = (180, 320), num_objects: int = 5) -> Scenes:
    """JPEG files of one size, with objects and radar."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for image in range(count):
        path = folder / f"obraz – 画像 {image}.jpg"
        write_image(path, hw, image)
        records.append(record(path, hw, objects(num_objects, hw, image)))
    return Scenes(records, [points(40, image) for image in range(count)])


def empty_sample(settings: FusionConfig) -> SampleArrays:
    """Arrays of one image to be written to."""
    return allocate(settings, 1)[1].row(0)


def make_sample(source: Any, position: int, settings: FusionConfig, rng: Draws | None) -> SampleArrays:
    """One sample by itself."""
    sample = empty_sample(settings)
    SampleMaker(source, settings).write(position, rng, sample)
    return sample


def annotated(
    boxes: Tensor, valid: Tensor, depth: Tensor, dims: Tensor, alpha: Tensor, calibs: Tensor, radar: Tensor
) -> Any:
    """What the association reads of a batch."""
    targets = SimpleNamespace(boxes=boxes, valid=valid, annotation_depth=depth, dims=dims, alpha=alpha)
    return SimpleNamespace(targets=targets, calibs=calibs, radar=radar)
