"""The operators of torchvision: what is said where they are not to be had, and what a CPU does without them."""

import importlib.util
import logging
import sys
from types import SimpleNamespace

import pytest
import torch

from boxwright.errors import UserError
from boxwright.ops import torchvision_operators
from boxwright.ops.torchvision_operators import find_nms, load_operators, plain_nms
from boxwright.terminal import said

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A torch without the operators that loads no library; the list gets the names of those it was asked for."""
    asked: list[str] = []

    def load_library(path: str) -> None:
        asked.append(path)
        raise OSError("undefined symbol")

    ops = SimpleNamespace(torchvision=SimpleNamespace(), load_library=load_library)
    monkeypatch.setattr(torchvision_operators, "torch", SimpleNamespace(ops=ops, __version__="9.9"))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    return asked


def test_a_torchvision_of_another_torch_is_told_with_the_command_that_mends_it(refusing: list[str]) -> None:
    with pytest.raises(
        UserError, match=r"torchvision .* does not fit torch 9\.9 \(undefined symbol\).*one command: (uv )?pip"
    ):
        find_nms(CPU)
    assert refusing


def test_without_torchvision_a_gpu_is_told_once(
    refusing: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said.clear()
    with caplog.at_level(logging.WARNING):
        assert find_nms(CPU) is plain_nms
        assert not caplog.messages
        assert find_nms(GPU) is find_nms(GPU) is plain_nms
    (line,) = caplog.messages
    assert line.startswith("full speed on a GPU needs torchvision, which is not installed: ")
    assert not refusing


def test_plain_nms_keeps_what_torchvision_keeps() -> None:
    """With equal scores and overlaps, empty, turned and infinite boxes, and several blocks."""
    load_operators()
    random = torch.Generator().manual_seed(1)
    for count in (0, 1, 40, 700):
        corners, sides = (torch.rand(count, 2, generator=random) * size for size in (200, 60))
        boxes = torch.cat((corners, corners + sides), 1).round()
        boxes[3::11] = boxes[3::11, [2, 3, 0, 1]]
        boxes[5::13, 2:] = boxes[5::13, :2]
        boxes[7::17, 2], boxes[8::19, 1] = torch.inf, torch.nan
        boxes[:2] = torch.tensor([[0, 0, 1, 5], [0, 0, 1, 3]])[:count]  # 0.6 in float32 is above 0.6
        scores = (torch.rand(count, generator=random) * 20).round() / 20
        for threshold in (0.0, 1 / 3, 0.5, 0.6, 1.0):
            expected = torch.ops.torchvision.nms(boxes, scores, threshold)
            assert torch.equal(plain_nms(boxes, scores, threshold), expected)
