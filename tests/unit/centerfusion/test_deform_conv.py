"""The formulations of the deformable convolution against torchvision's operator, whose kernel is its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import deform_conv2d

from boxwright.centerfusion import deform_conv as module
from boxwright.centerfusion.deform_conv import deform_conv

SHAPES = [(2, 5, 7, 9, 4), (1, 3, 1, 1, 2), (1, 1, 1, 6, 3), (2, 16, 33, 20, 8), (3, 8, 2, 2, 5)]
REACHES = [0.4, 1.0, 6.0, 100.0]  # pixels: inside the tap's own cell, next ones, across borders, mostly outside


def draw(shape: tuple[int, ...], reach: float, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    batch, channels, height, width, out_channels = shape
    generator = torch.Generator().manual_seed(1)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    values = (
        normal(batch, channels, height, width),
        reach * normal(batch, 18, height, width),
        normal(batch, 9, height, width),
        normal(out_channels, channels, 3, 3),
        normal(out_channels),
    )
    return [value.to(dtype).requires_grad_() for value in values]


def outputs_and_gradients(inputs: list[Tensor], implementation: str) -> list[Tensor]:
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in inputs]
    out = deform_conv(*leaves, implementation=implementation)  # type: ignore[arg-type]
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    (out * weights).sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("implementation", ["rows", "grid"])
@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_torchvision(shape: tuple[int, ...], reach: float, implementation: str) -> None:
    inputs = draw(shape, reach)
    expected = outputs_and_gradients(inputs, "torchvision")
    for ours, theirs in zip(outputs_and_gradients(inputs, implementation), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_float32_equals_torchvision() -> None:
    inputs = draw((2, 16, 28, 50, 16), 1.5, torch.float32)
    expected = outputs_and_gradients(inputs, "torchvision")
    for ours, theirs in zip(outputs_and_gradients(inputs, "rows"), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


def test_whole_offsets_take_torchvisions_side_of_the_kink() -> None:
    """Every network begins with offsets of 0, where the value bends: the gradient is that to the right and below."""
    inputs = draw((2, 4, 6, 5, 3), 0.0)
    inputs[1] = torch.randint(-7, 8, inputs[1].shape).double()
    expected = outputs_and_gradients(inputs, "torchvision")
    for ours, theirs in zip(outputs_and_gradients(inputs, "rows"), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_gradients_are_those_of_differences() -> None:
    inputs = draw((1, 2, 4, 3, 2), 1.0)
    assert torch.autograd.gradcheck(lambda *t: deform_conv(*t, implementation="rows"), inputs)


def test_strips_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips that cut through lines and images change nothing."""
    inputs = draw((3, 4, 9, 11, 4), 2.0)
    whole = outputs_and_gradients(inputs, "rows")
    monkeypatch.setattr(module, "_STRIP_VALUES", 64 * 9 * 4)
    for ours, theirs in zip(outputs_and_gradients(inputs, "rows"), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_layout_in_memory_does_not_matter() -> None:
    inputs = draw((2, 4, 6, 5, 3), 1.0)
    expected = outputs_and_gradients(inputs, "rows")
    last = [t.detach().contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in inputs]
    for ours, theirs in zip(outputs_and_gradients(last, "rows"), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shape", [(0, 3, 5, 4, 2), (2, 3, 0, 4, 2)])
def test_nothing_in_nothing_out(shape: tuple[int, ...]) -> None:
    inputs = draw(shape, 1.0)
    out = deform_conv(*inputs, implementation="rows")
    assert out.shape == (shape[0], 2, *shape[2:4])
    out.sum().backward()
    assert inputs[0].grad is not None
    assert inputs[3].grad is not None
    assert not inputs[3].grad.any()


def test_bf16_is_close_to_float32() -> None:
    inputs = draw((1, 16, 12, 20, 16), 1.0, torch.float32)
    expected = outputs_and_gradients(inputs, "torchvision")
    low = [inputs[0].bfloat16(), *inputs[1:]]  # as autocast gives them: offsets may stay in float32
    got = outputs_and_gradients(low, "rows")
    assert got[0].dtype == torch.bfloat16
    for ours, theirs in zip(got, expected, strict=True):
        error = (ours.float() - theirs).norm() / theirs.norm()
        assert error < 0.02, error


def test_offsets_that_are_no_numbers_read_nothing_outside() -> None:
    inputs = draw((1, 2, 4, 3, 2), 1.0)
    with torch.no_grad():
        inputs[1][0, 0, 0, 0] = float("nan")
        inputs[1][0, 3, 1, 1] = float("inf")
    out = deform_conv(*inputs, implementation="rows")
    assert out[0, :, 0, 0].isnan().all()
    assert out[0, :, 3, 2].isfinite().all()
    out.sum().backward()


def test_choice_on_the_cpu_and_while_exporting() -> None:
    inputs = draw((1, 2, 4, 3, 2), 1.0)
    assert deform_conv(*inputs).grad_fn.name().startswith("_RowSampling")  # type: ignore[union-attr]

    class Network(torch.nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            return deform_conv(*tensors)

    program = torch.export.export(Network(), tuple(t.detach() for t in inputs))
    assert any("grid_sampler" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(*inputs), deform_conv2d_of(inputs))


def deform_conv2d_of(inputs: list[Tensor]) -> Tensor:
    x, offset, mask, weight, bias = inputs
    return deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
