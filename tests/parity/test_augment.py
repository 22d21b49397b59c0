"""Augmentation against the golden vectors: matrices, boxes, keep rule, colour, mosaic, mixup, copy-paste."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright.data.index import DataIndex, Record
from boxwright.yolo import geometry
from boxwright.yolo.augmentation import (
    CANVAS,
    Tile,
    choose_pastes,
    finish_colors,
    hsv_table,
    mixup,
    paste_mirrored,
    place_four,
    render,
    warp_image,
)
from boxwright.yolo.geometry import Labels, Shapes, concatenate, shapes_of
from boxwright.yolo.published import RELEASES, WarpRules
from tests.golden import golden_cases, read_case

_BOX = {"rtol": 1e-4, "atol": 1e-3}
_GREY_LEVELS = 8


def _shapes(rows: np.ndarray, polygons: list[np.ndarray] | None = None) -> Shapes:
    """Shapes of (n, 5) rows class, xyxy."""
    points = polygons or [np.zeros((0, 2), np.float32)] * len(rows)
    offsets = np.cumsum([0, *map(len, points)], dtype=np.int64)
    flat = np.concatenate([np.zeros((0, 2), np.float32), *points])
    return Shapes(rows[:, 0].astype(np.int32), rows[:, 1:].astype(np.float32), flat, offsets)


def _draw(params: dict[str, Any]) -> geometry.PerspectiveDraw:
    return geometry.PerspectiveDraw(
        perspective=tuple(params["perspective"]),
        angle=params["angle_deg"],
        scale=params["scale"],
        shear=tuple(params["shear_deg"]),
        translate=tuple(params["translate_fraction"]),
    )


def _rules(meta: dict[str, Any]) -> WarpRules:
    return RELEASES["v3" if meta["version"] == "yolov3spp" else meta["version"]].warp


def _draw_of(item: dict[str, Any], rules: WarpRules) -> geometry.PerspectiveDraw:
    """The recorded parameters; early releases gave the shift from the middle."""
    params = {"perspective": (0.0, 0.0), **item["params"]}
    if rules.shear_last:
        params["translate_fraction"] = [0.5 + fraction for fraction in params["translate_fraction"]]
    return _draw(params)


@pytest.mark.parametrize("case", golden_cases("augment", "geometry_*.npz"))
def test_matrix_and_boxes_equal_the_published_ones(case: Path) -> None:
    arrays, meta = read_case(case)
    rules = _rules(meta)
    assert meta["cases"]
    for item in meta["cases"]:
        name = f"c{item['id']}"
        out_hw = (item["out_wh"][1], item["out_wh"][0])
        draw = _draw_of(item, rules)
        matrix = geometry.perspective_matrix(draw, tuple(item["image_hw"]), out_hw, rules)
        np.testing.assert_allclose(matrix, arrays[f"{name}_M"], rtol=1e-9, atol=1e-9)
        rows = arrays[f"{name}_targets_in"]
        boxes = geometry.clip_boxes(geometry.transform_boxes(rows[:, 1:], matrix), out_hw)
        kept = geometry.kept_boxes(rows[:, 1:], boxes, draw.scale, rules)
        expected = arrays[f"{name}_targets_out"]
        np.testing.assert_array_equal(rows[kept, 0], expected[:, 0])
        np.testing.assert_allclose(boxes[kept], expected[:, 1:], **_BOX)


@pytest.mark.parametrize("case", golden_cases("augment", "geometry_v7*.npz"))
def test_labels_of_a_warped_sample_equal_the_published_ones(case: Path) -> None:
    arrays, meta = read_case(case)
    from boxwright.yolo.geometry import warp_shapes

    for item in meta["cases"]:
        name, out_hw = f"c{item['id']}", (item["out_wh"][1], item["out_wh"][0])
        labels = warp_shapes(
            _shapes(arrays[f"{name}_targets_in"]), arrays[f"{name}_M"], item["params"]["scale"], out_hw
        )
        expected = arrays[f"{name}_targets_out"]
        np.testing.assert_array_equal(labels.classes, expected[:, 0])
        np.testing.assert_allclose(labels.boxes, expected[:, 1:], **_BOX)


SHOWN = [case for case in golden_cases("augment", "geometry_*.npz") if "c1_image_out" in read_case(case.values[0])[0]]


@pytest.mark.parametrize("case", SHOWN)
def test_warped_pixels_are_close_to_the_published_ones(case: Path) -> None:
    arrays, meta = read_case(case)
    shown = [item for item in meta["cases"] if f"c{item['id']}_image_out" in arrays]
    assert shown
    for item in shown:
        name, out_hw = f"c{item['id']}", (item["out_wh"][1], item["out_wh"][0])
        image, expected = arrays[f"{name}_image_in"], arrays[f"{name}_image_out"].astype(int)
        matrix = arrays[f"{name}_M"]
        assert abs(warp_image(image, matrix, out_hw) - expected).max() <= _GREY_LEVELS


@pytest.mark.parametrize("case", SHOWN)
def test_a_composed_tile_shows_what_the_published_warp_shows(case: Path) -> None:
    arrays, meta = read_case(case)
    for item in meta["cases"]:
        name, out_hw = f"c{item['id']}", (item["out_wh"][1], item["out_wh"][0])
        if f"{name}_image_out" not in arrays:
            continue
        image, expected = arrays[f"{name}_image_in"], arrays[f"{name}_image_out"].astype(int)
        height, width = image.shape[:2]
        tile = Tile(0, arrays[f"{name}_M"], (0.0, 0.0, float(width), float(height)))
        out = render([tile], np.empty((*out_hw, 3), np.uint8), lambda _, image=image: image)
        # The rim differs: there the published warp blends with grey.
        assert np.percentile(abs(out - expected), 95) <= _GREY_LEVELS


@pytest.mark.parametrize("case", golden_cases("augment", "candidates_*.npz"))
def test_keep_rule_equals_the_published_one(case: Path) -> None:
    arrays, meta = read_case(case)
    rules, stated = _rules(meta), meta["defaults"]
    assert (rules.min_side, rules.max_aspect, rules.min_area_ratio) == tuple(
        stated[name] for name in ("wh_thr", "ar_thr", "area_thr")
    )
    for name, expected in arrays.items():
        if name in ("box1", "box2"):
            continue
        area = rules.min_area_ratio if name == "default" else float(name.removeprefix("area_thr_"))
        kept = geometry.kept_boxes(arrays["box1"], arrays["box2"], 1.0, replace(rules, min_area_ratio=area))
        np.testing.assert_array_equal(kept, expected.astype(bool), err_msg=name)


@pytest.mark.parametrize("case", golden_cases("augment", "hsv_v[67]*.npz"))
def test_hsv_tables_and_pixels_equal_the_published_ones(case: Path) -> None:
    arrays, meta = read_case(case)
    assert meta["cases"]
    for item in meta["cases"]:
        name = f"c{item['id']}"
        table = hsv_table(item["multipliers"])
        for channel, part in enumerate(("hue", "sat", "val")):
            np.testing.assert_array_equal(table[0, :, channel], arrays[f"{name}_lut_{part}"])
        expected = arrays[f"{name}_image_out_bgr"]
        for flip_x, flip_y in product((False, True), repeat=2):
            rgb = np.empty_like(expected)
            finish_colors(arrays[f"{name}_image_in_bgr"].copy(), table, rgb, flip_x=flip_x, flip_y=flip_y)
            bgr = rgb[:: -1 if flip_y else 1, :: -1 if flip_x else 1, ::-1]
            np.testing.assert_array_equal(bgr, expected)


@pytest.mark.parametrize("case", golden_cases("augment", "mosaic_v[67]*.json"))
def test_mosaic_rectangles_labels_and_canvas_equal_the_published_ones(case: Path) -> None:
    arrays, meta = read_case(case)
    assert meta["cases"]
    for item in meta["cases"]:
        _check_mosaic(item, arrays)


def _check_mosaic(item: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    name, side = f"c{item['id']}", item["img_size"]
    parts: list[Shapes] = []
    tiles: list[Tile] = []
    for position, (tile_hw, expected) in enumerate(zip(item["tile_sizes_hw"], item["placement"], strict=True)):
        placement = place_four(tuple(item["centre_xy"]), [tuple(tile_hw)] * 4, side)[position]
        assert list(placement.large) == expected["large_x1y1x2y2"]
        assert list(placement.small) == expected["small_x1y1x2y2"]
        assert list(placement.offset_xy) == expected["pad_wh"]
        rows = arrays[f"{name}_labels_in{position}"]
        record = Record(Path("x"), *tile_hw, rows[:, 0].astype(np.int32), rows[:, 1:])
        index = DataIndex.from_records([record], [str(k) for k in range(1000)])
        parts.append(shapes_of(index, 0, tuple(tile_hw), placement.offset_xy[::-1]))
        tiles.append(Tile(position, geometry.translation(*placement.offset_xy), placement.small))
    canvas_hw = (CANVAS * side, CANVAS * side)
    shapes = concatenate(parts).clipped(*canvas_hw)
    expected_rows = arrays[f"{name}_labels_out_xyxy_px"]
    np.testing.assert_array_equal(shapes.classes, expected_rows[:, 0])
    np.testing.assert_allclose(shapes.boxes, expected_rows[:, 1:], **_BOX)
    if f"{name}_canvas" in arrays:
        _check_canvas(tiles, item["tile_sizes_hw"], arrays[f"{name}_canvas"])


def _check_canvas(tiles: list[Tile], sizes: list[list[int]], expected: np.ndarray) -> None:
    """Channel 0 of the stored canvas holds the number of the tile that is seen, 114 where there is none."""
    numbers = set(np.unique(expected[..., 0]).tolist()) - {114}
    first = min(numbers)
    assert numbers <= {first + k for k in range(len(tiles))}
    canvas = render(tiles, np.empty_like(expected), lambda tile: np.full((*sizes[tile], 3), first + tile, np.uint8))
    np.testing.assert_array_equal(canvas[..., 0], expected[..., 0])


@pytest.mark.parametrize("case", golden_cases("augment", "mixup_v[67]*.npz"))
def test_mixup_equals_the_published_one(case: Path) -> None:
    arrays, _ = read_case(case)
    names = [name.removesuffix("_ratio") for name in arrays if name.endswith("_ratio")]
    assert names
    for name in names:
        mixed = mixup(arrays[f"{name}_a"], arrays[f"{name}_b"], float(arrays[f"{name}_ratio"]))
        np.testing.assert_array_equal(mixed, arrays[f"{name}_out"])


@pytest.mark.parametrize("case", golden_cases("augment", "copy_paste_v[67]*.npz"))
def test_copy_paste_equals_the_published_one(case: Path) -> None:
    arrays, _ = read_case(case)
    count = sum(name.startswith("segment_in") for name in arrays)
    shapes = _shapes(arrays["labels_in_xyxy"], [arrays[f"segment_in{k}"] for k in range(count)])
    image = arrays["image_in"].copy()
    chosen, after = choose_pastes(shapes, arrays["order"], image.shape[1])
    paste_mirrored(image, shapes, chosen)
    np.testing.assert_allclose(after.boxes, arrays["labels_out"][:, 1:], **_BOX)
    np.testing.assert_array_equal(after.classes, arrays["labels_out"][:, 0])
    for k in range(len(after)):
        np.testing.assert_allclose(after.polygon(k), arrays[f"segment_out{k}"], **_BOX)
    np.testing.assert_array_equal(image, arrays["image_out"])


@pytest.mark.parametrize("case", golden_cases("letterbox", "box_conversions_v[67]*.npz"))
def test_normalised_boxes_and_polygons_equal_the_published_ones(case: Path) -> None:
    arrays, _ = read_case(case)
    for name, expected in arrays.items():
        if name.startswith("out_xyxy2xywhn") and "_clip" in name:
            width, height = _sizes(name)
            classes = np.zeros(len(expected), np.int32)
            found = Labels(classes, arrays["xyxy_px"]).normalised((height, width)).boxes
        elif name.startswith("out_segment2box"):
            width, height = _sizes(name)
            found = geometry.boxes_of_points(arrays["segment"][None], (height, width))[0]
        elif name.startswith("out_resample_n"):
            offsets = np.array([0, len(arrays["segment"])])
            found = geometry.resample_polygons(arrays["segment"], offsets, int(name.removeprefix("out_resample_n")))[0]
        else:
            continue
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=name)


def _sizes(name: str) -> tuple[int, int]:
    """Width and height from `..._w416_h320...`."""
    parts = {part[0]: part[1:] for part in name.split("_") if part[:1] in "wh" and part[1:].isdigit()}
    return int(parts["w"]), int(parts["h"])
