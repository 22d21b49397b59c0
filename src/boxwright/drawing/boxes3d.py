"""3-D boxes and radar points painted into a camera image, with OpenCV only.

Legend: N boxes or points. All is in the camera frame: x right, y down, z forward, metres. `calib` is the (3, 4) camera
matrix, or its first three columns, in pixels of the image that is painted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from boxwright.data.letterbox import Image
from boxwright.drawing.plates import Plate, letter_scale, place_plates
from boxwright.drawing.solids import RadarPoints, SolidBoxes, radar_points, solids_of_detections
from boxwright.drawing.strokes import Color, depth_colors, draw_arrow, draw_dot, draw_lines, fill_face, solid_color
from boxwright.nuscenes.structures import CLASS_NAMES, Detections3d

Array = npt.NDArray[np.float64]

NEAR = 0.1  # metres: what is closer to the camera is cut off; the published visibility rule asks for as much
ARROW_SECONDS = 0.5  # an arrow ends where its point will be after this time
SLOWEST_ARROW = 0.5  # m/s: what is slower is noise of the sensor and gets no arrow
REFERENCE_WIDTH = 1600  # pixels: nuScenes; lines and letters are 1 for this width and scale from there
RIM: Color = (20, 20, 20)

# Front, rear, then the four edges between them; by the corners of `SolidBoxes`.
EDGES = np.array([(0, 1), (1, 5), (5, 4), (4, 0), (3, 2), (2, 6), (6, 7), (7, 3), (0, 3), (1, 2), (5, 6), (4, 7)])
FRONT_EDGES = 4  # the first ones go round the front face


@dataclass(frozen=True)
class BoxStyle:
    """How boxes look.

    Args:
        color: BGR of all boxes; None: that of the class.
        captions: write class, score and depth beside a box.
        front: share of colour that the front face is filled with.
        weight: width of the lines, relative to the usual one.
    """

    color: Color | None = None
    captions: bool = True
    front: float = 0.3
    weight: float = 1.0


def draw_detections(image: Image, detections: Detections3d, calib: Array, style: BoxStyle | None = None) -> Image:
    """A copy of the image with the boxes found in it; see `draw_boxes_3d`."""
    return draw_boxes_3d(image, solids_of_detections(detections), calib, style)


def draw_boxes_3d(image: Image, boxes: SolidBoxes, calib: Array, style: BoxStyle | None = None) -> Image:
    """A copy of the image with the wireframes of boxes, the front face of each filled, near ones over far ones.

    Args:
        image: (H, W, 3) uint8 BGR.
        boxes: in the frame of the camera. What lies behind it, or holds a number that is not finite, is left out; edges
            that pass the near plane are cut there.
        calib: camera matrix for this image, (3, 3) or (3, 4).
        style: colour, captions and lines.
    """
    style = style or BoxStyle()
    canvas = np.ascontiguousarray(image).copy()
    lines, seen = project_edges(boxes.corners, calib)
    inside = _touches(lines, seen, canvas.shape)
    depths = boxes.centers[:, 2]
    order = [int(i) for i in np.argsort(-depths, kind="stable") if inside[i]]
    width = max(1, round(style.weight * canvas.shape[1] / (REFERENCE_WIDTH / 2)))
    for i in order:
        color = style.color or solid_color(int(boxes.labels[i]))
        front = lines[i, :FRONT_EDGES][seen[i, :FRONT_EDGES]]
        if style.front and len(front):
            fill_face(canvas, front.reshape(-1, 2), color, style.front)
        draw_lines(canvas, lines[i, FRONT_EDGES:][seen[i, FRONT_EDGES:]], color, width)
        draw_lines(canvas, front, color, width + (width > 1))
    if style.captions:
        wanted = [_plate(lines[i][seen[i]], boxes, i, depths[i], canvas.shape) for i in reversed(order)]
        place_plates(canvas, wanted, letter_scale(canvas.shape[1] / REFERENCE_WIDTH))
    return canvas


def draw_radar(image: Image, radar: Array, calib: Array) -> Image:
    """A copy of the image with radar points coloured by depth, and an arrow where one moves; near ones lie on top.

    Args:
        image: (H, W, 3) uint8 BGR.
        radar: (18, N) points in the camera frame, see `RADAR_FIELDS`; rows 8 and 9 are the velocity along
            camera x and z.
        calib: camera matrix for this image.
    """
    return draw_points(image, radar_points(np.asarray(radar, np.float64)), calib)


def draw_points(image: Image, points: RadarPoints, calib: Array) -> Image:
    """As `draw_radar`, for points that are read already."""
    canvas = np.ascontiguousarray(image).copy()
    ends = points.positions + points.velocities * ARROW_SECONDS
    arrows, seen = _project_lines(np.stack((points.positions, ends), 1)[:, None], calib)
    starts = arrows[:, 0, 0]
    height, width = canvas.shape[:2]
    ahead = seen[:, 0] & (points.positions[:, 2] > NEAR)
    shown = ahead & (starts >= 0).all(1) & (starts < (width, height)).all(1)
    moving = np.linalg.norm(points.velocities, axis=1) >= SLOWEST_ARROW
    unit = width / REFERENCE_WIDTH
    radius, line = max(1.8, 5 * unit), max(1, round(2 * unit))
    colors = depth_colors(points.depths)
    for i in np.argsort(-points.depths, kind="stable"):
        if shown[i]:
            color = colors[i]
            if moving[i]:
                draw_arrow(canvas, arrows[i, 0], color, line)
            draw_dot(canvas, starts[i], radius + max(0.8, unit), RIM)
            draw_dot(canvas, starts[i], radius, color)
    return canvas


def project_edges(corners: Array, calib: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Where the twelve edges of boxes lie in the image.

    Args:
        corners: (N, 8, 3), see `SolidBoxes`.
        calib: camera matrix.

    Returns:
        (N, 12, 2, 2) ends in pixels, cut at the near plane, and (N, 12) whether anything is left of the edge.
    """
    return _project_lines(corners[:, EDGES], calib)


def _project_lines(ends: Array, calib: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Cut lines (N, E, 2, 3) at the near plane and project them: (N, E, 2, 2) and (N, E)."""
    z: Array = ends[..., 2]
    finite = np.isfinite(ends).all(axis=(2, 3))
    seen = np.logical_and(finite, (z > NEAR).any(-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (NEAR - z) / (z[..., ::-1] - z)  # of the way from an end to the other one
        share = np.where((z < NEAR) & seen[..., None], share, 0.0)
        cut = ends + share[..., None] * (ends[..., ::-1, :] - ends)
        cut = np.where(seen[..., None, None], cut, (0.0, 0.0, 1.0))
        flat = cut @ calib[:, :3].T + (calib[:, 3] if calib.shape[1] == 4 else 0.0)
        return flat[..., :2] / flat[..., 2:], seen


def _touches(lines: Array, seen: npt.NDArray[np.bool_], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """(N,) whether the rectangle about a box's visible edges meets the image."""
    shown = seen[..., None, None]
    low = np.where(shown, lines, np.inf).min(axis=(1, 2), initial=np.inf)
    high = np.where(shown, lines, -np.inf).max(axis=(1, 2), initial=-np.inf)
    return (high >= 0).all(1) & (low < (shape[1], shape[0])).all(1)


def _plate(lines: Array, boxes: SolidBoxes, i: int, depth: float, shape: tuple[int, ...]) -> Plate:
    label, score = int(boxes.labels[i]), float(boxes.scores[i])
    name = CLASS_NAMES[label].replace("_", " ") if label < len(CLASS_NAMES) else str(label)
    points = np.clip(lines.reshape(-1, 2), 0, (shape[1], shape[0]))
    left, top = points.min(0)
    right, bottom = points.max(0)
    text = name if np.isnan(score) else f"{name} {score:.2f}"
    return Plate(f"{text}, {depth:.0f} m", (left, top, right, bottom), solid_color(label))
