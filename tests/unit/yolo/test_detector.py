"""A detector in Python: called as people call it, settings by one name, nothing taken in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import torch

import boxwright as bw
from boxwright.checkpoints.native import save_checkpoint
from boxwright.cli.main import main
from boxwright.errors import UserError
from boxwright.yolo.detector import Detector
from boxwright.yolo.result import Result
from boxwright.yolo.zoo import build_model, load_spec

NAMES = ("person", "traffic light", "dog")
PHOTO = cv2.resize(np.random.default_rng(1).integers(0, 255, (6, 9, 3), dtype=np.uint8), (150, 100))  # BGR


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build_model(load_spec("yolov5n", len(NAMES)), NAMES)
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    save_checkpoint(path, {"model": model.describe(), "state_dict": model.state_dict(), "ema": None})
    cv2.imwrite(str(path.with_name("photo.png")), PHOTO)
    return path


@pytest.fixture
def detector(weights: Path) -> Detector:
    """Random weights give tiny scores, so every box is let through, and the best are kept."""
    detector = bw.load(weights, device="cpu")
    detector.imgsz, detector.conf_thres, detector.max_det = 96, 0.0, 5
    return detector


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(getattr(a, key), getattr(b, key)) for key in ("boxes", "scores", "labels"))


def test_a_call_is_predict_to_the_bit(detector: Detector, weights: Path) -> None:
    photo = weights.with_name("photo.png")
    one = detector.predict(photo)
    assert isinstance(one, Result)
    assert len(one) == 5
    rgb = np.ascontiguousarray(PHOTO[..., ::-1])
    planes = torch.from_numpy(rgb).permute(2, 0, 1)
    for source, settings in [
        (photo, {}),
        (str(photo), {}),
        (PIL.Image.open(photo), {}),
        (rgb, {}),
        (PHOTO, {"bgr": True}),
        (planes, {}),
    ]:
        found = detector(source, **settings)
        assert isinstance(found, Result)
        assert same(found, one)
    for source in (planes[None].float() / 255, [rgb], (photo,), (image for image in [rgb])):
        many = detector(source)
        assert isinstance(many, list)
        assert same(many[0], one)
    stream = detector([photo, rgb], stream=True)
    assert iter(stream) is stream
    assert all(same(found, one) for found in stream)


def test_defaults_of_a_detector(detector: Detector) -> None:
    detector.classes = ["person", 1]
    detector.max_det = 3
    found = detector(PHOTO, bgr=True)
    assert set(found.labels.tolist()) <= {0, 1}
    assert len(found) == 3
    assert len(detector(PHOTO, bgr=True, max_det=2)) == 2  # for this call
    detector.classes = None
    assert detector.classes is None
    assert (detector.conf_thres, detector.max_det) == (0.0, 3)
    detector.conf_thres = 1.0
    assert len(detector(PHOTO)) == 0


def test_names_of_other_tools(detector: Detector) -> None:
    with pytest.warns(FutureWarning, match="conf is called conf_thres here"):
        detector.conf = 0.9
    assert detector.conf_thres == detector.conf == 0.9
    with pytest.warns(FutureWarning) as said:
        found = detector(PHOTO, size=64, score_threshold=0.0, max_detections=2)
    assert [str(warning.message).partition(" ")[0] for warning in said] == ["size", "score_threshold", "max_detections"]
    assert Path(said[0].filename).name == Path(__file__).name  # it names the caller's line
    assert (len(found), max(found.input_size)) == (2, 64)
    with pytest.warns(FutureWarning), pytest.raises(UserError, match="conf_thres twice"):
        detector(PHOTO, conf_thres=0.1, conf=0.2)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("confidence", 0.4, "cannot be set"),
        ("conf_tres", 0.4, r"did you mean conf_thres\?"),
        ("conf_thres", 4, "conf_thres: should be less than or equal to 1"),
        ("device", "cpu", "device of a Detector cannot be set"),
        ("names", ("a",), "names of a Detector cannot be set"),
        ("half", True, r"use bw\.load\(weights, half=True\)"),
    ],
)
def test_what_cannot_be_set(detector: Detector, name: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        setattr(detector, name, value)
    assert detector.conf_thres == 0.0


def test_attributes_that_are_not_there(detector: Detector) -> None:
    assert not hasattr(detector, "cuda")
    with pytest.raises(AttributeError, match=r"has no to: use bw\.load\(weights, device"):
        detector.to("cpu")
    with pytest.raises(UserError, match=r"no setting confthres; did you mean conf_thres\?"):
        detector(PHOTO, confthres=0.5)
    with pytest.raises(UserError, match=r"no setting augment: use bw\.load"):
        detector(PHOTO, augment=True)


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        ("person", {0}),
        (["traffic light"], {1}),
        ("person, traffic light", {0, 1}),
        (2, {2}),
        ([np.int64(0), "2"], {0, 2}),
        (np.array([1]), {1}),
        ("0 1", {0, 1}),
        ({"person"}, {0}),
    ],
)
def test_classes_by_name_or_number(detector: Detector, classes: Any, labels: set[int]) -> None:
    found = detector(PHOTO, classes=classes, max_det=1000)
    assert set(found.labels.tolist()) == labels


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["persn"], r"no class 'persn'; did you mean person\?; it has person, traffic light, dog"),
        ([3], "class 3 is not one of the network's, which go from 0 to 2"),
        (["-1"], "no class '-1'"),
        ([-1], "class -1 is not one of"),
        ([0.5], "classes"),
        ([True], "classes"),
        ([], "classes is empty"),
        ("", "classes is empty"),
    ],
)
def test_classes_that_are_not_there(detector: Detector, classes: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        detector(PHOTO, classes=classes)
    with pytest.raises(UserError, match=message):
        detector.classes = classes
    assert detector.classes is None


def test_a_name_that_is_a_number(caplog: pytest.LogCaptureFixture) -> None:
    detector = Detector(build_model(load_spec("yolov5n", 3), ("1", "2", "cat")))
    detector(PHOTO, imgsz=64, classes=["1"])
    assert "class 1 is '2'; the one that is named so is number 0" in caplog.text


def test_classes_by_name_on_the_command_line(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", "--weights", str(weights), "--source", str(weights.with_name("photo.png")), "--img", "96"]
    words += ["--conf", "0", "--device", "cpu", "--project", str(tmp_path), "--nosave"]
    assert main([*words, "--classes", "traffic light", "2"]) == 0
    said = capsys.readouterr().out
    assert " traffic light" in said
    assert " person" not in said
    assert main([*words, "--classes", "persons"]) == 2
    assert "did you mean person?" in capsys.readouterr().err


def test_it_says_what_it_is(detector: Detector) -> None:
    assert "w.pt: 3 classes (person, traffic light, dog), cpu, conf_thres 0, iou_thres 0.45>" in repr(detector)


def test_the_verb_takes_paths_only(weights: Path) -> None:
    with pytest.raises(UserError, match=r"takes no ndarray: write bw\.load\(weights\)\.predict"):
        bw.predict(weights, PHOTO)


def test_the_package_lists_its_own_names() -> None:
    assert dir(bw) == sorted(bw.__all__)
