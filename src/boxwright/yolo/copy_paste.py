"""Copy-paste: objects with polygons are pasted once more, mirrored, where they cover little of the others.

Source: Ghiasi et al., "Simple copy-paste is a strong data augmentation method for instance segmentation", CVPR 2021;
the published YOLOv5 6.x form (spec B7, golden augment/copy_paste): the image is mirrored left to right and the object
cut out there; an object that would hide 30 % of any box is left out.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from boxwright.data.letterbox import Image
from boxwright.yolo.shapes import Shapes, concatenate

_MAX_HIDDEN = 0.30


def draw_paste_order(rng: np.random.Generator, shapes: Shapes, share: float) -> NDArray[np.int64]:
    """Draw which objects are to be pasted: that share of those with a polygon, in random order."""
    with_polygon = np.flatnonzero(np.diff(shapes.offsets))
    return rng.choice(with_polygon, size=round(share * len(with_polygon)), replace=False)


def choose_pastes(shapes: Shapes, order: NDArray[np.int64], width: int) -> tuple[NDArray[np.int64], Shapes]:
    """Go through `order` and take each object whose mirror image hides little of every box so far.

    Args:
        shapes: objects on a canvas.
        order: objects to try.
        width: width of the canvas.

    Returns:
        The objects taken, and all objects with the mirrored ones appended.
    """
    taken: list[int] = []
    boxes = shapes.boxes
    mirror = shapes.mirrored(order, width)
    for item, box in zip(order, mirror.boxes, strict=True):
        if (_share_hidden(box, boxes) < _MAX_HIDDEN).all():
            taken.append(int(item))
            boxes = np.concatenate([boxes, box[None]])
    chosen = np.array(taken, dtype=np.int64)
    return chosen, concatenate([shapes, shapes.mirrored(chosen, width)]) if taken else shapes


def _share_hidden(box: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Share of the area of each of `boxes` that lies under `box`."""
    overlap = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + np.float32(1e-16)
    return overlap.clip(0).prod(axis=1) / area


def paste_mirrored(image: Image, shapes: Shapes, items: NDArray[np.int64]) -> None:
    """Paste the mirror images of the objects `items` into `image`, in place."""
    mask = np.zeros(image.shape[:2], dtype=np.uint8)
    for item in items:
        outline = shapes.polygon(item).astype(np.int32)[:, None, :]
        cv2.drawContours(mask, [outline], -1, 255, cv2.FILLED)
    cv2.copyTo(cv2.flip(image, 1), cv2.flip(mask, 1), image)
