"""Angles seen by a camera."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from boxwright.centerfusion.angles import alpha_from_rotation, ray_angle, rotation_from_alpha, wrap

ANGLES = st.floats(-3.1, 3.1)


@given(st.floats(-20, 20))
def test_wrapped_angles_point_the_same_way(angle: float) -> None:
    (wrapped,) = wrap(torch.tensor([angle], dtype=torch.float64)).tolist()
    assert abs(wrapped) <= math.pi + 1e-12
    assert math.sin(wrapped) == pytest.approx(math.sin(angle), abs=1e-9)
    assert math.cos(wrapped) == pytest.approx(math.cos(angle), abs=1e-9)
    assert wrap(np.array([angle]))[0] == wrapped


@given(ANGLES, st.floats(-500, 2500))
def test_there_and_back(alpha: float, x: float) -> None:
    matrix = torch.tensor([800.0, 1260.0], dtype=torch.float64)
    column = torch.tensor(x, dtype=torch.float64)
    rotation = rotation_from_alpha(torch.tensor(alpha, dtype=torch.float64), column, *matrix)
    assert alpha_from_rotation(rotation, column, *matrix).item() == pytest.approx(alpha)
    assert rotation_from_alpha(np.array([alpha]), np.array([x]), 800.0, 1260.0)[0] == pytest.approx(rotation.item())


def test_a_ray_to_the_right_is_positive() -> None:
    assert ray_angle(np.array([900.0, 100.0]), 500.0, 400.0).tolist() == pytest.approx([math.pi / 4, -math.pi / 4])
