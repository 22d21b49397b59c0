"""Test-time augmentation against the published one, for every golden case that has it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from boxwright.yolo.postprocess import AugmentedNetwork
from boxwright.yolo.weights import fuse
from tests.golden import assert_recorded, golden_cases, read_case
from tests.parity.test_forward import build, images

AUGMENTED = {"rtol": 1e-4, "atol": 3e-2}


CASES = [case for case in golden_cases("forward", "*yolo*.npz") if "tta" in read_case(case.values[0])[1]]


@pytest.mark.parametrize("file", CASES)
def test_rows_of_all_passes(file: Path) -> None:
    arrays, meta = read_case(file)
    tag = meta["tta"]["input"]
    for model in (build(meta).eval(), fuse(build(meta))):
        network = AugmentedNetwork(model)
        rows = network.decode(network(images(file, tag))).numpy()
        assert rows.shape[1] == meta["tta"]["rows"]
        assert_recorded(rows, arrays, "tta_decoded", **AUGMENTED)


@pytest.mark.parametrize("file", CASES)
def test_images_and_network_are_left_alone(file: Path) -> None:
    _, meta = read_case(file)
    batch = images(file, meta["tta"]["input"])
    kept = batch.clone()
    network = AugmentedNetwork(build(meta).eval())
    state = {key: value.clone() for key, value in network.state_dict().items()}
    first = network(batch)[0]
    assert torch.equal(batch, kept)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert torch.equal(network(batch)[0], first)
