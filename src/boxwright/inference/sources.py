"""The images of a prediction: from a file, a folder, a glob, a list file, a video or a camera.

A source yields `Frame`s. An image that cannot be read is reported in one sentence and left out.
"""

import glob
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from boxwright.data.files import read_lines
from boxwright.data.images import IMAGE_SUFFIXES, read_image
from boxwright.errors import UserError
from boxwright.ops.arrays import Image

logger = logging.getLogger("boxwright.predict")

VIDEO_SUFFIXES = frozenset((".asf", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".wmv"))
DEFAULT_FPS = 30.0  # where a camera or a video does not say


@dataclass(frozen=True)
class Frame:
    """One image to predict on."""

    image: Image  # (H, W, 3) BGR, turned upright by its EXIF entry
    path: Path | None  # the image or video file; "camera0" for a camera; None for an array
    number: int | None  # of the frame in its video, from 1; None for an image file
    fps: float  # frames per second that are yielded from this video
    position: str  # "image 3/10" or "video 1/2, frame 7/300"


def open_source(source: str | Path, *, video_stride: int = 1) -> Iterator[Frame]:
    """Find what a source means; iterating reads it.

    Args:
        source: image, video, folder, glob, .txt list of files (relative to the list, or to the working directory), or
            the number of a camera.
        video_stride: take every n-th frame of a video.

    Raises:
        UserError: nothing is there.
    """
    text = str(source)
    path = Path(text)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if _is_media(p))
        if not files:
            raise UserError(f"no images and no videos in the folder {path}")
    elif path.is_file() and path.suffix.lower() == ".txt":
        files = _read_list(path)
    elif path.is_file():
        files = [path]
        if not _is_media(path):
            raise UserError(f"{path} is neither an image nor a video nor a .txt list of files (by its suffix)")
    elif text.isdecimal():
        return _read_video(Path(f"camera{text}"), int(text), video_stride, "camera")
    else:
        files = sorted(p for p in map(Path, glob.glob(text, recursive=True)) if _is_media(p))
        if not files:
            raise UserError(
                f"nothing to predict on at {text}: no such file or folder, and as a pattern it fits no image"
            )
    return _read(files, video_stride)


def _read(files: Sequence[Path], video_stride: int) -> Iterator[Frame]:
    """Yield the frames of images and videos; what cannot be read is left out."""
    for i, path in enumerate(files, 1):
        try:
            if path.suffix.lower() in VIDEO_SUFFIXES:
                yield from _read_video(path, str(path), video_stride, f"video {i}/{len(files)}")
            else:
                yield Frame(read_image(path), path, None, DEFAULT_FPS, f"image {i}/{len(files)}")
        except UserError as error:
            logger.warning("%s (left out)", error)


def _read_video(path: Path, source: str | int, stride: int, position: str) -> Iterator[Frame]:
    """Yield every n-th frame of a video file or a camera."""
    capture = cv2.VideoCapture(source)
    try:
        if not capture.isOpened():
            raise UserError(
                f"{path} cannot be opened as a video"
                if isinstance(source, str)
                else f"camera {source} cannot be opened"
            )
        total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        fps = (capture.get(cv2.CAP_PROP_FPS) or DEFAULT_FPS) / stride
        number = 0
        while capture.grab():  # decodes only the frames that are wanted
            number += 1
            if number % stride:
                continue
            decoded, image = capture.retrieve()
            if decoded:
                where = f"{position}, frame {number}" + (f"/{total}" if total > 0 else "")
                yield Frame(image.astype(np.uint8, copy=False), path, number, fps, where)
        if number == 0:
            logger.warning("%s holds no frame; it is left out", path)
    finally:
        capture.release()


def _is_media(path: Path) -> bool:
    """Return whether a file is an image or a video, by its suffix."""
    return path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and path.is_file()


def _read_list(path: Path) -> list[Path]:
    """Read a text file that lists files, relative to itself or to the working directory."""
    files: list[Path] = []
    for number, entry in enumerate(read_lines(path), 1):
        if not entry:
            continue
        beside = path.parent / entry
        file = next((file for file in (beside, Path(entry)) if file.is_file()), None)
        if file is None:
            other = f" or {entry}" if beside != Path(entry) else ""
            raise UserError(f"{path}, line {number}: no file at {beside}{other}")
        files.append(file)
    if not files:
        raise UserError(f"{path} lists no files")
    return files
