"""Records of the published converted format, as a split gives them; test images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.nuscenes.structures import ImageAnnotations, ImageRecord


def record_of(image: dict[str, Any], annotations: list[dict[str, Any]], folder: Path) -> ImageRecord:
    """One image of a converted file, its annotations in their order; null is NaN."""

    def column(key: str, *shape: int) -> np.ndarray:
        values = np.array([item[key] for item in annotations], dtype=np.float64)
        return values.reshape(len(annotations), *shape)

    return ImageRecord(
        path=folder / image["file_name"],
        width=image["width"],
        height=image["height"],
        sensor=image["sensor_id"],
        sample=0,
        calib=np.array(image["calib"], dtype=np.float64),
        global_from_cam=np.array(image["trans_matrix"], dtype=np.float64),
        annotations=ImageAnnotations(
            labels=column("category_id").astype(np.int64) - 1,
            boxes_xywh=column("bbox", 4),
            dims=column("dim", 3),
            locations=column("location", 3),
            depths=column("depth"),
            rotation_y=column("rotation_y"),
            alpha=column("alpha"),
            amodel_centers=column("amodel_center", 2),
            attributes=column("attributes").astype(np.int64) - 1,
            velocity_cam=column("velocity_cam", 4)[:, :3],
            is_crowd=column("iscrowd") > 0,
        ),
    )


@dataclass(frozen=True)
class OneImage:
    """A source of one image."""

    item: ImageRecord
    points: np.ndarray

    def __len__(self) -> int:
        return 1

    def record(self, position: int) -> ImageRecord:
        assert position == 0
        return self.item

    def radar(self, position: int) -> np.ndarray:
        assert position == 0
        return self.points


def synthetic_image() -> np.ndarray:
    """(900, 1600, 3) uint8 BGR, the image that the golden README describes."""
    y, x = np.mgrid[:900, :1600].astype(np.float64)
    wave = np.floor(127.5 + 127.5 * np.sin(2 * np.pi * x / 400) * np.cos(2 * np.pi * y / 300))
    return np.stack([np.floor(255 * x / 1599), np.floor(255 * y / 899), wave], axis=-1).astype(np.uint8)
