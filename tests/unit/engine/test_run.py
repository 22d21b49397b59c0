"""Which run is resumed where none is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
