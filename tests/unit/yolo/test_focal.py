"""Binary cross entropy against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from boxwright.yolo.focal import FOCAL_ALPHA, binary_cross_entropy


@pytest.mark.parametrize("weight", [1.0, 0.8, 1.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient(weight: float, dtype: torch.dtype) -> None:
    ours = torch.cat((torch.linspace(-120, 120, 999), torch.zeros(1))).to(dtype).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    targets = torch.rand(1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    targets[::3], targets[1::3] = 0, 1
    upstream = torch.linspace(-1, 2, 1000, dtype=dtype)
    value = binary_cross_entropy(ours, targets, weight)
    expected = binary_cross_entropy_with_logits(
        theirs, targets, pos_weight=torch.tensor(weight, dtype=dtype), reduction="none"
    )
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=2e-5 if dtype is torch.float32 else 1e-12)
    value.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_focal_weighs_down_what_is_already_right() -> None:
    logits, targets = torch.tensor([0.0, 4.0, -4.0]), torch.tensor([1.0, 1.0, 1.0])
    plain = binary_cross_entropy(logits, targets)
    focal = binary_cross_entropy(logits, targets, gamma=2.0)
    probability = logits.sigmoid()
    torch.testing.assert_close(focal, FOCAL_ALPHA * (1 - probability) ** 2 * plain)


def test_inputs_are_left_alone() -> None:
    logits, targets = torch.randn(5), torch.rand(5)
    copies = logits.clone(), targets.clone()
    binary_cross_entropy(logits, targets, 1.3, 1.5)
    assert torch.equal(logits, copies[0])
    assert torch.equal(targets, copies[1])
