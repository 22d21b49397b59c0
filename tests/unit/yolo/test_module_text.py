"""Modules from text: parsed, never executed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from boxwright.errors import UserError
from boxwright.yolo.layers import C3, Conv
from boxwright.yolo.module_text import build_module


def test_modules_of_torch_and_ours() -> None:
    conv = build_module("Conv2d(8, 16, 3, padding=1, bias=False)")
    assert isinstance(conv, nn.Conv2d)
    assert (conv.in_channels, conv.out_channels, conv.padding, conv.bias) == (8, 16, (1, 1), None)
    assert isinstance(build_module(" torch.nn.MaxPool2d((2, 2)) "), nn.MaxPool2d)
    block = build_module("C3(8, 8, 2, False)")
    assert isinstance(block, C3)
    assert isinstance(block.cv1.act, nn.SiLU)
    ours = build_module("Conv(3, 8, 6, 2, 2, activation=LeakyReLU(0.1))")
    assert isinstance(ours, Conv)
    assert isinstance(ours.act, nn.LeakyReLU)


def test_modules_inside_modules() -> None:
    module = build_module("Sequential(Conv2d(3, 4, 1), nn.Sequential(ReLU(), Flatten()))")
    assert module(torch.zeros(2, 3, 5, 5)).shape == (2, 100)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Conv2d(3, 4", "cannot read the module"),
        ("Conv2d", "no module with arguments"),
        ("3 + 4", "no module with arguments"),
        ("Konv2d(3, 4, 1)", "has a module Konv2d; did you mean Conv2d"),
        ("Conv2d(3, x, 1)", "x is no plain value"),
        ("Conv2d(*[3, 4, 1])", "not unpacked"),
        ("Conv2d(**{'a': 1})", "not unpacked"),
        ("Conv2d(3, 4)", "cannot be built: .*kernel_size"),
        ("Conv2d(3, 4, 1, groups=2)", "cannot be built: in_channels must be divisible"),
        ("os.system('x')", "is no name of a module"),
        ("__import__('os')", "has a module __import__"),
        ("Parameter(3)", "has a module Parameter"),
        ("nn.functional.relu(3)", "is no name of a module"),
        ("(lambda: 3)()", "is no name of a module"),
        ("Conv2d(3, 4, __import__('os'))", "has a module __import__"),
        ("[" * 5000, "cannot read the module"),
    ],
)
def test_anything_else_is_one_sentence(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        build_module(text)
    assert "\n" not in str(error.value)


def test_nothing_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(UserError):
        build_module(f"Conv2d(3, open({str(mark)!r}, 'w'), 1)")
    assert not mark.exists()
