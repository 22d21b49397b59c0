"""The predict verb: a source through a network into a run folder.

The folder gets annotated images and videos, and on request label files, crops, predictions.json and label_studio.json.
Results are written as they come and none is kept: a camera has no end.
"""

import contextlib
import glob
import io
import logging
import os
import sys
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import TextIO
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from boxwright.data.files import FreeNames, JsonList, append, file_errors, write_atomically
from boxwright.data.yolo_txt import label_row
from boxwright.drawing.boxes import draw_boxes
from boxwright.drawing.canvas import VideoFile, write_image
from boxwright.engine.run_folder import new_run_folder
from boxwright.errors import UserError
from boxwright.inference.sources import open_source, read_ahead, streams_of
from boxwright.inference.streams import Frame
from boxwright.inference.streams import shown as shown_source
from boxwright.terminal import CtrlC, one_line
from boxwright.yolo.detector import load
from boxwright.yolo.result import WRITABLE_SUFFIXES, Result
from boxwright.yolo.settings import PredictConfig

_log = logging.getLogger("boxwright.predict")
_LONGEST_STILL = 2.0  # seconds for which a video shows one frame of a stream, however long the next one took


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
    with contextlib.ExitStack() as stack:
        frames = open_source(config.source, video_stride=config.vid_stride)
        batch_size = 1
        if not streams_of(config.source):  # live ones have their own readers, and their newest frame must not wait
            batch_size = config.batch_size
            frames = read_ahead(frames, batch_size + 1)
        frames = stack.enter_context(contextlib.closing(frames))
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
        # Refuses a wrong class, and a source without an image, before there is a folder.
        postprocess = detector.postprocess(config)
        size = detector.input_size(config.imgsz)
        first = next(frames, None)
        if first is None:
            raise UserError(f"no image of {shown_source(config.source)} could be read")
        folder = new_run_folder(config.project, config.name, config.exist_ok)
        if config.save_log:
            stack.enter_context(contextlib.redirect_stdout(_Tee(sys.stdout, folder / "log.log")))
        total, ctrl_c = Total(), stack.enter_context(CtrlC())
        stopped: KeyboardInterrupt | None = None
        with contextlib.closing(PredictionWriter(folder, config, detector.names)) as writer:
            try:
                frames = chain([first], frames)
                while batch := list(islice(frames, batch_size)):
                    if len(batch) == 1:
                        results = [detector.run(batch[0], size, postprocess)]
                    else:
                        results = detector.run_batch(batch, size, postprocess)
                    for frame, result in zip(batch, results, strict=True):
                        with ctrl_c.held():  # no file ends in the middle
                            writer.save(frame, result)
                            total.add(result)
                            print(f"{frame.position} {one_line(str(frame.path))}: {describe(result)}", flush=True)
            except KeyboardInterrupt as error:  # the usual end of a camera; what was written stays and is closed
                stopped = error
                print("stopped")
        if total.images:
            print(total.summary())
        boxes, images = f"box{'' if total.boxes == 1 else 'es'}", f"image{'' if total.images == 1 else 's'}"
        print(f"{total.boxes} {boxes} in {total.images} {images}; results are in {folder}")
        if total.images and not total.boxes:
            print(f"nothing scored {config.conf_thres:g}; a lower --conf-thres, such as 0.01, shows what was nearest")
        if stopped is not None:
            raise stopped
    return folder


class _Tee(io.TextIOBase):
    """A stream that writes to another one and appends its lines to a file."""

    def __init__(self, stream: TextIO, file: Path) -> None:
        self._stream = stream
        self._file = file
        self._line = ""

    def write(self, text: str, /) -> int:
        self._stream.write(text)
        self._line += text
        if "\n" in text:
            line, self._line = self._line, ""
            append(self._file, line)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


def describe(result: Result) -> str:
    """Format input size, number of boxes of each class and milliseconds of the network as one line."""
    counts = ", ".join(f"{number} {name}" for name, number in result.counts().items()) or "nothing found"
    height, width = result.input_size
    return f"{width}x{height}, {counts}, {result.speed.inference:.1f} ms"


class Total:
    """Images, boxes and milliseconds of all results together."""

    def __init__(self) -> None:
        self.images = self.boxes = 0
        self.input_size = (0, 0)  # height, width of the last image
        self._times = np.zeros(4)

    def add(self, result: Result) -> None:
        speed = result.speed
        self.images, self.boxes, self.input_size = self.images + 1, self.boxes + len(result), result.input_size
        self._times += (speed.preprocess, speed.inference, speed.nms, speed.classify)

    def summary(self) -> str:
        """Format the mean time of each stage as one line."""
        pre, infer, nms, classify = self._times / self.images
        second = f", {classify:.1f} ms classifier" if classify >= 0.05 else ""
        height, width = self.input_size
        return (
            f"Speed: {pre:.1f} ms pre-process, {infer:.1f} ms inference, {nms:.1f} ms NMS{second} "
            f"per image at {width}x{height}"
        )


class PredictionWriter:
    """Writes what the settings ask for; `close` finishes videos and json files.

    Args:
        folder: the run folder.
        config: settings of the verb.
        names: of the classes of the network.
    """

    def __init__(self, folder: Path, config: PredictConfig, names: tuple[str, ...]) -> None:
        self.folder = folder
        self.config = config
        self._videos: dict[Path | None, VideoFile] = {}  # by what the frames come from
        self._seconds: dict[Path | None, float] = {}  # of the last frame of a stream
        self._free_names, self._video_names = FreeNames(), FreeNames()
        plain = takewhile(lambda part: not glob.has_magic(part), Path(config.source).parts)
        root = Path(*plain)  # which the files of a prefix are below
        self._root = root if root.is_dir() else root.parent
        self._no_tasks = 0  # frames of videos, which Label Studio takes no boxes of
        if config.save_txt:
            # Label files name classes by number; labelling tools read the names from here.
            write_atomically(folder / "classes.txt", "".join(f"{name}\n" for name in names))
        if config.label_studio:
            labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in names)
            rectangles = f'  <RectangleLabels name="label" toName="image">\n{labels}  </RectangleLabels>\n'
            view = f'<View>\n  <Image name="image" value="$image"/>\n{rectangles}</View>\n'
            write_atomically(folder / "label_studio.xml", view)
        self._predictions = JsonList(folder / "predictions.json") if config.save_json else None
        self._tasks = JsonList(folder / "label_studio.json") if config.label_studio else None

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # each is closed, also where another one cannot be written
            for file in (self._predictions, self._tasks):
                if file is not None:
                    stack.callback(file.close)
            self._close_videos()
        if self._no_tasks:
            _log.warning("label_studio.json has no tasks for the %d frames of videos and streams", self._no_tasks)

    def save(self, frame: Frame, result: Result) -> None:
        """Write everything that is asked for of one frame."""
        config = self.config
        # Images of the same name from different folders get a number.
        name = self._free_names.take(frame.path.stem if frame.path else "array", frame.path)
        stem = name if frame.number is None else f"{name}_{frame.number}"
        if config.save_txt:
            found = zip(result.labels, result.boxes_cxcywh_norm, result.scores, strict=True)
            lines = [
                label_row(int(label), (*box, score) if config.save_conf else box, ".6g") for label, box, score in found
            ]
            with file_errors("make", self.folder / "labels"):
                (self.folder / "labels").mkdir(exist_ok=True)
            if lines:  # as published, an image without boxes has no file
                write_atomically(self.folder / "labels" / f"{stem}.txt", "".join(lines))
        if config.save_crop:
            result.crop(frame.image[..., ::-1], folder=self.folder / "crops", stem=stem)
        if self._predictions is not None:
            for row in result.to_coco():
                self._predictions.add(row)
        if self._tasks is not None and frame.number is None and frame.path is not None:
            place = frame.path.relative_to(self._root) if frame.path.is_relative_to(self._root) else frame.path
            self._tasks.add(result.to_label_studio(config.label_studio + quote(os.fsencode(place.as_posix()))))
        elif self._tasks is not None:
            self._no_tasks += 1
        if config.nosave:
            return
        captions = result.captions(names=not config.hide_labels, scores=not config.hide_conf)
        thickness = config.line_thickness
        drawn = draw_boxes(frame.image, result.boxes, captions, result.labels, line_thickness=thickness)
        if frame.number is None:
            suffix = frame.path.suffix.lower() if frame.path else ""
            write_image(self.folder / f"{stem}{suffix if suffix in WRITABLE_SUFFIXES else '.jpg'}", drawn)
            return
        self._add_to_video(frame, name, drawn)

    def _add_to_video(self, frame: Frame, name: str, drawn: np.ndarray) -> None:
        """Append a frame to the video of its source; of a stream as often as it takes to keep its time."""
        video = self._videos.get(frame.path)
        size = (drawn.shape[0], drawn.shape[1])
        # Streams run side by side, video files one after another; one that changes its size begins a new file.
        if video is None and frame.seconds is None:
            self._close_videos()
        if video is not None and video.size != size:
            self._videos.pop(frame.path).finish()
            video = None
        if video is None:
            file = self.folder / f"{self._video_names.take(name, (frame.path, size))}.mp4"
            video = self._videos[frame.path] = VideoFile(file, frame.fps, "; --nosave predicts without it")
        times = 1
        if frame.seconds is not None:
            passed = frame.seconds - self._seconds.get(frame.path, frame.seconds)
            times = max(1, round(min(passed, _LONGEST_STILL) * frame.fps))
            self._seconds[frame.path] = frame.seconds
        for _ in range(times):
            video.add(drawn)

    def _close_videos(self) -> None:
        """Finish the videos that are written."""
        for video in self._videos.values():
            if video.size is not None:
                video.finish()
        self._videos.clear()
