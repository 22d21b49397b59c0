"""What weights take on disk: half precision on request, without the state of a training, and a line that says it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import boxwright as bw
from boxwright.centerfusion.weights import open_trained
from boxwright.cli.main import main
from boxwright.engine.run_folder import weights_on_disk
from boxwright.errors import UserError
from boxwright.yolo.weights import load_model
from tests.integration.fusion_runs import tiny_settings, write_root
from tests.integration.small_runs import small_settings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bw.train(**small_settings(tmp_path_factory.mktemp("disk"), epochs=1, save_half=True, save_period=1))


def test_best_in_half_precision_on_request(run: Path) -> None:
    best, last = (torch.load(run / "weights" / name, weights_only=True) for name in ("best.pt", "last.pt"))
    for name, value in last["ema"].items():
        saved = best["state_dict"][name]
        is_kernel = value.dim() == 4
        assert saved.dtype == (torch.float16 if is_kernel else value.dtype), name
        assert torch.equal(saved, value.half() if is_kernel else value)
    assert torch.load(run / "weights" / "epoch1.pt", weights_only=True)["state_dict"].keys() == last["ema"].keys()
    assert next(load_model(run / "weights" / "best.pt").parameters()).dtype == torch.float32


def test_a_line_says_what_they_take(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    assert weights_on_disk(tmp_path) == ""
    for megabytes, name in enumerate(("best.pt", "epoch1.pt", "epoch2.pt", "epoch3.pt", "last.pt"), 1):
        (folder / name).write_bytes(b"0" * megabytes * 1_000_000)
    assert weights_on_disk(tmp_path) == (
        "weights on disk: last.pt 5.0 MB (for --resume), epoch3.pt 4.0 MB, epoch2.pt 3.0 MB, 2 more 3.0 MB"
    )


def test_strip_in_place(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = Path(shutil.copytree(run, tmp_path / "run")) / "weights" / "last.pt"
    whole, before = load_model(last), last.stat().st_size
    assert main(["convert", "weights", str(last), "--strip"]) == 0
    assert "no run can go on from it any more" in capsys.readouterr().out
    assert last.stat().st_size < before / 2
    small = load_model(last)
    assert small.trained_size == whole.trained_size
    for (name, ours), theirs in zip(small.state_dict().items(), whole.state_dict().values(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6, err_msg=name)
    with pytest.raises(UserError, match="holds weights only; a run goes on from its last"):
        bw.train(resume=last)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_strip_to_another_file(run: Path, tmp_path: Path, suffix: str) -> None:
    last, target = run / "weights" / "last.pt", tmp_path / f"small{suffix}"
    before = last.read_bytes()
    bw.convert("weights", last, target, strip=True)
    assert last.read_bytes() == before
    assert target.stat().st_size < len(before) / 2
    assert load_model(target).trained_size == (64, 64)


def test_strip_is_for_every_system(tmp_path: Path) -> None:
    folder = bw.train(**tiny_settings(write_root(tmp_path / "drives"), tmp_path / "runs", epochs=1, noval=True))
    last = folder / "weights" / "last.pt"
    before, weights = last.stat().st_size, open_trained(str(last))[0].state_dict()
    bw.convert("weights", last, strip=True)
    assert last.stat().st_size < before / 2
    model, config = open_trained(str(last))
    assert config.imgsz == (64, 128)
    for ours, theirs in zip(model.state_dict().values(), weights.values(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


def test_mistakes(run: Path, tmp_path: Path) -> None:
    best = run / "weights" / "best.pt"
    with pytest.raises(UserError, match="convert weights needs OUT"):
        bw.convert("weights", best)
    with pytest.raises(UserError, match="is the source itself"):
        bw.convert("weights", best, best)
    st = tmp_path / "x.safetensors"
    bw.convert("weights", best, st)
    with pytest.raises(UserError, match="is the source itself"):
        bw.convert("weights", st, strip=True)
