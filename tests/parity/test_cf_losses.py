"""The losses of CenterFusion and their gradients against recorded numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from boxwright.centerfusion.heads import depth_from_raw
from boxwright.centerfusion.losses import CenterLoss
from boxwright.centerfusion.settings import FusionLossConfig
from tests.golden import golden_cases, read_case
from tests.parity.cf_batches import golden_targets

FILES = golden_cases("", "losses.json", family="centerfusion")
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize("file", FILES)
def test_losses_and_gradients(file: Path) -> None:
    arrays, meta = read_case(file)
    for name, case in meta["cases"].items():
        weights = {head: weight for head, weight in case["weights"].items() if head in FusionLossConfig.model_fields}
        loss = CenterLoss(FusionLossConfig(**weights), radar=True)
        assert loss.weights == case["weights"]
        heads = {head: torch.from_numpy(arrays[f"{name}/out/{head}"]).requires_grad_() for head in loss.weights}
        total, items = loss(heads, golden_targets(arrays, f"{name}/"))
        total.backward()
        expected = [case["losses"][key] for key in loss.loss_names]
        np.testing.assert_allclose(items.numpy(), expected, **TOLERANCE, err_msg=name)
        for head, values in heads.items():
            assert values.grad is not None
            gradient = values.grad.numpy()
            np.testing.assert_allclose(gradient, arrays[f"{name}/grad/{head}"], **TOLERANCE, err_msg=f"{name} {head}")
            # Single gradients are small beside the tolerance: their sum must agree too.
            np.testing.assert_allclose(np.abs(gradient).sum(), case["grad_abs_sum"][head], **TOLERANCE)


@pytest.mark.parametrize("file", FILES)
def test_activated_depth(file: Path) -> None:
    arrays, meta = read_case(file)
    for name in meta["cases"]:
        for head in ("dep", "dep_sec"):
            found = depth_from_raw(torch.from_numpy(arrays[f"{name}/out/{head}"]))
            np.testing.assert_allclose(found.numpy(), arrays[f"{name}/activated/{head}"], **TOLERANCE)
