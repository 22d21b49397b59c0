"""Size of an image file, and whether the file is whole: JPEG and PNG from their headers, other formats by decoding.

What is not here: pixels (images.py). Whatever a header leaves open is answered by the decoder that training uses, so
that sizes here and shapes there cannot differ.

Source: JPEG (ITU T.81 annex B), Exif 2.32 (section 4.6), PNG (W3C recommendation, section 5).
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from boxwright.data.images import read_image
from boxwright.errors import UserError

# What the published 6.x system reads.
IMAGE_SUFFIXES = frozenset((".bmp", ".dng", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp", ".pfm"))
MIN_SIDE = 10  # pixels; smaller images are left out, as published

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # these three are tables, not frames
_START_OF_SCAN = 0xDA
_APP1 = 0xE1
_ORIENTATION_TAG = 0x0112
_TURNED = frozenset((5, 6, 7, 8))  # orientations that swap width and height


class BrokenImageError(Exception):
    """The file is no usable image; the text says why."""


class _UnclearError(Exception):
    """The header alone does not tell."""


def image_size(path: Path, *, decode: bool = False) -> tuple[int, int]:
    """Height and width in pixels after EXIF rotation.

    Args:
        path: image file.
        decode: decode every pixel, which finds damage that the header does not show.

    Raises:
        BrokenImageError: missing, not an image, cut off, or smaller than 10 px.
    """
    height, width = _decoded_size(path) if decode else _header_size(path)
    if min(height, width) < MIN_SIDE:
        raise BrokenImageError(f"{width} x {height} pixels are fewer than {MIN_SIDE} x {MIN_SIDE}")
    return height, width


def _decoded_size(path: Path) -> tuple[int, int]:
    if not path.exists():
        raise BrokenImageError("there is no such file")
    try:
        height, width = read_image(path).shape[:2]
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ").partition(";")[0]
        raise BrokenImageError(reason) from None
    return height, width


def _header_size(path: Path) -> tuple[int, int]:
    try:
        with path.open("rb") as file:
            start = file.read(8)
            if start == _PNG_START:
                return _png_size(file)
            if start[:2] == _JPEG_START:
                return _jpeg_size(file)
    except FileNotFoundError:
        raise BrokenImageError("there is no such file") from None
    except OSError as error:
        raise BrokenImageError(f"cannot be opened ({error.strerror or error})") from None
    except (_UnclearError, struct.error, IndexError):
        pass  # damaged or unusual: the decoder decides
    return _decoded_size(path)


def _jpeg_size(file: BinaryIO) -> tuple[int, int]:
    file.seek(-2, 2)
    if file.read(2) != _JPEG_END:
        raise _UnclearError  # cut off, or followed by something else
    file.seek(2)
    size, orientation = (0, 0), 1
    while True:
        marker = _next_marker(file)
        if marker == _START_OF_SCAN:
            break
        (length,) = struct.unpack(">H", file.read(2))
        if marker in _START_OF_FRAME:
            body = file.read(length - 2)
            size = struct.unpack_from(">HH", body, 1)
        elif marker == _APP1:
            body = file.read(length - 2)
            if body.startswith(b"Exif\0\0"):
                orientation = _orientation(body[6:])
        else:
            file.seek(length - 2, 1)
    height, width = size
    if not height or not width:
        raise _UnclearError
    return (width, height) if orientation in _TURNED else (height, width)


def _next_marker(file: BinaryIO) -> int:
    if file.read(1) != b"\xff":
        raise _UnclearError
    marker = file.read(1)[0]
    while marker == 0xFF:  # fill bytes
        marker = file.read(1)[0]
    return marker


def _orientation(tiff: bytes) -> int:
    """Orientation 1 to 8 from the first directory of an Exif block; 1 if it has none."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        raise _UnclearError
    (offset,) = struct.unpack_from(order + "I", tiff, 4)
    (num_entries,) = struct.unpack_from(order + "H", tiff, offset)
    for entry in range(num_entries):
        tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, offset + 2 + 12 * entry)
        if tag == _ORIENTATION_TAG:
            return value
    return 1


def _png_size(file: BinaryIO) -> tuple[int, int]:
    """Walk the chunks to the end mark; a cut or damaged file shows by a checksum that is not there or wrong."""
    size = (0, 0)
    while True:
        length, kind = struct.unpack(">I4s", file.read(8))
        body = file.read(length)
        (checksum,) = struct.unpack(">I", file.read(4))
        if zlib.crc32(body, zlib.crc32(kind)) != checksum or kind == b"eXIf":
            raise _UnclearError  # damaged, or it may turn the image
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", body)
            size = (height, width)
        elif kind == b"IEND":
            return size
