"""Contact sheets: a batch as the network sees it, with its labels, and labels beside predictions."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from boxwright.data.structures import Batch, Detections
from boxwright.drawing.boxes import draw_boxes
from boxwright.drawing.canvas import TAG, fit, write_image
from boxwright.drawing.text import class_name, draw_label
from boxwright.ops.arrays import Image

_SHEET_SIDE = 1920  # pixels; a sheet is never wider
CELL_SIDE = 480  # pixels; small images are enlarged up to this so that names can be read
JPEG_QUALITY = 88
_GAP = 4

# What paints boxes: (cell, row of the batch, zoom from pixels of the batch to those of the cell) -> cell.
_Painter = Callable[[Image, int, float], Image]


def plot_batch(
    batch: Batch,
    names: Sequence[str],
    path: Path,
    *,
    detections: Sequence[Detections] | None = None,
    score_threshold: float = 0.25,
    max_images: int = 16,
) -> None:
    """Write a contact sheet of a batch with its labels, or with detections instead.

    Args:
        batch: on any device.
        names: of the classes.
        detections: one per image, boxes in pixels of the ORIGINAL image; None draw the labels.
    """
    count = min(len(batch), max_images)
    columns = max(1, int(np.ceil(np.sqrt(count))))
    draw = _label_painter(batch, names)
    if detections is not None:
        draw = _detection_painter(batch, names, detections, score_threshold)
    painted = _cells(batch, count, columns, draw, lambda row: batch.paths[row].name)
    write_image(path, tile(painted, columns), JPEG_QUALITY)


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
    write_image(path, tile([cell for pair in zip(left, right, strict=True) for cell in pair], columns), JPEG_QUALITY)


def _label_painter(batch: Batch, names: Sequence[str]) -> _Painter:
    """Return a painter of the labels of a batch."""
    targets = batch.targets
    height, width = batch.images.shape[-2:]

    def paint(cell: Image, row: int, zoom: float) -> Image:
        valid = targets.valid[row].cpu()
        boxes_norm = targets.boxes_cxcywh[row].cpu()[valid].float().numpy()
        centre, half = boxes_norm[:, :2], boxes_norm[:, 2:] / 2
        boxes = np.concatenate([centre - half, centre + half], 1) * np.array([width, height, width, height]) * zoom
        labels = targets.labels[row].cpu()[valid].numpy()
        captions = [class_name(names, int(label)) for label in labels]
        return draw_boxes(cell, boxes, captions, labels, line_thickness=2, text_size=text_size(cell))

    return paint


def _detection_painter(
    batch: Batch, names: Sequence[str], detections: Sequence[Detections], threshold: float
) -> _Painter:
    """Return a painter of detections, which are in pixels of the original images."""

    def paint(cell: Image, row: int, zoom: float) -> Image:
        found = detections[row].cpu()
        keep = found.scores >= threshold
        # Scales and pads are (y, x) of the letterbox; flipped and repeated they fit xyxy.
        scale = batch.scales[row].cpu().flip(0).repeat(2)
        pad = batch.pads[row].cpu().flip(0).repeat(2)
        boxes = ((found.boxes[keep].float() * scale + pad) * zoom).numpy()
        labels, scores = found.labels[keep].numpy(), found.scores[keep].tolist()
        captions = [f"{class_name(names, int(label))} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
        return draw_boxes(cell, boxes, captions, labels, line_thickness=2, text_size=text_size(cell))

    return paint


def _cells(batch: Batch, count: int, columns: int, paint: _Painter, caption: Callable[[int], str]) -> list[Image]:
    """Paint the first images of a batch, each with its caption in the lower left corner."""
    cells: list[Image] = []
    side = min(CELL_SIDE, _SHEET_SIDE // columns)
    for row in range(count):
        image = np.ascontiguousarray(batch.images[row].cpu().permute(1, 2, 0).numpy()[..., ::-1])  # RGB to BGR
        cell = paint(fit(image, (side, side)), row, side / max(image.shape[:2]))
        draw_label(cell, caption(row), 0, cell.shape[0], text_size(cell), TAG)
        cells.append(cell)
    return cells


def text_size(cell: Image) -> int:
    """Return the size of letters, pixels, in an image of a sheet."""
    return max(9, min(13, cell.shape[1] // 42))


def tile(cells: Sequence[Image], columns: int) -> Image:
    """Place images of one size or another in rows on a white sheet."""
    if not cells:
        blank: Image = np.full((CELL_SIDE, CELL_SIDE, 3), 255, np.uint8)
        draw_label(blank, "no images", _GAP, _GAP, 13, TAG)
        return blank
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    height = max(cell.shape[0] for cell in cells) + _GAP
    width = max(cell.shape[1] for cell in cells) + _GAP
    sheet: Image = np.full((rows * height + _GAP, columns * width + _GAP, 3), 255, np.uint8)
    for position, cell in enumerate(cells):
        top, left = _GAP + position // columns * height, _GAP + position % columns * width
        sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return sheet
