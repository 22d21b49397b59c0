"""Contact sheets of camera and radar batches: what the network sees, with its targets and its radar map."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from boxwright.centerfusion.color import MEAN, STD
from boxwright.centerfusion.structures import FusionBatch
from boxwright.drawing.lettering import Image, draw_boxes, draw_tag
from boxwright.drawing.sheets import fit, tile, write_image
from boxwright.nuscenes.structures import CLASS_NAMES

_CELL_SIDE = 640
_CAPTION = (40, 40, 40)
_FAR = 60.0  # metres, the far end of the colour scale


def plot_fusion_batch(batch: FusionBatch, path: Path, *, max_images: int = 8) -> None:
    """Write a contact sheet: each image with the boxes of its targets, over the radar pillars coloured by depth.

    Args:
        batch: on any device.
        path: the image file to write.
        max_images: at most so many images are drawn.
    """
    cells = [_cell(batch, row) for row in range(min(len(batch), max_images))]
    write_image(path, tile(cells, 2))


def _cell(batch: FusionBatch, row: int) -> Image:
    pixels = batch.images[row].cpu().permute(1, 2, 0).numpy() * STD + MEAN
    image = np.ascontiguousarray((pixels[..., ::-1] * 255).clip(0, 255).astype(np.uint8))
    cell, zoom = fit(_with_radar(image, batch.radar[row, 0].cpu().numpy()), _CELL_SIDE)
    targets = batch.targets
    valid = targets.valid[row].cpu()
    boxes = targets.boxes[row].cpu()[valid].numpy() * (image.shape[0] / batch.radar.shape[2]) * zoom
    draw_boxes(cell, boxes, targets.label[row].cpu()[valid].numpy(), CLASS_NAMES, text_size=11)
    draw_tag(cell, batch.paths[row].name, 0, cell.shape[0], 11, _CAPTION)
    return cell


def _with_radar(image: Image, depth: NDArray[np.float32]) -> Image:
    """The image with radar pillars over it: near ones red, far ones blue."""
    height, width = image.shape[:2]
    depth = np.asarray(cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST), np.float32)
    shades = (255 * (1 - np.minimum(depth / _FAR, 1))).astype(np.uint8)
    colors = cv2.applyColorMap(shades, cv2.COLORMAP_TURBO)[..., ::-1]
    return np.where(depth[..., None] > 0, colors, image).astype(np.uint8)
