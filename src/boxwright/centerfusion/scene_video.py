"""A scene as pictures: one PNG a key frame and a video, each of which is either whole or not there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import cv2

from boxwright.centerfusion.scene_sheet import KeyFrame, SheetOptions, draw_sheet
from boxwright.data.letterbox import Image
from boxwright.errors import UserError
from boxwright.yolo.prediction_writer import VIDEO_CODEC, write_image

KEY_FRAMES_A_SECOND = 2.0  # as nuScenes annotates


def write_scene(
    frames: Iterable[KeyFrame],
    folder: Path,
    name: str,
    fps: float = KEY_FRAMES_A_SECOND,
    options: SheetOptions | None = None,
) -> list[Path]:
    """Write the sheets of a scene as folder/name/0001.png, ... and folder/name.mp4.

    Args:
        frames: key frames in order; each is painted and written before the next one is asked for.
        folder: it is made where it is missing.
        name: of the scene; letters that a file name cannot have become underscores.
        fps: pictures a second of the video.
        options: how sheets look.

    Returns:
        the files; none where there is no key frame.

    Raises:
        UserError: an image cannot be read, or a file cannot be written. Sheets written so far remain.
    """
    # The name comes from a table and must not lead out of the folder.
    stem = re.sub(r"[^\w .-]", "_", name).strip(". ") or "_"
    video = _WholeVideo(folder / f"{stem}.mp4", fps)
    written: list[Path] = []
    try:
        for frame in frames:
            sheet = draw_sheet(frame, options)
            path = folder / stem / f"{frame.number:04d}.png"
            _write_whole(path, sheet)
            written.append(path)
            video.add(sheet)
    except BaseException:
        video.drop()
        raise
    return [*written, video.finish()] if written else []


def _write_whole(path: Path, image: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    begun = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write_image(begun, image)
        begun.replace(path)
    finally:
        begun.unlink(missing_ok=True)


class _WholeVideo:
    """A video that has its name only when it is complete."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self.fps = fps
        self._begun = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def add(self, image: Image) -> None:
        size = (image.shape[1], image.shape[0])
        if self._writer is None:
            self._size = size
            self._writer = cv2.VideoWriter(str(self._begun), cv2.VideoWriter.fourcc(*VIDEO_CODEC), self.fps, size)
            if not self._writer.isOpened():
                raise UserError(f"cannot write the video {self.path}")
        assert size == self._size, "all sheets of a scene have one size"
        self._writer.write(image)

    def finish(self) -> Path:
        """Close the file and give it its name."""
        assert self._writer is not None
        self._writer.release()
        self._begun.replace(self.path)
        return self.path

    def drop(self) -> None:
        """Leave nothing behind."""
        if self._writer is not None:
            self._writer.release()
        self._begun.unlink(missing_ok=True)
