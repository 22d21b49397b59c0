"""Training tensors of images of the small nuScenes set through its converted annotations, against the recorded ones."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright.centerfusion.augment import Placement, centered
from boxwright.centerfusion.frustum import FrustumOptions
from boxwright.centerfusion.samples import SampleMaker
from boxwright.centerfusion.settings import FusionConfig, RadarConfig
from tests.golden import golden_cases, nuscenes_tiny, read_case
from tests.parity.cf_records import OneImage, record_of
from tests.parity.test_cf_targets import CLOSE, EXACT, OF_EVERY_OBJECT, TOLERANCE, associated
from tests.unit.centerfusion.scenes3d import empty_sample


@cache
def _read(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    return read_case(file)


def _cases() -> list[Any]:
    file = golden_cases("", "tiny_targets.json", family="centerfusion")[0].values[0]
    return [pytest.param(file, name, id=name) for name in _read(file)[1]["cases"]]


def _source(file: Path, split: str, image_id: int) -> OneImage:
    arrays, meta = _read(file.with_name("convert_3sweeps.json"))
    converted = meta[split]
    image = next(item for item in converted["images"] if item["id"] == image_id)
    annotations = [item for item in converted["annotations"] if item["image_id"] == image_id]
    record = record_of(image, annotations, nuscenes_tiny(file.parent))
    return OneImage(record, arrays[f"{split}/radar_pc/{image_id}"].astype(np.float64))


@pytest.mark.parametrize(("file", "name"), _cases())
def test_tiny_targets(file: Path, name: str) -> None:
    arrays, meta = _read(file)
    case = meta["cases"][name]
    source = _source(file, case["split"], case["image_id"])
    settings = FusionConfig(radar=RadarConfig(pillar_dims=tuple(case["pillar_dims"])))
    sample = empty_sample(settings)
    place = centered((source.item.height, source.item.width))
    placement = Placement(place.center, flip=bool(case["flipped"]))
    SampleMaker(source, settings).write_placed(0, source.item, placement, None, sample, reduce=False)

    for theirs, ours in (EXACT | CLOSE).items():
        if f"{name}/{theirs}" in arrays:
            found = getattr(sample.targets, ours)
            np.testing.assert_allclose(found, arrays[f"{name}/{theirs}"], err_msg=theirs, **TOLERANCE)
    for theirs in OF_EVERY_OBJECT:
        if f"{name}/{theirs}" in arrays:
            mask = arrays[f"{name}/{theirs}"]
            assert np.array_equal(np.broadcast_to(sample.targets.valid[:, None], mask.shape), mask), theirs
    for key, found in (("pc_dep", sample.radar), ("pc_hm", associated(sample, FrustumOptions()))):
        expected = arrays[f"{name}/{key}"]
        wrong = (np.abs(found - expected) > 1e-4 * (1 + np.abs(expected))).any(axis=0)
        assert wrong.mean() <= 1e-3, key
    if f"{name}/image_s16" in arrays:
        image = sample.image.transpose(2, 0, 1)[:, ::16, ::16]
        np.testing.assert_allclose(image, arrays[f"{name}/image_s16"], atol=0.02, rtol=0)
    assert sample.targets.valid.sum() == case["n_objects"]
