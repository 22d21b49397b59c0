"""The guide for owners of data: its table of published options is whole, and its example runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from boxwright.centerfusion.calibration import read_calibration
from boxwright.centerfusion.system import ANSWERS
from boxwright.nuscenes.index import open_nuscenes

GUIDE = (Path(__file__).resolve().parents[3] / "docs/fusion.md").read_text(encoding="utf-8")


def block(language: str, word: str) -> str:
    return next(text for text in re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL) if word in text)


def test_every_published_option_is_in_the_table() -> None:
    table = {
        name for row in re.findall(r"^\| (`--.*?) \|", GUIDE, re.MULTILINE) for name in re.findall(r"`(.*?)`", row)
    }
    assert {flag.rpartition(" ")[2] for flag in ANSWERS} <= table


def test_the_example_of_an_own_car_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    exec(block("python", "write_root").replace("range(20)", "range(2)"), {})
    assert len(open_nuscenes(tmp_path / "own", "v1.0-own").scenes) == 2


def test_the_example_of_a_calibration_is_read(tmp_path: Path) -> None:
    (tmp_path / "front.json").write_text(block("json", "intrinsics"))
    camera = read_calibration(tmp_path / "front.json")
    assert camera.ego_from_cam is not None
    assert camera.ego_from_cam[:3, 2].round(9).tolist() == [1, 0, 0]  # it looks forward
