"""Peaks of heat maps, Gaussians at the border, and angles seen by a camera."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from boxwright.centerfusion.heads import draw_gaussians, gaussian_radius, peaks, rotation_from_alpha


@given(st.tuples(*[st.integers(1, 7)] * 4), st.integers(1, 90), st.integers(0, 99))
def test_best_cells_are_those_of_a_sort(shape: tuple[int, int, int, int], k: int, seed: int) -> None:
    heatmap = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    found = peaks(heatmap, k, suppress=False)
    expected = heatmap.flatten(1).sort(dim=1, descending=True).values[:, :k]
    assert torch.equal(found.scores, expected)
    image = torch.arange(shape[0])[:, None]
    assert torch.equal(heatmap.flatten(2)[image, found.labels, found.cells], expected)
    assert all(len(set(zip(*row, strict=True))) == len(row[0]) for row in zip(found.labels, found.cells, strict=True))


@given(st.tuples(*[st.integers(1, 7)] * 4), st.integers(1, 90), st.integers(0, 99))
def test_equal_scores_come_in_the_order_of_their_cells(shape: tuple[int, int, int, int], k: int, seed: int) -> None:
    heatmap = torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(seed)).float()
    found = peaks(heatmap, k, suppress=False)
    expected = heatmap.flatten(1).sort(dim=1, descending=True, stable=True).indices[:, :k]
    assert torch.equal(found.labels * shape[2] * shape[3] + found.cells, expected)


def test_more_peaks_than_cells() -> None:
    found = peaks(torch.rand(2, 3, 4, 5), 100)
    assert found.cells.shape == (2, 60)


def test_only_the_greatest_of_neighbours() -> None:
    heatmap = torch.full((1, 2, 8, 9), 0.1)
    heatmap[0, 0, 3, 4], heatmap[0, 0, 3, 5], heatmap[0, 1, 3, 5] = 0.9, 0.8, 0.7
    found = peaks(heatmap, 2)
    assert found.cells.tolist() == [[3 * 9 + 4, 3 * 9 + 5]]
    assert found.labels.tolist() == [[0, 1]]
    beside = peaks(heatmap, 2, suppress=False)
    assert beside.labels.tolist() == [[0, 0]]


def test_gaussians_beyond_the_border_are_cut() -> None:
    wide = np.zeros((1, 30, 30), np.float32)
    centers = np.array([[10, 10], [19, 12], [9, 25], [30, 30]])
    labels, radii = np.zeros(4, np.int64), np.array([3, 2, 4, 1])
    draw_gaussians(wide, labels, centers, radii)
    cut = np.zeros((1, 10, 8), np.float32)
    draw_gaussians(cut, labels, centers - 10, radii)
    np.testing.assert_array_equal(cut[0], wide[0, 10:20, 10:18])
    assert cut.max() == 1


def test_nothing_to_draw() -> None:
    heatmap = np.zeros((1, 4, 4), np.float32)
    draw_gaussians(heatmap, np.zeros(0, np.int64), np.zeros((0, 2), np.int64), np.zeros(0, np.int64))
    assert not heatmap.any()


def test_sides_are_rounded_up() -> None:
    assert gaussian_radius(9.2, 3.0) == pytest.approx(gaussian_radius(10, 3))


@given(st.floats(-3.1, 3.1), st.floats(-500, 2500))
def test_rotation_is_alpha_and_the_ray_to_the_object(alpha: float, x: float) -> None:
    matrix = torch.tensor([800.0, 1260.0], dtype=torch.float64)
    rotation = rotation_from_alpha(torch.tensor(alpha), torch.tensor(x, dtype=torch.float64), *matrix).item()
    assert abs(rotation) <= math.pi + 1e-12
    expected = alpha + math.atan2(x - 800.0, 1260.0)
    assert math.sin(rotation) == pytest.approx(math.sin(expected), abs=1e-6)
    assert math.cos(rotation) == pytest.approx(math.cos(expected), abs=1e-6)


def test_a_ray_to_the_right_is_positive() -> None:
    columns, zero = torch.tensor([900.0, 100.0]), torch.zeros(2)
    rotations = rotation_from_alpha(zero, columns, torch.tensor(500.0), torch.tensor(400.0))
    assert rotations.tolist() == pytest.approx([math.pi / 4, -math.pi / 4])


def test_an_angle_inside_keeps_its_bits() -> None:
    angles = torch.linspace(-3.14, 3.14, 99)
    at_axis = rotation_from_alpha(angles, torch.zeros(99), torch.tensor(0.0), torch.tensor(1.0))
    assert torch.equal(at_axis, angles)
