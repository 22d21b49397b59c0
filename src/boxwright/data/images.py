"""Image files: their size, their pixels at full or reduced scale, and the published resize rule.

Any depth and channel count comes out as three 8-bit channels, (H, W, 3) uint8 BGR: grey is repeated, alpha is dropped,
16 bits become 8. EXIF rotation is applied at every scale. The size of JPEG and PNG files comes from their headers;
whatever a header leaves open is answered by the decoder that training uses, so that sizes and shapes cannot differ.
What is not here: keeping decoded images (source_images.py).
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import cv2
import numpy as np
import PIL.Image

from boxwright.data.letterbox import Image
from boxwright.errors import UserError

_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_LARGEST_REDUCTION = 8  # what JPEG decoders offer: the inverse DCT at 1/8 is its mean
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PFM_STARTS = (b"PF", b"Pf")


def read_image(path: Path, reduction: int = 1) -> Image:
    """Decode an image file.

    Args:
        path: the file; any characters in its name.
        reduction: 1, 2, 4, ...; each pixel of the result stands for a block of that side, so the result has
            ceil(side / reduction) pixels a side and the last ones may reach beyond the image. A JPEG is decoded at that
            scale (up to 8), which is faster; other formats are decoded in full and averaged.

    Returns:
        (H, W, 3) uint8, BGR, contiguous.

    Raises:
        UserError: the file is missing, truncated or no image.
    """
    data = _read_bytes(path)
    is_jpeg = data[:2].tobytes() == _JPEG_START
    if is_jpeg and _is_truncated_jpeg(data):
        raise UserError(f"{path}: the JPEG file is truncated; replace it or take it out of the data set")
    decoded_at = min(reduction, _LARGEST_REDUCTION) if is_jpeg else 1
    try:
        image = cv2.imdecode(data, _REDUCED[decoded_at])
    except cv2.error:
        image = None
    if image is None:
        raise UserError(f"{path}: cannot be read as an image; replace it or take it out of the data set")
    if data[:2].tobytes() in _PFM_STARTS:
        image = _from_floats(data)
    return _average(cast("Image", image), reduction // decoded_at)


def _from_floats(data: np.ndarray) -> Image:
    """A PFM file holds floats, of which 1 is white; OpenCV rounds them to 0 and 1."""
    pixels = np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), np.float32)
    pixels = np.clip(np.nan_to_num(pixels) * 255 + 0.5, 0, 255).astype(np.uint8)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def _average(image: Image, reduction: int) -> Image:
    """Shrink by a whole number as a JPEG decoder does: each pixel is a whole block, filled up at the far edges."""
    if reduction == 1:
        return image
    height, width = image.shape[:2]
    new_h, new_w = reduced_size((height, width), reduction)
    missing = (new_h * reduction - height, new_w * reduction - width)
    whole = cv2.copyMakeBorder(image, 0, missing[0], 0, missing[1], cv2.BORDER_REPLICATE)
    return cast("Image", cv2.resize(whole, (new_w, new_h), interpolation=cv2.INTER_AREA))


def read_indexed_image(path: Path, indexed_hw: tuple[int, int], reduction: int = 1) -> Image:
    """Decode an image whose full size the data index knows; see `read_image`.

    Raises:
        UserError: also if the file has another size by now.
    """
    image = read_image(path, reduction)
    if image.shape[:2] != reduced_size(indexed_hw, reduction):
        height, width = indexed_hw
        raise UserError(f"{path}: the image was {width} x {height} pixels when the data set was indexed; start again")
    return image


def _read_bytes(path: Path) -> np.ndarray:
    try:
        data = np.fromfile(path, dtype=np.uint8)  # OpenCV's own reader does not take every file name on every system
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror or error})") from error
    if data.size == 0:
        raise UserError(f"{path}: the image file is empty")
    return data


def _is_truncated_jpeg(data: np.ndarray) -> bool:
    """Tell whether a JPEG is cut off; OpenCV itself only warns and fills the rest with grey.

    A file may lack the end marker and still hold every row, so Pillow, which raises on missing rows, has the last word,
    as it has when the data set is indexed (image_header.py).
    """
    if data[-2:].tobytes() == _JPEG_END:
        return False
    try:
        with PIL.Image.open(io.BytesIO(data.tobytes())) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):
        return True
    return False


def reduction_for(image_hw: tuple[int, int], imgsz: int) -> int:
    """The largest power of two by which an image can shrink and its longer side still be at least `imgsz`."""
    reduction = 1
    while max(image_hw) >= 2 * reduction * imgsz:
        reduction *= 2
    return reduction


def reduced_size(image_hw: tuple[int, int], reduction: int) -> tuple[int, int]:
    """Height and width of what `read_image` gives."""
    return -(-image_hw[0] // reduction), -(-image_hw[1] // reduction)


def loaded_size(image_hw: tuple[int, int], imgsz: int) -> tuple[int, int]:
    """Height and width of an image brought to `imgsz` on its longer side; the shorter side is rounded down.

    Source: published YOLOv5 6.x behaviour (golden dataset/resize_rule).
    """
    height, width = image_hw
    scale = imgsz / max(height, width)
    if scale == 1.0:
        return height, width
    return max(int(height * scale), 1), max(int(width * scale), 1)


def resize_for_validation(image: Image, imgsz: int) -> Image:
    """Bring the longer side to `imgsz`: averaging when it shrinks, linear when it grows.

    Source: published YOLOv5 6.x behaviour (golden dataset/resize_rule). Training samples linearly instead, once, in
    the composed warp.
    """
    height, width = image.shape[:2]
    new_h, new_w = loaded_size((height, width), imgsz)
    if (new_h, new_w) == (height, width):
        return image
    method = cv2.INTER_AREA if imgsz < max(height, width) else cv2.INTER_LINEAR
    return cast("Image", cv2.resize(image, (new_w, new_h), interpolation=method))


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
