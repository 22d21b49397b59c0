"""Corners of boxes in the frame of a camera, and their pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from boxwright.ops.boxes3d import EDGES, corners_camera, project, unproject

CALIB = np.array([[1260.0, 0, 800, 40], [0, 1250, 450, 20], [0, 0, 1, 0.003]])


def test_corners_of_a_box_that_looks_to_the_right() -> None:
    corners = corners_camera(np.array([1.0, 2, 10]), np.array([1.5, 2, 4]), np.array(0.0))
    assert corners.min(0).tolist() == [-1, 0.5, 9]
    assert corners.max(0).tolist() == [3, 2, 11]
    assert corners[[0, 1, 4, 5], 0].tolist() == [3] * 4  # its front
    assert (corners[:4, 1] == 2).all()  # bottom


def test_turned_towards_the_camera() -> None:
    corners = corners_camera(
        torch.zeros(2, 3), torch.tensor([1.5, 2, 4]).expand(2, 3), torch.tensor([0.0, math.pi / 2])
    )
    assert corners[1, [0, 1, 4, 5], 2].tolist() == pytest.approx([-2] * 4)  # +pi/2 looks along -z


def test_edges_are_as_long_as_the_sides() -> None:
    corners = corners_camera(np.array([3.0, 1, 20]), np.array([1.5, 2, 4]), np.array(0.7))
    lengths = sorted(np.linalg.norm(corners[a] - corners[b]) for a, b in EDGES)
    assert lengths == pytest.approx([1.5] * 4 + [2] * 4 + [4] * 4)


def test_pixels_and_back() -> None:
    points = np.random.default_rng(0).uniform([-9, -3, 4], [9, 3, 60], (20, 3))
    pixels = project(points, CALIB)
    depth = points[:, 2] + CALIB[2, 3]
    np.testing.assert_allclose(unproject(pixels, depth, CALIB), points, atol=1e-9)
    both = project(torch.from_numpy(points), torch.from_numpy(CALIB))
    np.testing.assert_allclose(both, pixels)
