"""The demo from end to end, at a size that takes seconds."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from boxwright.synthetic.write import StreetSettings
from boxwright.yolo.verbs.demo import DemoSettings, demo

TINY = DemoSettings(
    street=StreetSettings(scenes=(("train", 6), ("val", 3)), frames=2, width=96, height=64),
    imgsz=96,
    epochs=1,
    num_predictions=2,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo(tmp_path_factory.mktemp("läufe mit Leerzeichen"), device="cpu", settings=TINY)


def test_it_leaves_what_a_user_looks_for(run: Path) -> None:
    for name in (
        "config.yaml",
        "results.csv",
        "results.png",
        "labels.jpg",
        "train_batch0.jpg",
        "confusion_matrix.png",
        "PR_curve.png",
        "predictions.jpg",
        "report.html",
        "weights/best.pt",
        "weights/last.pt",
        "street/data.yaml",
    ):
        assert (run / name).is_file(), name
    assert len(list((run / "predictions").glob("*.jpg"))) == 2
    with (run / "results.csv").open(encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 2


def test_the_report_shows_predictions_and_commands(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    assert text.count("predictions/street_") >= 2
    assert "boxwright train" in text


def test_what_is_shown_was_never_trained_or_validated_on(run: Path) -> None:
    def scenes(folder: str) -> set[str]:
        return {path.stem.split("_")[2] for path in (run / folder).glob("*.jpg")}

    shown = scenes("predictions")
    assert shown
    assert not shown & (scenes("street/images/train") | scenes("street/images/val"))
