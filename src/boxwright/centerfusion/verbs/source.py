"""Predict on images, folders and videos of an own camera: pictures in 3-D and from above, and detections.json."""

import contextlib
import logging
import warnings
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.centerfusion.calibration import Calibration, read_calibration
from boxwright.centerfusion.pictures import boxes_of_detections, draw_found, points_of_radar
from boxwright.centerfusion.settings import MODEL, FusionPredictConfig
from boxwright.centerfusion.weights import load_detector
from boxwright.data.files import FreeNames, JsonList
from boxwright.drawing.canvas import VideoFile, write_image
from boxwright.engine.run_folder import new_run_folder
from boxwright.errors import UserError
from boxwright.inference.sources import open_source
from boxwright.inference.streams import Frame
from boxwright.inference.streams import shown as shown_source
from boxwright.nuscenes.structures import ATTRIBUTE_NAMES, CLASS_NAMES, Detections3d
from boxwright.nuscenes.submission import likeliest_attributes
from boxwright.ops.arrays import Floats, Image
from boxwright.terminal import counted

_log = logging.getLogger("boxwright.predict")
_FORWARD = np.array([(0.0, 0, 1, 0), (-1, 0, 0, 0), (0, -1, 0, 0), (0, 0, 0, 1)])
"""ego_from_cam of a camera that looks forward from where the car is, for drawing where no extrinsics are given."""
_DIGITS = 4  # behind the point, of numbers in detections.json: tenths of a millimetre


def predict_source(config: FusionPredictConfig) -> Path:
    """Find objects in everything that a source holds, draw them and print how many; return the run folder.

    Raises:
        UserError: weights, source or calibration do not fit each other, or no image could be read.
    """
    for name in ("data", "scene"):
        if getattr(config, name):
            raise UserError(f"predict takes a scene of a nuScenes root (--data), or --source: leave out --{name}")
    if not config.calib:
        raise UserError(
            "predict --source needs --calib, a json with the camera matrix (docs/fusion.md; "
            f"`boxwright predict --model {MODEL} --help` lists all flags)"
        )
    calibration = read_calibration(Path(config.calib).expanduser())
    with contextlib.ExitStack() as stack:
        frames = stack.enter_context(contextlib.closing(open_source(config.source, video_stride=config.vid_stride)))
        detector = load_detector(
            config.weights, device=config.device, half=config.half, no_radar=config.no_radar, compat=config.compat
        )
        use_radar = not detector.config.no_radar
        if use_radar and not calibration.radars:
            _log.warning("%s names no radar: %s looks at an empty radar map", calibration.path, config.weights)
        if calibration.radars and not use_radar:
            _log.warning("the radar of %s is not used: %s is of a camera alone", calibration.path, config.weights)
        first = next(frames, None)
        if first is None:
            raise UserError(f"no image of {shown_source(config.source)} could be read")
        doubts = Doubts()
        calibration.camera(first.image.shape[1], first.image.shape[0])  # refused before there is a folder
        folder = new_run_folder(config.project, config.name, config.exist_ok)
        writer = stack.enter_context(contextlib.closing(_Writer(folder, config, calibration)))
        num_images = num_objects = 0
        for frame in chain([first], frames):
            name = writer.name_of(frame)
            height, width = frame.image.shape[:2]
            calib, doubt = calibration.camera(width, height)
            radar, missing = calibration.read_radar(name, detector.config.radar) if use_radar else (None, [])
            doubts.say(doubt, [str(file) for file in missing], calibration.path)
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # of the same doubt
                found = detector.predict(
                    np.ascontiguousarray(frame.image[..., ::-1]),
                    calib,
                    radar,
                    conf_thres=config.conf_thres,
                    max_det=config.max_det,
                    flip_test=config.flip_test,
                )
            writer.save(frame, name, found, radar, calib)
            counts = Counter(CLASS_NAMES[label] for label in sorted(found.labels.tolist()))
            listed = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing found"
            print(f"{frame.position} {frame.path}: {listed}", flush=True)
            num_images, num_objects = num_images + 1, num_objects + len(found)
        doubts.sum_up()
    print(f"{counted(num_objects, 'object')} in {counted(num_images, 'image')}; results are in {folder}")
    return folder


class Doubts:
    """What may not be as the user thinks, each said once."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._missing: list[str] = []

    def say(self, intrinsics: str, missing: list[str], calibration: Path) -> None:
        if intrinsics and intrinsics not in self._said:
            self._said.add(intrinsics)
            _log.warning("%s: %s", calibration, intrinsics)
        self._missing += missing

    def sum_up(self) -> None:
        if self._missing:
            _log.warning(
                "%s not there, %s first: their images were looked at without them",
                f"{counted(len(self._missing), 'radar file')} {'are' if len(self._missing) > 1 else 'is'}",
                self._missing[0],
            )


class _Writer:
    """Writes pictures, videos and detections.json; `close` finishes them."""

    def __init__(self, folder: Path, config: FusionPredictConfig, calibration: Calibration) -> None:
        self._folder, self._config = folder, config
        self._ego_from_cam = calibration.ego_from_cam
        self._names, self._video_names = FreeNames(), FreeNames()
        self._video: tuple[object, VideoFile] | None = None
        self._rows = JsonList(folder / "detections.json") if config.save_json else None

    def name_of(self, frame: Frame) -> str:
        """Return the name of an image, or of a video and the number of its frame; a repeated one gets a number."""
        name = self._names.take(frame.path.stem if frame.path else "array", frame.path)
        return name if frame.number is None else f"{name}_{frame.number}"

    def save(self, frame: Frame, name: str, found: Detections3d, radar: Floats | None, calib: Floats) -> None:
        if self._rows is not None:
            self._rows.add(_row(frame, found, self._ego_from_cam))
        if self._config.nosave:
            return
        boxes = boxes_of_detections(found)
        points = None if radar is None else points_of_radar(radar)
        place = _FORWARD if self._ego_from_cam is None else self._ego_from_cam
        drawn = draw_found(frame.image, boxes, points, calib, place)
        if frame.number is None:
            write_image(self._folder / f"{name}.jpg", drawn)
        else:
            self._add_to_video(frame, drawn)

    def _add_to_video(self, frame: Frame, drawn: Image) -> None:
        """Append to the video of a source; one that changes its size begins a new file."""
        key = frame.path, drawn.shape
        if self._video is not None and self._video[0] != key:
            self._finish()
        if self._video is None:
            stem = self._video_names.take(frame.path.stem if frame.path else "camera", key)
            self._video = key, VideoFile(self._folder / f"{stem}.mp4", frame.fps, "; --nosave predicts without it")
        self._video[1].add(drawn)

    def _finish(self) -> None:
        if self._video is not None and self._video[1].size is not None:
            self._video[1].finish()
        self._video = None

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # each is closed, also where the other one cannot be written
            if self._rows is not None:
                stack.callback(self._rows.close)
            self._finish()


def _row(frame: Frame, found: Detections3d, ego_from_cam: Floats | None) -> dict[str, Any]:
    """Make the entry of an image in detections.json, see docs/fusion.md."""
    height, width = frame.image.shape[:2]
    columns = {
        "score": found.scores,
        "box": found.boxes,
        "location": found.locations,
        "dimensions": found.dims,
        "rotation_y": found.rotation_y,
        "velocity": found.velocity,
    }
    listed = {name: np.round(value.double().numpy(), _DIGITS).tolist() for name, value in columns.items()}
    if ego_from_cam is not None:
        boxes = boxes_of_detections(found).transform(ego_from_cam)
        bottom = boxes.positions[:, :4]
        ahead = bottom[:, :2].mean(1) - bottom[:, 2:].mean(1)
        listed["center_ego"] = np.round(boxes.centers, _DIGITS).tolist()
        listed["yaw_ego"] = np.round(np.arctan2(ahead[:, 1], ahead[:, 0]), _DIGITS).tolist()
        listed["velocity_ego"] = np.round(boxes.velocities, _DIGITS).tolist()
    labels = found.labels.numpy()
    attributes = likeliest_attributes(labels, found.attributes.double().numpy()).tolist()
    objects = [
        {
            "class": CLASS_NAMES[label],
            "attribute": ATTRIBUTE_NAMES[attribute] if attribute >= 0 else "",
            **{name: values[at] for name, values in listed.items()},
        }
        for at, (label, attribute) in enumerate(zip(labels.tolist(), attributes, strict=True))
    ]
    image = {"image": str(frame.path), "frame": frame.number, "width": width, "height": height}
    return image | {"objects": objects}
