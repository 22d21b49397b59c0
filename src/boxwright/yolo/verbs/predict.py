"""The predict verb: a source through a network into a run folder.

The folder gets annotated images and videos, and on request label files, crops and predictions.json.
"""

import contextlib
import io
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from boxwright.data.files import FreeNames, write_atomically
from boxwright.data.yolo_txt import label_row
from boxwright.drawing.boxes import draw_boxes
from boxwright.drawing.canvas import VideoFile, write_image
from boxwright.engine.run_folder import new_run_folder
from boxwright.errors import UserError
from boxwright.inference.sources import Frame, open_source
from boxwright.yolo.detector import Result, Speed, load
from boxwright.yolo.settings import PredictConfig

WRITABLE_SUFFIXES = (".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")  # others are saved as .jpg
CROP_GAIN, CROP_PAD = 1.02, 10  # a crop is this much larger than its box, plus pixels; as published


def predict(config: PredictConfig) -> Path:
    """Find objects in everything that a source holds, print what was found and how long it took; return the run folder.

    Raises:
        UserError: weights or source are missing, or no image could be read.
    """
    for name in ("weights", "source"):
        if not getattr(config, name):
            raise UserError(f"predict needs --{name}")
    if config.save_conf and not config.save_txt:
        raise UserError("--save-conf writes scores into label files: add --save-txt")
    source = open_source(config.source, video_stride=config.vid_stride)
    detector = load(
        config.weights,
        model=config.model,
        device=config.device,
        half=config.half,
        augment=config.augment,
        classifier=config.classifier,
        classifier_weights=config.classifier_weights,
        release=config.release,
    )
    postprocess = detector.postprocess(config)  # refuses a wrong class before there is a folder
    size = detector.input_size(config.imgsz)
    folder = new_run_folder(config.project, config.name, config.exist_ok)
    speeds: list[Speed] = []
    num_boxes, input_size = 0, (0, 0)
    with contextlib.ExitStack() as stack:
        if config.save_log:
            log = stack.enter_context((folder / "log.log").open("a", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(_Tee(sys.stdout, log)))
        with contextlib.closing(PredictionWriter(folder, config)) as writer:
            try:
                for frame in source:
                    result = detector.run(frame, size, postprocess)
                    writer.save(frame, result)
                    speeds.append(result.speed)
                    num_boxes, input_size = num_boxes + len(result), result.input_size
                    print(f"{frame.position} {frame.path}: {describe(result)}", flush=True)
            except KeyboardInterrupt:  # the usual end of a camera; what was written stays and is closed
                print("stopped")
        if not speeds:
            raise UserError(f"no image of {config.source} could be read")
        print(summary(speeds, input_size))
        boxes, images = f"box{'' if num_boxes == 1 else 'es'}", f"image{'' if len(speeds) == 1 else 's'}"
        print(f"{num_boxes} {boxes} in {len(speeds)} {images}; results are in {folder}")
    return folder


class _Tee(io.TextIOBase):
    """A stream that writes to two others."""

    def __init__(self, *streams: TextIO) -> None:
        self._streams = streams

    def write(self, text: str, /) -> int:
        return max(stream.write(text) for stream in self._streams)

    def flush(self) -> None:
        for stream in self._streams:
            stream.flush()


def describe(result: Result) -> str:
    """Format input size, number of boxes of each class and milliseconds of the network as one line."""
    counts = ", ".join(f"{number} {name}" for name, number in result.counts().items()) or "nothing found"
    height, width = result.input_size
    return f"{width}x{height}, {counts}, {result.speed.inference:.1f} ms"


def summary(speeds: Sequence[Speed], input_size: tuple[int, int]) -> str:
    """Format the mean time of each stage as one line."""
    pre, infer, nms, classify = np.mean([(s.preprocess, s.inference, s.nms, s.classify) for s in speeds], axis=0)
    second = f", {classify:.1f} ms classifier" if classify >= 0.05 else ""
    height, width = input_size
    return (
        f"Speed: {pre:.1f} ms pre-process, {infer:.1f} ms inference, {nms:.1f} ms NMS{second} "
        f"per image at {width}x{height}"
    )


class PredictionWriter:
    """Writes what the settings ask for; `close` finishes videos and writes the json.

    Args:
        folder: the run folder.
        config: settings of the verb.
    """

    def __init__(self, folder: Path, config: PredictConfig) -> None:
        self.folder = folder
        self.config = config
        self._video: VideoFile | None = None
        self._video_of: Path | None = None
        self._rows: list[dict[str, Any]] = []
        self._free_names = FreeNames()

    def close(self) -> None:
        self._close_video()
        if self.config.save_json:
            text = json.dumps(self._rows, indent=1, ensure_ascii=False)
            write_atomically(self.folder / "predictions.json", text)

    def save(self, frame: Frame, result: Result) -> None:
        """Write everything that is asked for of one frame."""
        config = self.config
        # Images of the same name from different folders get a number.
        name = self._free_names.take(frame.path.stem if frame.path else "array", frame.path)
        stem = name if frame.number is None else f"{name}_{frame.number}"
        if config.save_txt:
            height, width = result.image_size
            lines: list[str] = []
            found = zip(result.boxes, result.scores, result.labels, strict=True)
            for (left, top, right, bottom), score, label in found:
                x, y = (left + right) / 2 / width, (top + bottom) / 2 / height
                numbers = (x, y, (right - left) / width, (bottom - top) / height, score)
                lines.append(label_row(int(label), numbers if config.save_conf else numbers[:4], ".6g"))
            (self.folder / "labels").mkdir(exist_ok=True)
            if lines:  # as published, an image without boxes has no file
                write_atomically(self.folder / "labels" / f"{stem}.txt", "".join(lines))
        if config.save_crop:
            self._save_crops(frame, stem, result)
        if config.save_json:
            # COCO results form, box as left, top, width, height; file and name of the class stand beside it.
            image_id = frame.path.stem if frame.path else ""
            number = {} if frame.number is None else {"frame": frame.number}
            for box, score, label in zip(result.boxes, result.scores, result.labels, strict=True):
                bbox = [round(float(n), 3) for n in (*box[:2], *(box[2:] - box[:2]))]
                row = {
                    "image_id": int(image_id) if image_id.isdecimal() else image_id,
                    "file": str(frame.path),
                    **number,
                    "category_id": int(label),
                    "category": result.names[int(label)],
                    "bbox": bbox,
                    "score": round(float(score), 5),
                }
                self._rows.append(row)
        if config.nosave:
            return
        captions = result.captions(names=not config.hide_labels, scores=not config.hide_conf)
        thickness = config.line_thickness
        drawn = draw_boxes(frame.image, result.boxes, captions, result.labels, line_thickness=thickness)
        if frame.number is None:
            suffix = frame.path.suffix.lower() if frame.path else ""
            write_image(self.folder / f"{stem}{suffix if suffix in WRITABLE_SUFFIXES else '.jpg'}", drawn)
            return
        # A stream that changes its size begins a new file: a video has frames of one size.
        if self._video is None or self._video_of != frame.path or self._video.size != drawn.shape[:2]:
            self._close_video()
            self._video_of = frame.path
            self._video = VideoFile(self.folder / f"{name}.mp4", frame.fps, "; --nosave predicts without it")
        self._video.add(drawn)

    def _save_crops(self, frame: Frame, stem: str, result: Result) -> None:
        """Write the part of the image around each box."""
        height, width = frame.image.shape[:2]
        for i, (box, label) in enumerate(zip(result.boxes, result.labels, strict=True)):
            centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * CROP_GAIN + CROP_PAD / 2
            left, top = np.maximum(centre - half, 0).astype(int)
            right, bottom = np.minimum(centre + half, (width, height)).astype(int)
            if right > left and bottom > top:
                # A class name comes from a weight file and must not lead out of the folder.
                folder = self.folder / "crops" / (re.sub(r"[^\w .-]", "_", result.names[int(label)]).strip(". ") or "_")
                folder.mkdir(parents=True, exist_ok=True)
                write_image(folder / f"{stem}_{i}.jpg", frame.image[top:bottom, left:right])

    def _close_video(self) -> None:
        """Finish the video that is written, if any."""
        if self._video is not None and self._video.size is not None:
            self._video.finish()
        self._video = None
