"""The operators of torchvision: what is said where they are not to be had."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest

from boxwright.errors import UserError
from boxwright.ops import torchvision_operators
from boxwright.ops.torchvision_operators import load_operators


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
        UserError, match=r"torchvision .* does not fit torch 9\.9 \(undefined symbol\).*one command: pip"
    ):
        load_operators()
    assert refusing


def test_a_missing_torchvision_is_told(refusing: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="torchvision is not installed"):
        load_operators()
    assert not refusing
