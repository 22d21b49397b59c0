"""Three Adam steps of the whole network in float64: losses before each, and gradients at the first, as recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from boxwright.centerfusion.losses import CenterLoss
from boxwright.centerfusion.network import CenterFusion, CenterFusionSpec
from tests.golden import golden_cases, read_case
from tests.golden.fill import fill_torch
from tests.parity.cf_batches import golden_targets

FILES = golden_cases("", "train_step.json", family="centerfusion")
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize("file", FILES)
def test_three_steps_in_float64(file: Path) -> None:
    arrays, meta = read_case(file)
    model = CenterFusion(CenterFusionSpec())
    fill_torch(model, meta["fill_gain"])
    model.double().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2.5e-4)
    images, association = (torch.from_numpy(arrays[name]).double() for name in ("image", "pc_hm"))
    targets, loss = golden_targets(arrays), CenterLoss()
    for step, expected in enumerate(meta["losses_per_step"]):
        total, items = loss(model(images, association=association), targets)
        np.testing.assert_allclose(items.numpy(), [expected[name] for name in loss.loss_names], **TOLERANCE)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        if step == 0:
            gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
            compare_gradients(gradients, arrays, meta["grad_norm_first_step"])
        optimizer.step()


@pytest.mark.parametrize("file", FILES)
def test_first_step_in_float32(file: Path) -> None:
    arrays, meta = read_case(file)
    model = CenterFusion(CenterFusionSpec())
    fill_torch(model, meta["fill_gain"])
    images, association = (torch.from_numpy(arrays[name]) for name in ("image", "pc_hm"))
    loss = CenterLoss()
    _, items = loss(model.train()(images, association=association), golden_targets(arrays))
    expected = [meta["losses_per_step"][0][name] for name in loss.loss_names]
    np.testing.assert_allclose(items.numpy(), expected, rtol=1e-3)


def compare_gradients(
    gradients: dict[str, torch.Tensor | None], arrays: dict[str, np.ndarray], norms: dict[str, float | None]
) -> None:
    assert {name for name, norm in norms.items() if norm is None} == {
        name for name, gradient in gradients.items() if gradient is None
    }
    for name, gradient in gradients.items():
        if gradient is None:
            continue
        norm = norms[name]
        assert norm is not None
        np.testing.assert_allclose(gradient.norm().item(), norm, **TOLERANCE, err_msg=name)
        if f"grad/{name}" in arrays:
            np.testing.assert_allclose(gradient.numpy(), arrays[f"grad/{name}"], **TOLERANCE, err_msg=name)
