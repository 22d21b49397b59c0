"""A key frame seen from above: annotated and predicted boxes and radar points around the vehicle.

Legend: N boxes. All is in the ego frame of nuScenes: x forward, y left, z up, metres, origin on the road below the
middle of the rear axle. The picture has x upward and y to the left.
"""

import numpy as np

from boxwright.drawing.boxes3d import ARROW_SECONDS, SLOWEST_ARROW, SolidBoxes, SolidPoints
from boxwright.drawing.canvas import (
    depth_colors,
    draw_arrow,
    draw_dot,
    draw_lines,
    draw_ring,
    fill_face,
    points_inside,
    solid_color,
)
from boxwright.drawing.text import draw_text, letter_size, line_height, text_width
from boxwright.ops.arrays import Color, Floats, Image

BACKGROUND: Color = (28, 24, 22)
RING: Color = (70, 64, 60)
LETTERING: Color = (175, 170, 165)
TRUTH: Color = (235, 235, 235)
TRUTH_FILL = 0.22  # share of its colour inside an annotation
EGO: Color = (225, 190, 120)
RADIUS = 50.0  # metres: the farthest range of the nuScenes metric
EGO_SHAPE = ((3.1, 0.87), (-1.0, -0.87))  # metres: front left and rear right of the car that recorded nuScenes
REFERENCE_SIDE = 700  # pixels: lines and letters are 1 for this side and scale from there
LEAST_LEGEND = 260  # pixels: a smaller picture has no room for a legend
_BOTTOM = [0, 1, 2, 3]  # corners of the lower face of `SolidBoxes`, once around


class _View:
    """A square canvas with its scale, forward up and left to the left."""

    def __init__(self, side: int, radius: float) -> None:
        self.canvas: Image = np.full((side, side, 3), BACKGROUND, np.uint8)
        self.side = side
        self.radius = radius  # metres to the border
        self.per_metre = side / 2 / radius
        self.unit = side / REFERENCE_SIDE
        self.line = max(1, round(1.6 * self.unit))
        self.letters = letter_size(0.68 * self.unit)

    def pixels(self, points: Floats) -> Floats:
        """Map (..., 2 or 3) metres to (..., 2) pixels."""
        # Half a pixel less: the vehicle stands in the middle of the picture, between pixel centers of an even size.
        return self.side / 2 - 0.5 - points[..., [1, 0]] * self.per_metre


def draw_birds_eye(
    truth: SolidBoxes | None = None,
    predictions: SolidBoxes | None = None,
    radar: SolidPoints | None = None,
    *,
    size: int = REFERENCE_SIDE,
    radius: float = RADIUS,
    legend: bool = True,
) -> Image:
    """Paint what is around the vehicle: annotations white and filled, predictions as outlines.

    Predictions are in the colors of their classes. A tick leads from the middle of a box to its
    front, an arrow from there to where it will be in half a second.

    Args:
        truth: annotations; None: there are none to show, and the legend does not name them.
        predictions: as above.
        radar: points of all sensors, colored by depth.
        size: pixels, one side of a square.
        radius: metres from the vehicle to the border.
        legend: explain the signs, where there is room.

    Returns:
        (size, size, 3) uint8 BGR.
    """
    view = _View(size, radius)
    _draw_rings(view)
    if radar is not None:
        starts = view.pixels(radar.positions)
        ends = view.pixels(radar.positions + radar.velocities * ARROW_SECONDS)
        speeds = np.linalg.norm(radar.velocities[:, :2], axis=1)
        colors: list[Color] = depth_colors(radar.depths).tolist()
        for i in points_inside(starts, (size, size)):
            if speeds[i] >= SLOWEST_ARROW:
                draw_arrow(view.canvas, np.stack((starts[i], ends[i])), colors[i], 1)
            draw_dot(view.canvas, starts[i], max(1.0, 2.2 * view.unit), colors[i])
    if truth is not None:
        _draw_boxes(view, truth, annotated=True)
    if predictions is not None:
        _draw_boxes(view, predictions, annotated=False)
    (front, left), (rear, right) = EGO_SHAPE
    body = [(front, left), (front, right), (rear, right), (rear, left)]
    nose = [(front + 2.2, 0.0), (front + 0.5, left), (front + 0.5, right)]  # a triangle that points forward
    for polygon in (body, nose):
        fill_face(view.canvas, view.pixels(np.array(polygon)), EGO)
    if legend and size >= LEAST_LEGEND:
        _draw_legend(view, truth is not None, predictions is not None, radar is not None)
    return view.canvas


def _draw_rings(view: _View) -> None:
    """Draw circles every 10 m (or 20, 50, ... where those were too close), with their distances."""
    step = next((s for s in (10, 20, 50, 100) if view.radius / s <= 6), 200)
    # The corners of the picture lie farther away than its nearest border.
    farthest = view.radius * np.hypot(view.side, view.side) / view.side
    middle = view.pixels(np.zeros(2))
    for number in range(1, int(farthest / step) + 1):
        draw_ring(view.canvas, middle, number * step * view.per_metre, RING)
    axes = np.array([[(farthest, 0), (-farthest, 0)], [(0, farthest), (0, -farthest)]], np.float64)
    draw_lines(view.canvas, view.pixels(axes), RING, 1)
    for number in range(1, int(view.radius / step) + 1):
        text = f"{number * step} m"
        width = text_width(text, view.letters)
        reach = number * step * view.per_metre
        if reach > 2 * width:  # else the number would touch that of the ring before
            left, top = round(middle[0] + reach) - width - 2, round(middle[1]) + 1
            draw_text(view.canvas, text, left, top, view.letters, LETTERING)


def _draw_boxes(view: _View, boxes: SolidBoxes, *, annotated: bool) -> None:
    """Draw the farthest box first, so that near ones lie on top; the best prediction lies on top of all."""
    faces = view.pixels(boxes.positions[:, _BOTTOM])
    middles = faces.mean(axis=1)
    fronts = faces[:, :2].mean(axis=1)
    ends = view.pixels(boxes.positions[:, _BOTTOM].mean(axis=1) + boxes.velocities * ARROW_SECONDS)
    speeds = np.linalg.norm(boxes.velocities[:, :2], axis=1)  # not a number compares false: no arrow
    near = points_inside(faces.reshape(-1, 2), (view.side, view.side)) // 4  # a box is shown if one of its corners is
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


def _draw_legend(view: _View, truth: bool, predictions: bool, radar: bool) -> None:
    """Draw signs and their meaning in the lower left corner."""
    canvas, size, pad = view.canvas, view.letters, round(10 * view.unit) + 2
    height = line_height(size)
    half = np.array((height - 2, height * 0.32))  # of a sign, pixels
    texts = [
        "vehicle",
        *(["ground truth"] if truth else []),
        *(["prediction (color: class)"] if predictions else []),
        *(["radar (color: depth)"] if radar else []),
        f"velocity x {ARROW_SECONDS:g} s",
    ]
    top = view.side - pad - len(texts) * height
    left = pad + 2 * height + pad // 2
    right = left + max(text_width(text, size) for text in texts)
    patch = canvas[top - pad // 2 :, :right]
    patch[:] = (0.2 * patch + 0.8 * np.array(BACKGROUND)).astype(np.uint8)
    for text in texts:
        middle = np.array((pad + height, top + height / 2))
        face = middle + half * np.array([(1, -1), (1, 1), (-1, 1), (-1, -1)])
        along = half * (1, 0)
        outline = np.stack((*np.stack((face, np.roll(face, -1, 0)), 1), np.stack((middle, middle + along))))
        if text == "vehicle":
            fill_face(canvas, face, EGO)
        elif text == "ground truth":
            fill_face(canvas, face, TRUTH, TRUTH_FILL)
            draw_lines(canvas, outline, TRUTH, max(1, view.line - 1))
        elif text.startswith("prediction"):
            draw_lines(canvas, outline, solid_color(0), view.line)
        elif text.startswith("radar"):
            for share, color in zip((-0.8, 0.0, 0.8), depth_colors(np.array((8.0, 25.0, 50.0))).tolist(), strict=True):
                draw_dot(canvas, middle + share * along, max(1.6, 3 * view.unit), color)
        else:
            draw_arrow(canvas, np.stack((middle - along, middle + along)), LETTERING, view.line)
        draw_text(canvas, text, left, top, size, LETTERING)
        top += height
