"""Text is painted, cut, and kept inside the image; labels keep clear of each other."""

from __future__ import annotations

import numpy as np

from boxwright.drawing.boxes import draw_boxes
from boxwright.drawing.canvas import class_color
from boxwright.drawing.text import Label, draw_labels, draw_text, label_size, text_mask


def test_text_beyond_the_border_is_cut() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    for left, top in ((-8, -6), (25, 15), (100, 100), (-500, 0)):
        draw_text(image, "Fußgänger", left, top, 12, (255, 255, 255))
    assert image.any()


def test_letters_are_painted_and_long_text_is_cut() -> None:
    assert text_mask("Ж", 12).max() > 0.9
    assert text_mask("", 12).max() == 0
    assert text_mask("o", 40)[27, 12] < 0.1  # the hole of the letter stays open
    assert text_mask("a" * 200, 10).shape[1] < 400


def test_a_long_name_keeps_its_score() -> None:
    cut, score = text_mask("a" * 200 + " 0.87", 12), text_mask("a0.87", 12)
    assert np.array_equal(cut[:, -20:-2], score[:, -20:-2])


def test_names_of_boxes_that_lie_on_each_other_do_not_overlap() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    boxes = np.array([[50.0, 60, 200, 150]] * 3)
    image = draw_boxes(image, boxes, ["........"] * 3, np.array([0, 1, 2]), line_thickness=2, text_size=11)
    height, width = label_size("........", 11)
    for label in (1, 2):  # their outlines lie under that of the first
        assert (image == class_color(label)).all(-1).sum() > height * width * 0.6


def test_a_crowded_label_is_left_out_on_request() -> None:
    labels = [Label("........", (20, 20, 90, 40), (0, 0, 200 + i)) for i in range(30)]
    painted: list[int] = []
    for drop_crowded in (False, True):
        image = np.zeros((60, 110, 3), np.uint8)
        draw_labels(image, labels, 11, drop_crowded=drop_crowded)
        height, width = label_size("........", 11)
        assert (image == labels[0].color).all(-1).sum() > height * width * 0.6, "the first one lies on top"
        painted.append(sum((image == label.color).all(-1).any() for label in labels))
    assert 1 < painted[1] <= 5
