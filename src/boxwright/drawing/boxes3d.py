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
FRONT_FILL = 0.3  # share of its color inside the front face of a box
RIM: Color = (20, 20, 20)

# Front, rear, then the four edges between them; by the corners of `SolidBoxes`.
EDGES = np.array([(0, 1), (1, 5), (5, 4), (4, 0), (3, 2), (2, 6), (6, 7), (7, 3), (0, 3), (1, 2), (5, 6), (4, 7)])
FRONT_EDGES = 4  # the first ones go round the front face


@dataclass(frozen=True, slots=True)
class _Solids:
    """Arrays with one row per object, in some frame."""

    positions: Floats  # (N, ..., 3) metres
    velocities: Floats  # (N, 3) m/s

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Concatenate the rows of at least one part, all in one frame."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def take(self, where: Ints | Bools) -> Self:
        """Select rows by index or mask."""
        return type(self)(*(getattr(self, field.name)[where] for field in fields(self)))

    def transform(self, target_from_source: Array) -> Self:
        """Transform to another frame by a (4, 4) matrix."""
        rotation, shift = target_from_source[:3, :3], target_from_source[:3, 3]
        return replace(self, positions=self.positions @ rotation.T + shift, velocities=self.velocities @ rotation.T)


@dataclass(frozen=True, slots=True)
class SolidBoxes(_Solids):
    """Oriented boxes.

    Positions are the corners, (N, 8, 3): front left, front right, rear right, rear left of the bottom, then of the top.
    A velocity is NaN where it is unknown.
    """

    labels: Ints  # (N,) class
    scores: Floats  # (N,); NaN for annotations

    @property
    def centers(self) -> Floats:
        """Return the centers (N, 3)."""
        return self.positions.mean(axis=1)


@dataclass(frozen=True, slots=True)
class SolidPoints(_Solids):
    """Radar returns, their velocities compensated for the motion of the vehicle."""

    depths: Floats  # (N,) metres in front of the camera they belong to; sets their color


def draw_boxes_3d(
    image: Image, boxes: SolidBoxes, calib: Floats, names: Sequence[str], *, outline: Color | None = None
) -> Image:
    """Return a copy of the image with wireframes in the colors of their classes, near boxes over far ones.

    The front face of each is filled, and class, score and depth stand beside it.

    Args:
        image: (H, W, 3) uint8 BGR.
        boxes: in the frame of the camera. What lies behind it, or holds a number that is not finite, is left out; edges
            that pass the near plane are cut there.
        calib: camera matrix for this image, (3, 3) or (3, 4).
        names: of the classes.
        outline: BGR; draw thin lines in this color instead, nothing filled and nothing written.
    """
    canvas = np.ascontiguousarray(image).copy()
    height, width = canvas.shape[:2]
    lines, seen = project_lines(boxes.positions[:, EDGES], calib)
    # A box is shown if the rectangle around its visible edges meets the image.
    shown = seen[..., None, None]
    low = np.where(shown, lines, np.inf).min(axis=(1, 2), initial=np.inf)
    high = np.where(shown, lines, -np.inf).max(axis=(1, 2), initial=-np.inf)
    inside = (high >= 0).all(1) & (low < (width, height)).all(1)
    depths = boxes.centers[:, 2]
    order = [int(i) for i in np.argsort(-depths, kind="stable") if inside[i]]
    thickness = max(1, round((0.5 if outline else 1) * width / (REFERENCE_WIDTH / 2)))
    for i in order:
        color = outline or solid_color(int(boxes.labels[i]))
        front = lines[i, :FRONT_EDGES][seen[i, :FRONT_EDGES]]
        if not outline and len(front):
            fill_face(canvas, front.reshape(-1, 2), color, FRONT_FILL)
        draw_lines(canvas, lines[i, FRONT_EDGES:][seen[i, FRONT_EDGES:]], color, thickness)
        draw_lines(canvas, front, color, thickness + (thickness > 1))
    if outline:
        return canvas
    size = letter_size(width / REFERENCE_WIDTH)
    wanted: list[Label] = []
    for i in reversed(order):  # near boxes are labelled first
        left, top = np.clip(low[i], 0, (width, height)).tolist()
        right, bottom = np.clip(high[i], 0, (width, height)).tolist()
        # A box lower than its letters is too far away for a label.
        if bottom - top >= 0.75 * line_height(size):
            label, score = int(boxes.labels[i]), float(boxes.scores[i])
            name = class_name(names, label).replace("_", " ")
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
    arrows, seen = project_lines(np.stack((points.positions, ends), 1)[:, None], calib)
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


def project_lines(ends: Floats, calib: Floats) -> tuple[Floats, Bools]:
    """Cut lines (N, E, 2, 3) at the near plane and project them to pixels.

    Returns:
        (N, E, 2, 2) ends, and (N, E) whether anything is left of the line.
    """
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
