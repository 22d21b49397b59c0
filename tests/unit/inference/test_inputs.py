"""What Python users hand over becomes the frame that a file of it would be; anything else is one sentence."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import torch

from boxwright.data.images import read_image
from boxwright.errors import UserError
from boxwright.inference.inputs import frames_of, is_one, own_name

BGR = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
RGB = np.ascontiguousarray(BGR[..., ::-1])


def pixels(source: Any, **settings: Any) -> list[np.ndarray]:
    return [frame.image for frame in frames_of(source, **settings)]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    cv2.imwrite(str(tmp_path / "a.png"), BGR)
    return tmp_path / "a.png"


def test_one_image_in_every_form(photo: Path) -> None:
    planes = torch.from_numpy(RGB.copy()).permute(2, 0, 1)
    forms = [photo, str(photo), PIL.Image.open(photo), RGB, planes, planes.float() / 255, planes.double() / 255]
    for form in forms:
        assert is_one(form)
        (image,) = pixels(form)
        np.testing.assert_array_equal(image, BGR)
    (image,) = pixels(BGR, bgr=True)
    np.testing.assert_array_equal(image, BGR)
    (image,) = pixels(planes.flip(0), bgr=True)
    np.testing.assert_array_equal(image, BGR)


def test_many_images(photo: Path) -> None:
    assert len(pixels(torch.zeros(3, 3, 32, 64))) == 3
    mixed = [photo, RGB, (RGB, PIL.Image.fromarray(RGB)), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)]
    assert len(pixels(mixed)) == 6
    assert not is_one(mixed)
    assert not is_one(torch.zeros(1, 3, 8, 8))


def test_a_generator_is_read_only_as_far_as_is_asked_for() -> None:
    read: list[int] = []

    def images() -> Iterator[np.ndarray]:
        for i in range(5):
            read.append(i)
            yield RGB

    frames = frames_of(images())
    next(frames)
    next(frames)
    assert read == [0, 1]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_a_pillow_image_is_what_its_file_is(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        deep = (np.arange(60 * 40, dtype=np.uint16) * 27).reshape(40, 60)
        image = PIL.Image.fromarray(deep)
    else:
        image = PIL.Image.fromarray(RGB).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    (from_pillow,) = pixels(PIL.Image.open(path))
    assert from_pillow.shape == (40, 60, 3)
    assert from_pillow.dtype == np.uint8
    difference = np.abs(from_pillow.astype(int) - read_image(path).astype(int))
    assert difference.max() <= (0 if mode != "CMYK" else 2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_pillow_image_as_its_file(tmp_path: Path, orientation: int) -> None:
    image = PIL.Image.fromarray(RGB)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    (turned,) = pixels(PIL.Image.open(tmp_path / "a.jpg"))
    expected = read_image(tmp_path / "a.jpg")
    assert turned.shape == expected.shape == ((40, 60, 3) if orientation < 5 else (60, 40, 3))
    np.testing.assert_array_equal(turned, expected)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"\x89PNG", r"cannot predict on an object of type bytes: .*PIL\.Image\.open"),
        (io.BytesIO(b"x"), r"type BytesIO: .*PIL\.Image\.open"),
        (None, "cannot predict on None"),
        (True, "cannot predict on True"),
        (0.5, r"cannot predict on 0\.5"),
        ({"image": RGB}, "type dict"),
        ("", "an empty path"),
        (0, "camera 0 has no end: iterate over"),
        ("1", "camera 1 has no end: iterate over"),
        (-1, "cameras are counted from 0"),
        ("https://example.org/a.jpg", "nothing is downloaded here"),
        (Path("http://example.org/a.jpg"), "nothing is downloaded here"),
        (["rtsp://camera/live"], "nothing is downloaded here"),
        ("missing.jpg", "nothing to predict on at missing.jpg"),
        (np.zeros((4, 4), np.uint8), r"\(H, W, 3\) uint8 RGB array, not \(4, 4\) uint8"),
        (np.zeros((2, 4, 4, 3), np.uint8), "give a batch as a list"),
        (np.zeros((4, 4, 3)), "float64"),
        (torch.zeros(4, 4), r"\(B, 3, H, W\) or \(3, H, W\) RGB, not \(4, 4\)"),
        (torch.zeros(1, 4, 4, 3), r"not \(1, 4, 4, 3\)"),
        (torch.full((1, 3, 4, 4), 128.0), r"RGB in 0\.\.1, not in 128\.\.128"),
        (torch.full((1, 3, 4, 4), torch.nan), r"RGB in 0\.\.1"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.int64), "uint8, or floats"),
        (PIL.Image.new("F", (4, 4)), "convert it to RGB"),
    ],
)
def test_what_is_not_taken(source: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pixels(source)


def test_a_truncated_pillow_image(tmp_path: Path) -> None:
    PIL.Image.fromarray(RGB).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    with pytest.raises(UserError, match="the Pillow image cannot be read"):
        pixels(PIL.Image.open(io.BytesIO(data[: len(data) // 2])))


def test_a_list_of_streams_has_no_end(tmp_path: Path) -> None:
    (tmp_path / "cams.txt").write_text("rtsp://camera/live\n")
    with pytest.raises(UserError, match="has no end"):
        pixels(tmp_path / "cams.txt")


def test_other_names_of_settings() -> None:
    known = ("conf_thres", "imgsz")
    with pytest.warns(FutureWarning, match="conf is called conf_thres here"):
        assert own_name("conf", known) == "conf_thres"
    with pytest.raises(UserError, match=r"no setting imgz; did you mean imgsz\?"):
        own_name("imgz", known)
    with pytest.raises(UserError, match="no setting iou"):  # of a detector without such a setting
        own_name("iou", known)
    with pytest.raises(UserError, match=r"use bw\.train"):
        own_name("train", known, {"train": "bw.train"})
