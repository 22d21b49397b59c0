"""3-D boxes and radar points: in any frame, and painted into a camera image.

Legend: N boxes or points. Camera frame: x right, y down, z forward, metres. Ego frame: x forward, y left, z up. `calib`
is the (3, 4) camera matrix, or its first three columns, in pixels of the image that is painted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

from boxwright.drawing.canvas import (
    depth_colors,
    draw_arrow,
    draw_dot,
    draw_lines,
    fill_face,
    points_inside,
    solid_color,
)
from boxwright.drawing.text import Label, class_name, draw_labels, letter_size, line_height
from boxwright.ops.arrays import Array, Bools, Color, Floats, Image, Ints

NEAR = 0.1  # metres: what is closer to the camera is cut off; the published visibility rule asks for as much
ARROW_SECONDS = 0.5  # an arrow ends where its point will be after this time
SLOWEST_ARROW = 0.5  # m/s: what is slower is noise of the sensor and gets no arrow
REFERENCE_WIDTH = 1600  # pixels: nuScenes; lines and letters are 1 for this width and scale from there
RIM: Color = (20, 20, 20)

# Front, rear, then the four edges between them; by the corners of `SolidBoxes`.
EDGES = np.array([(0, 1), (1, 5), (5, 4), (4, 0), (3, 2), (2, 6), (6, 7), (7, 3), (0, 3), (1, 2), (5, 6), (4, 7)])
FRONT_EDGES = 4  # the first ones go round the front face


class _Solids:
    """Arrays with one row per object."""

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Concatenate the rows of at least one part, all in one frame."""
        names = [field.name for field in fields(cls)]  # pyright: ignore[reportArgumentType]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True, slots=True)
class SolidBoxes(_Solids):
    """Oriented boxes in some frame."""

    corners: Floats  # (N, 8, 3) metres: front left, front right, rear right, rear left of the bottom, then of the top
    velocities: Floats  # (N, 3) m/s; NaN where unknown
    labels: Ints  # (N,) class
    scores: Floats  # (N,); NaN for annotations

    @property
    def centers(self) -> Floats:
        """Return the centers (N, 3)."""
        return self.corners.mean(axis=1)

    def transform(self, target_from_source: Array) -> "SolidBoxes":
        """Transform to another frame by a (4, 4) matrix."""
        rotation, shift = target_from_source[:3, :3], target_from_source[:3, 3]
        return replace(self, corners=self.corners @ rotation.T + shift, velocities=self.velocities @ rotation.T)

    def take(self, where: Ints | Bools) -> "SolidBoxes":
        """Select boxes by index or mask."""
        return SolidBoxes(*(getattr(self, field.name)[where] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class SolidPoints(_Solids):
    """Radar returns in some frame."""

    positions: Floats  # (N, 3) metres
    velocities: Floats  # (N, 3) m/s, compensated for the motion of the vehicle
    depths: Floats  # (N,) metres in front of the camera they belong to; sets their color

    def transform(self, target_from_source: Array) -> "SolidPoints":
        """Transform to another frame by a (4, 4) matrix."""
        rotation, shift = target_from_source[:3, :3], target_from_source[:3, 3]
        return replace(self, positions=self.positions @ rotation.T + shift, velocities=self.velocities @ rotation.T)


@dataclass(frozen=True)
class BoxStyle:
    """How 3-D boxes look."""

    names: Sequence[str] | None = None  # of the classes; None: write no class, score and depth beside a box
    color: Color | None = None  # BGR of all boxes; None: that of the class
    front: float = 0.3  # share of color that the front face is filled with
    weight: float = 1.0  # width of the lines, relative to the usual one


def draw_boxes_3d(image: Image, boxes: SolidBoxes, calib: Floats, style: BoxStyle = BoxStyle()) -> Image:
    """Return a copy of the image with wireframes, the front face of each filled, near boxes over far ones.

    Args:
        image: (H, W, 3) uint8 BGR.
        boxes: in the frame of the camera. What lies behind it, or holds a number that is not finite, is left out; edges
            that pass the near plane are cut there.
        calib: camera matrix for this image, (3, 3) or (3, 4).
        style: names, color and lines.
    """
    canvas = np.ascontiguousarray(image).copy()
    height, width = canvas.shape[:2]
    lines, seen = project_edges(boxes.corners, calib)
    # A box is shown if the rectangle around its visible edges meets the image.
    shown = seen[..., None, None]
    low = np.where(shown, lines, np.inf).min(axis=(1, 2), initial=np.inf)
    high = np.where(shown, lines, -np.inf).max(axis=(1, 2), initial=-np.inf)
    inside = (high >= 0).all(1) & (low < (width, height)).all(1)
    depths = boxes.centers[:, 2]
    order = [int(i) for i in np.argsort(-depths, kind="stable") if inside[i]]
    thickness = max(1, round(style.weight * width / (REFERENCE_WIDTH / 2)))
    for i in order:
        color = style.color or solid_color(int(boxes.labels[i]))
        front = lines[i, :FRONT_EDGES][seen[i, :FRONT_EDGES]]
        if style.front and len(front):
            fill_face(canvas, front.reshape(-1, 2), color, style.front)
        draw_lines(canvas, lines[i, FRONT_EDGES:][seen[i, FRONT_EDGES:]], color, thickness)
        draw_lines(canvas, front, color, thickness + (thickness > 1))
    if style.names is None:
        return canvas
    size = letter_size(width / REFERENCE_WIDTH)
    wanted: list[Label] = []
    for i in reversed(order):  # near boxes are labelled first
        left, top = np.clip(low[i], 0, (width, height)).tolist()
        right, bottom = np.clip(high[i], 0, (width, height)).tolist()
        # A box lower than its letters is too far away for a label.
        if bottom - top >= 0.75 * line_height(size):
            label, score = int(boxes.labels[i]), float(boxes.scores[i])
            name = class_name(style.names, label).replace("_", " ")
            text = name if np.isnan(score) else f"{name} {score:.2f}"
            wanted.append(Label(f"{text}, {depths[i]:.0f} m", (left, top, right, bottom), solid_color(label)))
    draw_labels(canvas, wanted, size, drop_crowded=True)
    return canvas


def draw_points(image: Image, points: SolidPoints, calib: Floats) -> Image:
    """Return a copy of the image with points colored by depth, and an arrow where one moves; near ones lie on top.

    Args:
        image: (H, W, 3) uint8 BGR.
        points: in the frame of the camera.
        calib: camera matrix for this image.
    """
    canvas = np.ascontiguousarray(image).copy()
    ends = points.positions + points.velocities * ARROW_SECONDS
    arrows, seen = _project_lines(np.stack((points.positions, ends), 1)[:, None], calib)
    starts = arrows[:, 0, 0]
    height, width = canvas.shape[:2]
    shown = np.zeros(len(starts), bool)
    shown[points_inside(starts, (height, width))] = True
    shown &= seen[:, 0] & (points.positions[:, 2] > NEAR)
    moving = np.linalg.norm(points.velocities, axis=1) >= SLOWEST_ARROW
    unit = width / REFERENCE_WIDTH
    radius, line = max(1.8, 5 * unit), max(1, round(2 * unit))
    colors: list[Color] = depth_colors(points.depths).tolist()
    for i in np.argsort(-points.depths, kind="stable"):
        if shown[i]:
            if moving[i]:
                draw_arrow(canvas, arrows[i, 0], colors[i], line)
            draw_dot(canvas, starts[i], radius + max(0.8, unit), RIM)
            draw_dot(canvas, starts[i], radius, colors[i])
    return canvas


def project_edges(corners: Floats, calib: Floats) -> tuple[Floats, Bools]:
    """Project the twelve edges of boxes to the image.

    Args:
        corners: (N, 8, 3), see `SolidBoxes`.
        calib: camera matrix.

    Returns:
        (N, 12, 2, 2) ends in pixels, cut at the near plane, and (N, 12) whether anything is left of the edge.
    """
    return _project_lines(corners[:, EDGES], calib)


def _project_lines(ends: Floats, calib: Floats) -> tuple[Floats, Bools]:
    """Cut lines (N, E, 2, 3) at the near plane and project them: (N, E, 2, 2) and (N, E)."""
    z: Floats = ends[..., 2]
    finite = np.isfinite(ends).all(axis=(2, 3))
    seen = np.logical_and(finite, (z > NEAR).any(-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        # Projecting first would mirror what lies behind the camera: ends are cut in 3-D.
        share = (NEAR - z) / (z[..., ::-1] - z)  # of the way from an end to the other one
        share = np.where((z < NEAR) & seen[..., None], share, 0.0)
        cut = ends + share[..., None] * (ends[..., ::-1, :] - ends)
        cut = np.where(seen[..., None, None], cut, (0.0, 0.0, 1.0))
        flat = cut @ calib[:, :3].T + (calib[:, 3] if calib.shape[1] == 4 else 0.0)
        return flat[..., :2] / flat[..., 2:], seen
