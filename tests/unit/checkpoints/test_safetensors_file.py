"""Our safetensors: what is written comes back, and damage to numbers or description is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from boxwright.checkpoints.safetensors_file import read_safetensors, write_safetensors
from boxwright.errors import UserError
from boxwright.terminal import said

MODEL = {"spec": {"nc": 1}, "names": ["a"], "strides": [8], "imgsz": [64, 64]}


def write(path: Path) -> dict[str, torch.Tensor]:
    state = {
        "a": torch.arange(600.0).view(2, 300),
        "h": torch.ones(3).half(),
        "n": torch.tensor(7),
        "e": torch.empty(0),
    }
    write_safetensors(path, state, MODEL)
    return state


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    state = write(tmp_path / "w.safetensors")
    found, model = read_safetensors(tmp_path / "w.safetensors")
    assert model == MODEL
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) and found[name].dtype == state[name].dtype for name in state)


def test_a_flipped_bit_is_told(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write(path)
    whole = path.read_bytes()
    for at in (len(whole) - 1200, whole.index(b'[\\"a\\"]') + 3):  # a number; a class name
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(UserError, match=r"w\.safetensors is damaged"):
            read_safetensors(path)


def test_a_file_of_before_has_no_checksum(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "old.safetensors"
    state = write(path)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    del metadata["sha256"]
    path.write_bytes(safetensors.torch.save(state, metadata))
    said.clear()
    caplog.set_level("INFO", "boxwright")
    assert read_safetensors(path)[1] == MODEL
    assert "old.safetensors has no checksum" in caplog.text
