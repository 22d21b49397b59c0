"""Sizes from headers agree with the decoder; damage shows."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from boxwright.data.images import BrokenImageError, image_size
from tests.unit.data.small_sets import turn, write_image


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
@pytest.mark.parametrize("decode", [False, True])
def test_formats(tmp_path: Path, suffix: str, decode: bool) -> None:
    assert image_size(write_image(tmp_path / f"a{suffix}"), decode=decode) == (48, 64)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_rotation_as_the_decoder_does_it(tmp_path: Path, orientation: int, order: str) -> None:
    path = turn(write_image(tmp_path / "a.jpg"), orientation, order)
    expected = (64, 48) if orientation in (5, 6, 7, 8) else (48, 64)
    assert image_size(path) == expected
    assert image_size(path, decode=True) == expected


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("missing", [1, 2, 5, 100, 300])
def test_cut_off(tmp_path: Path, suffix: str, missing: int) -> None:
    path = write_image(tmp_path / f"a{suffix}")
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(BrokenImageError, match=r"truncated|cannot be read"):
        image_size(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_something_after_the_end_is_no_damage(tmp_path: Path, suffix: str) -> None:
    path = write_image(tmp_path / f"a{suffix}")
    path.write_bytes(path.read_bytes() + b"trailer")
    assert image_size(path) == (48, 64)


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "empty"), (b"GIF89a", "cannot be read"), (b"\xff\xd8\xff\xd9", "cannot be read")]
)
def test_no_image(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(BrokenImageError, match=says):
        image_size(path)


def test_missing(tmp_path: Path) -> None:
    for decode in (False, True):
        with pytest.raises(BrokenImageError, match="no such file"):
            image_size(tmp_path / "a.jpg", decode=decode)


def test_smallest_side(tmp_path: Path) -> None:
    assert image_size(write_image(tmp_path / "ten.png", 10, 10)) == (10, 10)
    with pytest.raises(BrokenImageError, match="30 x 9 pixels"):
        image_size(write_image(tmp_path / "nine.png", 9, 30))


def test_progressive_and_grey(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    pixels = np.zeros((30, 40), np.uint8)
    path.write_bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes())
    assert image_size(path) == (30, 40)


def test_png_with_a_damaged_middle_is_left_out(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", 60, 80)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(BrokenImageError, match="cannot be read as an image"):
        image_size(path)
