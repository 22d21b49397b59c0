"""2-D boxes with labels painted into an image."""

from collections.abc import Sequence

import cv2
import numpy as np

from boxwright.drawing.canvas import class_color
from boxwright.drawing.text import Label, draw_labels
from boxwright.ops.arrays import Array, Image, Ints


def draw_boxes(
    image: Image,
    boxes: Array,
    captions: Sequence[str],
    labels: Ints,
    *,
    line_thickness: int = 3,
    text_size: int | None = None,
) -> Image:
    """Return a copy of the image with its boxes.

    Args:
        image: (H, W, 3) BGR.
        boxes: (N, 4) xyxy pixels, best first: the best one lies on top.
        captions: one text per box; an empty one gets no label.
        labels: (N,) class of each box, which sets its color.
        line_thickness: pixels.
        text_size: pixels; None: letters grow with the lines.
    """
    canvas = np.ascontiguousarray(image).copy()
    # OpenCV shifts coordinates of anti-aliased lines by 16 bits: numbers of more than 15 bits would wrap around.
    limit = 1 << 14
    corners = np.clip(np.nan_to_num(boxes.astype(np.float64)), -limit, max(limit, *canvas.shape[:2]))
    colors = [class_color(int(label)) for label in labels]
    for (left, top, right, bottom), color in zip(
        np.rint(corners[::-1]).astype(int).tolist(), colors[::-1], strict=True
    ):
        cv2.rectangle(canvas, (left, top), (right, bottom), color, line_thickness, cv2.LINE_AA)
    size = text_size or 6 * max(line_thickness, 2)
    wanted = [
        Label(text, (x0, y0, x1, y1), color)
        for text, (x0, y0, x1, y1), color in zip(captions, corners.tolist(), colors, strict=True)
    ]
    draw_labels(canvas, wanted, size)
    return canvas
