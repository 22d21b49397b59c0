"""Whole inference with the flip test, from files of the small nuScenes set to detections and a submission's box."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from boxwright.centerfusion.network import CenterFusion, CenterFusionSpec
from boxwright.centerfusion.postprocess import CenterPeaks, decode, merge_flipped, to_detections, with_mirror
from boxwright.centerfusion.samples import SampleArrays, SampleMaker
from boxwright.centerfusion.settings import FusionConfig
from boxwright.centerfusion.structures import RawHeads
from boxwright.nuscenes.structures import Detections3d
from boxwright.nuscenes.submission import to_global, write_submission
from tests.golden import assert_recorded, golden_cases, nuscenes_tiny, read_case
from tests.golden.fill import fill_torch
from tests.parity.cf_records import OneImage, record_of
from tests.parity.test_cf_submission import compare
from tests.unit.centerfusion.scenes3d import empty_sample

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


@cache
def _read(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    return read_case(file)


def _cases() -> list[Any]:
    file = golden_cases("", "pipeline.json", family="centerfusion")[0].values[0]
    return [pytest.param(file, name, id=name) for name, case in _read(file)[1]["cases"].items() if "image_id" in case]


@cache
def _model(file: Path) -> CenterFusion:
    meta = _read(file)[1]
    model = CenterFusion(CenterFusionSpec())
    fill_torch(model, meta["fill_gain"])
    with torch.no_grad():
        for name, value in meta["overrides"].items():
            model.state_dict()[name].copy_(torch.tensor(value))
    return model.double().eval()


@cache
def _source(file: Path, image_id: int) -> OneImage:
    arrays, meta = _read(file.with_name("convert_3sweeps.json"))
    converted = meta["mini_val"]
    image = next(item for item in converted["images"] if item["id"] == image_id)
    record = record_of(image, [], nuscenes_tiny(file.parent))
    return OneImage(record, arrays[f"mini_val/radar_pc/{image_id}"].astype(np.float64))


@cache
def _run(file: Path, image_id: int) -> tuple[SampleArrays, Tensor, RawHeads]:
    """The sample, the network's input with its mirror image, and the raw heads of both."""
    sample = empty_sample(FusionConfig())
    SampleMaker(_source(file, image_id), FusionConfig()).write(0, None, sample)
    images = with_mirror(torch.from_numpy(sample.image).permute(2, 0, 1)[None].double())
    radar = with_mirror(torch.from_numpy(sample.radar)[None].double(), radar=True)
    calibs = torch.from_numpy(sample.calib)[None].double()
    with torch.inference_mode():
        return sample, images, _model(file)(images, radar, calibs.repeat(2, 1, 1))


def _peaks(heads: RawHeads) -> CenterPeaks:
    return decode(merge_flipped(heads))


def _detections(sample: SampleArrays, peaks: CenterPeaks) -> Detections3d:
    affine, calib = (torch.from_numpy(array)[None] for array in (sample.image_from_grid, sample.calib))
    # float64 as the recorded run, so that a rounding of the network's outputs is not the first to be seen
    return to_detections(peaks, affine.double(), calib.double(), score_threshold=-1.0, radar=True)[0]


def _places(labels: Tensor | np.ndarray, cells: Tensor | np.ndarray) -> list[tuple[int, ...]]:
    return [(int(label), *map(int, cell)) for label, cell in zip(labels, cells, strict=True)]


@pytest.mark.parametrize(("file", "name"), _cases())
def test_inputs_and_heads(file: Path, name: str) -> None:
    arrays, meta = _read(file)
    sample, images, heads = _run(file, meta["cases"][name]["image_id"])
    np.testing.assert_allclose(images[:, :, ::16, ::16], arrays[f"{name}/input_s16"], atol=0.02)
    np.testing.assert_allclose(sample.radar, arrays[f"{name}/pc_dep"], **TOLERANCE)
    assert_recorded(heads["hm"][:, :, ::4, ::4].numpy(), arrays, f"{name}/hm_logits_s4", **TOLERANCE)
    np.testing.assert_allclose(heads["pc_hm"][:, :1], arrays[f"{name}/pc_hm_depth"], **TOLERANCE)


@pytest.mark.parametrize(("file", "name"), _cases())
def test_peaks_and_detections(file: Path, name: str) -> None:
    arrays, meta = _read(file)
    case = meta["cases"][name]
    sample, _, heads = _run(file, case["image_id"])
    peaks = _peaks(heads)
    ours = _places(peaks.labels[0], peaks.cells[0])
    theirs = _places(arrays[f"{name}/clses"][0], arrays[f"{name}/cts"][0])
    assert set(ours) == set(theirs)
    order = [ours.index(place) for place in theirs]
    for key, values in {"scores": peaks.scores, "bboxes": peaks.boxes, "dep": peaks.depth[..., None]}.items():
        np.testing.assert_allclose(values[0, order], arrays[f"{name}/{key}"][0], **TOLERANCE, err_msg=key)
    kept = (peaks.dims[0] > 0).all(-1)
    rank = (kept.long().cumsum(0) - 1).tolist()
    rows = [rank[place] for place in order if kept[place]]
    found = _detections(sample, peaks)
    assert len(found) == len(rows) == case["n_kept"]
    pairs = {
        "loc": found.locations,
        "rot_y": found.rotation_y[:, None],
        "velocity": found.velocity,
        "dim": found.dims,
    }
    for key, values in pairs.items():
        np.testing.assert_allclose(values[rows], arrays[f"{name}/post_{key}"], **TOLERANCE, err_msg=key)


@pytest.mark.parametrize("file", golden_cases("", "pipeline.json", family="centerfusion"))
def test_first_box_of_the_submission(file: Path, tmp_path: Path) -> None:
    meta = _read(file)[1]
    (token, expected), *others = meta["cases"]["submission_first_box_per_sample"].items()
    assert not others
    ids = [case["image_id"] for case in meta["cases"].values() if "image_id" in case]
    runs = [_run(file, image_id) for image_id in ids]
    detections = [_detections(sample, _peaks(heads)) for sample, _, heads in runs]
    records = [replace(_source(file, image_id).item, sample=0) for image_id in ids]
    path = tmp_path / "results.json"
    write_submission(path, to_global(detections, records, fixed=False), [token], use_radar=True)
    compare(json.loads(path.read_text())["results"][token][: len(expected)], expected)
