"""The predict verb and the Python interface, on a small network of random weights."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from boxwright.checkpoints.native import save_checkpoint
from boxwright.cli.main import main
from boxwright.data.images import read_image
from boxwright.drawing.canvas import write_image
from boxwright.errors import UserError
from boxwright.inference.streams import Frame
from boxwright.yolo.detector import Detector, load
from boxwright.yolo.result import Result
from boxwright.yolo.settings import PredictConfig
from boxwright.yolo.verbs.predict import predict
from boxwright.yolo.weights import PackedConv2d, load_model
from boxwright.yolo.zoo import build_model, load_spec

NAMES = ("cell", "Größe", "猫")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build_model(load_spec("yolov5n", len(NAMES)), NAMES)
    path = tmp_path_factory.mktemp("some weights") / "bést.pt"
    description = {"spec": model.spec.to_mapping(), "names": list(NAMES), "strides": list(model.strides)}
    save_checkpoint(path, {"model": description, "state_dict": model.state_dict()})
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "mes images é"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for name in ("a.png", "b.jpg"):
        small = rng.integers(0, 255, (6, 9, 3), dtype=np.uint8)
        write_image(folder / name, cv2.resize(small, (150, 100), interpolation=cv2.INTER_CUBIC))
    return folder


def config(weights: Path, source: object, **settings: Any) -> PredictConfig:
    """Random weights give tiny scores, so every box is let through, and the three best are kept."""
    given = {"imgsz": 96, "conf_thres": 0.0, "max_det": 3, "device": "cpu"} | settings
    return PredictConfig(weights=str(weights), source=str(source), **given)


def test_folder_of_images(weights: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"save_txt": True, "save_conf": True, "save_crop": True, "save_json": True}
    folder = predict(config(weights, images, project=str(tmp_path / "mes essais"), **settings))
    assert folder == tmp_path / "mes essais" / "exp"
    assert {p.name for p in folder.iterdir()} == {
        "a.png",
        "b.jpg",
        "labels",
        "classes.txt",
        "crops",
        "predictions.json",
    }
    assert (folder / "classes.txt").read_text(encoding="utf-8") == "cell\nGröße\n猫\n"
    assert len((folder / "labels" / "a.txt").read_text().splitlines()) == 3
    assert len(json.loads((folder / "predictions.json").read_text(encoding="utf-8"))) == 6
    assert {p.name for p in (folder / "crops").iterdir()} <= set(NAMES)
    out = capsys.readouterr().out
    assert "image 1/2" in out
    assert "96x64, 3 " in out or "96x64, " in out
    assert "ms pre-process" in out
    assert "ms NMS per image" in out
    assert f"6 boxes in 2 images; results are in {folder}" in out


def test_next_run_counts_up(weights: Path, images: Path, tmp_path: Path) -> None:
    runs = [predict(config(weights, images / "a.png", project=str(tmp_path / "r"), nosave=True)) for _ in range(2)]
    assert [run.name for run in runs] == ["exp", "exp2"]
    assert list(runs[0].iterdir()) == []


def test_video(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write mp4")
    for i in range(6):
        writer.write(np.full((48, 64, 3), 40 * i, np.uint8))
    writer.release()
    folder = predict(config(weights, path, project=str(tmp_path / "r"), vid_stride=2, save_txt=True))
    assert {p.name for p in folder.iterdir()} == {"clip.mp4", "labels", "classes.txt"}
    assert {p.name for p in (folder / "labels").iterdir()} == {"clip_2.txt", "clip_4.txt", "clip_6.txt"}
    capture = cv2.VideoCapture(str(folder / "clip.mp4"))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 3


def test_bad_images_are_left_out_with_a_sentence(
    weights: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = (images / "b.jpg").read_bytes()
    (images / "truncated.jpg").write_bytes(data[: len(data) // 2])
    folder = predict(config(weights, images, project=str(tmp_path / "r")))
    assert {p.name for p in folder.iterdir()} == {"a.png", "b.jpg"}
    assert "truncated.jpg: the JPEG file is truncated" in caplog.text
    with pytest.raises(UserError, match=r"no image of .*truncated\.jpg could be read"):
        predict(config(weights, images / "truncated.jpg", project=str(tmp_path / "other")))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": ""}, "predict needs --weights"),
        ({"source": ""}, "predict needs --source"),
        ({"weights": "missing.pt"}, r"no weights at missing\.pt"),
        ({"source": "missing.jpg"}, r"nothing to predict on at missing\.jpg"),
        ({"classes": (0, 3)}, "class 3 is not one of the network's, which go from 0 to 2"),
        ({"device": "cuda:99"}, "device"),
    ],
)
def test_mistakes(weights: Path, images: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    settings = {"weights": str(weights), "source": str(images), "project": str(tmp_path / "r")} | change
    with pytest.raises(UserError, match=message):
        predict(PredictConfig(**settings))
    assert not (tmp_path / "r").exists()


def test_something_that_is_no_checkpoint(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.png is not a readable checkpoint"):
        predict(config(images / "a.png", images, project=str(tmp_path / "r")))


def test_class_filter(weights: Path, images: Path) -> None:
    detector = load(weights, device="cpu")
    for label in range(3):
        result = detector.predict(images / "a.png", imgsz=96, conf_thres=0.0, max_det=5, classes=[label])
        assert set(result.labels.tolist()) == {label}


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(getattr(a, key), getattr(b, key)) for key in ("boxes", "scores", "labels"))


def test_python_interface(weights: Path, images: Path) -> None:
    detector = load(weights, device="cpu")
    assert detector.names == NAMES
    settings = {"imgsz": 96, "conf_thres": 0.0, "max_det": 4}
    one = detector.predict(images / "a.png", **settings)
    assert one.boxes.shape == (4, 4)
    assert one.path == images / "a.png"
    assert (one.image_size, one.input_size) == ((100, 150), (64, 96))
    assert (np.diff(one.scores) <= 0).all()
    assert (one.boxes >= 0).all()
    assert (one.boxes <= [150, 100, 150, 100]).all()

    rgb = read_image(images / "a.png")[..., ::-1]
    from_array = detector.predict(rgb, **settings)
    assert same(from_array, one)
    assert from_array.path is None

    several = detector.predict([str(images / "a.png"), rgb, images / "b.jpg"], **settings)
    assert len(several) == 3
    assert same(several[0], several[1])
    assert [r.path for r in detector.predict(images, **settings)] == [images / "a.png", images / "b.jpg"]

    assert not np.array_equal(one.draw(), rgb)
    assert np.array_equal(one.draw(), from_array.draw(rgb))
    assert np.array_equal(one.draw(), from_array.draw())


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_arrays_must_be_rgb_bytes(weights: Path, image: Any) -> None:
    with pytest.raises(UserError, match="uint8 RGB array"):
        load(weights, device="cpu").predict(image)


def test_unreadable_image_is_an_error_in_python(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(UserError, match="cannot be read as an image"):
        load(weights, device="cpu").predict([tmp_path / "a.png"])


def test_image_size_is_rounded_up(weights: Path, images: Path, caplog: pytest.LogCaptureFixture) -> None:
    detector = load(weights, device="cpu")
    assert max(detector.predict(images / "a.png", imgsz=333).input_size) == 352
    detector.predict(images / "b.jpg", imgsz=333)
    assert caplog.text.count("imgsz 333 is not a multiple of the largest stride 32; using 352") == 1


def test_half_precision_gives_nearly_the_same(weights: Path, images: Path) -> None:
    settings = {"imgsz": 96, "conf_thres": 0.0, "max_det": 1}
    full = load(weights, device="cpu").predict(images / "a.png", **settings)
    detector = load(weights, device="cpu", half=True)
    assert detector.model.model[0].conv.weight.dtype == torch.bfloat16
    assert detector.model.head.anchors.dtype == torch.float32
    half = detector.predict(images / "a.png", **settings)
    assert half.scores[0] == pytest.approx(full.scores[0], rel=0.2)


def test_detector_keeps_the_given_model() -> None:
    model = build_model(load_spec("yolov5n", 2))
    Detector(model, half=True)
    assert model.training
    assert model.model[0].conv.weight.dtype == torch.float32


def test_a_line_of_pixels_is_an_image_like_others(weights: Path, tmp_path: Path) -> None:
    for shape in ((1, 5000, 3), (5000, 2, 3)):
        result = load(weights, device="cpu").predict(np.zeros(shape, np.uint8), imgsz=64)
        assert not isinstance(result, list)
        assert min(result.input_size) == 32


@pytest.mark.parametrize(
    "settings",
    [
        {"imgsz": 0},
        {"imgsz": -32},
        {"conf_thres": 25},
        {"iou_thres": -1},
        {"max_det": 0},
        {"classes": [0.7]},
        {"classes": [3]},
    ],
)
def test_python_settings_out_of_range(weights: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        load(weights, device="cpu").predict(np.zeros((64, 64, 3), np.uint8), **settings)


def test_finding_nothing_names_the_threshold(
    weights: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(config(weights, images, conf_thres=1.0, project=str(tmp_path), nosave=True))
    assert "nothing scored 1; a lower --conf-thres" in capsys.readouterr().out


def test_scores_go_into_label_files_only(weights: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="add --save-txt"):
        predict(config(weights, images, save_conf=True, project=str(tmp_path)))


def test_a_list_that_is_no_text(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xff\x00photo")
    with pytest.raises(UserError, match="not UTF-8"):
        predict(config(weights, tmp_path / "list.txt"))


def test_ctrl_c_keeps_what_was_found(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "set").mkdir()
    for number in range(4):
        write_image(tmp_path / "set" / f"{number}.jpg", np.full((64, 64, 3), 90, np.uint8))
    real, calls = Detector.run, list[Frame]()

    def run(self: Detector, frame: Frame, *args: Any) -> Any:
        calls.append(frame)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, frame, *args)

    monkeypatch.setattr(Detector, "run", run)
    argv = ["predict", "--weights", str(weights), "--source", str(tmp_path / "set"), "--imgsz", "64", "--save-json"]
    argv += ["--conf-thres", "0", "--max-det", "1", "--project", str(tmp_path / "runs"), "--device", "cpu"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background has it ignored
    try:
        assert main(argv) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    folder = tmp_path / "runs" / "exp"
    assert len(json.loads((folder / "predictions.json").read_text())) == 2
    assert sorted(file.name for file in folder.iterdir()) == ["0.jpg", "1.jpg", "predictions.json"]
    assert "2 boxes in 2 images" in capsys.readouterr().out


@pytest.mark.parametrize("batch_size", [2, 3, 16])
def test_results_do_not_depend_on_the_batch(
    batch_size: int, weights: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(2)
    for i, shape in enumerate([(60, 90, 3), (90, 60, 3), (60, 90, 3), (40, 90, 3), (100, 150, 3)]):
        write_image(images / f"c{i}.png", rng.integers(0, 255, shape, dtype=np.uint8))
    (images / "d.jpg").write_bytes(b"no image")
    found = []
    for size in (1, batch_size):
        settings = {"save_json": True, "nosave": True, "project": str(tmp_path / "runs")}
        folder = predict(config(weights, images, batch_size=size, **settings))
        lines = [line.partition(",")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("image ")]
        found.append((lines, json.loads((folder / "predictions.json").read_text())))
    (lines, alone), (lines_together, together) = found
    assert lines == lines_together
    assert len(alone) == 7 * 3
    for a, b in zip(alone, together, strict=True):
        assert (a["image_id"], a["category_id"]) == (b["image_id"], b["category_id"])
        assert a["bbox"] == pytest.approx(b["bbox"], abs=1e-3)


def without_packing(weights: Path) -> Detector:
    detector = Detector(load_model(weights), device=torch.device("cpu"))
    for module in detector.model.modules():
        if isinstance(module, PackedConv2d):
            module._can_pack = lambda _: False  # type: ignore[method-assign]
    return detector


def test_convolution_and_activation_run_together(weights: Path, images: Path) -> None:
    detector, image = load(weights, device="cpu"), images / "a.png"
    plain = without_packing(weights)
    packed = [module for module in detector.model.modules() if isinstance(module, PackedConv2d)]
    assert len(packed) in (0, 60)  # none where this build of torch has no such operators
    assert not any(
        isinstance(module, PackedConv2d) for module in load(weights, half=True, device="cpu").model.modules()
    )
    settings = {"imgsz": 96, "conf_thres": 0.0, "max_det": 20}
    fast, slow = detector.predict(image, **settings), plain.predict(image, **settings)
    assert isinstance(fast, Result)
    assert isinstance(slow, Result)
    np.testing.assert_allclose(fast.boxes, slow.boxes, atol=1e-3)
    np.testing.assert_allclose(fast.scores, slow.scores, atol=1e-6)
    assert all(module._packed is not None for module in packed)


def test_the_published_network_finds_the_same_boxes(shared: Path) -> None:
    file = shared / "weights" / "yolov5n.pt"
    plain, packed = without_packing(file), load(file, device="cpu")
    photos = sorted((shared / "data" / "coco_val164" / "images" / "val2017").glob("*.jpg"))[:6]
    for photo in photos:
        fast, slow = packed.predict(photo), plain.predict(photo)
        assert isinstance(fast, Result)
        assert isinstance(slow, Result)
        np.testing.assert_array_equal(fast.labels, slow.labels)
        np.testing.assert_allclose(fast.boxes, slow.boxes, atol=1e-3)
