"""Text and boxes painted into RGB arrays.

OpenCV letters are ASCII only, and class names need not be. Outlines of matplotlib's own font (DejaVu Sans, which comes
with the package: nothing is fetched) are filled instead, so Latin, Greek, Cyrillic and more render as they are.
"""

from __future__ import annotations

import colorsys
import warnings
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Color = tuple[int, int, int]

_GOLDEN_RATIO = 0.618034  # successive multiples spread hues evenly, however many classes there are
_SUBPIXEL_BITS = 4
_MAX_CHARACTERS = 40
_MAX_NAME = 28  # characters of a name that a score follows


@lru_cache(maxsize=512)
def class_color(index: int) -> Color:
    """Return the RGB colour that stands for a class in every picture; the same as in predictions."""
    saturation, value = ((0.82, 1.0), (0.6, 0.95), (1.0, 0.72))[index % 3]
    red, green, blue = colorsys.hsv_to_rgb((0.58 + index * _GOLDEN_RATIO) % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


@lru_cache(maxsize=2048)
def text_mask(text: str, size: int) -> NDArray[np.float32]:
    """Return the coverage of one line of text, (height, width) in 0..1, letters `size` pixels high.

    Text past 40 characters is cut with an ellipsis; line breaks and tabs become spaces.
    """
    line = " ".join(text.split())
    if not line:
        return np.zeros((round(size * 0.95) + round(size * 0.28), 1), np.float32)
    if len(line) > _MAX_CHARACTERS:
        line = line[: _MAX_CHARACTERS - 1] + "…"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # drawn as an empty box, which is good enough
        path = TextPath((0, 0), line.replace("$", r"\$"), size=size, prop=FontProperties(family="DejaVu Sans"))
    polygons = [np.asarray(polygon, np.float64) for polygon in path.to_polygons()]
    ascent, descent = round(size * 0.95), round(size * 0.28)
    width = max((int(np.ceil(polygon[:, 0].max())) for polygon in polygons), default=size // 3) + 1
    mask = np.zeros((ascent + descent, width), np.uint8)
    scale = 1 << _SUBPIXEL_BITS
    outlines = [np.rint((polygon * (1, -1) + (-0.5, ascent - 0.5)) * scale).astype(np.int32) for polygon in polygons]
    if outlines:
        cv2.fillPoly(mask, outlines, 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    return np.divide(mask, 255, dtype=np.float32)


def draw_text(image: Image, text: str, left: int, top: int, size: int, color: Color) -> None:
    """Paint one line of text into an RGB image, its upper left corner at (left, top); what sticks out is cut off."""
    mask = text_mask(text, size)
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + mask.shape[1], image.shape[1]), min(top + mask.shape[0], image.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    alpha = mask[y0 - top : y1 - top, x0 - left : x1 - left, None]
    patch = image[y0:y1, x0:x1]
    patch[:] = np.rint(patch * (1 - alpha) + np.asarray(color, np.float32) * alpha).astype(np.uint8)


def draw_tag(image: Image, text: str, left: int, top: int, size: int, background: Color) -> None:
    """Paint text on a filled plate that is moved to lie inside the image."""
    height, width = plate_size(text, size)
    left = max(0, min(left, image.shape[1] - width))
    top = max(0, min(top, image.shape[0] - height))
    image[top : top + height, left : left + width] = background
    red, green, blue = background
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140  # luma of ITU-R BT.601
    draw_text(image, text, left + 3, top + 1, size, (255, 255, 255) if dark else (20, 20, 20))


def plate_size(text: str, size: int) -> tuple[int, int]:
    """Return height and width of the plate under a line of text."""
    height, width = text_mask(text, size).shape
    return height + 2, width + 5


def draw_boxes(
    image: Image,
    boxes: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    names: tuple[str, ...],
    *,
    scores: NDArray[np.floating[Any]] | None = None,
    text_size: int = 11,
) -> None:
    """Paint boxes (N, 4) xyxy pixels with class names (and scores) into an RGB image, the first box on top.

    A name stands above its box, or below or inside it where that keeps it clear of the names of earlier boxes.
    """
    corners = [(round(x0), round(y0), round(x1), round(y1)) for x0, y0, x1, y1 in boxes.tolist()]
    for row in range(len(corners) - 1, -1, -1):
        x0, y0, x1, y1 = corners[row]
        cv2.rectangle(image, (x0, y0), (x1, y1), class_color(int(labels[row])), 2)
    taken: list[tuple[int, int, int, int]] = []
    plates: list[tuple[str, int, int, int]] = []
    for row, box in enumerate(corners):
        label = int(labels[row])
        text = names[label] if label < len(names) else str(label)
        text = text if scores is None else f"{text[:_MAX_NAME]} {scores[row]:.2f}"
        plate = _free_place(box, plate_size(text, text_size), image.shape, taken)
        taken.append(plate)
        plates.append((text, plate[0], plate[1], label))
    for text, left, top, label in reversed(plates):
        draw_tag(image, text, left, top, text_size, class_color(label))


def _free_place(
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    shape: tuple[int, ...],
    taken: list[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """Return a place (left, top, right, bottom) for a plate beside a box that overlaps none taken, if there is one."""
    x0, y0, x1, y1 = box
    height, width = size
    places = [(x0 - 1, y0 - height), (x0 - 1, y1), (x0 - 1, y0), (x1 - width, y0 - height), (x0 - 1, y0 - 2 * height)]
    found: list[tuple[int, int, int, int]] = []
    for left, top in places:
        left, top = max(0, min(left, shape[1] - width)), max(0, min(top, shape[0] - height))
        place = (left, top, left + width, top + height)
        if not any(place[0] < b[2] and b[0] < place[2] and place[1] < b[3] and b[1] < place[3] for b in taken):
            return place
        found.append(place)
    return found[0]
