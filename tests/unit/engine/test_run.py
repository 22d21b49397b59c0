"""Which run is resumed, and what is said of one that cannot be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from boxwright.checkpoints.native import save_checkpoint
from boxwright.cli.main import main


def test_resume_alone_takes_the_newest_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--resume", "--device", "cpu"]) == 2
    assert "there is no runs/train/*/weights/last.pt to go on with" in capsys.readouterr().err
    for number, name in enumerate(("exp", "newest", "exp3")):
        file = tmp_path / "runs" / "train" / name / "weights" / "last.pt"
        file.parent.mkdir(parents=True)
        file.touch()
        time = 1e9 + (9 if name == "newest" else number)
        os.utime(file, (time, time))
    assert main(["train", "--resume", "--device", "cpu"]) == 2
    assert "runs/train/newest/weights/last.pt" in capsys.readouterr().err  # an empty file, so it is named


def test_a_setting_of_another_version_is_told_with_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "exp" / "weights" / "last.pt"
    file.parent.mkdir(parents=True)
    config = {"model": "yolov5n", "loss": {"new_gain": 2.0}}
    others: dict[str, Any] = {key: {} for key in ("model", "state_dict", "ema", "engine")}
    save_checkpoint(file, {"format": "boxwright", "version": 1, "epoch": 1, "config": config} | others)
    assert main(["train", "--resume", str(tmp_path / "exp")]) == 2
    told = f"loss.new_gain (of the run in {tmp_path / 'exp'}, perhaps begun by another version): no such setting"
    assert told in capsys.readouterr().err
