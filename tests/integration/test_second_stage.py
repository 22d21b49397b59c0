"""`predict --classifier` and `load(classifier=...)`: the second stage drops what the classifier doubts."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import boxwright
from boxwright.checkpoints.native import save_checkpoint
from boxwright.cli.main import main
from boxwright.drawing.canvas import write_image
from boxwright.inference.classify import load_classifier
from boxwright.yolo.zoo import build_model, load_spec

NAMES = ("cell", "plate", "drop")
SECOND = "shufflenet_v2_x0_5"
IMAGE_SIZE = (150, 100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of random weights, a classifier that always says "drop", and an image."""
    made = tmp_path_factory.mktemp("second stage")
    torch.manual_seed(0)
    model = build_model(load_spec("yolov5n", len(NAMES)), NAMES)
    description = {"spec": model.spec.to_mapping(), "names": list(NAMES), "strides": list(model.strides)}
    save_checkpoint(made / "detector.pt", {"model": description, "state_dict": model.state_dict()})
    classifier = load_classifier(SECOND, len(NAMES))
    with torch.no_grad():
        classifier.get_submodule("fc").bias[2] = 1.0
    torch.save(classifier.state_dict(), made / "classifier.pt")
    small = np.random.default_rng(1).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    write_image(made / "a.png", cv2.resize(small, IMAGE_SIZE, interpolation=cv2.INTER_CUBIC))
    return made


def predict(folder: Path, project: Path, *flags: str) -> int:
    argv = ["predict", "--weights", str(folder / "detector.pt"), "--source", str(folder / "a.png"), "--imgsz", "96"]
    return main([*argv, "--conf-thres", "0", "--max-det", "30", "--project", str(project), "--device", "cpu", *flags])


def test_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second = ["--classifier", SECOND, "--classifier-weights", str(folder / "classifier.pt")]
    assert predict(folder, tmp_path, "--save-json", "--nosave", "--name", "one") == 0
    assert "classifier" not in capsys.readouterr().out
    assert predict(folder, tmp_path, "--save-json", "--nosave", "--name", "two", *second) == 0
    assert "ms NMS, " in (out := capsys.readouterr().out)
    assert "ms classifier per image" in out
    one, two = (json.loads((tmp_path / name / "predictions.json").read_text("utf-8")) for name in ("one", "two"))
    assert two == [row for row in one if row["category"] == "drop"]
    assert 0 < len(two) < len(one)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--classifier", SECOND], "needs both --classifier, a name, and --classifier-weights, a file"),
        (["--classifier-weights", "c.pt"], "needs both"),
        (["--classifier", "shuflenet", "--classifier-weights", "c.pt"], "did you mean shufflenet_v2_x"),
        (["--classifier", SECOND, "--classifier-weights", "c.pt"], "no weights at c.pt"),
    ],
)
def test_wrong_flags(
    folder: Path,
    tmp_path: Path,
    flags: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if complaint != "no weights at c.pt":
        (tmp_path / "c.pt").touch()
    monkeypatch.chdir(tmp_path)
    assert predict(folder, tmp_path / "none", *flags) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_python(folder: Path) -> None:
    settings = {"imgsz": 96, "conf_thres": 0.0, "max_det": 30}
    alone = boxwright.load(folder / "detector.pt", device="cpu")
    both = boxwright.load(
        folder / "detector.pt", device="cpu", classifier=SECOND, classifier_weights=folder / "classifier.pt"
    )
    every, kept = (detector.predict(folder / "a.png", **settings) for detector in (alone, both))
    assert np.array_equal(kept.boxes, every.boxes[every.labels == 2])
    assert set(kept.labels.tolist()) == {2}
    assert kept.speed.classify > 0
