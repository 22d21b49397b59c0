"""Lettering on filled plates that keep clear of each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2

from boxwright.data.letterbox import Image
from boxwright.drawing.boxes import DARK, FONT, LIGHT

Color = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]

SMALLEST_LETTERS = 0.34  # OpenCV's scale below which letters cannot be read
LETTERS = 0.62  # the same on an image of reference width


@dataclass(frozen=True)
class Plate:
    """A caption that is wanted.

    Args:
        text: one line.
        box: left, top, right, bottom of what it belongs to, pixels.
        color: BGR of the plate.
    """

    text: str
    box: tuple[float, float, float, float]
    color: Color


def letter_scale(unit: float) -> float:
    """OpenCV's scale of letters for an image `unit` times as large as the reference."""
    return max(SMALLEST_LETTERS, LETTERS * unit)


def place_plates(canvas: Image, plates: Sequence[Plate], scale: float) -> None:
    """Paint captions beside their boxes, the most important first; one that finds no free place is left out.

    A box lower than its letters is too far away for a caption.
    """
    taken: list[Rectangle] = []
    for plate in plates:
        width, height, _ = measure(plate.text, scale)
        if plate.box[3] - plate.box[1] < height * 0.75:
            continue
        place = _free_place(plate.box, (width, height), (canvas.shape[1], canvas.shape[0]), taken)
        if place is not None:
            taken.append(place)
            draw_plate(canvas, plate.text, place[0], place[1], scale, plate.color)


def measure(text: str, scale: float) -> tuple[int, int, int]:
    """Width and height of the plate of a text, and how far its baseline lies below its top, pixels."""
    (width, height), descent = cv2.getTextSize(text, FONT, scale, 1)
    pad = max(1, round(4 * scale))
    return width + 2 * pad, height + descent + pad, height + pad // 2


def draw_plate(canvas: Image, text: str, left: int, top: int, scale: float, color: Color) -> None:
    """Paint a text on a filled plate, its upper left corner at (left, top)."""
    width, height, baseline = measure(text, scale)
    cv2.rectangle(canvas, (left, top), (left + width - 1, top + height - 1), color, cv2.FILLED)
    blue, green, red = color
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140  # luma of ITU-R BT.601
    write(canvas, text, left + max(1, round(4 * scale)), top + baseline, scale, DARK if bright else LIGHT)


def write(canvas: Image, text: str, left: int, baseline: int, scale: float, color: Color) -> int:
    """Paint a line of text without a plate; returns its width."""
    cv2.putText(canvas, text, (left, baseline), FONT, scale, color, 1, cv2.LINE_AA)
    return cv2.getTextSize(text, FONT, scale, 1)[0][0]


def _free_place(
    box: tuple[float, float, float, float], size: tuple[int, int], image: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle | None:
    """Above the box, below it, or inside at its top: the first place that meets no plate."""
    left, top, right, bottom = (round(side) for side in box)
    width, height = size
    for x, y in ((left, top - height), (left, bottom), (right - width, top - height), (left, top)):
        x, y = max(0, min(x, image[0] - width)), max(0, min(y, image[1] - height))
        place = (x, y, x + width, y + height)
        if not any(place[0] < b[2] and b[0] < place[2] and place[1] < b[3] and b[1] < place[3] for b in taken):
            return place
    return None
