"""Picture files of CenterFusion: batch sheets, and key frames of a split as PNGs and one video per scene.

The sheet of a key frame shows six cameras with boxes and radar beside the view from above.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from boxwright.centerfusion.augment import MEAN, STD
from boxwright.centerfusion.structures import Batch3d
from boxwright.data.images import read_image
from boxwright.drawing.birds_eye import BACKGROUND, LETTERING, TRUTH, draw_birds_eye
from boxwright.drawing.boxes import draw_boxes
from boxwright.drawing.boxes3d import SolidBoxes, SolidPoints, draw_boxes_3d, draw_points
from boxwright.drawing.canvas import FAR_COLOR, LIGHT, TAG, VideoFile, depth_colors, fit, solid_color, write_image
from boxwright.drawing.sheets import JPEG_QUALITY, tile
from boxwright.drawing.text import draw_label, draw_text, letter_size, text_width
from boxwright.nuscenes.geometry import inverses, rotation_matrices
from boxwright.nuscenes.split import NuscenesSplit
from boxwright.nuscenes.structures import (
    CAMERAS,
    CLASS_NAMES,
    RADAR_FIELDS,
    Detections3d,
    GlobalBoxes,
    ImageRecord,
)
from boxwright.ops.arrays import Floats, Image

ROWS = (("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"), ("CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"))
PANEL = (44, 38, 35)
GAP = 6  # pixels between panels
ASPECT = 9 / 16  # of the panels: nuScenes' images
_CELL_SIDE = 640
_LOWEST, _HIGHEST = 360, 900  # pixels: an image of `draw_found` is made as high
# Shares of the length forward, the width to the left and the height up; front first, bottom before top.
_CORNERS = np.array([(x, y, z) for z in (-0.5, 0.5) for x, y in ((0.5, 0.5), (0.5, -0.5), (-0.5, -0.5), (-0.5, 0.5))])


@dataclass(frozen=True, slots=True)
class KeyFrame:
    """What one sheet shows."""

    scene: str  # its name
    number: int  # of the key frame in its scene, from 1
    count: int  # key frames of the scene
    # Images, in any order, with (18, N) radar points in the frame of each; one that is missing leaves its panel empty.
    cameras: Sequence[tuple[ImageRecord, Floats]]
    global_from_ego: Floats  # (4, 4) pose of the vehicle
    predictions: GlobalBoxes  # of all cameras
    truth: GlobalBoxes | None = None  # annotations; None: there are none to show


def plot_fusion_batch(batch: Batch3d, path: Path, *, max_images: int = 8) -> None:
    """Write a contact sheet: each image with the boxes of its targets, over the radar pillars colored by depth."""
    cells: list[Image] = []
    for row in range(min(len(batch), max_images)):
        pixels = batch.images[row].cpu().permute(1, 2, 0).numpy() * STD + MEAN  # the network takes BGR
        image = (pixels * 255).clip(0, 255).astype(np.uint8)
        height, width = image.shape[:2]
        # The radar map is on the output grid, a quarter of the image: each cell becomes a square.
        depth = cv2.resize(batch.radar[row, 0].cpu().numpy(), (width, height), interpolation=cv2.INTER_NEAREST)
        shades = (255 * (1 - np.minimum(depth / FAR_COLOR, 1))).astype(np.uint8)
        pillars = cv2.applyColorMap(shades, cv2.COLORMAP_TURBO)  # near ones red, far ones blue
        cell = fit(np.where(depth[..., None] > 0, pillars, image).astype(np.uint8), (_CELL_SIDE, _CELL_SIDE))
        targets = batch.targets
        valid = targets.valid[row].cpu()
        zoom = height / batch.radar.shape[2] * _CELL_SIDE / max(height, width)
        labels = targets.label[row].cpu()[valid].numpy()
        names = [CLASS_NAMES[label] for label in labels]
        boxes = targets.boxes[row].cpu()[valid].numpy() * zoom
        cell = draw_boxes(cell, boxes, names, labels, line_thickness=2, text_size=11)
        draw_label(cell, batch.paths[row].name, 0, cell.shape[0], 11, TAG)
        cells.append(cell)
    write_image(path, tile(cells, 2), JPEG_QUALITY)


def write_key_frames(
    split: NuscenesSplit,
    predictions: GlobalBoxes,
    samples: Sequence[int],
    folder: Path,
    *,
    score_threshold: float = 0.3,
    fps: float = 2.0,  # nuScenes has two key frames a second
) -> list[Path]:
    """Write one PNG per key frame and one video per scene.

    Args:
        predictions: of the split, global frame.
        samples: key frames by position in the split's list.
        folder: created if missing.
        score_threshold: lowest score of a prediction that is shown.

    Returns:
        the files.
    """
    by_scene: dict[str, list[int]] = {}
    for sample in samples:
        by_scene.setdefault(split.scene_of_sample(sample), []).append(sample)
    truth = split.ground_truth()

    def sheets(scene: str) -> Iterator[tuple[int, Image]]:
        whole = split.samples_of_scene(scene)
        for sample in by_scene[scene]:
            frame = KeyFrame(
                scene=scene,
                number=whole.index(sample) + 1,
                count=len(whole),
                cameras=[(split.record(i), split.radar(i)) for i in split.images_of_sample(sample)],
                global_from_ego=split.global_from_ego(sample),
                predictions=predictions.take(predictions.samples == sample),
                truth=truth.take(truth.samples == sample) if split.has_annotations else None,
            )
            yield frame.number, draw_sheet(frame, score_threshold)

    return [path for scene in by_scene for path in write_scene(sheets(scene), folder, scene, fps)]


def write_scene(sheets: Iterable[tuple[int, Image]], folder: Path, name: str, fps: float) -> list[Path]:
    """Write the sheets of a scene as folder/name/0001.png, ... and folder/name.mp4, each whole or not at all.

    Args:
        sheets: numbers and pictures in order; each is written before the next one is asked for.
        folder: created if missing.
        name: of the scene; letters that a file name cannot have become underscores.
        fps: pictures per second of the video.

    Returns:
        the files; none where there is no sheet.

    Raises:
        UserError: an image cannot be read, or a file cannot be written. Sheets written so far remain.
    """
    # The name comes from a table and must not lead out of the folder.
    stem = re.sub(r"[^\w .-]", "_", name).strip(". ") or "_"
    video = VideoFile(folder / f"{stem}.mp4", fps)
    written: list[Path] = []
    try:
        for number, sheet in sheets:
            path = folder / stem / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, sheet)
            written.append(path)
            video.add(sheet)
    except KeyboardInterrupt:  # what was drawn stays
        if video.size is not None:
            video.finish()
        raise
    except BaseException:
        video.drop()
        raise
    return [*written, video.finish()] if written else []


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


def boxes_of_detections(found: Detections3d) -> SolidBoxes:
    """Convert what was found in an image to boxes in the frame of its camera."""
    location, dims, yaw, velocity = (
        getattr(found, name).numpy().astype(np.float64) for name in ("locations", "dims", "rotation_y", "velocity")
    )
    zero = np.zeros_like(yaw)
    # y points down, and a rotation of 0 looks along x.
    forward = np.stack((np.cos(yaw), zero, -np.sin(yaw)), 1) * dims[:, 2:]
    left = np.stack((np.sin(yaw), zero, np.cos(yaw)), 1) * dims[:, 1:2]
    up = np.stack((zero, -dims[:, 0], zero), 1)
    axes = np.stack((forward, left, up), 1)
    return SolidBoxes(
        positions=location[:, None] + (_CORNERS + np.array((0, 0, 0.5))) @ axes,
        velocities=velocity,
        labels=found.labels.numpy(),
        scores=found.scores.numpy().astype(np.float64),
    )


def points_of_radar(radar: Floats) -> SolidPoints:
    """Convert the radar of one image, (18, N) in the frame of its camera, see `RADAR_FIELDS`."""
    # vx_comp and vy_comp hold the velocity along the camera's x and z by now; along y, radar measures none.
    right, forward = (radar[RADAR_FIELDS.index(name)] for name in ("vx_comp", "vy_comp"))
    velocities = np.stack((right, np.zeros(radar.shape[1]), forward), 1)
    return SolidPoints(radar[:3].T.astype(np.float64), velocities.astype(np.float64), radar[2].astype(np.float64))


def draw_sheet(frame: KeyFrame, score_threshold: float = 0.3, camera_width: int = 640) -> Image:
    """Paint one key frame, (H, W, 3) uint8 BGR with even sides.

    Predictions are in the colors of their classes, annotations white and without labels.

    Args:
        score_threshold: lowest score of a prediction that is shown.
        camera_width: pixels of one camera's panel; the sheet is a little more than four times as wide.

    Raises:
        UserError: an image cannot be read.
    """
    width, height = camera_width, round(camera_width * ASPECT)
    unit = width / 640
    head, foot = round(46 * unit), round(38 * unit)
    side = 2 * height + GAP
    sheet = np.empty((head + side + foot, 3 * (width + GAP) + side + 2 * GAP, 3), np.uint8)
    sheet[:] = BACKGROUND
    truth = None if frame.truth is None else boxes_of_global(frame.truth)
    found = boxes_of_global(frame.predictions.take(frame.predictions.scores >= score_threshold))
    views = {CAMERAS[record.sensor - 1]: (record, points_of_radar(radar)) for record, radar in frame.cameras}
    for row, names in enumerate(ROWS):
        for column, name in enumerate(names):
            top, left = head + row * (height + GAP), GAP + column * (width + GAP)
            panel = sheet[top : top + height, left : left + width]
            panel[:] = PANEL
            if name in views:
                _draw_camera(panel, *views[name], truth, found)
            else:
                size = letter_size(width / 1000)
                left = (width - text_width("no image", size)) // 2
                draw_text(panel, "no image", left, height // 2, size, LETTERING)
            title = name.removeprefix("CAM_").replace("_", " ")
            draw_label(panel, title, round(6 * unit), round(6 * unit), letter_size(0.75 * unit), TAG)
    ego_from_global = inverses(frame.global_from_ego)
    radar = [points.transform(ego_from_global @ record.global_from_cam) for record, points in views.values()]
    left = GAP + 3 * (width + GAP)
    sheet[head : head + side, left : left + side] = draw_birds_eye(
        None if truth is None else truth.transform(ego_from_global),
        found.transform(ego_from_global),
        SolidPoints.join(radar) if radar else None,
        size=side,
    )
    counts = [] if frame.truth is None else [f"{len(frame.truth)} annotated"]
    counts += [f"{len(found.labels)} predicted", f"score from {score_threshold:.2f}"]
    _draw_title(sheet[:head], frame, ", ".join(counts), unit)
    _draw_scales(sheet[head + side :], unit)
    # Video codecs halve the resolution of color: odd sides cannot be written.
    return np.pad(sheet, ((0, sheet.shape[0] % 2), (0, sheet.shape[1] % 2), (0, 0)), mode="edge")


def _draw_camera(
    panel: Image, record: ImageRecord, radar: SolidPoints, truth: SolidBoxes | None, found: SolidBoxes
) -> None:
    """Paint one camera into its panel; boxes are in the global frame."""
    height, width = panel.shape[:2]
    # Lines are painted after the image is made small, and so stay crisp.
    image = fit(read_image(record.path), (height, width))
    # Pixel centers: column u of the image is column (u + 0.5) * scale - 0.5 of the panel.
    scale_x, scale_y = image.shape[1] / record.width, image.shape[0] / record.height
    to_panel = np.array([(scale_x, 0, scale_x / 2 - 0.5), (0, scale_y, scale_y / 2 - 0.5), (0, 0, 1)])
    calib = to_panel @ record.calib
    cam_from_global = inverses(record.global_from_cam)
    image = draw_points(image, radar, calib)
    if truth is not None:
        image = draw_boxes_3d(image, truth.transform(cam_from_global), calib, CLASS_NAMES, outline=TRUTH)
    image = draw_boxes_3d(image, found.transform(cam_from_global), calib, CLASS_NAMES)
    top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    panel[top : top + image.shape[0], left : left + image.shape[1]] = image


def draw_found(
    image: Image, boxes: SolidBoxes, radar: SolidPoints | None, calib: Floats, ego_from_cam: Floats
) -> Image:
    """Paint one image with its boxes in 3-D, and beside it the view from above; (H, W, 3) uint8 BGR with even sides.

    Args:
        image: (H, W, 3) uint8 BGR.
        boxes, radar: in the frame of its camera.
        calib: (3, 4) camera matrix of the image.
        ego_from_cam: (4, 4).
    """
    height = min(max(image.shape[0], _LOWEST), _HIGHEST)
    view = fit(image, (height, 4 * height))
    to_view = np.diag((view.shape[1] / image.shape[1], view.shape[0] / image.shape[0], 1.0))
    # Pixel centers, as in `_draw_camera`.
    to_view[:2, 2] = np.diag(to_view)[:2] / 2 - 0.5
    calib = to_view @ calib
    if radar is not None:
        view = draw_points(view, radar, calib)
    view = draw_boxes_3d(view, boxes, calib, CLASS_NAMES)
    seen = None if radar is None else radar.transform(ego_from_cam)
    above = draw_birds_eye(None, boxes.transform(ego_from_cam), seen, size=view.shape[0])
    sheet = np.concatenate((view, above), axis=1)
    return np.pad(sheet, ((0, sheet.shape[0] % 2), (0, sheet.shape[1] % 2), (0, 0)), mode="edge")


def _draw_title(strip: Image, frame: KeyFrame, counts: str, unit: float) -> None:
    """Write scene and number of the key frame on the left, and how much is shown on the right."""
    large, small = letter_size(1.15 * unit), letter_size(0.9 * unit)
    top = (strip.shape[0] - large) // 2 - 1
    end = round(12 * unit) + draw_text(strip, frame.scene, round(12 * unit), top, large, LIGHT)
    text = f"key frame {frame.number} of {frame.count}"
    draw_text(strip, text, end + round(24 * unit), top, large, LETTERING)
    left = strip.shape[1] - text_width(counts, small) - round(8 * unit)
    draw_text(strip, counts, left, top + round(0.95 * large) - round(0.95 * small), small, LETTERING)


def _draw_scales(strip: Image, unit: float) -> None:
    """Explain the colors: classes from the left, radar depths on the right."""
    size, side, top = letter_size(0.9 * unit), round(14 * unit), round(12 * unit)
    text_top = top + side - round(0.95 * size)  # letters stand on the lower edge of the squares
    left = round(12 * unit)
    for label, name in enumerate(CLASS_NAMES):
        strip[top : top + side, left : left + side] = solid_color(label)
        left += side + round(7 * unit)
        left += draw_text(strip, name.replace("_", " "), left, text_top, size, LETTERING) + round(22 * unit)
    length, farthest, text = round(220 * unit), f"{FAR_COLOR:.0f} m", "radar depth 0 m"
    right = strip.shape[1] - round(14 * unit) - text_width(farthest, size)
    strip[top : top + side, right - length : right] = depth_colors(np.linspace(0, FAR_COLOR, length))
    draw_text(strip, farthest, right + round(8 * unit), text_top, size, LETTERING)
    left = right - length - text_width(text, size) - round(4 * unit)
    draw_text(strip, text, left, text_top, size, LETTERING)
