"""Radii and Gaussians of heat maps against the golden vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boxwright.centerfusion.heads import draw_gaussians, gaussian_radius
from tests.golden import golden_cases, read_case

FILES = golden_cases("", "gaussian.json", family="centerfusion")
TOLERANCE = 1e-4


@pytest.mark.parametrize("file", FILES)
def test_radii(file: Path) -> None:
    table = read_case(file)[1]["radius_table"]
    height, width, radius, cells = (np.array([row[key] for row in table]) for key in ("h", "w", "radius", "int_radius"))
    found = gaussian_radius(height, width)
    np.testing.assert_allclose(found, radius, atol=TOLERANCE, rtol=TOLERANCE)
    np.testing.assert_array_equal(np.maximum(found.astype(np.int64), 0), cells)


@pytest.mark.parametrize("file", FILES)
def test_one_after_another(file: Path) -> None:
    arrays, scalars = read_case(file)
    heatmap = np.zeros((2, 24, 40), np.float32)
    for number, (x, y, radius) in enumerate(scalars["draw_sequence_x_y_radius"]):
        draw_gaussians(heatmap, np.array([1]), np.array([[x, y]]), np.array([radius]))
        np.testing.assert_allclose(heatmap[1], arrays[f"after_{number}"], atol=TOLERANCE, rtol=TOLERANCE)
    assert not heatmap[0].any()


@pytest.mark.parametrize("file", FILES)
def test_all_at_once(file: Path) -> None:
    arrays, scalars = read_case(file)
    sequence = np.array(scalars["draw_sequence_x_y_radius"])
    heatmap = np.zeros((1, 24, 40), np.float32)
    draw_gaussians(heatmap, np.zeros(len(sequence), np.int64), sequence[:, :2], sequence[:, 2])
    last = arrays[f"after_{len(sequence) - 1}"]
    np.testing.assert_allclose(heatmap[0], last, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("file", FILES)
def test_kernels(file: Path) -> None:
    arrays, _ = read_case(file)
    kernels = {int(name.rsplit("_", 1)[1]): array for name, array in arrays.items() if name.startswith("kernel_radius")}
    assert kernels
    for radius, kernel in kernels.items():
        heatmap = np.zeros((1, *kernel.shape), np.float32)
        draw_gaussians(heatmap, np.zeros(1, np.int64), np.array([[radius, radius]]), np.array([radius]))
        np.testing.assert_allclose(heatmap[0], kernel, atol=TOLERANCE, rtol=TOLERANCE)
