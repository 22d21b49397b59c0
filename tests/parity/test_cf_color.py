"""Colour jitter of CenterFusion, composed to one affine map, against the recorded images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boxwright.centerfusion.augment import (
    BRIGHTNESS,
    CONTRAST,
    MEAN,
    SATURATION,
    STD,
    ColorChange,
    color_map,
    draw_color_change,
    finish_colors,
)
from tests.golden import golden_cases, read_case

KINDS = {"brightness": BRIGHTNESS, "contrast": CONTRAST, "saturation": SATURATION}


def _change(case: dict) -> ColorChange:
    draws = case["draws_in_call_order"]
    factors = tuple(1.0 + value for kind, value in draws if kind == "uniform")
    lighting = next(value for kind, value in draws if kind == "normal")
    return ColorChange(tuple(KINDS[name] for name in case["order"]), factors, tuple(lighting))


@pytest.mark.parametrize("file", golden_cases("", "color_aug.json", family="centerfusion"))
def test_recorded_changes(file: Path) -> None:
    arrays, meta = read_case(file)
    assert meta["cases"]
    for name, case in meta["cases"].items():
        before = arrays[f"{name}/in"].astype(np.float64)
        matrix = color_map(_change(case), before.mean(axis=(0, 1)))
        after = before @ matrix[:, :3].T + matrix[:, 3]
        np.testing.assert_allclose(after, arrays[f"{name}/out"], rtol=1e-4, atol=1e-4, err_msg=name)


def test_jitter_and_normalisation_are_one_pass() -> None:
    """The product's pass over 8-bit pixels equals jitter, then normalisation, each by itself."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 20, 3), np.uint8)
    change = draw_color_change(rng)
    out, room = np.empty(pixels.shape, np.float32), np.empty(pixels.shape, np.float32)
    finish_colors(pixels, change, out, room)
    unit = pixels / 255.0
    matrix = color_map(change, unit.mean(axis=(0, 1)))
    expected = (unit @ matrix[:, :3].T + matrix[:, 3] - MEAN) / STD
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)
    finish_colors(pixels, None, out, room)
    np.testing.assert_allclose(out, (unit - MEAN) / STD, rtol=1e-5, atol=1e-5)
