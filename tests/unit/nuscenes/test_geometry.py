"""Rectangles seen from above, against OpenCV's intersection and against suppression one by one."""

from __future__ import annotations

import math
import re

import cv2
import numpy as np
import pytest

from boxwright.nuscenes.geometry import doubt_intrinsics, rectangle_corners, rectangle_iou, suppress


def some_rectangles(count: int, seed: int = 0, spread: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    centers = random.normal(size=(count, 2)) * spread + [1000, -2000]
    sides = random.uniform(0.3, 5, size=(count, 2))
    return centers, rectangle_corners(centers, sides, random.uniform(-4, 4, count))


def opencv_iou(first: np.ndarray, second: np.ndarray) -> float:
    origin = first.mean(axis=0)
    one, two = (np.float32(each - origin) for each in (first, second))
    shared = cv2.intersectConvexConvex(one, two)[0]
    return shared / (cv2.contourArea(one) + cv2.contourArea(two) - shared)


def test_overlap_equals_that_of_opencv() -> None:
    _, first = some_rectangles(500, 1, spread=1)
    _, second = some_rectangles(500, 2, spread=1)
    expected = [opencv_iou(*pair) for pair in zip(first, second, strict=True)]
    assert 0.1 < np.mean(np.array(expected) > 0) < 1
    np.testing.assert_allclose(rectangle_iou(first, second), expected, atol=1e-4)


def test_plain_cases() -> None:
    centers = np.array([[0.0, 0], [0, 0], [1, 0], [2, 0], [9, 0], [0, 0], [0, 0]])
    sides = np.array([[2.0, 4], [2, 4], [2, 4], [2, 4], [2, 4], [1, 1], [0, 0]])
    corners = rectangle_corners(centers, sides, np.array([0, math.pi, 0, 0, 0, math.pi / 4, 0]))
    found = rectangle_iou(np.repeat(corners[:1], 7, axis=0), corners)
    np.testing.assert_allclose(found, [1, 1, 1 / 3, 0, 0, 1 / 8, 0], atol=1e-9)


def test_rectangles_that_coincide_overlap_wholly_far_from_the_origin() -> None:
    _, corners = some_rectangles(1000)
    np.testing.assert_allclose(rectangle_iou(corners, corners.copy()), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("camera", "size", "says"),
    [
        ((1266, 1266, 816, 491), (1600, 900), ""),
        ((721, 721, 609, 173), (1242, 375), ""),  # cut at the top
        ((633, 633, 408, 245), (800, 450), ""),
        (
            (1266, 1266, 816, 491),
            (800, 450),
            "not near the middle of images of 800 x 450 pixels, but of tho",
        ),
        ((1266, 1266, 816, 491), (1200, 675), "about 1632 x 982"),
        ((633, 633, 408, 245), (1600, 900), "about 816 x 490"),
        ((1266, 1266, -30, 491), (1600, 900), r"\(-30, 491\) is not near the middle of images of 1600 x 900 pixels$"),
        ((1266, 500, 816, 491), (1600, 900), "the focal lengths 1266 and 500 differ"),
        ((5.5, 5.5, 816, 491), (1600, 900), "a view of 179 degrees; it is counted in pixels"),
        ((90000, 90000, 816, 491), (1600, 900), "a view of 1.02 degrees"),
    ],
)
def test_intrinsics_of_other_images_are_doubted(camera: tuple[float, ...], size: tuple[int, int], says: str) -> None:
    fx, fy, cx, cy = camera
    doubt = doubt_intrinsics(np.array([[fx, 0, cx, 0], [0, fy, cy, 0], [0, 0, 1, 0]]), *size)
    assert re.search(says, doubt) if says else not doubt


def test_without_pairs() -> None:
    assert rectangle_iou(np.empty((0, 4, 2)), np.empty((0, 4, 2))).shape == (0,)
    assert suppress(np.empty(0, int), np.empty((0, 2)), np.empty((0, 4, 2)), 0.1, 2.0).shape == (0,)


@pytest.mark.parametrize("threshold", [0.05, 0.3])
def test_suppression_equals_that_one_by_one(threshold: float) -> None:
    centers, corners = some_rectangles(150)
    groups = np.arange(150) % 2
    kept: list[int] = []
    for place in range(150):
        rivals = [
            other
            for other in kept
            if groups[other] == groups[place]
            and np.linalg.norm(centers[other] - centers[place]) <= 2
            and rectangle_iou(corners[[other]], corners[[place]])[0] >= threshold
        ]
        if not rivals:
            kept.append(place)
    found = suppress(groups, centers, corners, threshold, 2.0)
    assert 0 < len(kept) < 150
    assert np.flatnonzero(found).tolist() == kept
