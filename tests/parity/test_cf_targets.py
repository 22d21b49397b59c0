"""Training tensors of CenterFusion against the recorded ones: affine maps, image, radar map, targets, draws."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from boxwright.centerfusion.augment import Placement, affine_map, centered
from boxwright.centerfusion.frustum import FrustumOptions, associate_targets
from boxwright.centerfusion.radar_map import RadarPoints, visible_points
from boxwright.centerfusion.samples import SampleArrays, SampleMaker
from boxwright.centerfusion.settings import FusionAugmentConfig, FusionConfig, RadarConfig
from tests.golden import golden_cases, read_case
from tests.parity.cf_records import OneImage, record_of, synthetic_image
from tests.unit.centerfusion.scenes3d import annotated, empty_sample

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
EXACT = {
    "ind": "cell",
    "cat": "label",
    "mask": "valid",
    "rotbin": "rot_bins",
    "rot_mask": "rot_valid",
    "dep_mask": "depth_valid",
    "nuscenes_att_mask": "attributes_valid",
    "velocity_mask": "velocity_valid",
}
OF_EVERY_OBJECT = ("reg_mask", "wh_mask", "dim_mask", "amodel_offset_mask")  # what these mark is always known
CLOSE = {
    "hm": "heatmap",
    "reg": "offset",
    "wh": "size",
    "dep": "depth",
    "dim": "dims",
    "amodel_offset": "amodel_offset",
    "nuscenes_att": "attributes",
    "velocity": "velocity",
    "rotres": "rot_residuals",
}


@cache
def _read(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    return read_case(file)


def _cases(quantity: str = "trans_input__f64") -> list[Any]:
    """The cases that hold a quantity; those with drawn augmentation hold a part."""
    file = golden_cases("", "targets.json", family="centerfusion")[0].values[0]
    arrays, meta = _read(file)
    return [pytest.param(file, name, id=name) for name in meta["cases"] if f"{name}/{quantity}" in arrays]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("image")
    assert cv2.imwrite(str(place / "img.png"), synthetic_image())
    return place


def _settings(case: dict[str, Any]) -> FusionConfig:
    options = case["options"]
    return FusionConfig(
        imgsz=(options["input_h"], options["input_w"]),
        radar=RadarConfig(
            max_depth=options["max_pc_dist"],
            pillar_dims=tuple(options["pillar_dims"]),
            z_offset=options["pc_z_offset"],
        ),
        augment=FusionAugmentConfig(
            flip=options["flip"],
            shift=options["shift"],
            scale=options["scale"],
            rotate=options["rotate"],
            rotate_prob=options["aug_rot"],
            color=False,
        ),
    )


def _source(file: Path, case: dict[str, Any], folder: Path) -> OneImage:
    arrays, meta = _read(file)
    record = meta["records"][case["record"]]
    points = arrays[f"record_{case['record']}/radar_pc__f64"]
    return OneImage(record_of(record["image"], record["annotations"], folder), points)


def _placement(case: dict[str, Any], source: OneImage) -> Placement:
    if case["aug"] is None:
        return centered((source.item.height, source.item.width))
    aug = case["aug"]
    return Placement(np.array(aug["c"]), aug["scale"], aug["rot"], bool(case["flipped"]))


def _sample(source: OneImage, case: dict[str, Any]) -> SampleArrays:
    settings = _settings(case)
    sample = empty_sample(settings)
    SampleMaker(source, settings).write_placed(0, source.item, _placement(case, source), None, sample, reduce=False)
    return sample


@pytest.mark.parametrize(("file", "name"), _cases())
def test_targets(file: Path, name: str, folder: Path) -> None:
    arrays, meta = _read(file)
    case = meta["cases"][name]
    source = _source(file, case, folder)
    sample = _sample(source, case)
    for theirs, ours in EXACT.items():
        if f"{name}/{theirs}" in arrays:
            assert np.array_equal(getattr(sample.targets, ours), arrays[f"{name}/{theirs}"]), theirs
    for theirs in OF_EVERY_OBJECT:
        if f"{name}/{theirs}" in arrays:
            mask = arrays[f"{name}/{theirs}"]
            assert np.array_equal(np.broadcast_to(sample.targets.valid[:, None], mask.shape), mask), theirs
    for theirs, ours in CLOSE.items():
        if f"{name}/{theirs}" in arrays:
            found = getattr(sample.targets, ours)
            np.testing.assert_allclose(found, arrays[f"{name}/{theirs}"], err_msg=theirs, **TOLERANCE)
    np.testing.assert_allclose(sample.calib, source.item.calib, **TOLERANCE)
    assert sample.targets.valid.sum() == case["n_objects"]


@pytest.mark.parametrize(("file", "name"), _cases())
def test_image(file: Path, name: str, folder: Path) -> None:
    arrays, meta = _read(file)
    case = meta["cases"][name]
    sample = _sample(_source(file, case, folder), case)
    image = sample.image.transpose(2, 0, 1)[:, ::16, ::16]
    np.testing.assert_allclose(image, arrays[f"{name}/image_s16"], atol=0.02, rtol=0)


@pytest.mark.parametrize(("file", "name"), _cases("pc_dep"))
def test_radar_map(file: Path, name: str, folder: Path) -> None:
    arrays, meta = _read(file)
    case = meta["cases"][name]
    sample = _sample(_source(file, case, folder), case)
    expected = arrays[f"{name}/pc_dep"]
    wrong = (np.abs(sample.radar - expected) > 1e-4 * (1 + np.abs(expected))).any(axis=0)
    assert wrong.mean() <= 1e-3


def associated(sample: SampleArrays, options: FrustumOptions) -> np.ndarray:
    """(3, H, W) the radar that belongs to the sample's own targets, as training takes it."""
    names = ("boxes", "valid", "annotation_depth", "dims", "alpha")
    targets = [torch.from_numpy(getattr(sample.targets, name))[None] for name in names]
    calib, radar = torch.from_numpy(sample.calib)[None], torch.from_numpy(sample.radar)[None]
    return associate_targets(annotated(*targets, calib, radar), options)[0].numpy()


@pytest.mark.parametrize(("file", "name"), _cases("pc_hm"))
def test_associated_radar(file: Path, name: str, folder: Path) -> None:
    arrays, meta = _read(file)
    case = meta["cases"][name]
    sample = _sample(_source(file, case, folder), case)
    options = FrustumOptions(
        normalize_depth=case["options"]["normalize_depth"],
        window_ratio=case["options"]["hm_to_box_ratio"],
        max_depth=case["options"]["max_pc_dist"],
    )
    expected = arrays[f"{name}/pc_hm"]
    wrong = (np.abs(associated(sample, options) - expected) > 1e-4 * (1 + np.abs(expected))).any(axis=0)
    assert wrong.mean() <= 1e-3


@pytest.mark.parametrize(("file", "name"), _cases("pc_2d"))
def test_radar_points(file: Path, name: str, folder: Path) -> None:
    arrays, meta = _read(file)
    case = meta["cases"][name]
    seen = _visible(_source(file, case, folder), case)
    assert seen.points.shape[1] == case["pc_N"]
    np.testing.assert_allclose(seen.pixels, arrays[f"{name}/pc_2d"], **TOLERANCE)
    if f"{name}/pc_3d" in arrays:
        np.testing.assert_allclose(seen.points, arrays[f"{name}/pc_3d"], **TOLERANCE)


def _visible(source: OneImage, case: dict[str, Any]) -> RadarPoints:
    record, settings, placement = source.item, _settings(case), _placement(case, source)
    grid = affine_map(
        placement.center, max(record.width, record.height) * placement.factor, placement.rotation, settings.grid_hw
    )
    image_hw = (record.height, record.width)
    return visible_points(
        source.points, record.calib, image_hw, grid, settings.grid_hw, settings.radar, flip=placement.flip
    )


@pytest.mark.parametrize(("file", "name"), _cases())
def test_affine_maps(file: Path, name: str) -> None:
    arrays, meta = _read(file)
    case = meta["cases"][name]
    options, rotation = case["options"], case["aug"]["rot"] if case["aug"] else 0.0
    for key, sides in (("trans_input__f64", "input"), ("trans_output__f64", "output")):
        out_hw = (options[f"{sides}_h"], options[f"{sides}_w"])
        matrix = affine_map(np.array(case["center"]), case["scale_pixels"], rotation, out_hw)
        np.testing.assert_allclose(matrix, arrays[f"{name}/{key}"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("file", "name"), [param for param in _cases() if str(param.id).startswith("rng_")])
def test_draws(file: Path, name: str, folder: Path) -> None:
    case = _read(file)[1]["cases"][name]
    source = _source(file, case, folder)
    placement, _ = SampleMaker(source, _settings(case)).draw(source.item, np.random.RandomState(case["rng_seed"]))
    assert placement.center.tolist() == case["aug"]["c"]
    assert placement.factor == pytest.approx(case["aug"]["scale"], abs=1e-12)
    assert placement.rotation == case["aug"]["rot"]
    assert placement.flip == bool(case["flipped"])
