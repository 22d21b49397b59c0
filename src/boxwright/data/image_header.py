"""Size of an image file from its header, and whether the file is whole, mostly without decoding it."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

# What the published 6.x system reads.
IMAGE_SUFFIXES = frozenset((".bmp", ".dng", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp", ".pfm"))
MIN_SIDE = 10  # pixels; smaller images are left out, as published
_EXIF_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)  # orientations that swap width and height


class BrokenImageError(Exception):
    """The file is no readable image; the text says why."""


def image_size(path: Path, *, decode: bool = False) -> tuple[int, int]:
    """Height and width in pixels after EXIF rotation.

    Args:
        path: image file.
        decode: decode every pixel, which finds damage that the header does not show.

    Raises:
        BrokenImageError: missing, not an image, cut off, or smaller than 10 px.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata is none of our business
            with Image.open(path) as image:
                width, height = image.size
                if image.getexif().get(_EXIF_ORIENTATION) in _TURNED:
                    width, height = height, width
                if decode or not _ends_well(path, image.format):
                    image.load()
    except FileNotFoundError:
        raise BrokenImageError("there is no such file") from None
    except UnidentifiedImageError:
        raise BrokenImageError("not an image in a known format") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise BrokenImageError(f"damaged or cut off ({error})") from None
    if min(height, width) < MIN_SIDE:
        raise BrokenImageError(f"{width} x {height} pixels is smaller than {MIN_SIDE} x {MIN_SIDE}")
    return height, width


def _ends_well(path: Path, image_format: str | None) -> bool:
    """Whether the end of the file is what its format wants; True for formats without an end mark."""
    marks = {"JPEG": (2, b"\xff\xd9"), "MPO": (2, b"\xff\xd9"), "PNG": (8, b"IEND\xaeB`\x82")}
    if image_format not in marks:
        return True
    length, mark = marks[image_format]
    with path.open("rb") as file:
        file.seek(-length, 2)
        return file.read() == mark
