"""The images of a prediction: from a file, a folder, a glob, a list file, a video, a camera or a stream.

A source yields `Frame`s. An image that cannot be read is reported in one sentence and left out.
"""

import contextlib
import glob
import logging
import queue
import re
import threading
from collections.abc import Generator, Sequence
from pathlib import Path

import cv2
import numpy as np

from boxwright.data.files import is_url, read_lines
from boxwright.data.images import IMAGE_SUFFIXES, read_image, without_unread
from boxwright.errors import UserError
from boxwright.inference.streams import DEFAULT_FPS, PROTOCOLS, Frame, is_stream, read_streams
from boxwright.reading import read_bytes, reads
from boxwright.settings.base import limit

logger = logging.getLogger("boxwright.predict")

VIDEO_SUFFIXES = frozenset((".asf", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".wmv"))
_POLL = 0.1  # seconds: how soon a reader that waits for room sees that nobody takes frames any more
_LIST_SUFFIXES = (".txt", ".streams")


def open_source(source: str | Path, *, video_stride: int = 1) -> Generator[Frame]:
    """Find what a source means; iterating reads it.

    Args:
        source: image, video, folder, glob, tar shards (`x-{000..012}.tar`), .txt list of files (relative to the list,
            or to the working directory), number of a camera, address of a stream, or a .streams or .txt list of those.
        video_stride: take every n-th frame of a video.

    Raises:
        UserError: nothing is there.
    """
    text = str(source)
    path = Path(text)
    if streams := streams_of(source):
        return read_streams(streams, stride=video_stride, listed_in=path if path.is_file() else None)
    if path.is_dir():
        files = [p for p in map(Path, without_unread(path, map(str, path.iterdir()))) if _is_media(p)]
        if not files:
            raise UserError(f"no images and no videos in the folder {path}")
    elif path.is_file() and path.suffix.lower() in _LIST_SUFFIXES:
        files = _read_list(path)
    elif path.suffix.lower() == ".tar" and not path.is_dir():
        from boxwright.data.shards import list_shard_images

        files = list_shard_images(text)
    elif path.is_file():
        files = [path]
        if not _is_media(path):
            raise UserError(
                f"{path} is neither an image nor a video nor a .txt or .streams list (by its suffix); save an image of "
                "another kind as JPEG or PNG"
            )
    else:
        if path.exists():
            read_bytes(path, first=0)  # raises: it is a pipe, a socket or a device
        files = sorted(p for p in map(Path, glob.glob(text, recursive=True)) if _is_media(p))
        if not files and text.split()[:1] == ["screen"]:
            raise UserError(f"--source {text}: the screen is no source here; save pictures or a video of it")
        if not files:
            raise UserError(
                f"nothing to predict on at {text}: no such file or folder, and as a pattern it fits no image"
            )
    return _read(files, video_stride)


def read_ahead(frames: Generator[Frame], most: int) -> Generator[Frame]:
    """Yield frames that a thread reads ahead.

    Args:
        frames: what the thread reads; closed at the end.
        most: frames that may wait at a time. Closing the generator ends the thread.
    """
    waiting: queue.Queue[Frame | BaseException | None] = queue.Queue(most)
    stop = threading.Event()

    def put(item: Frame | BaseException | None) -> bool:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(item, timeout=_POLL)
                return True
        return False

    def read() -> None:
        try:
            with contextlib.closing(frames):
                for frame in frames:
                    if not put(frame):
                        return
            put(None)
        except BaseException as error:  # raised again where the frames are taken
            put(error)

    reader = threading.Thread(target=read, daemon=True, name="reader of images")
    reader.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        reader.join()


def _read(files: Sequence[Path], video_stride: int) -> Generator[Frame]:
    """Yield the frames of images and videos; what cannot be read is left out."""
    for i, path in enumerate(files, 1):
        try:
            if path.suffix.lower() in VIDEO_SUFFIXES:
                yield from _read_video(path, video_stride, f"video {i}/{len(files)}")
            else:
                yield Frame(read_image(path), path, None, DEFAULT_FPS, f"image {i}/{len(files)}")
        except UserError as error:
            logger.warning("%s (left out)", error)


def _read_video(path: Path, stride: int, position: str) -> Generator[Frame]:
    """Yield every n-th frame of a video file."""
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise UserError(f"{path} cannot be opened as a video")
        _refuse_large(path, *(int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)))
        total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        fps = (capture.get(cv2.CAP_PROP_FPS) or DEFAULT_FPS) / stride
        number = 0
        while capture.grab():  # decodes only the frames that are wanted
            number += 1
            if number % stride:
                continue
            decoded, image = capture.retrieve()
            if decoded:
                _refuse_large(path, image.shape[1], image.shape[0])  # a later frame may be larger than the header says
                where = f"{position}, frame {number}" + (f"/{total}" if total > 0 else "")
                yield Frame(image.astype(np.uint8, copy=False), path, number, fps, where)
        if number == 0:
            logger.warning("%s holds no frame; it is left out", path)
    finally:
        capture.release()


def _refuse_large(video: Path, width: int, height: int) -> None:
    if width * height > limit("max_pixels"):
        raise UserError(f"{video}: frames of {width} x {height} pixels are too large; --max-pixels allows them")


def _is_media(path: Path) -> bool:
    """Return whether a file is an image or a video, by its suffix."""
    return path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and path.is_file()


def streams_of(source: str | Path) -> list[str]:
    """Return the addresses and camera numbers that a source stands for: its own, or those of a list; none: it is files.

    Raises:
        UserError: a list names files, too, or it is a `.streams` list that names nothing.
    """
    text = re.sub(rf"^({'|'.join(PROTOCOLS)}):/+", r"\1://", str(source))  # which a Path has shortened
    path = Path(text)
    if is_url(text) or (text.isdecimal() and not path.exists()):
        return [text]
    if not path.is_file() or path.suffix.lower() not in _LIST_SUFFIXES:
        return []
    is_list = path.suffix.lower() == ".streams"
    entries = {number: entry for number, entry in enumerate(read_lines(path), 1) if entry}
    if is_list:
        entries = {number: entry for number, entry in entries.items() if not entry.startswith("#")}
    elif not any(map(is_url, entries.values())):
        return []
    for number, entry in entries.items():
        if not is_stream(entry):
            raise UserError(f"{path}, line {number}: {entry} is no address of a stream, such as rtsp://camera/live")
    if not entries:
        raise UserError(f"{path} lists no streams")
    return list(entries.values())


@reads("list of files")
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
