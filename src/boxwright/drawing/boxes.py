"""Boxes with labels painted into an image, with OpenCV only.

OpenCV 5 writes any script; OpenCV 4 only ASCII, and shows a question mark for other letters.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from boxwright.data.letterbox import Image

FONT = cv2.FONT_HERSHEY_SIMPLEX
GOLDEN_RATIO = 0.618034  # steps of this share of the colour circle never come close to each other
DARK, LIGHT = (24, 24, 24), (255, 255, 255)


@lru_cache(maxsize=1024)
def class_color(label: int) -> tuple[int, int, int]:
    """A strong BGR colour, the same for a class in every image."""
    saturation, value = ((0.82, 1.0), (0.6, 0.95), (1.0, 0.72))[label % 3]
    red, green, blue = colorsys.hsv_to_rgb((0.58 + label * GOLDEN_RATIO) % 1.0, saturation, value)
    return round(blue * 255), round(green * 255), round(red * 255)


def draw_boxes(
    image: Image,
    boxes: NDArray[np.float32],
    captions: Sequence[str],
    labels: NDArray[np.int64],
    *,
    line_thickness: int = 3,
) -> Image:
    """A copy of the image with its boxes.

    Args:
        image: (H, W, 3) BGR.
        boxes: (N, 4) xyxy pixels, best first.
        captions: one text a box; an empty one draws no plate.
        labels: (N,) class of each box, which sets its colour.
        line_thickness: pixels; letters grow with it.
    """
    canvas = np.ascontiguousarray(image).copy()
    order = range(len(boxes) - 1, -1, -1)  # the best box lies on top
    for i in order:
        left, top, right, bottom = (round(float(side)) for side in boxes[i])
        color = class_color(int(labels[i]))
        cv2.rectangle(canvas, (left, top), (right, bottom), color, line_thickness, cv2.LINE_AA)
    for i in order:
        if captions[i]:
            _draw_plate(canvas, captions[i], boxes[i], class_color(int(labels[i])), line_thickness)
    return canvas


def _draw_plate(canvas: Image, text: str, box: NDArray[np.float32], color: tuple[int, int, int], line: int) -> None:
    """Text on a filled plate above the box, or inside it where there is no room; never outside the image."""
    scale, weight = max(line, 2) / 5, max(line - 1, 1)
    (width, height), descent = cv2.getTextSize(text, FONT, scale, weight)
    pad, half = max(2, line), line // 2
    plate_height, plate_width = height + descent + pad, width + 2 * pad
    left = max(0, min(round(float(box[0])) - half, canvas.shape[1] - plate_width))
    top = round(float(box[1])) - half - plate_height
    if top < 0:
        top = max(0, min(round(float(box[1])), canvas.shape[0] - plate_height))
    cv2.rectangle(canvas, (left, top), (left + plate_width - 1, top + plate_height - 1), color, cv2.FILLED)
    blue, green, red = color
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140  # luma of ITU-R BT.601
    baseline = top + pad // 2 + height
    cv2.putText(canvas, text, (left + pad, baseline), FONT, scale, DARK if bright else LIGHT, weight, cv2.LINE_AA)
