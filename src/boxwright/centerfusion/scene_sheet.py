"""One sheet for each key frame: six cameras with boxes and radar beside the view from above; a scene becomes a video.

What is not here: the reading of nuScenes, and the prediction. A `KeyFrame` holds what is to be shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from boxwright.data.images import read_image
from boxwright.data.letterbox import Image
from boxwright.drawing.birds_eye import BACKGROUND, LETTERING, RADIUS, TRUTH, draw_birds_eye
from boxwright.drawing.boxes import LIGHT
from boxwright.drawing.boxes3d import BoxStyle, draw_boxes_3d, draw_points
from boxwright.drawing.plates import draw_plate, letter_scale, measure, write
from boxwright.drawing.solids import (
    SolidBoxes,
    join_boxes,
    join_points,
    radar_points,
    solids_of_detections,
    solids_of_global,
)
from boxwright.drawing.strokes import FAR_COLOR, depth_colors, solid_color
from boxwright.nuscenes.geometry import inverses
from boxwright.nuscenes.structures import CAMERAS, CLASS_NAMES, Detections3d, GlobalBoxes, ImageRecord

Array = npt.NDArray[np.float64]

ROWS = (("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"), ("CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"))
PANEL = (44, 38, 35)
PLATE = (40, 40, 40)
GAP = 6  # pixels between panels
ASPECT = 9 / 16  # of the panels: nuScenes' images


@dataclass(frozen=True, slots=True)
class CameraView:
    """What one camera of a key frame shows.

    Args:
        record: file, calibration and pose of the image.
        radar: (18, N) points in the frame of the camera; None: none.
        detections: what was found in this image; None: nothing was predicted for it.
        image: (H, W, 3) uint8 BGR, where it is at hand; else the file is read.
    """

    record: ImageRecord
    radar: Array | None = None
    detections: Detections3d | None = None
    image: Image | None = None


@dataclass(frozen=True, slots=True)
class KeyFrame:
    """What one sheet shows.

    Args:
        scene: its name.
        number: of the key frame in its scene, from 1.
        count: key frames of the scene.
        cameras: in any order; one that is missing leaves its panel empty.
        global_from_ego: (4, 4) pose of the vehicle.
        truth: annotations of this key frame; None: there are none to show.
        predictions: objects of all cameras in the global frame; None: those of the cameras are taken.
    """

    scene: str
    number: int
    count: int
    cameras: Sequence[CameraView]
    global_from_ego: Array
    truth: GlobalBoxes | None = None
    predictions: GlobalBoxes | None = None


@dataclass(frozen=True)
class SheetOptions:
    """How sheets look.

    Args:
        camera_width: pixels of one camera's panel; the sheet is a little more than four times as wide.
        score_threshold: lowest score of a prediction that is shown.
        radius: metres shown around the vehicle.
    """

    camera_width: int = 640
    score_threshold: float = 0.3
    radius: float = RADIUS


def draw_sheet(frame: KeyFrame, options: SheetOptions | None = None) -> Image:
    """Paint one key frame, (H, W, 3) uint8 BGR with even sides.

    Predictions are in the colours of their classes. Annotations are white and without captions where there are
    predictions, else in the colours.

    Raises:
        UserError: an image cannot be read.
    """
    options = options or SheetOptions()
    width, height = options.camera_width, round(options.camera_width * ASPECT)
    unit = width / 640
    head, foot = round(46 * unit), round(38 * unit)
    side = 2 * height + GAP
    sheet = np.empty((head + side + foot, 3 * (width + GAP) + side + 2 * GAP, 3), np.uint8)
    sheet[:] = BACKGROUND
    views = {CAMERAS[view.record.sensor - 1]: view for view in frame.cameras}
    for row, names in enumerate(ROWS):
        for column, name in enumerate(names):
            top, left = head + row * (height + GAP), GAP + column * (width + GAP)
            panel = _camera_panel(frame, views.get(name), (height, width), options.score_threshold)
            title = name.removeprefix("CAM_").replace("_", " ")
            draw_plate(panel, title, round(6 * unit), round(6 * unit), letter_scale(0.75 * unit), PLATE)
            sheet[top : top + height, left : left + width] = panel
    left = GAP + 3 * (width + GAP)
    sheet[head : head + side, left : left + side] = _view_from_above(frame, side, options)
    _title(sheet[:head], frame, options)
    _class_colors(sheet[head + side :], unit)
    if any(view.radar is not None for view in frame.cameras):
        _depth_scale(sheet[head + side :], unit)
    return np.pad(sheet, ((0, sheet.shape[0] % 2), (0, sheet.shape[1] % 2), (0, 0)), mode="edge")


def _camera_panel(frame: KeyFrame, view: CameraView | None, size: tuple[int, int], lowest: float) -> Image:
    """One camera in the size it is shown in: lines are painted after the image is made small, and stay crisp."""
    height, width = size
    panel = np.full((height, width, 3), PANEL, np.uint8)
    if view is None:
        write(panel, "no image", width // 2 - 30, height // 2, letter_scale(width / 1000), LETTERING)
        return panel
    image = view.image if view.image is not None else read_image(view.record.path)
    scale = min(width / image.shape[1], height / image.shape[0])
    shown = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, shown, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    # Pixel centres: column u of the image is column (u + 0.5) * scale - 0.5 of the panel.
    scale_x, scale_y = shown[0] / view.record.width, shown[1] / view.record.height
    to_panel = np.array([(scale_x, 0, scale_x / 2 - 0.5), (0, scale_y, scale_y / 2 - 0.5), (0, 0, 1)])
    painted = _paint(frame, view, small.astype(np.uint8, copy=False), to_panel @ view.record.calib, lowest)
    top, left = (height - shown[1]) // 2, (width - shown[0]) // 2
    panel[top : top + shown[1], left : left + shown[0]] = painted
    return panel


def _paint(frame: KeyFrame, view: CameraView, image: Image, calib: Array, lowest: float) -> Image:
    cam_from_global = inverses(view.record.global_from_cam)
    if view.radar is not None:
        image = draw_points(image, radar_points(view.radar), calib)
    if view.detections is not None:
        predictions = solids_of_detections(view.detections)
    elif frame.predictions is not None:
        predictions = solids_of_global(frame.predictions).moved(cam_from_global)
    else:
        predictions = None
    if frame.truth is not None:
        truth = solids_of_global(frame.truth).moved(cam_from_global)
        beside = BoxStyle(color=TRUTH, captions=False, front=0.0, weight=0.5)
        image = draw_boxes_3d(image, truth, calib, None if predictions is None else beside)
    if predictions is not None:
        image = draw_boxes_3d(image, predictions.take(predictions.scores >= lowest), calib)
    return image


def _view_from_above(frame: KeyFrame, side: int, options: SheetOptions) -> Image:
    ego_from_global = inverses(frame.global_from_ego)
    radar = [
        radar_points(view.radar).moved(ego_from_global @ view.record.global_from_cam)
        for view in frame.cameras
        if view.radar is not None
    ]
    found = _predictions(frame, ego_from_global)
    return draw_birds_eye(
        solids_of_global(frame.truth).moved(ego_from_global) if frame.truth is not None else None,
        found.take(found.scores >= options.score_threshold) if found is not None else None,
        join_points(radar) if radar else None,
        size=side,
        radius=options.radius,
    )


def _predictions(frame: KeyFrame, ego_from_global: npt.NDArray[np.floating[Any]]) -> SolidBoxes | None:
    """In the ego frame; None where nothing was predicted at all."""
    if frame.predictions is not None:
        return solids_of_global(frame.predictions).moved(ego_from_global)
    found = [
        solids_of_detections(view.detections).moved(ego_from_global @ view.record.global_from_cam)
        for view in frame.cameras
        if view.detections is not None
    ]
    return join_boxes(found) if found else None


def _title(strip: Image, frame: KeyFrame, options: SheetOptions) -> None:
    """Scene and number of the key frame on the left, how much is shown on the right."""
    unit = options.camera_width / 640
    scale = letter_scale(1.15 * unit)
    baseline = round(31 * unit)
    end = round(12 * unit) + write(strip, frame.scene, round(12 * unit), baseline, scale, LIGHT)
    text = f"key frame {frame.number} of {frame.count}"
    write(strip, text, end + round(24 * unit), baseline, scale, LETTERING)
    found = _predictions(frame, np.eye(4))
    counts = [
        "" if frame.truth is None else f"{len(frame.truth)} annotated",
        "" if found is None else f"{(found.scores >= options.score_threshold).sum()} predicted",
        "" if found is None else f"score from {options.score_threshold:.2f}",
    ]
    text = "   ".join(part for part in counts if part)
    small = letter_scale(0.9 * unit)
    write(strip, text, strip.shape[1] - measure(text, small)[0] - round(8 * unit), baseline, small, LETTERING)


def _class_colors(strip: Image, unit: float) -> None:
    """The colour of each class, from the left."""
    scale = letter_scale(0.9 * unit)
    side, baseline = round(14 * unit), round(25 * unit)
    top, left = baseline - side + 1, round(12 * unit)
    for label, name in enumerate(CLASS_NAMES):
        strip[top : top + side, left : left + side] = solid_color(label)
        left += side + round(7 * unit)
        left += write(strip, name.replace("_", " "), left, baseline, scale, LETTERING) + round(22 * unit)


def _depth_scale(strip: Image, unit: float) -> None:
    """The colours of radar depths, on the right."""
    scale, side, baseline = letter_scale(0.9 * unit), round(14 * unit), round(25 * unit)
    top, length = baseline - side + 1, round(220 * unit)
    right = strip.shape[1] - round(14 * unit) - measure(f"{FAR_COLOR:.0f} m", scale)[0]
    bar = np.array(depth_colors(np.linspace(0, FAR_COLOR, length)), np.uint8)
    strip[top : top + side, right - length : right] = bar
    write(strip, f"{FAR_COLOR:.0f} m", right + round(8 * unit), baseline, scale, LETTERING)
    text = "radar depth  0 m"
    write(strip, text, right - length - measure(text, scale)[0] - round(4 * unit), baseline, scale, LETTERING)
