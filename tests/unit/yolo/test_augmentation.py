"""Augmentation: mosaics and warps."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.data.source_images import SourceImages
from boxwright.yolo import samples as samples_module
from boxwright.yolo.augmentation import (
    NUM_NINE,
    Placement,
    Tile,
    draw_nine,
    place_nine,
    render,
    resize_matrix,
    warp_image,
)
from boxwright.yolo.geometry import PerspectiveDraw, perspective_matrix, translation
from boxwright.yolo.settings import AugmentConfig
from tests.unit.data.scenes import write_scenes

SIDE = 40
SIZES_HW = st.lists(st.tuples(st.integers(1, SIDE), st.integers(1, SIDE)), min_size=NUM_NINE, max_size=NUM_NINE)


@given(SIZES_HW, st.integers(0, 1000))
def test_nine_tiles_never_overlap_and_the_middle_one_is_whole(sizes_hw: list[tuple[int, int]], seed: int) -> None:
    images, (x, y) = draw_nine(np.random.default_rng(seed), 7, 20, SIDE)
    assert images[0] == 7
    assert images.max() < 20
    canvas = np.zeros((2 * SIDE, 2 * SIDE), int)
    for placement, hw in zip(place_nine((x, y), sizes_hw, SIDE), sizes_hw, strict=True):
        (x1, y1, x2, y2), (u1, v1, u2, v2) = placement.large, placement.small
        assert (x2 - x1, y2 - y1) == (u2 - u1, v2 - v1)
        if placement.is_empty:
            continue
        assert (x1 - u1, y1 - v1) == placement.offset_xy
        assert 0 <= u1 < u2 <= hw[1]
        assert 0 <= v1 < v2 <= hw[0]
        canvas[y1:y2, x1:x2] += 1
    assert canvas.max() == 1
    assert (canvas[y : y + sizes_hw[0][0], x : x + sizes_hw[0][1]] == 1).all()


def test_nine_squares_fill_the_canvas() -> None:
    placements = place_nine((13, 22), [(SIDE, SIDE)] * NUM_NINE, SIDE)
    canvas = np.zeros((2 * SIDE, 2 * SIDE), int)
    for x1, y1, x2, y2 in (placement.large for placement in placements):
        canvas[y1:y2, x1:x2] += 1
    assert (canvas == 1).all()
    assert len({placement.offset_xy for placement in placements}) == NUM_NINE


@pytest.mark.parametrize(("share", "fewest", "most"), [(0.0, 0, 0), (0.5, 8, 32), (1.0, 40, 40)])
def test_the_share_of_nine_is_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, fewest: int, most: int
) -> None:
    placed: list[int] = []

    def counted(corner_xy: tuple[int, int], sizes_hw: list[tuple[int, int]], side: int) -> list[Placement]:
        placed.append(len(sizes_hw))
        return place_nine(corner_xy, sizes_hw, side)

    monkeypatch.setattr(samples_module, "place_nine", counted)
    source = SourceImages(write_scenes(tmp_path, [(96, 30)] * 3), 96)
    samples = samples_module.TrainingSamples(source, 96, 32, AugmentConfig(mosaic9=share), seed=0)
    out = np.zeros((96, 96, 3), np.uint8)
    for epoch in range(40):
        samples.write(epoch, 0, out)
    assert fewest <= len(placed) <= most
    assert set(placed) <= {NUM_NINE}


def smooth_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 12 + 2, width // 12 + 2, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def room(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 9, np.uint8)  # what was there before must not be seen


def whole(image: np.ndarray, matrix: np.ndarray) -> Tile:
    height, width = image.shape[:2]
    return Tile(0, matrix, (0.0, 0.0, float(width), float(height)))


@pytest.mark.parametrize("scale", [0.55, 0.8, 1.0, 1.3, 1.9])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (-13.4, 8.7), (40.2, -31.9)])
def test_crop_and_resize_is_close_to_the_general_warp(scale: float, shift: tuple[float, float]) -> None:
    image = smooth_image(150, 190)
    matrix = np.array([[scale, 0.0, shift[0]], [0.0, scale, shift[1]], [0.0, 0.0, 1.0]])
    fast = render([whole(image, matrix)], room(160, 170), lambda _: image).astype(int)
    exact = warp_image(image, matrix, (160, 170)).astype(int)
    covered = warp_image(np.full_like(image, 255), matrix, (160, 170))[..., 0] == 255
    inner = cv2.erode(covered.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    difference = abs(fast - exact)[inner]
    assert difference.mean() < 5.0  # half a pixel of shift in a picture that changes by up to 20 levels a pixel
    assert np.percentile(difference, 99) < 22
    assert ((fast == 114).all(axis=2) != ~covered).mean() < 0.03


def test_a_shift_by_whole_pixels_is_exact() -> None:
    image = smooth_image(40, 50)
    matrix = translation(7, -5)
    np.testing.assert_array_equal(
        render([whole(image, matrix)], room(48, 48), lambda _: image), warp_image(image, matrix, (48, 48))
    )


def test_a_tile_that_is_not_seen_is_not_loaded() -> None:
    image = smooth_image(40, 50)
    asked: list[int] = []

    def load(number: int) -> np.ndarray:
        asked.append(number)
        return image

    turned = perspective_matrix(PerspectiveDraw(angle=20.0), (40, 50), (40, 50))
    tiles = [whole(image, translation(500, 0)), whole(image, translation(0, -80) @ turned), whole(image, np.eye(3))]
    render(tiles, room(64, 64), load)
    assert asked == [0]


def test_composed_tiles_show_what_canvas_and_warp_show() -> None:
    """Mosaic of two tiles, turned: one composed warp a tile against painting the canvas and warping that."""
    first, second = smooth_image(90, 120, 1), smooth_image(90, 60, 2)
    canvas = np.full((128, 160, 3), 114, np.uint8)
    canvas[20:80, 0:80] = cv2.resize(first, (80, 60))
    canvas[20:80, 80:120] = cv2.resize(second, (40, 60))
    matrix = perspective_matrix(PerspectiveDraw(angle=25.0, scale=0.8, shear=(4.0, -3.0)), (128, 160), (120, 150))
    tiles = [
        Tile(0, translation(0, 20) @ resize_matrix((90, 120), (60, 80)), (0.0, 0.0, 120.0, 90.0)),
        Tile(1, translation(80, 20) @ resize_matrix((90, 60), (60, 40)), (0.0, 0.0, 60.0, 90.0)),
    ]
    composed = render([tile.then(matrix) for tile in tiles], room(120, 150), lambda k: (first, second)[k]).astype(int)
    painted = warp_image(canvas, matrix, (120, 150)).astype(int)
    difference = abs(composed - painted)
    assert np.median(difference) <= 3
    assert np.percentile(difference, 95) < 12  # seams are hard here and blended there


def test_strong_shrinking_averages_instead_of_leaving_pixels_out() -> None:
    checker = np.indices((256, 256)).sum(axis=0) % 2 * np.uint8(255)
    image = np.repeat(checker[..., None].astype(np.uint8), 3, axis=2)
    for angle in (0.0, 30.0):
        matrix = perspective_matrix(PerspectiveDraw(angle=angle, scale=0.2), (256, 256), (48, 48))
        middle = render([whole(image, matrix)], room(48, 48), lambda _: image)[16:32, 16:32].astype(int)
        assert abs(middle - 127).max() <= 20
