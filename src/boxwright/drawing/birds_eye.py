"""A key frame seen from above: annotated and predicted boxes and radar points around the vehicle.

Legend: N boxes. All is in the ego frame of nuScenes: x forward, y left, z up, metres, origin on the road below the
middle of the rear axle. The picture has x upward and y to the left.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from boxwright.data.letterbox import Image
from boxwright.drawing.boxes3d import ARROW_SECONDS, SLOWEST_ARROW
from boxwright.drawing.plates import letter_scale, measure, write
from boxwright.drawing.solids import RadarPoints, SolidBoxes
from boxwright.drawing.strokes import (
    Color,
    depth_colors,
    draw_arrow,
    draw_dot,
    draw_lines,
    draw_ring,
    fill_face,
    solid_color,
)

Array = npt.NDArray[np.float64]

BACKGROUND: Color = (28, 24, 22)
RING: Color = (70, 64, 60)
LETTERING: Color = (175, 170, 165)
TRUTH: Color = (235, 235, 235)
TRUTH_FILL = 0.22  # share of its colour inside an annotation
EGO: Color = (225, 190, 120)
RADIUS = 50.0  # metres: the farthest range of the nuScenes metric
EGO_SHAPE = ((3.1, 0.87), (-1.0, -0.87))  # metres: front left and rear right of the car that recorded nuScenes
REFERENCE_SIDE = 700  # pixels: lines and letters are 1 for this side and scale from there
LEAST_LEGEND = 260  # pixels: a picture less high or wide has no room for a legend
_BOTTOM = [0, 1, 2, 3]  # corners of the lower face of `SolidBoxes`, once around


def draw_birds_eye(
    truth: SolidBoxes | None = None,
    predictions: SolidBoxes | None = None,
    radar: RadarPoints | None = None,
    *,
    size: int | tuple[int, int] = REFERENCE_SIDE,
    radius: float = RADIUS,
    legend: bool = True,
) -> Image:
    """Paint what is around the vehicle: annotations white and filled, predictions as outlines.

    Predictions are in the colours of their classes. A tick leads from the middle of a box to its
    front, an arrow from there to where it will be in half a second.

    Args:
        truth: annotations; None: there are none to show, and the legend does not name them.
        predictions: as above.
        radar: points of all sensors, coloured by depth.
        size: pixels, one side of a square or height and width.
        radius: metres from the vehicle to the nearest border.
        legend: explain the signs, where there is room.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    height, width = (size, size) if isinstance(size, int) else size
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = BACKGROUND
    view = _View(canvas, radius)
    _rings(view)
    if radar is not None:
        _radar(view, radar)
    if truth is not None:
        _boxes(view, truth, annotated=True)
    if predictions is not None:
        _boxes(view, predictions, annotated=False)
    _ego(view)
    if legend and min(height, width) >= LEAST_LEGEND:
        _legend(view, truth is not None, predictions is not None, radar is not None)
    return canvas


class _View:
    """A canvas with its scale."""

    def __init__(self, canvas: Image, radius: float) -> None:
        self.canvas = canvas
        self.radius = radius
        self.height, self.width = canvas.shape[:2]
        self.per_metre = min(self.height, self.width) / 2 / radius
        unit = min(self.height, self.width) / REFERENCE_SIDE
        self.unit = unit
        self.line = max(1, round(1.6 * unit))
        self.letters = letter_scale(0.68 * unit)

    def pixels(self, points: Array) -> Array:
        """(..., 2 or 3) metres to (..., 2) pixels: forward is up, left is left."""
        middle = np.array((self.width / 2 - 0.5, self.height / 2 - 0.5))
        return middle - points[..., [1, 0]] * self.per_metre


def _rings(view: _View) -> None:
    """Circles every 10 m (or 20, 50, ... where those were too close), with their distances."""
    step = next((s for s in (10, 20, 50, 100) if view.radius / s <= 6), 200)
    farthest = view.radius * np.hypot(view.height, view.width) / min(view.height, view.width)
    middle = view.pixels(np.zeros(2))
    for number in range(1, int(farthest / step) + 1):
        draw_ring(view.canvas, middle, number * step * view.per_metre, RING)
    axes = np.array([[(farthest, 0), (-farthest, 0)], [(0, farthest), (0, -farthest)]], np.float64)
    draw_lines(view.canvas, view.pixels(axes), RING, 1)
    for number in range(1, int(view.radius / step) + 1):
        text = f"{number * step} m"
        width, height, _ = measure(text, view.letters)
        reach = number * step * view.per_metre
        if reach > 2 * width:
            left, baseline = round(middle[0] + reach) - width - 2, round(middle[1]) + height
            write(view.canvas, text, left, baseline, view.letters, LETTERING)


def _radar(view: _View, radar: RadarPoints) -> None:
    starts = view.pixels(radar.positions)
    ends = view.pixels(radar.positions + radar.velocities * ARROW_SECONDS)
    speeds = np.linalg.norm(radar.velocities[:, :2], axis=1)
    colors = depth_colors(radar.depths)
    for i in _inside(view, starts):
        if speeds[i] >= SLOWEST_ARROW:
            draw_arrow(view.canvas, np.stack((starts[i], ends[i])), colors[i], 1)
        draw_dot(view.canvas, starts[i], max(1.0, 2.2 * view.unit), colors[i])


def _boxes(view: _View, boxes: SolidBoxes, *, annotated: bool) -> None:
    """Farthest first, so that near ones lie on top; the best prediction lies on top of all."""
    faces = view.pixels(boxes.corners[:, _BOTTOM])
    middles = faces.mean(axis=1)
    fronts = faces[:, :2].mean(axis=1)
    ends = view.pixels(boxes.corners[:, _BOTTOM].mean(axis=1) + boxes.velocities * ARROW_SECONDS)
    speeds = np.linalg.norm(boxes.velocities[:, :2], axis=1)  # not a number compares false: no arrow
    near = _inside(view, faces.reshape(-1, 2)) // 4
    keys = -np.linalg.norm(boxes.centers[:, :2], axis=1) if annotated else boxes.scores
    for i in sorted(set(near.tolist()), key=lambda row: float(np.nan_to_num(keys[row]))):
        color = TRUTH if annotated else solid_color(int(boxes.labels[i]))
        small = float(np.ptp(faces[i], axis=0).max()) < 8 * view.line  # thick lines would leave nothing of it
        width = max(1, view.line - (annotated or small))
        if annotated:
            fill_face(view.canvas, faces[i], color, TRUTH_FILL)
        draw_lines(view.canvas, np.stack((faces[i], np.roll(faces[i], -1, 0)), 1), color, width)
        draw_lines(view.canvas, np.stack((middles[i], fronts[i]))[None], color, width)
        if speeds[i] >= SLOWEST_ARROW:
            draw_arrow(view.canvas, np.stack((middles[i], ends[i])), color, view.line)


def _ego(view: _View) -> None:
    """The vehicle, with a triangle that points forward."""
    (front, left), (rear, right) = EGO_SHAPE
    body = view.pixels(np.array([(front, left), (front, right), (rear, right), (rear, left)]))
    fill_face(view.canvas, body, EGO)
    tip = view.pixels(np.array([(front + 2.2, 0.0), (front + 0.5, left), (front + 0.5, right)]))
    fill_face(view.canvas, tip, EGO)


def _legend(view: _View, truth: bool, predictions: bool, radar: bool) -> None:
    """Signs and their meaning in the lower left corner."""
    scale, pad = view.letters, round(10 * view.unit) + 2
    _, height, baseline = measure("X", scale)
    mark = 2 * height
    rows = [
        ("vehicle", "ego"),
        *([("ground truth", "truth")] if truth else []),
        *([("prediction (colour: class)", "prediction")] if predictions else []),
        *([("radar (colour: depth)", "radar")] if radar else []),
        (f"velocity x {ARROW_SECONDS:g} s", "velocity"),
    ]
    top = view.height - pad - round(len(rows) * 1.25 * height)
    right = pad + mark + pad // 2 + max(measure(text, scale)[0] for text, _ in rows)
    patch = view.canvas[top - pad // 2 :, :right]
    patch[:] = (0.2 * patch + 0.8 * np.array(BACKGROUND)).astype(np.uint8)
    for text, kind in rows:
        _sign(view, kind, np.array((pad + mark / 2, top + height / 2)), np.array((mark / 2 - 2, height * 0.32)))
        write(view.canvas, text, pad + mark + pad // 2, top + baseline, scale, LETTERING)
        top += round(1.25 * height)


def _sign(view: _View, kind: str, middle: Array, half: Array) -> None:
    """One sign of the legend, in the rectangle that reaches half a width and half a height around its middle."""
    canvas, along = view.canvas, half * (1, 0)
    face = middle + half * np.array([(1, -1), (1, 1), (-1, 1), (-1, -1)])
    tick = np.stack((middle, middle + along))[None]
    outline = np.concatenate((np.stack((face, np.roll(face, -1, 0)), 1), tick))
    if kind == "ego":
        fill_face(canvas, face, EGO)
    elif kind == "truth":
        fill_face(canvas, face, TRUTH, TRUTH_FILL)
        draw_lines(canvas, outline, TRUTH, max(1, view.line - 1))
    elif kind == "prediction":
        draw_lines(canvas, outline, solid_color(0), view.line)
    elif kind == "radar":
        for share, color in zip((-0.8, 0.0, 0.8), depth_colors(np.array((8.0, 25.0, 50.0))), strict=True):
            draw_dot(canvas, middle + share * along, max(1.6, 3 * view.unit), color)
    else:
        draw_arrow(canvas, np.stack((middle - along, middle + along)), LETTERING, view.line)


def _inside(view: _View, points: Array) -> npt.NDArray[np.int64]:
    """Positions of the points (N, 2) that lie in the picture; a point that is not finite does not."""
    return np.flatnonzero(((points >= 0) & (points < (view.width, view.height))).all(-1))
