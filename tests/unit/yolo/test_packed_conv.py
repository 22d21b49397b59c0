"""Convolution and activation in one call of oneDNN: the same numbers, and an ordinary convolution in all else."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from boxwright.yolo import weights
from boxwright.yolo.weights import PackedConv2d, packed

AVAILABLE = weights._works(nn.Identity)
ACTIVATIONS = (nn.Identity(), nn.SiLU(), nn.LeakyReLU(0.1), nn.ReLU(), nn.Hardswish(), nn.Sigmoid(), nn.Tanh())


def pair(activation: nn.Module, **settings: object) -> tuple[nn.Conv2d, PackedConv2d]:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 12, **{"kernel_size": 3, "padding": 1} | settings)  # type: ignore[arg-type]
    both = packed(copy.deepcopy(conv), activation)
    if both is None:
        pytest.skip("this build of torch has no such operators")
    return conv, both


@pytest.mark.parametrize("activation", [*ACTIVATIONS, nn.ReLU6()], ids=lambda act: type(act).__name__)
def test_equal_to_convolution_and_activation(activation: nn.Module) -> None:
    conv, both = pair(activation)
    for x in (torch.randn(2, 8, 9, 11) * 5, torch.randn(1, 8, 16, 6).to(memory_format=torch.channels_last)):
        with torch.no_grad():
            torch.testing.assert_close(both(x), activation(conv(x)), rtol=1e-5, atol=1e-5)
    assert both._packed is not None


@pytest.mark.parametrize("settings", [{"stride": 2}, {"groups": 4}, {"dilation": 2}, {"kernel_size": 1, "padding": 0}])
def test_other_geometry(settings: dict[str, object]) -> None:
    conv, both = pair(nn.SiLU(), bias=False, **settings)
    x = torch.randn(1, 8, 10, 12)
    with torch.inference_mode():
        torch.testing.assert_close(both(x), nn.functional.silu(conv(x)), rtol=1e-5, atol=1e-5)


def test_changed_weights_are_noticed() -> None:
    conv, both = pair(nn.SiLU())
    x = torch.randn(1, 8, 5, 5)
    with torch.no_grad():
        both(x)
        both.weight.mul_(2)
        doubled = copy.deepcopy(conv)
        doubled.weight.mul_(2)
        torch.testing.assert_close(both(x), nn.functional.silu(doubled(x)), rtol=1e-5, atol=1e-5)
        both.load_state_dict(conv.state_dict())
        torch.testing.assert_close(both(x), nn.functional.silu(conv(x)), rtol=1e-5, atol=1e-5)


def test_training_copying_saving_and_other_precision() -> None:
    conv, both = pair(nn.SiLU())
    x = torch.randn(1, 8, 5, 5)
    with torch.no_grad():
        both(x)
    both(x).sum().backward()
    nn.functional.silu(conv(x)).sum().backward()
    assert both.weight.grad is not None
    assert conv.weight.grad is not None
    assert torch.equal(both.weight.grad, conv.weight.grad)
    assert list(both.state_dict()) == list(conv.state_dict())
    file = io.BytesIO()
    torch.save(both, file)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(both)(x), both(x))
        low = copy.deepcopy(both).bfloat16()(x.bfloat16())
        assert torch.equal(low, nn.functional.silu(copy.deepcopy(conv).bfloat16()(x.bfloat16())))
        with torch.autocast("cpu", torch.bfloat16):
            assert both(x).dtype is torch.bfloat16


def test_what_cannot_be_packed_stays() -> None:
    assert packed(nn.Conv2d(2, 2, 1), nn.Mish()) is None
    assert packed(nn.Conv2d(2, 2, 3, padding="same")) is None
    assert packed(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")) is None


def test_without_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    weights._works.cache_clear()
    try:
        assert packed(nn.Conv2d(2, 2, 1), nn.SiLU()) is None
    finally:
        weights._works.cache_clear()


@pytest.mark.skipif(not AVAILABLE, reason="this build of torch has no such operators")
def test_an_operator_that_gives_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weights._ATTRIBUTES, nn.SiLU, lambda _: ("tanh", [], ""))
    weights._works.cache_clear()
    try:
        assert packed(nn.Conv2d(2, 2, 1), nn.SiLU()) is None
        assert packed(nn.Conv2d(2, 2, 1), nn.ReLU()) is not None
    finally:
        weights._works.cache_clear()
