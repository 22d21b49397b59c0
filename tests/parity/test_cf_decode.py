"""Decoding of CenterFusion's raw outputs and their way into the camera frame against recorded numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boxwright.centerfusion.postprocess import CenterPeaks, decode, merge_flipped, to_detections
from tests.golden import golden_cases, read_case

FILES = golden_cases("", "decode.json", family="centerfusion")
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def decoded(arrays: dict[str, np.ndarray], name: str, case: dict[str, Any]) -> CenterPeaks:
    prefix = f"{name}/raw/"
    heads = {key.removeprefix(prefix): torch.from_numpy(arrays[key]) for key in arrays if key.startswith(prefix)}
    return decode(merge_flipped(heads) if case["flip_test"] else heads, case["K"])


@pytest.mark.parametrize("file", FILES)
def test_peaks(file: Path) -> None:
    arrays, meta = read_case(file)
    for name, case in meta["cases"].items():
        found = decoded(arrays, name, case)
        pairs = {
            "scores": found.scores,
            "bboxes": found.boxes,
            "dep": found.depth[..., None],
            "rot": found.rotation,
            "dim": found.dims,
            "amodel_offset": found.amodel_offset,
            "nuscenes_att": found.attributes,
            "velocity": found.velocity,
        }
        for key, values in pairs.items():
            expected = arrays[f"{name}/dets/{key}"]
            np.testing.assert_allclose(values.numpy(), expected, **TOLERANCE, err_msg=f"{name} {key}")
        np.testing.assert_array_equal(found.labels, arrays[f"{name}/dets/clses"])
        np.testing.assert_array_equal(found.cells, arrays[f"{name}/dets/cts"])


@pytest.mark.parametrize("file", FILES)
def test_detections(file: Path) -> None:
    arrays, meta = read_case(file)
    for name, case in meta["cases"].items():
        (found,) = to_detections(
            decoded(arrays, name, case),
            torch.from_numpy(arrays[f"{name}/affine_out_to_image"])[None],
            torch.from_numpy(arrays[f"{name}/calib"])[None],
            score_threshold=case["out_thresh"],
            radar=case["pointcloud"],
        )
        keep = arrays[f"{name}/post/kept_by_merge"][0] > 0
        assert len(found) == case["n_kept"][0] == keep.sum()
        pairs = {
            "score": found.scores[:, None],
            "bbox": found.boxes,
            "dep": found.locations[:, 2:],
            "dim": found.dims,
            "alpha": found.alpha[:, None],
            "loc": found.locations,
            "rot_y": found.rotation_y[:, None],
            "nuscenes_att": found.attributes,
            "velocity": found.velocity,
        }
        for key, values in pairs.items():
            expected = arrays[f"{name}/post/{key}"][0][keep]
            np.testing.assert_allclose(values.numpy(), expected, **TOLERANCE, err_msg=f"{name} {key}")
        np.testing.assert_array_equal(found.labels + 1, arrays[f"{name}/post/class"][0, keep, 0])
