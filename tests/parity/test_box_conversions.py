"""Conversions between box forms and mapping back from letterboxed images, against recorded numbers (exact)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from boxwright.ops.boxes import clip_boxes, cxcywh_from_xyxy, scale_back, xyxy_from_cxcywh
from boxwright.yolo.published import RELEASES
from tests.golden import golden_cases, read_case

CONVERSIONS = golden_cases("letterbox", "box_conversions_v[67]*.npz")


def sizes_in(name: str) -> dict[str, float]:
    """Numbers that a vector's name carries: w640, h480, padw12, padh7.5."""
    return {key: float(value) for key, value in re.findall(r"_(padw|padh|w|h)([\d.]+)", name)}


def convert(name: str, cxcywh: Tensor, xyxy: Tensor) -> Tensor | None:
    """Do what the name of a recorded result says, or None where it is not about boxes."""
    sizes = sizes_in(name)
    if name.startswith("out_xywhn2xyxy"):
        scale = torch.tensor([sizes["w"], sizes["h"]] * 2)
        pad = torch.tensor([sizes["padw"], sizes["padh"]] * 2)
        return xyxy_from_cxcywh(cxcywh) * scale + pad
    if name.startswith("out_xyxy2xywhn"):
        if "clip" in name:
            margin = float(name.split("eps")[1])  # published clipping stays this far inside the image
            xyxy = clip_boxes(xyxy, sizes["h"] - margin, sizes["w"] - margin)
        return cxcywh_from_xyxy(xyxy) / torch.tensor([sizes["w"], sizes["h"]] * 2)
    if name.startswith("out_clip"):
        return clip_boxes(xyxy, sizes["h"], sizes["w"])
    if name == "out_xywh2xyxy":
        return xyxy_from_cxcywh(cxcywh)
    if name == "out_xyxy2xywh":
        return cxcywh_from_xyxy(xyxy)
    return None


@pytest.mark.parametrize("file", CONVERSIONS)
def test_conversions(file: Path) -> None:
    arrays, _ = read_case(file)
    cxcywh, xyxy = torch.from_numpy(arrays["xywhn"]), torch.from_numpy(arrays["xyxy_px"])
    done = 0
    for name, expected in arrays.items():
        found = convert(name, cxcywh, xyxy) if name.startswith("out_") else None
        if found is not None:
            np.testing.assert_array_equal(found.numpy(), expected, err_msg=name)
            done += 1
    assert done >= 5, "the recorded names are not understood any more"
    np.testing.assert_array_equal(xyxy.numpy(), arrays["xyxy_px"])  # inputs are left alone


@pytest.mark.parametrize("file", golden_cases("letterbox", "scale_back_*.json"))
def test_scale_back(file: Path) -> None:
    arrays, meta = read_case(file)
    release = "v3" if meta["version"] == "yolov3spp" else meta["version"]
    for case in meta["cases"]:
        (net_h, net_w), (height, width) = case["img1_hw"], case["img0_hw"]
        if case["ratio_pad"]:
            (scale, _), (pad_x, pad_y) = case["ratio_pad"]
        else:
            scale = RELEASES[release].letterbox.scale_between((height, width), (net_h, net_w))
            pad_x, pad_y = (net_w - width * scale) / 2, (net_h - height * scale) / 2
        boxes = torch.from_numpy(arrays[f"in{case['id']}"])
        found = scale_back(boxes, (scale, scale), (pad_y, pad_x), (height, width))
        np.testing.assert_array_equal(found.numpy(), arrays[f"out{case['id']}"], err_msg=str(case))
