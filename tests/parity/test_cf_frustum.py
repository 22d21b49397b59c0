"""Frustum association against the golden vectors: from network outputs, from annotations, and switched off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from boxwright.centerfusion.frustum import FrustumOptions, associate, associate_targets, depth_thresholds, found_objects
from boxwright.centerfusion.heads import decode_rotation, peaks
from tests.golden import golden_cases, read_case
from tests.unit.centerfusion.scenes3d import annotated

EXACT = 1e-5
RELATIVE = 1e-4


def cases(name: str) -> list[Any]:
    """One parameter a case of the group's file."""
    found: list[Any] = []
    for file in golden_cases("", f"{name}.json", family="centerfusion"):
        found += [pytest.param(file.values[0], case, id=case) for case in read_case(file.values[0])[1]["cases"]]
    return found


def read(file: Path, case: str) -> tuple[dict[str, Tensor], FrustumOptions, dict[str, Any]]:
    arrays, scalars = read_case(file)
    given = scalars["cases"][case]["options"]
    options = FrustumOptions(
        expansion_ratio=given.get("frustumExpansionRatio", 0.0),
        window_ratio=given["hm_to_box_ratio"],
        normalize_depth=given["normalize_depth"],
        max_depth=given["max_pc_dist"],
        by_depth=given.get("sort_det_by_dist", False),
    )
    own = {key.removeprefix(f"{case}/"): value for key, value in arrays.items() if key.startswith(f"{case}/")}
    return {key: torch.from_numpy(value) for key, value in own.items()}, options, given


@pytest.mark.parametrize(("file", "case"), cases("frustum_inference"))
def test_from_heads(file: Path, case: str) -> None:
    arrays, options, given = read(file, case)
    calibs = arrays["calib"].expand(len(arrays["hm"]), 3, 4)
    painted = associate(arrays, arrays["pc_dep"], calibs, options, given["K"])
    torch.testing.assert_close(painted, arrays["pc_hm"], atol=EXACT, rtol=0)


@pytest.mark.parametrize(("file", "case"), cases("frustum_inference"))
def test_objects_of_heads(file: Path, case: str) -> None:
    arrays, options, given = read(file, case)
    calibs = arrays["calib"].expand(len(arrays["hm"]), 3, 4)
    best = peaks(arrays["hm"], given["K"], suppress=False)
    torch.testing.assert_close(best.cells, arrays["diag/topk_ind"])
    torch.testing.assert_close(best.labels, arrays["diag/topk_cls"])
    torch.testing.assert_close(best.scores, arrays["diag/topk_score"], atol=RELATIVE, rtol=RELATIVE)
    by_score = FrustumOptions(expansion_ratio=options.expansion_ratio)
    objects = found_objects(arrays, calibs, by_score, given["K"])
    torch.testing.assert_close(objects.boxes, arrays["diag/bbox"], atol=RELATIVE, rtol=RELATIVE)
    torch.testing.assert_close(objects.depth, arrays["diag/depth"][..., 0], atol=RELATIVE, rtol=RELATIVE)
    torch.testing.assert_close(objects.thresholds, arrays["diag/dist_thresh"], atol=RELATIVE, rtol=RELATIVE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("file", "case"), cases("frustum_training"))
def test_from_annotations(file: Path, case: str, dtype: torch.dtype) -> None:
    arrays, options, _ = read(file, case)
    boxes, depth, dims, alpha, calib = (
        arrays[name][None].to(dtype) for name in ("bbox", "depth__f64", "dim__f64", "alpha__f64", "calib")
    )
    thresholds = depth_thresholds(boxes, dims, alpha, calib, options)
    expected = arrays["dist_thresh__f64"][None].to(dtype)
    torch.testing.assert_close(thresholds, expected, atol=RELATIVE, rtol=RELATIVE)
    valid = torch.ones(depth.shape, dtype=torch.bool)
    painted = associate_targets(annotated(boxes, valid, depth, dims, alpha, calib, arrays["pc_dep"][None]), options)
    torch.testing.assert_close(painted[0], arrays["pc_hm"], atol=EXACT, rtol=0)


@pytest.mark.parametrize("file", golden_cases("", "disable_frustum.json", family="centerfusion"))
def test_switched_off(file: Path) -> None:
    arrays, scalars = read_case(file)
    radar = torch.from_numpy(arrays["pc_dep"])
    options = FrustumOptions(enabled=False, max_depth=scalars["max_pc_dist"])
    before = radar.clone()
    painted = associate({}, radar, torch.zeros(2, 3, 4), options)
    np.testing.assert_allclose(painted[:, :1], arrays["out_pc_hm"], atol=EXACT)
    np.testing.assert_allclose(painted, arrays["pc_dep_after_call"], atol=EXACT)  # all channels of the first image
    assert torch.equal(radar, before)
    fixed = associate({}, radar, torch.zeros(2, 3, 4), FrustumOptions(enabled=False, max_depth=60.0, fixed=True))
    np.testing.assert_allclose(fixed, before / torch.tensor([60.0, 1.0, 1.0])[:, None, None], atol=EXACT)


def test_alpha_of_either_bin() -> None:
    channels = torch.tensor([[0, 1, 1, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 1, 0, 1]], dtype=torch.float64)
    assert decode_rotation(channels).tolist() == pytest.approx([0.0, np.pi / 2])
