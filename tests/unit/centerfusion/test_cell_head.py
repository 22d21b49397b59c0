"""Gradients at few cells are those of the whole maps."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from boxwright.centerfusion import cell_head
from boxwright.centerfusion.cell_head import CellHead

CELLS = ((0, 0, 0), (0, 0, 1), (0, 7, 9), (1, 0, 9), (1, 4, 5))  # image, row, column: neighbours, corners, images


def layers() -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        nn.Conv2d(5, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 2, 1),
    ]


def gradients(head: nn.Module, x: Tensor, grad: Tensor, precision: torch.dtype | None = None) -> list[Tensor | None]:
    """Return the output, then the gradients of the input and all parameters."""
    leaf = x.clone().requires_grad_()
    with torch.autocast("cpu", precision, enabled=precision is not None):
        out = head(leaf)
    out.backward(grad.to(out.dtype))
    return [out.detach(), leaf.grad, *(p.grad for p in head.parameters())]


def at(cells: tuple[tuple[int, int, int], ...]) -> Tensor:
    grad = torch.zeros(2, 2, 8, 10)
    for i, (image, row, column) in enumerate(cells, 1):
        grad[image, :, row, column] = torch.tensor([i, 0.5])
    return grad


@pytest.mark.parametrize("grad", [at(CELLS), at(()), torch.ones(2, 2, 8, 10)], ids=["few", "none", "all"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_those_of_the_whole_maps(grad: Tensor, layout: torch.memory_format) -> None:
    parts, x = layers(), torch.randn(2, 5, 8, 10).contiguous(memory_format=layout)
    expected = gradients(nn.Sequential(*copy.deepcopy(parts)), x, grad)
    torch.testing.assert_close(gradients(CellHead(*parts), x, grad), expected)


def test_gradients_in_bf16_are_close_and_of_the_parameters_type() -> None:
    parts, x = layers(), torch.randn(2, 5, 8, 10)
    expected = gradients(nn.Sequential(*copy.deepcopy(parts)), x, at(CELLS))
    for got, wanted in zip(gradients(CellHead(*parts), x, at(CELLS), torch.bfloat16)[1:], expected[1:], strict=True):
        assert got is not None
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, wanted, rtol=0.05, atol=0.05 * float(wanted.abs().max()))  # type: ignore[union-attr]


def test_frozen_parameters_get_no_gradient() -> None:
    parts, x = layers(), torch.randn(2, 5, 8, 10)
    plain, head = nn.Sequential(*copy.deepcopy(parts)), CellHead(*parts)
    for module in (plain, head):
        module[0].requires_grad_(False)  # type: ignore[operator]
    got, expected = (gradients(module, x, at(CELLS)) for module in (head, plain))
    assert [g is None for g in got] == [g is None for g in expected] == [False, False, True, True, *[False] * 4]
    torch.testing.assert_close(got[4:], expected[4:])


def test_a_gradient_that_is_not_a_number_stays_one() -> None:
    grad = at(CELLS)
    grad[1, 0, 2, 2] = torch.nan
    found = gradients(CellHead(*layers()), torch.randn(2, 5, 8, 10), grad)[-1]
    assert found is not None
    assert found.isnan().any()


def test_few_cells_do_not_run_the_head_on_whole_maps_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = cell_head._at_cells
    monkeypatch.setattr(cell_head, "_at_cells", lambda *args: asked.append(len(args[2])) or real(*args))
    gradients(CellHead(*layers()), torch.randn(2, 5, 8, 10), at(CELLS))
    assert asked == [len(CELLS)]
    gradients(CellHead(*layers()), torch.randn(2, 5, 8, 10), torch.ones(2, 2, 8, 10))
    assert asked == [len(CELLS)]
