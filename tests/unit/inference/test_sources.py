"""What a source means, and the sentence where there is nothing to predict on."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator
from pathlib import Path

import cv2
import numpy as np
import pytest

from boxwright.drawing.canvas import write_image
from boxwright.errors import UserError
from boxwright.inference.sources import open_source, read_ahead
from boxwright.inference.streams import Frame

PICTURE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, PICTURE)
    return path


def make_video(path: Path, num_frames: int = 7) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write mp4")
    for i in range(num_frames):
        writer.write(np.full((48, 64, 3), 30 * i % 256, np.uint8))
    writer.release()
    return path


def test_one_image_with_a_difficult_name(tmp_path: Path) -> None:
    path = put(tmp_path / "ein Ordner ü" / "猫 [1].png")
    frames = list(open_source(path))
    assert [frame.path for frame in frames] == [path]
    assert np.array_equal(frames[0].image, PICTURE)
    assert frames[0].number is None


def test_folder_takes_images_in_order_and_nothing_else(tmp_path: Path) -> None:
    put(tmp_path / "b.png")
    put(tmp_path / "a.JPG")
    put(tmp_path / "sub" / "c.png")
    (tmp_path / "notes.md").write_text("x")
    assert [f.path.name for f in open_source(tmp_path)] == ["a.JPG", "b.png"]
    assert [f.position for f in open_source(tmp_path)] == ["image 1/2", "image 2/2"]


def test_glob(tmp_path: Path) -> None:
    put(tmp_path / "x" / "a.png")
    put(tmp_path / "y" / "b.png")
    assert [f.path.name for f in open_source(f"{tmp_path}/**/*.png")] == ["a.png", "b.png"]
    with pytest.raises(UserError, match="as a pattern it fits no image"):
        open_source(f"{tmp_path}/*.webp")


def test_list_file_is_relative_to_itself(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.png")
    listing = tmp_path / "list.txt"
    listing.write_text("\ufeffimages/a.png\n\n" + str(put(tmp_path / "b.png")) + "\n", encoding="utf-8")
    assert [f.path.name for f in open_source(listing)] == ["a.png", "b.png"]
    listing.write_text("images/a.png\nimages/gone.png\n")
    with pytest.raises(UserError, match=r"list\.txt, line 2: no file at .*gone\.png"):
        open_source(listing)
    listing.write_text("\n")
    with pytest.raises(UserError, match="lists no files"):
        open_source(listing)


def test_nothing_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=r"nothing to predict on at .*missing: no such file or folder"):
        open_source(tmp_path / "missing")
    with pytest.raises(UserError, match="the screen is no source here"):
        open_source("screen 0 100 100 512 256")
    with pytest.raises(UserError, match="no images and no videos in the folder"):
        open_source(tmp_path)
    (tmp_path / "a.docx").write_bytes(b"x")
    with pytest.raises(UserError, match="neither an image nor a video"):
        open_source(tmp_path / "a.docx")
    caplog.set_level("INFO")
    (tmp_path / "a.heic").write_bytes(b"x")
    with pytest.raises(UserError, match="no images and no videos in the folder"):
        open_source(tmp_path)
    assert "a.heic; save them as JPEG or PNG" in caplog.text


@pytest.mark.parametrize("name", ["a.jpg", "a.mp4", "a.txt"])
def test_a_pipe_is_told(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="it is a pipe, not a file"):
        open_source(tmp_path / name)


def test_a_number_is_a_camera_unless_it_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "97" / "a.png")
    assert [frame.position for frame in open_source("97")] == ["image 1/1"]
    with pytest.raises(UserError, match="camera 98 cannot be opened"):
        list(open_source("98"))


def test_camera_that_is_not_there() -> None:
    with pytest.raises(UserError, match="camera 97 cannot be opened"):
        list(open_source("97"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: b"not an image", "cannot be read as an image"),
        (lambda data: b"", "image file is empty"),
    ],
)
def test_unreadable_image_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: object, message: str
) -> None:
    good = put(tmp_path / "good.jpg")
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(damage(good.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert [f.path.name for f in open_source(tmp_path)] == ["good.jpg"]
    assert message in caplog.text
    assert "bad.jpg" in caplog.text
    bad_alone = list(open_source(bad))
    assert bad_alone == []


def test_grey_and_transparent_images_become_colour(tmp_path: Path) -> None:
    write_image(tmp_path / "grey.png", PICTURE[..., 0])
    write_image(tmp_path / "alpha.png", np.dstack([PICTURE, PICTURE[..., 0]]))
    assert [f.image.shape for f in open_source(tmp_path)] == [(40, 60, 3), (40, 60, 3)]


def test_video_frames_and_stride(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip ü.mp4")
    frames = list(open_source(path))
    assert [f.number for f in frames] == [1, 2, 3, 4, 5, 6, 7]
    assert frames[0].fps == pytest.approx(10)
    every_third = list(open_source(path, video_stride=3))
    assert [f.number for f in every_third] == [3, 6]
    assert every_third[0].fps == pytest.approx(10 / 3)
    assert np.array_equal(every_third[0].image, frames[2].image)


def test_broken_video_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    assert list(open_source(tmp_path)) == []
    assert "cannot be opened as a video" in caplog.text


def test_frames_larger_than_the_limit_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a header that says so, and of a later frame that is larger than its header says."""
    path = make_video(tmp_path / "a.mp4")
    monkeypatch.setattr("boxwright.inference.sources.limit", lambda _: 64 * 48)
    assert len(list(open_source(path))) == 7
    monkeypatch.setattr("boxwright.inference.sources.limit", lambda _: 64 * 48 - 1)
    assert list(open_source(path)) == []
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: _Growing())
    assert [frame.number for frame in open_source(path)] == [1]
    assert caplog.text.count("frames of 64 x 48 pixels are too large") == 2


class _Growing:
    """A video of frames of 32 x 48 and then 64 x 48 pixels, whose header says nothing."""

    count = 0

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def get(self, _: int) -> float:
        return 0

    def grab(self) -> bool:
        self.count += 1
        return self.count < 4

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.zeros((48, 32 * self.count, 3), np.uint8)

    def release(self) -> None: ...


def test_reading_ahead_keeps_the_order_and_no_more_than_asked_for() -> None:
    read: list[int] = []
    closed: list[bool] = []

    def frames() -> Generator[Frame]:
        try:
            for number in range(50):
                read.append(number)
                yield Frame(PICTURE, None, number, 1.0, "")
        finally:
            closed.append(True)

    ahead = read_ahead(frames(), 3)
    assert [next(ahead).number for _ in range(4)] == [0, 1, 2, 3]
    for _ in range(20):
        time.sleep(0.01)
    assert max(read) <= 3 + 3 + 1  # what was taken, what waits, and the one that waits for room
    ahead.close()
    assert closed == [True]
    assert [frame.number for frame in read_ahead(frames(), 3)] == list(range(50))


def test_an_error_of_the_reader_comes_behind_the_frames_before_it() -> None:
    def frames() -> Generator[Frame]:
        yield Frame(PICTURE, None, 1, 1.0, "")
        raise UserError("the disk is gone")

    ahead = read_ahead(frames(), 3)
    assert next(ahead).number == 1
    with pytest.raises(UserError, match="the disk is gone"):
        next(ahead)
