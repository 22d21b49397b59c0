"""Pictures with bright rectangles on black, whose labels can be told from the pixels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from boxwright.data.index import DataIndex, Record


def write_scenes(
    root: Path, sizes_hw: list[tuple[int, int]], *, polygons: bool = False, suffix: str = ".png", boxes: int = 2
) -> DataIndex:
    """One picture for each size: `boxes` white rectangles on black, labelled exactly, classes 0, 1, ..."""
    root.mkdir(parents=True, exist_ok=True)
    records = []
    for number, (height, width) in enumerate(sizes_hw):
        rng = np.random.default_rng(number)
        pixels = np.zeros((height, width, 3), np.uint8)
        rows = []
        for column in range(boxes):  # each in a column of its own, so that they never overlap
            low, high = width * column // boxes, width * (column + 1) // boxes
            x1, x2 = np.sort(rng.choice(np.arange(low + 2, high - 2), 2, replace=False))
            y1, y2 = np.sort(rng.choice(np.arange(2, height - 2), 2, replace=False))
            x2, y2 = min(x2 + width // 8, high - 1), min(y2 + height // 8, height - 1)
            pixels[y1:y2, x1:x2] = 255
            rows.append((x1, y1, x2, y2))
        path = root / f"{number:03d}{suffix}"
        path.write_bytes(cv2.imencode(suffix, pixels)[1].tobytes())
        records.append(_record(path, height, width, np.array(rows, np.float32).reshape(-1, 4), polygons))
    return DataIndex.from_records(records, [str(k) for k in range(max(boxes, 1))])


def _record(path: Path, height: int, width: int, rows: np.ndarray, polygons: bool) -> Record:
    size = np.array([width, height] * 2, np.float32)
    corners = rows / size
    centres = np.concatenate([corners[:, :2] + corners[:, 2:], 2 * (corners[:, 2:] - corners[:, :2])], axis=1) / 2
    outlines = tuple(row[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2) for row in corners) if polygons else ()
    return Record(path, height, width, np.arange(len(rows), dtype=np.int32), centres.astype(np.float32), outlines)


def draw_boxes(boxes_cxcywh: np.ndarray, hw: tuple[int, int], grow: float = 0.0) -> np.ndarray:
    """Mask (H, W) of normalised boxes, each `grow` pixels larger on every side."""
    height, width = hw
    mask = np.zeros(hw, bool)
    for cx, cy, w, h in boxes_cxcywh:
        left, right = (cx - w / 2) * width - grow, (cx + w / 2) * width + grow
        top, bottom = (cy - h / 2) * height - grow, (cy + h / 2) * height + grow
        mask[max(round(top), 0) : max(round(bottom), 0), max(round(left), 0) : max(round(right), 0)] = True
    return mask
