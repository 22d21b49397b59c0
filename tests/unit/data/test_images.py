"""Decoding: every depth, channel count, orientation and scale; clear errors for files that are no images."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from boxwright.data.images import (
    BrokenImageError,
    image_size,
    read_image,
    read_indexed_image,
    reduced_size,
    reduction_for,
)
from boxwright.errors import UserError
from tests.unit.data.small_sets import turn, write_image


def encode(path: Path, pixels: np.ndarray) -> Path:
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return path


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(np.full((30, 40), 77, np.uint8), id="grey"),
        pytest.param(np.full((30, 40, 4), 77, np.uint8), id="alpha"),
        pytest.param(np.full((30, 40), 77 * 256 + 77, np.uint16), id="16-bit grey"),
        pytest.param(np.full((30, 40, 3), 77 * 256 + 77, np.uint16), id="16-bit colour"),
    ],
)
def test_everything_comes_out_as_three_bytes(tmp_path: Path, pixels: np.ndarray) -> None:
    image = read_image(encode(tmp_path / "obrázek s mezerou 画.png", pixels))
    assert image.shape == (30, 40, 3)
    assert image.dtype == np.uint8
    assert (image == 77).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("reduction", [1, 2, 4, 8, 16])
def test_reduced_decoding_gives_the_size_that_is_planned_for(tmp_path: Path, suffix: str, reduction: int) -> None:
    path = write_image(tmp_path / f"a{suffix}", 333, 501)
    image = read_image(path, reduction)
    assert image.shape[:2] == reduced_size((333, 501), reduction)
    size = (image.shape[0] * reduction, image.shape[1] * reduction)
    whole = cv2.copyMakeBorder(read_image(path), 0, size[0] - 333, 0, size[1] - 501, cv2.BORDER_REPLICATE)
    full = cv2.resize(whole, image.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert abs(image.astype(int) - full).mean() < 4


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    tiff = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, orientation, 0)
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


@pytest.mark.parametrize("reduction", [1, 2, 4])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation_is_honoured_at_every_scale(tmp_path: Path, orientation: int, reduction: int) -> None:
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:16, :16] = 255
    path = tmp_path / "turned.jpg"
    path.write_bytes(with_orientation(cv2.imencode(".jpg", pixels)[1].tobytes(), orientation))
    image = read_image(path, reduction)
    assert image.shape[:2] == reduced_size(image_size(path), reduction)
    corners = {1: (0, 0), 3: (-1, -1), 6: (0, -1), 8: (-1, 0)}  # where the white corner belongs
    assert [tuple(c) for c in ((0, 0), (0, -1), (-1, 0), (-1, -1)) if image[c].min() > 200] == [corners[orientation]]


def test_reduction_keeps_the_longer_side_at_least_at_the_input_size() -> None:
    assert reduction_for((480, 640), 640) == 1
    assert reduction_for((480, 640), 321) == 1
    assert reduction_for((480, 640), 320) == 2
    assert reduction_for((4000, 3000), 320) == 8


def test_a_truncated_jpeg_is_named(tmp_path: Path) -> None:
    path = write_image(tmp_path / "kurz.jpg", 200, 200)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError, match=r"kurz\.jpg: the JPEG file is truncated"):
        read_image(path)


def test_bytes_behind_a_jpeg_do_no_harm(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.jpg")
    expected = read_image(path)
    path.write_bytes(path.read_bytes() + b"\0\0camera notes")
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n12345"])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.png: "):
        read_image(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.jpg: cannot be opened \(no such file"):
        read_image(tmp_path / "gone.jpg")


def test_a_file_of_another_size_than_indexed_is_named(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.jpg", 48, 64)
    with pytest.raises(UserError, match=r"a\.jpg: the image was 32 x 48 pixels"):
        read_indexed_image(path, (48, 32))


@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 3)])
def test_pfm_holds_floats_of_which_1_is_white(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = read_image(encode(tmp_path / "a.pfm", np.full(shape, 0.5, np.float32)))
    assert image.shape == (30, 40, 3)
    assert (image == 128).all()


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
    (tmp_path / "a.jpg").symlink_to("../gone/a.jpg")
    with pytest.raises(BrokenImageError, match=r"a\.jpg: is a link to \.\./gone/a\.jpg, which is not there"):
        image_size(tmp_path / "a.jpg")


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


def _claims(suffix: str, width: int, height: int) -> bytes:
    """Make a small file whose header claims another size."""
    image = np.zeros((16, 16, 3), np.uint8)
    data = bytearray(cv2.imencode(suffix, image)[1].tobytes())
    big, little = (lambda n, b: n.to_bytes(b, "big")), (lambda n, b: n.to_bytes(b, "little"))
    if suffix == ".jpg":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = big(height, 2) + big(width, 2)
    elif suffix == ".png":
        data[16:24] = big(width, 4) + big(height, 4)
        data[29:33] = big(zlib.crc32(data[12:29]), 4)
    elif suffix == ".bmp":
        data[18:26] = little(width, 4) + little(height, 4)
    elif suffix == ".webp":
        bits = int.from_bytes(data[21:25], "little") >> 28 << 28 | (height - 1) << 14 | (width - 1)
        data[12:16] = b"VP8L"
        data[21:25] = little(bits, 4)
    elif suffix == ".pfm":
        data = bytearray(f"PF\n{width} {height}\n-1.0\n".encode() + bytes(100))
    else:
        for tag, side in ((256, width), (257, height)):
            at = data.index(little(tag, 2) + little(3, 2)) if little(tag, 2) + little(3, 2) in data else -1
            at = at if at >= 0 else data.index(little(tag, 2) + little(4, 2))
            data[at + 2 : at + 12] = little(4, 2) + little(1, 4) + little(side, 4)
    return bytes(data)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff", ".pfm"])
def test_a_size_beyond_the_limit_is_refused_before_decoding(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(_claims(suffix, 16_000, 16_000))
    for reader in (read_image, image_size):
        with pytest.raises(BrokenImageError, match=r"16000 x 16000 pixels are too many.*--max-pixels"):
            reader(path)


def test_a_png_with_a_chunk_longer_than_the_file_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV would take that much memory first."""
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((20, 30, 3), np.uint8))
    data = path.read_bytes()
    at = data.index(b"IDAT") - 4
    path.write_bytes(data[:at] + (1 << 30).to_bytes(4, "big") + data[at + 4 :])
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(BrokenImageError, match="cannot be read as an image"):
        read_image(path)


def test_the_limit_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((20, 30, 3), np.uint8))
    monkeypatch.setenv("BOXWRIGHT_MAX_PIXELS", "599")
    for reader in (read_image, image_size):
        with pytest.raises(BrokenImageError, match=r"30 x 20 pixels are too many.*more than 599"):
            reader(path)
    monkeypatch.setenv("BOXWRIGHT_MAX_PIXELS", "600")
    assert read_image(path).shape[:2] == image_size(path) == (20, 30)


def test_a_pipe_a_device_and_a_file_without_an_end_are_no_images(tmp_path: Path) -> None:
    pipe, sparse = tmp_path / "a.jpg", tmp_path / "b.jpg"
    os.mkfifo(pipe)
    with sparse.open("wb") as stream:
        stream.truncate(1 << 40)
    for path, says in ((pipe, "a pipe"), (Path("/dev/zero"), "a device"), (sparse, "larger than an image")):
        for reader in (read_image, image_size):
            with pytest.raises(BrokenImageError, match=says):
                reader(path)


def _tiff(*entries: tuple[int, int]) -> bytes:
    """Make the head of a TIFF file with entries of one 4-byte number each."""
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + rows + bytes(100)


def test_a_tiff_that_says_its_size_twice_has_the_larger_one(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    path.write_bytes(_tiff((256, 16_000), (256, 100), (257, 16_000), (257, 100)))
    with pytest.raises(BrokenImageError, match="16000 x 16000 pixels are too many"):
        read_image(path)
    path.write_bytes(_tiff(*((1, 1) for _ in range(1000)), (256, 16_000), (257, 16_000)))
    with pytest.raises(BrokenImageError, match="cannot be read as an image"):
        read_image(path)


def test_a_jpeg_of_many_scans_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    data = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    last = data[data.rindex(b"\xff\xda") : -2]
    path.write_bytes(data[:-2] + last * 500 + data[-2:])
    assert read_image(path).shape == (64, 64, 3)  # a small one takes no time
    monkeypatch.setenv("BOXWRIGHT_MAX_PIXELS", str(64 * 64))
    for reader in (read_image, lambda path: image_size(path, decode=True)):
        with pytest.raises(BrokenImageError, match="cannot be read as an image"):
            reader(path)
    path.write_bytes(data)
    assert read_image(path).shape == (64, 64, 3)


def test_a_jpeg_with_a_long_head_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    data = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    more = (b"\xff\xe1\x80\x00Exif\0\0" + bytes(0x7FF8)) * 4
    frame = data.index(b"\xff\xda")
    for at in (2, frame):  # also behind the frame header
        path.write_bytes(data[:at] + more + data[at:])
        monkeypatch.setattr("boxwright.data.images._LONGEST_HEAD", 1 << 20)
        assert image_size(path) == (64, 64)
        monkeypatch.setattr("boxwright.data.images._LONGEST_HEAD", 1 << 16)
        for reader in (read_image, image_size):
            with pytest.raises(BrokenImageError, match="cannot be read as an image"):
                reader(path)


def test_an_avif_is_no_image_here(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    PIL.Image.new("RGB", (64, 64)).save(path, "AVIF")
    with pytest.raises(BrokenImageError, match="cannot be read as an image"):
        read_image(path)
