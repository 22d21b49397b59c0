"""The demo of camera and radar from end to end, at a size that takes seconds."""

import re
from pathlib import Path

import pytest

from boxwright.centerfusion.settings import FusionDemoConfig
from boxwright.centerfusion.verbs.demo import FusionDemoSettings, fusion_demo
from boxwright.cli.main import main
from tests.integration.fusion_runs import WORLD

TINY = FusionDemoSettings(world=WORLD, imgsz=(64, 128), width=0.125, epochs=1, batch_size=4)


def test_it_leaves_what_a_user_looks_for(tmp_path: Path) -> None:
    run = fusion_demo(FusionDemoConfig(project=str(tmp_path / "läufe mit Leerzeichen"), device="cpu"), TINY)
    for name in (
        "config.yaml",
        "results.csv",
        "results.png",
        "train_batch0.jpg",
        "metrics_summary.json",
        "curves/PR_curves.png",
        "predictions/scene-9002/0001.png",
        "predictions/scene-9002.mp4",
        "weights/best.pt",
        "nuscenes/v1.0-mini/sample.json",
    ):
        assert (run / name).is_file(), name
    text = (run / "report.html").read_text(encoding="utf-8")
    for words in ("NDS", "velocity error", "pedestrian", "predictions/scene-9002/0002.png", "boxwright val --model"):
        assert words in re.sub("<[^>]+>", "", text)


def test_cameras_only_goes_with_its_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--no-radar", "--project", str(tmp_path / "runs")]) == 2
    assert "--task fusion3d" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
