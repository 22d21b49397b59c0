"""Contact sheets: a batch as the network sees it, with its labels, and labels beside predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from boxwright.data.structures import Batch, Detections
from boxwright.drawing.lettering import Image, draw_boxes, draw_tag

_SHEET_SIDE = 1920  # pixels; a sheet is never wider
_CELL_SIDE = 480  # pixels; small images are enlarged up to this so that names can be read
_CAPTION = (40, 40, 40)
_GAP = 4


def plot_batch(
    batch: Batch,
    names: Sequence[str],
    path: Path,
    *,
    detections: Sequence[Detections] | None = None,
    score_threshold: float = 0.25,
    max_images: int = 16,
) -> None:
    """Write a contact sheet of a batch with its labels, or with detections in their stead.

    Args:
        batch: images and targets, on any device.
        names: class names.
        path: the image file to write.
        detections: one an image, boxes in pixels of the ORIGINAL image; None draws the labels.
        score_threshold: detections below it are left out.
        max_images: at most so many images are drawn.
    """
    count = min(len(batch), max_images)
    columns = max(1, int(np.ceil(np.sqrt(count))))
    draw = _label_painter(batch, names)
    if detections is not None:
        draw = _detection_painter(batch, names, detections, score_threshold)
    painted = _cells(batch, count, columns, draw, lambda row: batch.paths[row].name)
    write_image(path, tile(painted, columns))


def plot_val_batch(
    batch: Batch,
    detections: Sequence[Detections],
    names: Sequence[str],
    path: Path,
    *,
    score_threshold: float = 0.25,
    max_images: int = 8,
) -> None:
    """Write a contact sheet of image pairs: labels on the left, predictions on the right.

    Args: as `plot_batch`; detections are in pixels of the ORIGINAL images.
    """
    count = min(len(batch), max_images)
    pairs = 1 if count < 2 else 2
    columns = 2 * pairs
    left = _cells(batch, count, columns, _label_painter(batch, names), lambda row: f"labels: {batch.paths[row].name}")
    painter = _detection_painter(batch, names, detections, score_threshold)
    right = _cells(batch, count, columns, painter, lambda row: "predictions")
    write_image(path, tile([cell for pair in zip(left, right, strict=True) for cell in pair], columns))


_Painter = Callable[[Image, int, float], None]


def _label_painter(batch: Batch, names: Sequence[str]) -> _Painter:
    targets = batch.targets

    def paint(cell: Image, row: int, zoom: float) -> None:
        valid = targets.valid[row].cpu()
        boxes_norm = targets.boxes_cxcywh[row].cpu()[valid].float().numpy()
        height, width = batch.images.shape[-2:]
        centre, half = boxes_norm[:, :2], boxes_norm[:, 2:] / 2
        boxes = np.concatenate([centre - half, centre + half], 1) * np.array([width, height, width, height]) * zoom
        draw_boxes(cell, boxes, targets.labels[row].cpu()[valid].numpy(), tuple(names), text_size=_text_size(cell))

    return paint


def _detection_painter(
    batch: Batch, names: Sequence[str], detections: Sequence[Detections], threshold: float
) -> _Painter:
    def paint(cell: Image, row: int, zoom: float) -> None:
        found = detections[row].cpu()
        keep = found.scores >= threshold
        scale = batch.scales[row].cpu().flip(0).repeat(2)
        pad = batch.pads[row].cpu().flip(0).repeat(2)
        boxes = ((found.boxes[keep].float() * scale + pad) * zoom).numpy()
        scores = found.scores[keep].float().numpy()
        draw_boxes(cell, boxes, found.labels[keep].numpy(), tuple(names), scores=scores, text_size=_text_size(cell))

    return paint


def _text_size(cell: Image) -> int:
    return max(9, min(13, cell.shape[1] // 42))


def _cells(batch: Batch, count: int, columns: int, paint: _Painter, caption: Callable[[int], str]) -> list[Image]:
    cells: list[Image] = []
    for row in range(count):
        image = np.ascontiguousarray(batch.images[row].cpu().permute(1, 2, 0).numpy())
        cell, zoom = fit(image, min(_CELL_SIDE, _SHEET_SIDE // columns))
        paint(cell, row, zoom)
        draw_tag(cell, caption(row), 0, cell.shape[0], _text_size(cell), _CAPTION)
        cells.append(cell)
    return cells


def fit(image: Image, side: int) -> tuple[Image, float]:
    """Scale an RGB image so that its longer side is `side` pixels; return a copy and the zoom."""
    height, width = image.shape[:2]
    zoom = side / max(height, width)
    size = max(1, round(width * zoom)), max(1, round(height * zoom))
    method = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=method), np.uint8), zoom


def tile(cells: Sequence[Image], columns: int) -> Image:
    """Lay RGB images of one width or another in rows on a white sheet."""
    if not cells:
        blank: Image = np.full((_CELL_SIDE, _CELL_SIDE, 3), 255, np.uint8)
        draw_tag(blank, "no images", _GAP, _GAP, 13, _CAPTION)
        return blank
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    height = max(cell.shape[0] for cell in cells)
    width = max(cell.shape[1] for cell in cells)
    sheet: NDArray[np.uint8] = np.full(
        (rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), 255, np.uint8
    )
    for position, cell in enumerate(cells):
        top = _GAP + position // columns * (height + _GAP)
        left = _GAP + position % columns * (width + _GAP)
        sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return sheet


def write_image(path: Path, image: Image, quality: int = 88) -> None:
    """Write an RGB image; the suffix picks the format. Paths may hold any characters."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix.lower() in {".jpg", ".jpeg"} else []
    done, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise OSError(f"OpenCV cannot write {path}")
    path.write_bytes(data.tobytes())
