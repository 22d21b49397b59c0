"""Image files: their size, their pixels at full or reduced scale, and the published resize rule.

Any depth and channel count comes out as three 8-bit channels, (H, W, 3) uint8 BGR: grey is repeated, alpha is dropped,
16 bits become 8. EXIF rotation is applied at every scale. The size of JPEG and PNG files comes from their headers;
whatever a header leaves open is answered by the decoder that training uses, so that sizes and shapes cannot differ.
What is not here: keeping decoded images (source_images.py).
"""

import io
import os
import re
import struct
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from boxwright.data.files import files_below
from boxwright.errors import UserError, is_out_of_memory
from boxwright.ops.arrays import Image
from boxwright.reading import TooLargeError, open_file, parsing, read_bytes
from boxwright.settings.base import limit
from boxwright.terminal import say_once

_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_LARGEST_REDUCTION = 8  # what JPEG decoders offer: the inverse DCT at 1/8 is its mean
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PFM_STARTS = (b"PF", b"Pf")
_AVIF_STARTS = (b"ftypavif", b"ftypavis", b"ftypmif1", b"ftypmsf1")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BITS_PER_SAMPLE, _SAMPLES, _TIFF_SIDES = 258, 277, ((256, 322), (257, 323))  # tags; a side and that of a tile
_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # types of whole numbers
_MOST_TAGS = 1000
_LONGEST_HEAD = 16 << 20  # bytes before the pixels of a JPEG: Pillow takes a time that grows with their square
_MOST_SCANS = (
    100  # of a JPEG of as many pixels as are allowed, and more of a smaller one; each is a pass over all pixels
)
_ADVICE = "; replace it or take it out of the data set"
_SHRINK = "; make it smaller, or allow more than {:,} by --max-pixels"


_slot: NDArray[np.uint8] | None = None  # of a loader process: memory that the main process sees, too


def share_readings(slot: NDArray[np.uint8]) -> None:
    """Let this process write into shared memory which image it reads, and since when; see `BatchPool`.

    Args:
        slot: room for the nanoseconds of the monotonic clock (8 bytes, 0: none is read) and a path.
    """
    global _slot
    _slot = slot


def note_reading(path: str | Path) -> None:
    """Say which image is read now, to whoever waits for it; empty: none."""
    if _slot is not None:
        _slot[:] = 0
        if path:
            name = os.fsencode(path)[: len(_slot) - 8]
            _slot[8 : 8 + len(name)] = np.frombuffer(name, np.uint8)
            _slot[:8].view(np.int64)[0] = time.monotonic_ns()  # one clock for all processes of a machine


class BrokenImageError(UserError):
    """The file is no usable image."""

    def __init__(self, path: Path, why: str, advice: str = "") -> None:
        super().__init__(f"{path}: {why}{advice}")
        self.why = why  # for messages that name the file by themselves


_BYTES = 10  # that decoding may take a pixel: 3 of the result, 6 of a progressive JPEG or 7 of a lossless WebP
_FILE_BYTES = 4  # that the file itself may have a pixel


def _read_file(path: Path) -> bytes:
    """Read an image file whose size, and that of the image in it, keep within the limit.

    Raises:
        BrokenImageError: it cannot be read, is no file or no image, or larger.
    """
    most = limit("max_pixels")
    try:
        data = read_bytes(path, _FILE_BYTES * most + (1 << 20))
    except UserError as error:
        if isinstance(error, TooLargeError):
            raise BrokenImageError(path, "the file is larger than an image may be", _SHRINK.format(most)) from error
        if path.is_symlink() and not path.exists():  # as after a move of what `convert split` wrote
            raise BrokenImageError(path, f"is a link to {os.readlink(path)}, which is not there") from error
        raise BrokenImageError(path, f"cannot be opened ({str(error).rpartition(f'{path}: ')[2]})") from error
    if not data:
        raise BrokenImageError(path, "the image file is empty")
    try:
        with parsing(path, "image file"):
            width, height, cost = _claimed_size(data)
    except UserError as error:
        raise BrokenImageError(path, "cannot be read as an image", _ADVICE) from error
    _refuse_large(path, width, height, cost)
    return data


def _refuse_large(path: Path, width: int, height: int, cost: int = _BYTES) -> None:
    """Raise a BrokenImageError for an image that may not be decoded: for its pixels, or the bytes that they take."""
    most = limit("max_pixels")
    if width * height * max(cost, _BYTES) > most * _BYTES:
        raise BrokenImageError(path, f"{width} x {height} pixels are too many", _SHRINK.format(most))


def _claimed_size(data: bytes) -> tuple[int, int, int]:
    """Read width and height from the header, without decoding, and the bytes a pixel that decoding takes.

    Source: the published layouts of the formats. Pillow's readers, which make more of a header and refuse what OpenCV
    reads, are asked only for formats that no suffix here stands for.

    Raises:
        Exception: it is no image.
    """
    if data[:2] == _JPEG_START:
        width, height = _jpeg_size(data)
        if data.count(b"\xff\xda") * width * height > _MOST_SCANS * limit("max_pixels"):
            raise ValueError("it has too many scans")
        return width, height, _BYTES
    if data[:8] == _PNG_START:
        _check_chunks(data)
        return (*struct.unpack_from(">II", data, 16), _BYTES)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":  # Pillow would make its canvas at once
        if data[12:16] == b"VP8X":
            return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"), _BYTES
        if data[12:16] == b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), _BYTES
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF, _BYTES
    if data[:2] == b"BM":
        is_old = struct.unpack_from("<I", data, 14)[0] == 12
        width, height = struct.unpack_from("<HH" if is_old else "<ii", data, 18)
        return abs(width), abs(height), _BYTES
    if data[:4] in _TIFF_STARTS:
        return _tiff_size(data)
    if data[:2] in _PFM_STARTS:
        found = re.match(rb"P[Ff]\s+(\d{1,9})\s+(\d{1,9})\s", data)
        if found is None:
            raise ValueError("it has no size")
        return int(found[1]), int(found[2]), 3 + 12 + 12  # floats, and once more while they become 8 bits
    if data[4:12] in _AVIF_STARTS:
        raise ValueError("an AVIF: its boxes may say another size than its pixels have")
    with warnings.catch_warnings(action="ignore"):
        return (*PIL.Image.open(io.BytesIO(data)).size, _BYTES)


def _check_chunks(data: bytes) -> None:
    """Refuse a PNG file with a chunk longer than the file: OpenCV takes memory for a chunk before it reads it."""
    at = len(_PNG_START)
    while at + 8 <= len(data) and data[at + 4 : at + 8] != b"IEND":
        (length,) = struct.unpack_from(">I", data, at)
        if length > len(data):
            raise ValueError("a chunk of it is longer than the file")
        at += 12 + length  # its length, name and checksum stand beside it


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Find the frame header of a JPEG file, which the pixels must follow within `_LONGEST_HEAD` bytes."""
    at, size = 2, (0, 0)
    while 0 <= (at := data.find(b"\xff", at)) < _LONGEST_HEAD:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and not any(size):
            height, width = struct.unpack_from(">HH", data, at + 5)
            size = width, height
        if marker == 0xDA and any(size):  # pixels
            return size
        if marker == 0xDA:
            break
        has_no_length = marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9
        at += 1 if has_no_length else 2 + struct.unpack_from(">H", data, at + 2)[0]
    raise ValueError("it has no size")


def _tiff_size(data: bytes) -> tuple[int, int, int]:
    """Read the first directory of a TIFF file, or of a BigTIFF."""
    order, is_big = "<" if data[:1] == b"I" else ">", data[2:4] in (b"+\0", b"\0+")
    start, counts, entry, room = (8, "Q", "HHQ", 12) if is_big else (4, "H", "HHI", 8)
    (at,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, start)
    (number,) = struct.unpack_from(order + counts, data, at)
    if number > _MOST_TAGS:
        raise ValueError("it has too many entries")
    tags: dict[int, int] = {}
    at += struct.calcsize("=" + counts)
    for i in range(number):
        tag, kind, count = struct.unpack_from(order + entry, data, at + i * (room + (8 if is_big else 4)))
        value = at + i * (room + (8 if is_big else 4)) + room
        if tag == _BITS_PER_SAMPLE and count * 2 > (8 if is_big else 4):  # each sample its own: they stand elsewhere
            (value,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, value)
        if kind in _TIFF_NUMBERS and count:
            (found,) = struct.unpack_from(order + _TIFF_NUMBERS[kind], data, value)
            tags[tag] = max(found, tags.get(tag, 0))  # of an entry that stands twice the decoder takes one
    stored = -(-tags.get(_BITS_PER_SAMPLE, 1) * tags.get(_SAMPLES, 1) // 8)
    width, height = (max(tags[side], tags.get(tile, 1)) for side, tile in _TIFF_SIDES)
    return width, height, 7 + stored  # the result, a strip as it is stored and as it is unpacked


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
        BrokenImageError: the file is missing, truncated or no image.
    """
    note_reading(path)
    content = _read_file(path)
    data = np.frombuffer(content, np.uint8)  # OpenCV's own reader does not take every file name on every system
    is_jpeg = content[:2] == _JPEG_START
    if is_jpeg and content[-2:] != _JPEG_END:
        # A file may lack the end marker and still hold every row. OpenCV only warns of missing rows and fills them with
        # grey; Pillow raises, so it has the last word.
        try:
            JpegImageFile(io.BytesIO(content)).load()  # not by PIL.Image.open, which has its own limit of pixels
        except MemoryError:
            raise
        except Exception as error:
            raise BrokenImageError(path, "the JPEG file is truncated", _ADVICE) from error
    decoded_at = min(reduction, _LARGEST_REDUCTION) if is_jpeg else 1
    try:
        image = cv2.imdecode(data, _REDUCED[decoded_at])
    except cv2.error as error:
        if is_out_of_memory(error):
            raise
        image = None
    if image is None:
        raise BrokenImageError(path, "cannot be read as an image", _ADVICE)
    if content[:2] in _PFM_STARTS:
        # Its floats, of which 1 is white, OpenCV would round to 0 and 1.
        floats = np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), np.float32)
        image = np.clip(np.nan_to_num(floats) * 255 + 0.5, 0, 255).astype(np.uint8)
        image = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    reduction //= decoded_at
    if reduction == 1:
        return cast("Image", image)
    # As a JPEG decoder does: each pixel is the mean of a whole block, filled up at the far edges.
    height, width = image.shape[:2]
    new_h, new_w = reduced_size((height, width), reduction)
    missing = (new_h * reduction - height, new_w * reduction - width)
    image = cv2.copyMakeBorder(image, 0, missing[0], 0, missing[1], cv2.BORDER_REPLICATE)
    return cast("Image", cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_AREA))


def read_indexed_image(path: Path, indexed_hw: tuple[int, int], reduction: int = 1) -> Image:
    """Decode an image whose full size the data index knows; see `read_image`.

    Raises:
        UserError: also if the file has another size by now.
    """
    image = read_image(path, reduction)
    if image.shape[:2] != reduced_size(indexed_hw, reduction):
        height, width = indexed_hw
        raise UserError(
            f"{path}: the image was {width} x {height} pixels when the data set was indexed, and is not now; "
            "start again, and if that does not help, its header or EXIF entry is false: save the image anew"
        )
    return image


def reduction_for(image_hw: tuple[int, int], imgsz: int) -> int:
    """Return the largest power of two by which an image can shrink with its longer side still at least `imgsz`."""
    reduction = 1
    while max(image_hw) >= 2 * reduction * imgsz:
        reduction *= 2
    return reduction


def reduced_size(image_hw: tuple[int, int], reduction: int) -> tuple[int, int]:
    """Return height and width of what `read_image` gives."""
    return -(-image_hw[0] // reduction), -(-image_hw[1] // reduction)


def loaded_size(image_hw: tuple[int, int], imgsz: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width of an image whose longer side becomes `imgsz`; the shorter side is rounded down.

    A pair is the height and width that the image is fitted into.

    Source: published YOLOv5 6.x behaviour (golden dataset/resize_rule).
    """
    height, width = image_hw
    scale = _scale_into(image_hw, imgsz)
    if scale == 1.0:
        return height, width
    return max(int(height * scale), 1), max(int(width * scale), 1)


def _scale_into(image_hw: tuple[int, int], imgsz: int | tuple[int, int]) -> float:
    """Return the factor that fits an image into a square of this side, or into a height and width."""
    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    return min(height / image_hw[0], width / image_hw[1])


def resize_for_validation(image: Image, imgsz: int | tuple[int, int]) -> Image:
    """Resize the longer side to `imgsz`, see `loaded_size`: averaging when it shrinks, linear when it grows.

    Source: published YOLOv5 6.x behaviour (golden dataset/resize_rule). Training samples linearly instead, once, in
    the composed warp.
    """
    height, width = image.shape[:2]
    new_h, new_w = loaded_size((height, width), imgsz)
    if (new_h, new_w) == (height, width):
        return image
    method = cv2.INTER_AREA if _scale_into((height, width), imgsz) < 1 else cv2.INTER_LINEAR
    return cast("Image", cv2.resize(image, (new_w, new_h), interpolation=method))


# What the published 6.x system reads.
IMAGE_SUFFIXES = frozenset((".bmp", ".dng", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp", ".pfm"))
# Of telephones and cameras, whose photos somebody may take for images of the set.
_UNREAD_SUFFIXES = frozenset((".arw", ".avif", ".cr2", ".cr3", ".heic", ".heif", ".nef", ".raf"))
MIN_SIDE = 10  # pixels; smaller images are left out, as published

_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_ORIENTATION_TAG = 0x0112  # of Exif
TURNED = frozenset((5, 6, 7, 8))  # orientations that swap width and height


def images_below(folder: Path, most: int = 0) -> list[str]:
    """List the image files below a folder, sorted; for `most` see `files_below`."""
    return without_unread(folder, files_below(folder, IMAGE_SUFFIXES | _UNREAD_SUFFIXES, most))


def without_unread(folder: Path, files: Iterable[str]) -> list[str]:
    """Sort files of a folder, and leave out photos of kinds that are not read, which one line counts."""
    found: list[str] = []
    unread: list[str] = []
    for file in sorted(files):
        (unread if os.path.splitext(file)[1].lower() in _UNREAD_SUFFIXES else found).append(file)
    if unread:
        say_once(
            f"{folder}: photos of a kind that is not read: {len(unread)}, such as {unread[0]}; save them as JPEG or PNG"
        )
    return found


def image_size(path: Path, *, decode: bool = False) -> tuple[int, int]:
    """Return height and width in pixels after EXIF rotation.

    Args:
        path: image file.
        decode: decode every pixel, which finds damage that the header does not show.

    Raises:
        BrokenImageError: missing, not an image, cut off, or smaller than 10 px.
    """
    height, width = (None if decode else _header_size(path)) or read_image(path).shape[:2]
    _refuse_large(path, width, height)
    if min(height, width) < MIN_SIDE:
        raise BrokenImageError(path, f"{width} x {height} pixels are fewer than {MIN_SIDE} x {MIN_SIDE}")
    return height, width


def orientation(path: Path) -> int:
    """Return how the EXIF entry of an image file turns it, 1 for not at all."""
    try:
        with open_file(path) as file:
            return _orientation(PIL.Image.open(file))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return 1


def _orientation(image: PIL.Image.Image) -> int:
    # Exif alone: Pillow's getexif() also takes the orientation of XMP, which OpenCV does not.
    exif = PIL.Image.Exif()
    exif.load(image.info.get("exif", b""))
    return int(exif.get(_ORIENTATION_TAG, 1))


def _header_size(path: Path) -> tuple[int, int] | None:
    """Read height and width from a JPEG or PNG header; None where only the decoder can tell."""
    try:
        with open_file(path) as file:
            start = file.read(len(_PNG_START))
            if start == _PNG_START:
                content = start + file.read(_FILE_BYTES * limit("max_pixels"))
                if not content.endswith(_PNG_END):  # Pillow does not look at the last checksum
                    return None
                image = PngImageFile(io.BytesIO(content))
                width, height = image.size
                # A cut or damaged file shows by a checksum: twice as quick as decoding it.
                image.verify()
                return None if b"eXIf" in content else (height, width)  # Exif may turn the image
            if start[:2] != _JPEG_START:
                return None
            file.seek(-2, os.SEEK_END)
            if file.read() != _JPEG_END:
                return None  # cut off, or followed by something else
            file.seek(0)
            _jpeg_size(file.read(_LONGEST_HEAD))  # raises where Pillow would take long
            file.seek(0)
            # The plugins themselves: PIL.Image.open would warn of large images, which OpenCV decodes.
            image = JpegImageFile(file)
            width, height = image.size
            return (width, height) if _orientation(image) in TURNED else (height, width)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return None  # damaged or unusual
