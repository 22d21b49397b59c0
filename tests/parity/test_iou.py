"""Box overlaps and their gradients against recorded numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from boxwright.ops.boxes import (
    cxcywh_from_xyxy,
    elementwise_iou,
    intersection_over_area,
    pairwise_iou,
    xyxy_from_cxcywh,
)
from tests.golden import golden_cases, read_case

FILES = golden_cases("iou", "*.json")
EPS = {"v3.1": 1e-9, "v4.0": 1e-9}  # spec B4; 1e-16 in v1.0 to v3.0 and in the article line, 1e-7 from v5.0 on
SIDES_AS_GIVEN = ("v6.2", "v7.0")  # earlier releases took sides from corners, which rounds once more


def eps_of(version: str) -> float:
    return EPS.get(version, 1e-7 if version >= "v5" and not version.startswith("yolo") else 1e-16)


KINDS = ("IoU", "GIoU", "DIoU", "CIoU")


def finite_rows(meta: dict[str, dict[str, dict[str, list[int]]]], name: str, key: str, count: int) -> np.ndarray:
    keep = np.ones(count, dtype=bool)
    keep[meta["results"][name][key]] = False
    return keep


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", FILES)
def test_values_and_gradient(file: Path, kind: str) -> None:
    arrays, meta = read_case(file)
    for layout in ("xywh", "xyxy"):
        name = f"{layout}_{kind}"
        a = torch.from_numpy(arrays[f"box1_{layout}"]).requires_grad_()
        b = torch.from_numpy(arrays[f"box2_{layout}"]).requires_grad_()
        pair = (a, b)
        if layout == "xyxy":
            pair = (cxcywh_from_xyxy(a), cxcywh_from_xyxy(b))
        elif meta["version"] not in SIDES_AS_GIVEN:
            pair = (cxcywh_from_xyxy(xyxy_from_cxcywh(a)), cxcywh_from_xyxy(xyxy_from_cxcywh(b)))
        values = elementwise_iou(*pair, kind.lower(), eps=eps_of(meta["version"]))  # type: ignore[arg-type]
        assert values.isfinite().all()
        keep = finite_rows(meta, name, "non_finite_rows", len(a))
        np.testing.assert_allclose(values.detach().numpy()[keep], arrays[name][keep], rtol=1e-5, atol=1e-6)
        values.sum().backward()
        for box, side in ((a, "box1"), (b, "box2")):
            assert box.grad is not None
            assert box.grad.isfinite().all()
            recorded = arrays.get(f"{name}_grad_{side}")
            if recorded is None:
                continue
            keep = finite_rows(meta, name, "non_finite_gradient_rows", len(a))
            np.testing.assert_allclose(box.grad.numpy()[keep], recorded[keep], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("file", FILES)
def test_pairwise_and_ioa(file: Path) -> None:
    arrays, _ = read_case(file)
    first, second = torch.from_numpy(arrays["box1_xyxy"]), torch.from_numpy(arrays["box2_xyxy"])
    np.testing.assert_allclose(pairwise_iou(first, second[:9]).numpy(), arrays["pairwise_iou"], rtol=1e-5, atol=1e-6)
    if "ioa" in arrays:
        one = torch.from_numpy(arrays["ioa_box"])[None]
        np.testing.assert_allclose(intersection_over_area(one, second)[0].numpy(), arrays["ioa"], rtol=1e-5, atol=1e-6)
