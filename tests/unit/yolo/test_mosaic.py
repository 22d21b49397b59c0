"""Where the tiles of a mosaic lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.data.source_images import SourceImages
from boxwright.yolo import samples as augment
from boxwright.yolo.augmentation import NUM_NINE, Placement, draw_nine, place_nine
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

    monkeypatch.setattr(augment, "place_nine", counted)
    source = SourceImages(write_scenes(tmp_path, [(96, 30)] * 3), 96)
    samples = augment.TrainingSamples(source, 96, 32, AugmentConfig(mosaic9=share), seed=0)
    out = np.zeros((96, 96, 3), np.uint8)
    for epoch in range(40):
        samples.write(epoch, 0, out)
    assert fewest <= len(placed) <= most
    assert set(placed) <= {NUM_NINE}
