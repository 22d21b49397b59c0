"""Rectangular batches and the resize rule against the golden vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boxwright.data.images import loaded_size, resize_for_validation
from boxwright.data.letterbox import fit_letterbox
from boxwright.data.sampler import plan_rect
from tests.golden import golden_cases, read_case


@pytest.mark.parametrize("case", golden_cases("dataset", "rect_v[67]*.json"))
def test_rect_batches_equal_the_published_ones(case: Path) -> None:
    _, meta = read_case(case)
    assert meta["cases"]
    for rect in meta["cases"]:
        sizes = np.array(rect["image_wh"], dtype=np.int32)[:, ::-1]
        order, shapes = plan_rect(
            sizes,
            imgsz=rect["img_size"],
            batch_size=rect["batch_size"],
            stride=rect["stride"],
            pad=rect["pad"],
        )
        assert order.tolist() == rect["sorted_order"]
        assert shapes.tolist() == rect["batch_shapes_hw"]
        for position, image in enumerate(order):
            shape = shapes[rect["batch_index"][position]]
            _check_loaded(rect, position, tuple(sizes[image].tolist()), (int(shape[0]), int(shape[1])))


def _check_loaded(rect: dict, position: int, original: tuple[int, int], shape: tuple[int, int]) -> None:
    loaded = loaded_size(original, rect["img_size"])
    fit = fit_letterbox(loaded, shape, auto=False, stride=rect["stride"], scale_up=False)
    assert list(fit.out_hw) == rect["loaded_image_hw"][position]
    (height, width), (scale, pad) = rect["shapes_meta"][position]
    assert original == (height, width)
    np.testing.assert_allclose([loaded[0] / height, loaded[1] / width], scale, rtol=1e-12)
    np.testing.assert_allclose(fit.pad_yx[::-1], pad, rtol=0)


@pytest.mark.parametrize("case", golden_cases("dataset", "resize_rule_v[67]*.json"))
def test_longer_side_comes_to_the_input_size(case: Path) -> None:
    _, meta = read_case(case)
    assert meta["cases"]
    rng = np.random.default_rng(0)
    for rule in meta["cases"]:
        original = (rule["h0"], rule["w0"])
        assert loaded_size(original, rule["img_size"]) == (rule["h"], rule["w"])
        image = rng.integers(0, 256, (*original, 3), dtype=np.uint8)
        resized = resize_for_validation(image, rule["img_size"])
        assert resized.shape[:2] == (rule["h"], rule["w"])
        np.testing.assert_array_equal(resized, _resized_by(rule["method_val"], image, (rule["w"], rule["h"])))


def _resized_by(method: str, image: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    import cv2

    if method == "none":
        return image
    return cv2.resize(image, size_wh, interpolation={"linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}[method])
