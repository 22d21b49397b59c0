"""One sheet per key frame: six cameras with boxes and radar beside the view from above.

What is not here: reading nuScenes, and prediction. A `KeyFrame` holds what is to be shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from boxwright.data.images import read_image
from boxwright.drawing.birds_eye import BACKGROUND, LETTERING, RADIUS, TRUTH, draw_birds_eye
from boxwright.drawing.boxes3d import SolidBoxes, SolidPoints, draw_boxes_3d, draw_points
from boxwright.drawing.canvas import FAR_COLOR, LIGHT, TAG, depth_colors, fit, solid_color
from boxwright.drawing.text import draw_label, draw_text, letter_size, text_width
from boxwright.nuscenes.geometry import inverses, rotation_matrices
from boxwright.nuscenes.structures import CAMERAS, CLASS_NAMES, RADAR_FIELDS, Detections3d, GlobalBoxes, ImageRecord
from boxwright.ops.arrays import Floats, Image
from boxwright.ops.boxes3d import corners_camera

ROWS = (("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"), ("CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"))
PANEL = (44, 38, 35)
GAP = 6  # pixels between panels
ASPECT = 9 / 16  # of the panels: nuScenes' images
# Shares of the length forward, the width to the left and the height up, in the order of `ops.boxes3d.corners_camera`.
_CORNERS = np.array([(x, y, z) for z in (-0.5, 0.5) for x, y in ((0.5, 0.5), (0.5, -0.5), (-0.5, -0.5), (-0.5, 0.5))])


@dataclass(frozen=True, slots=True)
class CameraView:
    """What one camera of a key frame shows."""

    record: ImageRecord  # file, calibration and pose of the image
    radar: Floats | None = None  # (18, N) points in the frame of the camera; None: none
    detections: Detections3d | None = None  # found in this image; None: nothing was predicted for it
    image: Image | None = None  # (H, W, 3) BGR; None: the file is read


@dataclass(frozen=True, slots=True)
class KeyFrame:
    """What one sheet shows."""

    scene: str  # its name
    number: int  # of the key frame in its scene, from 1
    count: int  # key frames of the scene
    cameras: Sequence[CameraView]  # in any order; one that is missing leaves its panel empty
    global_from_ego: Floats  # (4, 4) pose of the vehicle
    truth: GlobalBoxes | None = None  # annotations; None: there are none to show
    predictions: GlobalBoxes | None = None  # of all cameras, global frame; None: those of the cameras are taken


@dataclass(frozen=True)
class SheetOptions:
    """How sheets look."""

    camera_width: int = 640  # pixels of one camera's panel; the sheet is a little more than four times as wide
    score_threshold: float = 0.3  # lowest score of a prediction that is shown
    radius: float = RADIUS  # metres shown around the vehicle


def boxes_of_detections(detections: Detections3d) -> SolidBoxes:
    """Convert the detections of one image to boxes in the frame of its camera."""
    found = detections.cpu()
    corners = corners_camera(found.locations.double(), found.dims.double(), found.rotation_y.double())
    return SolidBoxes(
        positions=corners.numpy(),
        velocities=found.velocity.double().numpy(),
        labels=found.labels.numpy(),
        scores=found.scores.double().numpy(),
    )


def boxes_of_global(boxes: GlobalBoxes) -> SolidBoxes:
    """Convert annotations or predictions of nuScenes to boxes in its global frame."""
    axes = rotation_matrices(boxes.rotations)
    edges = np.swapaxes(axes, -1, -2) * boxes.sizes[:, [1, 0, 2], None]  # length forward, width to the left, height up
    return SolidBoxes(
        positions=boxes.centers[:, None] + _CORNERS @ edges,
        velocities=np.pad(boxes.velocities, ((0, 0), (0, 1))),
        labels=boxes.labels,
        scores=np.where(boxes.scores < 0, np.nan, boxes.scores),  # nuScenes marks annotations by -1
    )


def points_of_radar(radar: Floats) -> SolidPoints:
    """Convert the radar of one image, (18, N) in the frame of its camera, see `RADAR_FIELDS`."""
    # vx_comp and vy_comp hold the velocity along the camera's x and z by now; along y, radar measures none.
    right, forward = (radar[RADAR_FIELDS.index(name)] for name in ("vx_comp", "vy_comp"))
    velocities = np.stack((right, np.zeros(radar.shape[1]), forward), 1)
    return SolidPoints(radar[:3].T.astype(np.float64), velocities.astype(np.float64), radar[2].astype(np.float64))


def draw_sheet(frame: KeyFrame, options: SheetOptions = SheetOptions()) -> Image:
    """Paint one key frame, (H, W, 3) uint8 BGR with even sides.

    Predictions are in the colors of their classes. Annotations are white and without labels where there are
    predictions, else in the colors.

    Raises:
        UserError: an image cannot be read.
    """
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
            panel = sheet[top : top + height, left : left + width]
            panel[:] = PANEL
            _draw_camera(panel, frame, views.get(name), options.score_threshold)
            title = name.removeprefix("CAM_").replace("_", " ")
            draw_label(panel, title, round(6 * unit), round(6 * unit), letter_size(0.75 * unit), TAG)
    ego_from_global = inverses(frame.global_from_ego)
    found = [
        boxes_of_detections(view.detections).transform(ego_from_global @ view.record.global_from_cam)
        for view in frame.cameras
        if view.detections is not None
    ]
    if frame.predictions is not None:
        found = [boxes_of_global(frame.predictions).transform(ego_from_global)]
    predictions = SolidBoxes.join(found) if found else None  # None: nothing was predicted at all
    if predictions is not None:
        predictions = predictions.take(predictions.scores >= options.score_threshold)
    radar = [
        points_of_radar(view.radar).transform(ego_from_global @ view.record.global_from_cam)
        for view in frame.cameras
        if view.radar is not None
    ]
    left = GAP + 3 * (width + GAP)
    sheet[head : head + side, left : left + side] = draw_birds_eye(
        boxes_of_global(frame.truth).transform(ego_from_global) if frame.truth is not None else None,
        predictions,
        SolidPoints.join(radar) if radar else None,
        size=side,
        radius=options.radius,
    )
    _draw_title(sheet[:head], frame, None if predictions is None else len(predictions.labels), options)
    _draw_scales(sheet[head + side :], unit, with_radar=bool(radar))
    # Video codecs halve the resolution of color: odd sides cannot be written.
    return np.pad(sheet, ((0, sheet.shape[0] % 2), (0, sheet.shape[1] % 2), (0, 0)), mode="edge")


def _draw_camera(panel: Image, frame: KeyFrame, view: CameraView | None, score_threshold: float) -> None:
    """Paint one camera into its panel."""
    height, width = panel.shape[:2]
    if view is None:
        size = letter_size(width / 1000)
        draw_text(panel, "no image", (width - text_width("no image", size)) // 2, height // 2, size, LETTERING)
        return
    # Lines are painted after the image is made small, and so stay crisp.
    image = fit(view.image if view.image is not None else read_image(view.record.path), (height, width))
    # Pixel centers: column u of the image is column (u + 0.5) * scale - 0.5 of the panel.
    scale_x, scale_y = image.shape[1] / view.record.width, image.shape[0] / view.record.height
    to_panel = np.array([(scale_x, 0, scale_x / 2 - 0.5), (0, scale_y, scale_y / 2 - 0.5), (0, 0, 1)])
    calib = to_panel @ view.record.calib
    cam_from_global = inverses(view.record.global_from_cam)
    if view.radar is not None:
        image = draw_points(image, points_of_radar(view.radar), calib)
    predictions = None
    if view.detections is not None:
        predictions = boxes_of_detections(view.detections)
    elif frame.predictions is not None:
        predictions = boxes_of_global(frame.predictions).transform(cam_from_global)
    if frame.truth is not None:
        truth = boxes_of_global(frame.truth).transform(cam_from_global)
        outline = None if predictions is None else TRUTH
        image = draw_boxes_3d(image, truth, calib, CLASS_NAMES, outline=outline)
    if predictions is not None:
        shown = predictions.take(predictions.scores >= score_threshold)
        image = draw_boxes_3d(image, shown, calib, CLASS_NAMES)
    top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    panel[top : top + image.shape[0], left : left + image.shape[1]] = image


def _draw_title(strip: Image, frame: KeyFrame, num_predictions: int | None, options: SheetOptions) -> None:
    """Write scene and number of the key frame on the left, and how much is shown on the right."""
    unit = options.camera_width / 640
    large, small = letter_size(1.15 * unit), letter_size(0.9 * unit)
    top = (strip.shape[0] - large) // 2 - 1
    end = round(12 * unit) + draw_text(strip, frame.scene, round(12 * unit), top, large, LIGHT)
    text = f"key frame {frame.number} of {frame.count}"
    draw_text(strip, text, end + round(24 * unit), top, large, LETTERING)
    counts = [f"{len(frame.truth)} annotated"] if frame.truth is not None else []
    if num_predictions is not None:
        counts += [f"{num_predictions} predicted", f"score from {options.score_threshold:.2f}"]
    text = ", ".join(counts)
    left = strip.shape[1] - text_width(text, small) - round(8 * unit)
    draw_text(strip, text, left, top + round(0.95 * large) - round(0.95 * small), small, LETTERING)


def _draw_scales(strip: Image, unit: float, *, with_radar: bool) -> None:
    """Explain the colors: classes from the left, radar depths on the right."""
    size, side, top = letter_size(0.9 * unit), round(14 * unit), round(12 * unit)
    text_top = top + side - round(0.95 * size)  # letters stand on the lower edge of the squares
    left = round(12 * unit)
    for label, name in enumerate(CLASS_NAMES):
        strip[top : top + side, left : left + side] = solid_color(label)
        left += side + round(7 * unit)
        left += draw_text(strip, name.replace("_", " "), left, text_top, size, LETTERING) + round(22 * unit)
    if with_radar:
        length, farthest, text = round(220 * unit), f"{FAR_COLOR:.0f} m", "radar depth 0 m"
        right = strip.shape[1] - round(14 * unit) - text_width(farthest, size)
        strip[top : top + side, right - length : right] = depth_colors(np.linspace(0, FAR_COLOR, length))
        draw_text(strip, farthest, right + round(8 * unit), text_top, size, LETTERING)
        left = right - length - text_width(text, size) - round(4 * unit)
        draw_text(strip, text, left, text_top, size, LETTERING)
