"""The demo from end to end, at a size that takes seconds."""

import csv
from pathlib import Path

import pytest

from boxwright.synthetic.yolo_set import YoloSetSettings
from boxwright.yolo.settings import YoloDemoConfig
from boxwright.yolo.verbs.demo import DemoSettings, demo

TINY = DemoSettings(
    drives=YoloSetSettings(scenes=(("train", 2), ("val", 1)), width=96, height=64),
    imgsz=96,
    epochs=1,
    num_predictions=1,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("läufe mit Leerzeichen")
    return demo(YoloDemoConfig(project=str(folder), device="cpu"), TINY)


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
        "drives/data.yaml",
    ):
        assert (run / name).is_file(), name
    assert len(list((run / "predictions").glob("*.jpg"))) == 6
    with (run / "results.csv").open(encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 2


def test_the_report_shows_predictions_and_commands(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    assert text.count("predictions/CAM_") >= 6
    assert "worst_images.jpg" in text or "val_batch0.jpg" in text
    for fact in ("best: epoch 1", "training time", "yolov5n, ", "images to train on", "torch", "GiB"):
        assert fact in text
    assert "boxwright train" in text


def test_what_is_shown_was_never_trained_or_validated_on(run: Path) -> None:
    def scenes(folder: str) -> set[str]:
        return {path.stem.split("_")[-1] for path in (run / folder).glob("*.jpg")}

    shown = scenes("predictions")
    assert shown
    assert not shown & (scenes("drives/images/train") | scenes("drives/images/val"))
