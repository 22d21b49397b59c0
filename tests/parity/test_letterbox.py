"""Letterbox against the golden vectors: sizes, scale and pad of every row, and exact pixels."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from boxwright.data.letterbox import fit_letterbox, letterbox
from boxwright.yolo.published import RELEASES
from tests.golden import golden_cases, read_case

# The options behind each stored result; a name says input, size and option.
_OPTIONS = re.compile(r"(?P<input>\w+?)_out_(?P<size>\d+(_\d+)?)(_(?P<option>square|noup))?$")


@pytest.mark.parametrize("case", golden_cases("letterbox", "sizes_*.json"))
def test_sizes_scale_and_pad_equal_the_published_ones(case: Path) -> None:
    _, meta = read_case(case)
    assert meta["rows"]
    release = "v3" if meta["version"] == "yolov3spp" else meta["version"]
    for values in meta["rows"]:
        row = dict(zip(meta["columns"], values, strict=True))
        shape = row["new_shape"] if isinstance(row["new_shape"], int) else tuple(row["new_shape"])
        if release == "v1.0" and row["scale_fill"] and not isinstance(shape, int):
            shape = (shape[1], shape[0])  # it took the sides to stretch to for width and height: not a defect to keep
        fit = fit_letterbox(
            (row["h"], row["w"]),
            shape,
            auto=row["auto"],
            stride=RELEASES[release].letterbox.multiple_for(row["stride"]),
            scale_up=row["scale_up"],
            scale_fill=row["scale_fill"],
        )
        assert fit.out_hw == (row["out_h"], row["out_w"]), row
        assert fit.resized_hw == (row["resized_h"], row["resized_w"]), row
        assert fit.scale_yx == (row["ratio_h"], row["ratio_w"]), row
        assert fit.pad_yx == (row["pad_h_half"], row["pad_w_half"]), row
        assert (fit.top, fit.left) == (row["top"], row["left"]), row
        assert fit.out_hw[0] - fit.resized_hw[0] - fit.top == row["bottom"], row
        assert fit.out_hw[1] - fit.resized_hw[1] - fit.left == row["right"], row


@pytest.mark.parametrize("case", golden_cases("letterbox", "pixels_v[67]*.npz"))
def test_pixels_equal_the_published_ones(case: Path) -> None:
    arrays, _ = read_case(case)
    results = [name for name in arrays if "_out_" in name]
    assert results
    for name in results:
        match = _OPTIONS.match(name)
        assert match, f"{name}: a name this test cannot read"
        sides = [int(side) for side in match["size"].split("_")]
        image, expected = arrays[f"{match['input']}_in"], arrays[name]
        shape = sides[0] if len(sides) == 1 else (sides[0], sides[1])
        option = match["option"]
        # plain: auto; square: no auto; noup: neither auto nor enlarging
        out, _, _ = letterbox(image, shape, auto=option is None, stride=32, scale_up=option != "noup")
        np.testing.assert_array_equal(out, expected, err_msg=name)
