"""Painting of pillars: near points win, whatever the order; sizes follow the option; the same as one by one."""

from __future__ import annotations

import numpy as np
import pytest

from boxwright.centerfusion.augment import affine_map, map_points
from boxwright.centerfusion.radar_map import RadarPoints, paint_pillars, pillar_sizes, visible_points
from boxwright.centerfusion.settings import RadarConfig
from tests.unit.centerfusion.scenes3d import points

CALIB = np.array([[256.0, 0, 160, 0], [0, 256.0, 90, 0], [0, 0, 1, 0]])
GRID_HW = (24, 40)
GRID = affine_map(np.array([160.0, 90.0]), 320.0, 0.0, GRID_HW)
DIMS = (1.5, 0.2, 0.2)


def seen(radar: np.ndarray, max_depth: float = 60.0, z_offset: float = 0.0) -> RadarPoints:
    config = RadarConfig(max_depth=max_depth, z_offset=z_offset)
    return visible_points(radar, CALIB, (180, 320), GRID, GRID_HW, config)


def painted(found: RadarPoints, dims: tuple[float, float, float] = DIMS) -> np.ndarray:
    out = np.full((3, *GRID_HW), 7.0, np.float32)
    paint_pillars(found, CALIB, GRID, dims, out)
    return out


@pytest.mark.parametrize("count", [0, 1, 500])
def test_painting_equals_one_by_one(count: int) -> None:
    found = seen(points(count))
    expected = np.zeros((3, *GRID_HW), np.float32)
    sizes = pillar_sizes(found.points, CALIB, GRID, GRID_HW, DIMS)
    cells = map_points(found.pixels[:2].T, GRID)
    for i in reversed(range(found.points.shape[1])):
        (u, v), (w, h) = cells[i], sizes[:, i]
        rows = slice(round(max(v - h, 0)), round(v))
        columns = slice(round(max(u - w / 2, 0)), round(min(u + w / 2, GRID_HW[1])))
        expected[:, rows, columns] = np.array([found.pixels[2, i], *found.points[8:10, i]])[:, None, None]
    assert count < 500 or (expected[0] > 0).sum() > 100
    assert np.array_equal(painted(found), expected)


def test_order_of_the_file_does_not_matter() -> None:
    radar = points(300)
    shuffled = radar[:, np.random.default_rng(1).permutation(300)]
    assert np.array_equal(painted(seen(radar)), painted(seen(shuffled)))


def test_the_nearest_is_seen() -> None:
    radar = np.zeros((18, 2))
    radar[1:3] = [[1.0, 1.0], [4.5, 4.0]]
    radar[8] = [3.0, -4.0]
    depth, across, _ = painted(seen(radar))
    assert depth[16, 20] == 4.0
    assert across[16, 20] == -4.0


def test_pillar_dimensions_work() -> None:
    found = seen(
        points(100)[:, points(100)[2] > 15]
    )  # of near ones, the upper corners leave the grid and are discarded
    tall, wide = painted(found, (3.0, 0.2, 0.2)), painted(found, (1.5, 0.2, 1.0))
    assert (tall[0] > 0).sum() > (painted(found)[0] > 0).sum()
    assert (wide[0] > 0).sum() > (painted(found)[0] > 0).sum()


def test_points_behind_far_and_beside_are_left_out_and_the_source_stays() -> None:
    radar = np.zeros((18, 4))
    radar[2] = [-5.0, 0.0, 61.0, 20.0]
    radar[1] = 1.0
    before = radar.copy()
    found = seen(radar, z_offset=0.5)
    assert found.points[:3].T.tolist() == [[0.0, 0.5, 20.0]]
    assert np.array_equal(radar, before)


def test_a_pillar_that_leaves_the_grid_with_all_its_corners_has_no_size() -> None:
    radar = np.zeros((18, 1))
    radar[1:3] = [[0.5], [3.0]]
    found = seen(radar)
    assert pillar_sizes(found.points, CALIB, GRID, GRID_HW, (1.5, 0.2, 5.0)).tolist() == [[0.0], [0.0]]
    assert not painted(found, (1.5, 0.2, 5.0)).any()
    assert painted(found).any()
