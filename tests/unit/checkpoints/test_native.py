"""Our own files: whole or untouched, readable with `weights_only=True`, exact."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from boxwright.checkpoints.native import load_checkpoint, not_finite, previous, save_checkpoint, warn_not_finite
from boxwright.errors import UserError


def content() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "state_dict": {"a.weight": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last), "n": torch.tensor(7)},
        "half": torch.randn(5).half(),
        "brain": torch.randn(5).bfloat16(),
        "empty": torch.empty(0, 3),
        "rng": torch.get_rng_state(),
        "engine": {"epoch": 3, "best": 0.25, "done": False, "none": None, "big": 1 << 100, 7: (1, "x", b"\x00\xff")},
        "names": ["Größe", "猫"],
    }


def assert_equal(left: object, right: object) -> None:
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert left.stride() == right.stride()
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_equal(left[key], right[key])
    else:
        assert left == right


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "with space é.pt"
    save_checkpoint(path, content())
    loaded = load_checkpoint(path)
    assert loaded.pop("format") == "boxwright"
    assert loaded.pop("version") == 1
    assert_equal(loaded, content())
    assert os.listdir(tmp_path) == [path.name]


def test_torch_reads_it_with_weights_only(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", content())
    loaded = torch.load(tmp_path / "a.pt", weights_only=True)
    assert_equal({k: v for k, v in loaded.items() if k not in ("format", "version")}, content())


def test_parameters_and_shared_memory(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.randn(3))
    save_checkpoint(tmp_path / "a.pt", {"a": weight, "b": weight.detach()[1:]})
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert torch.equal(loaded["a"], weight)
    assert torch.equal(loaded["b"], weight[1:])


class NotPlain:
    pass


@pytest.mark.parametrize("value", [NotPlain(), Path("x"), {"a": [NotPlain()]}, {(1, 2): NotPlain()}])
def test_only_plain_values_are_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match="tensors and plain values only"):
        save_checkpoint(tmp_path / "a.pt", {"x": value})
    assert not os.listdir(tmp_path)


def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"epoch": 1})

    def no_space(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(UserError, match=r"cannot write .*: no space left on device; the last\.pt of before is kept"):
        save_checkpoint(path, {"epoch": 2})
    monkeypatch.undo()
    assert load_checkpoint(path)["epoch"] == 1
    assert os.listdir(tmp_path) == ["last.pt"]


LIMITED = """
import resource, sys, torch
from pathlib import Path
from boxwright.checkpoints.native import save_checkpoint
from boxwright.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(Path(sys.argv[1]), {"epoch": 2, "x": torch.zeros(1_000_000)})
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_disk_that_fills_up_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    """The write itself fails half way, inside torch's own writer."""
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"epoch": 1})
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=False)
    assert "cannot write" in done.stdout, done.stderr
    assert "file too large; the last.pt of before is kept" in done.stdout
    assert load_checkpoint(path)["epoch"] == 1
    assert os.listdir(tmp_path) == ["last.pt"]


def test_interrupt_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "a.pt", {"epoch": 1})
    assert not os.listdir(tmp_path)


def test_missing_folder_and_foreign_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*: no such file or directory"):
        save_checkpoint(tmp_path / "missing" / "a.pt", {"epoch": 1})
    torch.save({"epoch": 1}, tmp_path / "foreign.pt")
    with pytest.raises(UserError, match="not a Boxwright checkpoint"):
        load_checkpoint(tmp_path / "foreign.pt")
    save_checkpoint(tmp_path / "later.pt", {"version": 99})
    with pytest.raises(UserError, match="version 99"):
        load_checkpoint(tmp_path / "later.pt")


def test_the_checkpoint_before_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    for number in range(3):
        save_checkpoint(path, {"number": number}, keep_before=True)
    assert previous(path).name == "last.previous.pt"
    assert [load_checkpoint(file)["number"] for file in (path, previous(path))] == [2, 1]
    assert len(os.listdir(tmp_path)) == 2


def test_the_checkpoint_before_is_kept_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    test_the_checkpoint_before_is_kept(tmp_path)


def test_what_does_not_read_back_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "last.pt", torch.save
    save_checkpoint(path, {"number": 1}, keep_before=True)

    def save_on_a_bad_disk(what: object, file: BinaryIO) -> None:
        buffer = io.BytesIO()
        real(what, buffer)
        data = bytearray(buffer.getvalue())
        data[data.index(b"number")] ^= 1
        file.write(data)

    monkeypatch.setattr(torch, "save", save_on_a_bad_disk)
    with pytest.raises(UserError, match=r"does not read back the same; the last\.pt of before is kept"):
        save_checkpoint(path, {"number": 2}, keep_before=True)
    assert load_checkpoint(path)["number"] == 1
    assert os.listdir(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path: Path, caplog: pytest.LogCaptureFixture, number: float) -> None:
    state = {"a": torch.ones(3), "n": torch.tensor(3), "h": torch.ones(2).half(), "none": torch.empty(0)}
    assert not_finite(state) == []
    warn_not_finite(state, tmp_path)
    assert not caplog.records
    state["h"][1] = number
    assert not_finite(state) == ["h"]
    warn_not_finite(state, tmp_path / "w.pt")
    assert "w.pt are not finite: 1 entry of 4, such as h" in caplog.text
