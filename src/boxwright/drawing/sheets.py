"""Contact sheets: a batch as the network sees it, with its labels, and labels beside predictions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from boxwright.data.structures import Batch, Detections
from boxwright.drawing.boxes import draw_boxes
from boxwright.drawing.canvas import TAG, fit, write_image
from boxwright.drawing.text import class_name, draw_label
from boxwright.ops.arrays import Image

_SHEET_SIDE = 1920  # pixels; a sheet is never wider
CELL_SIDE = 480  # pixels; small images are enlarged up to this so that names can be read
JPEG_QUALITY = 88
_GAP = 4
_MAX_IMAGES, _MAX_PAIRS = 16, 8  # in one sheet
LOWEST_SCORE = 0.25  # of a detection that is shown


def plot_batch(batch: Batch, names: Sequence[str], path: Path) -> None:
    """Write a contact sheet of the first images of a batch, on any device, with their labels."""
    count = min(len(batch), _MAX_IMAGES)
    columns = max(1, int(np.ceil(np.sqrt(count))))
    cells = [_cell(batch, row, columns, names, batch.paths[row].name) for row in range(count)]
    write_image(path, tile(cells, columns), JPEG_QUALITY)


def plot_val_batch(batch: Batch, detections: Sequence[Detections], names: Sequence[str], path: Path) -> None:
    """Write a contact sheet of image pairs: labels on the left, predictions, in ORIGINAL pixels, on the right."""
    count = min(len(batch), _MAX_PAIRS)
    columns = 2 if count < 2 else 4
    cells: list[Image] = []
    for row in range(count):
        title = f"labels: {batch.paths[row].name}"
        cells += labels_and_predictions(batch, row, columns, names, detections[row].cpu(), title)
    write_image(path, tile(cells, columns), JPEG_QUALITY)


def labels_and_predictions(
    batch: Batch, row: int, columns: int, names: Sequence[str], found: Detections, title: str
) -> list[Image]:
    """Paint an image of a letterboxed batch twice, without its border: with labels, and with detections.

    Args:
        batch: images and labels.
        row: of the image in the batch.
        columns: of the sheet, which set the size.
        names: of classes.
        found: detections in ORIGINAL pixels; those of a low score are not drawn.
        title: of the first one.
    """
    pads, sizes = batch.pads[row], batch.original_sizes[row] * batch.scales[row]
    top, left, bottom, right = torch.cat((pads, pads + sizes)).round().int().tolist()
    content = slice(top, bottom), slice(left, right)
    return [
        _cell(batch, row, columns, names, title, content),
        _cell(batch, row, columns, names, "predictions", content, found),
    ]


def _cell(
    batch: Batch,
    row: int,
    columns: int,
    names: Sequence[str],
    title: str,
    content: tuple[slice, slice] = (slice(None), slice(None)),
    found: Detections | None = None,
) -> Image:
    """Paint one image of a batch with its labels, or with detections instead, and a title in the lower left corner."""
    side = min(CELL_SIDE, _SHEET_SIDE // columns)
    image = np.ascontiguousarray(batch.images[row].cpu().permute(1, 2, 0).numpy()[..., ::-1])  # RGB to BGR
    height, width = image.shape[:2]
    image = image[content]
    zoom = side / max(image.shape[:2])
    corner = np.array([content[1].start or 0, content[0].start or 0] * 2)
    if found is None:
        targets, valid = batch.targets, batch.targets.valid[row].cpu()
        boxes_norm = targets.boxes_cxcywh[row].cpu()[valid].float().numpy()
        centre, half = boxes_norm[:, :2], boxes_norm[:, 2:] / 2
        boxes = np.concatenate([centre - half, centre + half], 1) * np.array([width, height, width, height])
        labels = targets.labels[row].cpu()[valid].numpy()
        captions = [class_name(names, int(label)) for label in labels]
    else:
        keep = found.scores >= LOWEST_SCORE
        # Scales and pads are (y, x) of the letterbox; flipped and repeated they fit xyxy.
        scale, pad = (values[row].cpu().flip(0).repeat(2) for values in (batch.scales, batch.pads))
        boxes = (found.boxes[keep].float() * scale + pad).numpy()
        labels, scores = found.labels[keep].numpy(), found.scores[keep].tolist()
        captions = [f"{class_name(names, int(label))} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    cell = fit(image, (side, side))
    size = max(9, min(13, cell.shape[1] // 42))  # of letters, pixels
    cell = draw_boxes(cell, (boxes - corner) * zoom, captions, labels, line_thickness=2, text_size=size)
    draw_label(cell, title, 0, cell.shape[0], size, TAG)
    return cell


def tile(cells: Sequence[Image], columns: int) -> Image:
    """Place images of one size or another in rows on a white sheet, each row and column as large as it must be."""
    if not cells:
        blank: Image = np.full((CELL_SIDE, CELL_SIDE, 3), 255, np.uint8)
        draw_label(blank, "no images", _GAP, _GAP, 13, TAG)
        return blank
    heights = [max(cell.shape[0] for cell in cells[at : at + columns]) + _GAP for at in range(0, len(cells), columns)]
    widths = [max(cell.shape[1] for cell in cells[at::columns]) + _GAP for at in range(min(columns, len(cells)))]
    sheet: Image = np.full((sum(heights) + _GAP, sum(widths) + _GAP, 3), 255, np.uint8)
    for position, cell in enumerate(cells):
        row, column = divmod(position, columns)
        top, left = _GAP + sum(heights[:row]), _GAP + sum(widths[:column])
        sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return sheet
