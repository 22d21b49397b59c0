"""Features, heads and associated radar of the network against the published ones, in float64 as they were computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from boxwright.centerfusion.frustum import FrustumOptions
from boxwright.centerfusion.network import CenterFusion, CenterFusionSpec
from boxwright.centerfusion.structures import RawHeads
from tests.golden import assert_recorded, golden_cases, read_case, recorded
from tests.golden.fill import fill_torch

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
EVAL = golden_cases("", "forward_eval_*.json", family="centerfusion")
TRAIN = golden_cases("", "forward_train*.json", family="centerfusion")
FLOAT32_MEAN, FLOAT32_MAX = 1e-3, 3e-2


def build(meta: dict[str, Any]) -> CenterFusion:
    model = CenterFusion(CenterFusionSpec())
    fill_torch(model, meta["fill_gain"])
    state = model.state_dict()
    for key, value in meta.get("overrides", {}).items():
        state[key].copy_(torch.tensor(value))
    given = meta["opt"]
    model.num_peaks = given["K"]
    model.frustum = FrustumOptions(
        expansion_ratio=given["frustumExpansionRatio"],
        window_ratio=given["hm_to_box_ratio"],
        normalize_depth=given["normalize_depth"],
        max_depth=given["max_pc_dist"],
        by_depth=given["sort_det_by_dist"],
        enabled=not given["disable_frustum"],
    )
    return model


def tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).double()


def close(ours: Tensor, arrays: dict[str, np.ndarray], name: str) -> None:
    assert_recorded(ours.detach().numpy(), arrays, name, **TOLERANCE)


def names_below(group: str, arrays: dict[str, np.ndarray]) -> list[str]:
    return [key.partition("@")[0] for key in arrays if key.startswith(f"{group}/")]


def compare_features(model: CenterFusion, image: Tensor, arrays: dict[str, np.ndarray]) -> None:
    """Names of levels and maps as in the vectors; `_sN` is every N-th row and column."""
    levels = model.base(image)
    joined = model.dla_up(levels[2:])
    ours = {f"base_level{i}": level for i, level in enumerate(levels)}
    ours |= {f"dla_up_{i}": level for i, level in enumerate(joined)} | {"ida_up": model.ida_up(joined[:3])[-1]}
    for key in names_below("feat", arrays):
        name, _, step = key.removeprefix("feat/").partition("_s")
        every = int(step or 1)
        close(ours[name][..., ::every, ::every], arrays, key)


def compare_heads(heads: RawHeads, arrays: dict[str, np.ndarray]) -> None:
    assert sorted(f"out/{name}" for name in heads) == sorted(names_below("out", arrays))
    for name, values in heads.items():
        close(values[:, :1] if name == "pc_hm" else values, arrays, f"out/{name}")


@pytest.mark.parametrize("file", TRAIN)
def test_training_pass_and_its_statistics(file: Path) -> None:
    arrays, meta = read_case(file)
    model = build(meta).double().train()
    heads = model(tensor(arrays["image"]), association=tensor(arrays["pc_hm_in"]))
    compare_heads(heads, arrays)
    state = model.state_dict()
    after = names_below("bn_after", arrays)
    assert after
    for key in after:
        close(state[key.removeprefix("bn_after/")], arrays, key)
    with torch.no_grad():  # a second pass, in training mode too: batch statistics do not depend on the first
        compare_features(model, tensor(arrays["image"]), arrays)


@pytest.mark.parametrize("file", EVAL)
def test_evaluation(file: Path) -> None:
    arrays, meta = read_case(file)
    model = build(meta).double().eval()
    images, calib = tensor(arrays["image"]), tensor(arrays["calib"])
    with torch.no_grad():
        heads = model(images, tensor(arrays["pc_dep"]), calib.expand(len(images), 3, 4))
        compare_features(model, images, arrays)
    assert np.abs(recorded(arrays, "pc_hm_full")[1]).max() > 0
    assert_recorded(heads["pc_hm"].numpy(), arrays, "pc_hm_full", rtol=1e-5, atol=1e-5)
    compare_heads(heads, arrays)


@pytest.mark.parametrize("file", EVAL)
def test_first_heads_in_float32(file: Path) -> None:
    arrays, meta = read_case(file)
    model = build(meta).eval()
    with torch.no_grad():
        heads = model(
            torch.from_numpy(arrays["image"]), association=torch.from_numpy(recorded(arrays, "pc_hm_full")[1])
        )
    for name in model.first_heads:
        part, expected = recorded(arrays, f"out/{name}")
        difference = (heads[name][part] - torch.from_numpy(expected)).abs()
        assert difference.mean() <= FLOAT32_MEAN, name
        assert difference.max() <= FLOAT32_MAX, name
