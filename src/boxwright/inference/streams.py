"""Cameras and network streams: a thread for each keeps the newest frame and connects again when the stream is lost.

A stream that knows its length, such as a video file on a server, is read frame by frame, so that none is missed.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np

from boxwright.data.files import FreeNames, is_url
from boxwright.data.images import IMAGE_SUFFIXES
from boxwright.errors import UserError
from boxwright.ops.arrays import Image

logger = logging.getLogger("boxwright.predict")

PROTOCOLS = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "tcp", "srt")
DEFAULT_FPS = 30.0  # where a camera or a video does not say
_PLAUSIBLE_FPS = (1.0, 240.0)
_TIMEOUT = 10_000  # milliseconds without an answer after which a stream counts as lost
_ATTEMPTS = 12  # failures in succession after which a lost stream is given up: about a minute and a half
_LONGEST_PAUSE = 10.0  # seconds between two of them
_POLL = 0.2  # seconds: a wait without an end could not be interrupted everywhere


@dataclass(frozen=True)
class Frame:
    """One image to predict on."""

    image: Image  # (H, W, 3) BGR, turned upright by its EXIF entry
    path: Path | None  # image or video file; the name of a camera or stream; None for an array
    number: int | None  # of the frame in its video, from 1; None for an image file
    fps: float  # frames per second that are yielded from this video
    position: str  # "image 3/10" or "video 1/2, frame 7/300"
    seconds: float | None = None  # since this camera or stream was opened; None: frames are not bound to a clock


def is_stream(text: str) -> bool:
    """Return whether a source is the address of a stream or the number of a camera."""
    return text.isdecimal() or is_url(text)


def shown(source: str) -> str:
    """Write a source for a message: without the password of its address."""
    return f"camera {source}" if source.isdecimal() else re.sub(r"://[^/@]*@", "://***@", source)


def read_streams(sources: Sequence[str], *, stride: int = 1, listed_in: Path | None = None) -> Generator[Frame]:
    """Yield frames of cameras, streams and video files as they come, from whichever has a new one, in turn.

    Lost streams are connected again; it ends when all have ended or are given up. Closing it stops the threads.

    Args:
        sources: numbers of cameras, addresses, or video files.
        stride: take every n-th frame.
        listed_in: the file that names them, for messages.

    Raises:
        UserError: an address is of another protocol, or none can be opened.
    """
    for source in sources:
        if is_url(source) and source.partition(":")[0].lower() not in PROTOCOLS:
            raise UserError(f"{shown(source)}: streams are opened by {', '.join(PROTOCOLS)} only")
    return _read_streams(sources, stride, listed_in)


def _read_streams(sources: Sequence[str], stride: int, listed_in: Path | None) -> Generator[Frame]:
    """See `read_streams`; this part runs when the first frame is asked for."""
    changed, names = threading.Condition(), FreeNames()
    readers = [
        _Reader(source, names.take(_file_name(source), number), stride, changed)
        for number, source in enumerate(sources, 1)
    ]
    with _quiet(), _running(readers, changed):
        for number, reader, (image, count, seconds) in _newest(readers, changed):
            total = f"/{reader.total}" if reader.total else ""
            kind = "camera" if reader.source.isdecimal() else f"stream {number}/{len(readers)}"
            position = kind if count is None else f"{kind}, frame {count}{total}"
            yield Frame(image, Path(reader.name), count, reader.fps, position, None if reader.total else seconds)
        if not any(reader.was_open for reader in readers):
            raise UserError(_why_none(sources, listed_in))


@contextmanager
def _running(readers: "Sequence[_Reader]", changed: threading.Condition) -> Generator[None]:
    """Start the threads of readers, and stop them at the end."""
    try:
        for reader in readers:
            reader.thread.start()
        yield
    finally:
        for reader in readers:
            reader.stop.set()
        with changed:
            changed.notify_all()
        for reader in readers:
            if reader.thread.is_alive():
                reader.thread.join(1.0)  # one that waits for a dead server ends with the process


Newest = tuple[Image, int | None, float]  # image, number (None: of a single picture), seconds


def _newest(readers: "Sequence[_Reader]", changed: threading.Condition) -> Iterator[tuple[int, "_Reader", Newest]]:
    """Yield number, reader and newest frame of the readers in turn, and log what became of them."""
    turn = 0
    while True:
        with changed:
            order = [(turn + i) % len(readers) for i in range(len(readers))]
            at = next((i for i in order if readers[i].newest is not None), None)
            ended = all(not reader.thread.is_alive() and reader.newest is None for reader in readers)
            is_open = any(reader.was_open for reader in readers)
            # Where all fail at once they are reported together, by the error.
            failed = not is_open and all(reader.failures for reader in readers)
            notes = [note for reader in readers for note in reader.take_notes()] if is_open else []
            if at is None and not notes and (ended or failed):
                return
            newest = None if at is None else readers[at].take()
            if newest is None and not notes:
                changed.wait(_POLL)
        for note in notes:
            logger.warning("%s", note)
        if at is not None and newest is not None:
            turn = at + 1
            yield at + 1, readers[at], newest


class _Reader:
    """Reads one source in a thread; all attributes are guarded by the condition."""

    def __init__(self, source: str, name: str, stride: int, changed: threading.Condition) -> None:
        self.source, self.name, self.stride, self.changed = source, name, stride, changed
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True, name=f"stream {name}")
        self.newest: Newest | None = None
        self.total = 0  # frames of a source that knows its length; 0: it does not
        self.fps = DEFAULT_FPS
        self.was_open, self.failures = False, 0
        self._notes: list[str] = []
        self._count, self._began = 0, time.monotonic()

    def take(self) -> Newest | None:
        """Return the newest frame, once."""
        newest, self.newest = self.newest, None
        self.changed.notify_all()
        return newest

    def take_notes(self) -> list[str]:
        """Return what is to be logged, once."""
        notes = self._notes
        self._notes = []
        return notes

    def _run(self) -> None:
        while not self.stop.is_set():
            capture = _open(self.source)
            ended = capture.isOpened() and self._read(capture)
            capture.release()
            if ended or self.stop.is_set():
                break
            with self.changed:
                self.failures += 1
                given_up = self.failures > _ATTEMPTS
                if self.failures == 1 or given_up:
                    what = "is given up" if given_up else "is lost" if self.was_open else "cannot be opened"
                    self._notes.append(f"{shown(self.source)} {what}{'' if given_up else '; connecting again'}")
                self.changed.notify_all()
            if given_up:
                break
            self.stop.wait(min(0.5 * 2 ** (self.failures - 1), _LONGEST_PAUSE))
        with self.changed:
            self.changed.notify_all()

    def _read(self, capture: cv2.VideoCapture) -> bool:
        """Read until the stream ends; return whether that is its proper end."""
        total, fps = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
        with self.changed:
            # What a live stream says of its length is below zero or no number.
            self.total = int(total) if 0 < total < 1e9 and not self.source.isdecimal() else 0
            self.fps = (fps if _PLAUSIBLE_FPS[0] <= fps <= _PLAUSIBLE_FPS[1] else DEFAULT_FPS) / self.stride
        read, first = 0, None
        while not self.stop.is_set() and capture.grab():
            if first is not None and self._count % self.stride == 0:
                self._put(first, self._count)
            first = None
            read, self._count = read + 1, self._count + 1
            if read > 1 and self._count % self.stride:
                continue
            decoded, image = capture.retrieve()
            if decoded and read == 1:
                first = np.asarray(image, np.uint8)  # a picture on a server is a stream of one frame: is there another?
            elif decoded:
                self._put(np.asarray(image, np.uint8), self._count)
        if first is not None:
            self._put(first, self._count if self.was_open or self.total else None)
        if 0 < read < self.total and not self.stop.is_set():
            self._notes.append(f"{shown(self.source)} ended after {read} of {self.total} frames")
        return self.total > 0 or (first is not None and self._count == 1)

    def _put(self, image: Image, number: int | None) -> None:
        """Offer a frame: in place of an older one that nobody took, or of a finite source when that was taken."""
        with self.changed:
            while self.total and self.newest is not None and not self.stop.is_set():
                self.changed.wait(_POLL)
            if not self.was_open:
                self._began = time.monotonic()
            self.was_open, self.failures = True, 0
            self.newest = (image, number, time.monotonic() - self._began)
            self.changed.notify_all()


def _open(source: str) -> cv2.VideoCapture:
    """Open a camera, an address or a file; the capture says whether it is open."""
    if source.isdecimal():
        return cv2.VideoCapture(int(source))
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT]
    return cv2.VideoCapture(source, cv2.CAP_FFMPEG, timeouts)


@contextmanager
def _quiet() -> Generator[None]:
    """Keep OpenCV and FFmpeg from writing to the standard error what is said here in one sentence."""
    # FFmpeg listens to the level only where its debugging is on.
    os.environ.setdefault("OPENCV_FFMPEG_DEBUG", "1")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _file_name(source: str) -> str:
    """Return a name for the files of a stream: host and path of its address, without password and query.

    An image keeps its suffix; other dots go, else the names of the cameras 10.0.0.7 and 10.0.0.8 would be 10.0.0.
    """
    if source.isdecimal():
        return f"camera{source}"
    if not is_url(source):
        return Path(source).name
    try:
        parts = urlsplit(source)
    except ValueError:  # of brackets that hold no address
        return "stream"
    host = parts.netloc.rpartition("@")[2]
    suffix = Path(parts.path).suffix
    if suffix.lower() not in IMAGE_SUFFIXES:
        suffix = ""
    return (re.sub(r"[^\w-]+", "_", f"{host}{parts.path.removesuffix(suffix)}").strip("_") or "stream") + suffix


def _why_none(sources: Sequence[str], listed_in: Path | None) -> str:
    """Say that nothing could be opened."""
    listed = f", of {listed_in}," if listed_in else ""
    if len(sources) == 1 and sources[0].isdecimal():
        return f"camera {sources[0]}{listed} cannot be opened"
    what = shown(sources[0]) if len(sources) == 1 else f"none of {', '.join(map(shown, sources))}"
    why = "no server answers, or what it sends is no video and no image that OpenCV can read"
    number = "cannot" if len(sources) == 1 else "can"
    return f"{what}{listed} {number} be opened as a stream: {why}"
