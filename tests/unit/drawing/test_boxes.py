"""Boxes painted into images: what stays untouched, and where plates go."""

from __future__ import annotations

import numpy as np
import pytest

from boxwright.drawing.boxes import draw_boxes
from boxwright.drawing.canvas import class_color

GREY = np.full((100, 120, 3), 90, np.uint8)


def drawn(box: list[float], caption: str = "cat 0.90", line_thickness: int = 2) -> np.ndarray:
    boxes, labels = np.array([box], np.float32), np.array([3])
    return draw_boxes(GREY, boxes, [caption], labels, line_thickness=line_thickness)


def test_given_image_is_kept() -> None:
    before = GREY.copy()
    assert not np.array_equal(drawn([20, 40, 60, 80]), before)
    assert np.array_equal(GREY, before)


def test_line_has_the_colour_of_the_class_and_its_thickness() -> None:
    image = drawn([20, 40, 60, 80], caption="", line_thickness=4)
    assert (image[60, 20] == class_color(3)).all()
    column = (image[60] != 90).any(axis=1)
    assert 4 <= column[10:30].sum() <= 7  # anti-aliased: the rim adds pixels on each side
    assert (image[60, 40] == 90).all()


def test_plate_is_inside_where_there_is_no_room_above() -> None:
    above, inside = drawn([20, 50, 60, 80]), drawn([20, 0, 60, 80])
    assert (above[40, 20] == class_color(3)).all()
    assert (inside[3, 20] == class_color(3)).all()
    assert (inside[98] == 90).all()


@pytest.mark.parametrize("box", [[110, 90, 119, 99], [-20, -20, 5, 5], [0, 0, 120, 100], [50, 50, 50, 50]])
@pytest.mark.parametrize("caption", ["a very long name of a class 0.12", "", "猫 é"])
def test_any_box_and_caption_can_be_drawn(box: list[float], caption: str) -> None:
    assert drawn(box, caption).shape == GREY.shape


def test_no_boxes() -> None:
    nothing = draw_boxes(GREY, np.zeros((0, 4), np.float32), [], np.zeros(0, np.int64))
    assert np.array_equal(nothing, GREY)


def test_neighbouring_classes_differ_in_colour() -> None:
    colors = np.array([class_color(i) for i in range(20)], int)
    distances = np.abs(colors[:, None] - colors[None]).sum(-1) + 999 * np.eye(20, dtype=int)
    assert distances.min() > 40
