"""Small random scenes for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from boxwright.data.index import DataIndex, Record
from boxwright.data.structures import Detections

HEIGHT, WIDTH = 120, 160


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) float32 xyxy pixels inside the image."""
    centre = rng.uniform([20, 20], [WIDTH - 20, HEIGHT - 20], (count, 2))
    half = rng.uniform(4, 18, (count, 2))
    return np.concatenate((centre - half, centre + half), axis=1).astype(np.float32)


def record(boxes: np.ndarray, classes: np.ndarray, name: str = "a") -> Record:
    """An image with these boxes, xyxy pixels, as labels."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    side = np.array([WIDTH, HEIGHT])
    norm = np.concatenate(((boxes[:, :2] + boxes[:, 2:]) / 2 / side, (boxes[:, 2:] - boxes[:, :2]) / side), axis=1)
    return Record(Path(f"{name}.jpg"), HEIGHT, WIDTH, np.asarray(classes, np.int32), norm.astype(np.float32))


def detections(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> Detections:
    """Detections of one image, best first."""
    order = np.argsort(-np.asarray(scores), kind="stable")
    return Detections(
        torch.tensor(np.asarray(boxes, np.float32).reshape(-1, 4)[order]),
        torch.tensor(np.asarray(scores, np.float32)[order]),
        torch.tensor(np.asarray(labels, np.int64)[order]),
    )


def random_scene(seed: int, num_images: int = 8, num_classes: int = 3) -> tuple[DataIndex, list[Detections]]:
    """Images with 0 to 6 labels; detections near some of them, elsewhere, or none."""
    rng = np.random.default_rng(seed)
    records: list[Record] = []
    found: list[Detections] = []
    for image in range(num_images):
        boxes = random_boxes(rng, int(rng.integers(0, 7)))
        classes = rng.integers(0, num_classes, len(boxes))
        records.append(record(boxes, classes, f"image {image}"))
        near = np.repeat(boxes, rng.integers(0, 4, len(boxes)), axis=0)
        guess = np.concatenate((near + rng.normal(0, 2, near.shape), random_boxes(rng, int(rng.integers(0, 4)))))
        found.append(detections(guess, rng.random(len(guess)), rng.integers(0, num_classes, len(guess))))
    return DataIndex.from_records(records, [f"c{i}" for i in range(num_classes)]), found
