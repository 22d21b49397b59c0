"""The images of a prediction: from a file, a folder, a glob, a list file, a video or a camera.

A `Source` yields `Frame`s. An image that cannot be read is reported in one sentence and left out.
"""

import glob
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from boxwright.data.data_yaml import read_lines
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


@dataclass(frozen=True)
class Source:
    """The files, or the camera, of a prediction in order. Iterating reads them."""

    files: tuple[Path, ...]
    camera: int | None = None  # its number
    video_stride: int = 1  # take every n-th frame

    def __iter__(self) -> Iterator[Frame]:
        if self.camera is not None:
            yield from self._video(Path(f"camera{self.camera}"), self.camera, "camera")
        for i, path in enumerate(self.files, 1):
            if path.suffix.lower() in VIDEO_SUFFIXES:
                yield from self._video(path, str(path), f"video {i}/{len(self.files)}")
                continue
            try:
                image = read_image(path)
            except UserError as error:
                logger.warning("%s (left out)", error)
            else:
                yield Frame(image, path, None, DEFAULT_FPS, f"image {i}/{len(self.files)}")

    def _video(self, path: Path, source: str | int, position: str) -> Iterator[Frame]:
        """Yield the frames of a video file or a camera."""
        capture = cv2.VideoCapture(source)
        try:
            if not capture.isOpened():
                if self.camera is not None:
                    raise UserError(f"camera {self.camera} cannot be opened")
                logger.warning("%s cannot be opened as a video; it is left out", path)
                return
            total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            fps = (capture.get(cv2.CAP_PROP_FPS) or DEFAULT_FPS) / self.video_stride
            number = 0
            while capture.grab():  # decodes only the frames that are wanted
                number += 1
                if number % self.video_stride:
                    continue
                decoded, image = capture.retrieve()
                if decoded:
                    count = f"/{total}" if total > 0 else ""
                    yield Frame(
                        image.astype(np.uint8, copy=False), path, number, fps, f"{position}, frame {number}{count}"
                    )
            if number == 0:
                logger.warning("%s holds no frame; it is left out", path)
        finally:
            capture.release()


def open_source(source: str | Path, *, video_stride: int = 1) -> Source:
    """Find what a source means.

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
    elif path.is_file():
        files = _read_list(path) if path.suffix.lower() == ".txt" else [path]
        if not _is_media(files[0]) and files == [path]:
            raise UserError(f"{path} is neither an image nor a video nor a .txt list of files (by its suffix)")
    elif text.isdecimal():
        return Source((), camera=int(text), video_stride=video_stride)
    else:
        found = glob.glob(text, recursive=True) if glob.has_magic(text) else []
        files = sorted(p for p in map(Path, found) if _is_media(p))
        if not files:
            raise UserError(
                f"nothing to predict on at {text}: no such file or folder, and as a pattern it fits no image"
            )
    return Source(tuple(files), video_stride=video_stride)


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
