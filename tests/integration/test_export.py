"""`boxwright export`: files that find what their network finds, and what a user is told when one cannot be had."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import boxwright as bw
from boxwright.checkpoints.native import save_checkpoint
from boxwright.cli.main import main
from boxwright.data.images import read_image
from boxwright.errors import UserError
from boxwright.inference import exported
from boxwright.yolo.detection import DetectionModel
from boxwright.yolo.evaluation import Evaluation
from boxwright.yolo.export import ExportRows, YoloAgreement, YoloInfo
from boxwright.yolo.published import CURRENT, RELEASES
from boxwright.yolo.zoo import build_model, load_spec
from tests.integration.small_runs import write_world

SCORE = 0.3  # an untrained network is made to find things above it
NAMES = ("Erythrozyt", "Thrombo, groß")


def write_checkpoint(path: Path, model: DetectionModel) -> Path:
    about = {"spec": model.spec.to_mapping(), "names": list(NAMES), "strides": list(model.strides)}
    save_checkpoint(path, {"model": about, "state_dict": model.state_dict(), "ema": None})
    return path


def sure_network(spec: Any) -> DetectionModel:
    """Untrained, but with scores around the middle, so that there is something to compare."""
    torch.manual_seed(0)
    model = build_model(spec).eval()
    for name, value in model.named_parameters():
        if name.startswith(model.predictor_prefixes):
            with torch.no_grad():
                value.mul_(3) if value.ndim > 1 else value.copy_(torch.rand_like(value) - 0.5)
    return model


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data yaml, and a checkpoint with its exported files beside it."""
    root = tmp_path_factory.mktemp("ein Ordner ü")
    data, network = write_world(root, num_images=4)
    weights = write_checkpoint(root / "best.pt", sure_network(load_spec(str(network), 2)))
    return data, weights


def images_of(data: Path) -> Path:
    return data.parent / "images" / "train"


@pytest.fixture(scope="module")
def files(world: tuple[Path, Path]) -> dict[Path, YoloAgreement]:
    data, weights = world
    include = ["onnx", "torchscript", "openvino"]
    return bw.export(weights, include=include, imgsz=128, source=str(images_of(data)), conf_thres=SCORE)


def test_every_kind_agrees_with_pytorch(world: tuple[Path, Path], files: dict[Path, YoloAgreement]) -> None:
    _, weights = world
    assert [path.name for path in files] == ["best.onnx", "best.torchscript", "best_openvino_model"]
    for path, agreement in files.items():
        assert path.parent == weights.parent
        assert agreement.box_pixels is not None
        assert agreement.box_pixels < 1e-3
        assert agreement.num_same == agreement.num_detections > 0
        assert agreement.num_extra == 0
    left = {path.name for path in weights.parent.iterdir()}
    assert left == {"best.pt", "best.onnx", "best.torchscript", "best_openvino_model", "data", "tiny.yaml"}


def test_predict_takes_them_at_any_size(world: tuple[Path, Path], files: dict[Path, YoloAgreement]) -> None:
    data, weights = world
    photo = next(iter(sorted(images_of(data).iterdir())))
    for imgsz in (96, 160):
        expected = bw.load(weights, device="cpu").predict(photo, imgsz=imgsz, conf_thres=SCORE)
        assert not isinstance(expected, list)
        for path in files:
            detector = bw.load(path, device="cpu")
            assert detector.names == NAMES
            result = detector.predict(photo, imgsz=imgsz, conf_thres=SCORE)
            assert not isinstance(result, list)
            assert result.labels.tolist() == expected.labels.tolist()
            np.testing.assert_allclose(result.boxes, expected.boxes, atol=1e-3)


def test_val_takes_them_in_batches(world: tuple[Path, Path], files: dict[Path, YoloAgreement], tmp_path: Path) -> None:
    data, weights = world
    settings: dict[str, Any] = {"imgsz": 96, "batch_size": 3, "workers": 0, "noplots": True, "project": str(tmp_path)}
    expected = bw.val(weights, data, **settings)
    for path in files:
        assert bw.val(path, data, **settings).map == pytest.approx(expected.map, abs=1e-6)


def test_nms_in_the_file(world: tuple[Path, Path]) -> None:
    data, weights = world
    settings = {"imgsz": 128, "conf_thres": SCORE, "iou_thres": 0.4, "source": str(images_of(data))}
    made = bw.export(weights, include=["onnx", "openvino"], nms=True, **settings)
    assert [path.name for path in made] == ["best_nms.onnx", "best_nms_openvino_model"]
    photo = read_image(next(iter(sorted(images_of(data).iterdir()))))[..., ::-1]
    thresholds = {"imgsz": 128, "conf_thres": SCORE, "iou_thres": 0.4}
    expected = bw.load(weights, device="cpu").predict(photo, **thresholds)
    assert not isinstance(expected, list)
    for path, agreement in made.items():
        assert agreement.box_pixels is None
        assert agreement.num_same == agreement.num_detections > 0
        result = bw.load(path, device="cpu").predict(photo, **thresholds)
        assert not isinstance(result, list)
        assert len(result) == len(expected) > 0
        assert set(result.labels.tolist()) == set(expected.labels.tolist())
        np.testing.assert_allclose(result.scores, expected.scores, atol=1e-4)
        images = torch.rand(3, 3, 64, 96)  # rows of several images are told apart
        network = bw.load(path, device="cpu").model
        alone = [network.decode(network(image[None]))[0] for image in images]
        for one, rows in zip(alone, network.decode(network(images)), strict=True):
            torch.testing.assert_close(rows[: len(one)], one, atol=1e-4, rtol=1e-4)
            assert not rows[len(one) :].any()


@pytest.mark.parametrize("kind", ["half", "int8"])
def test_smaller_numbers(world: tuple[Path, Path], kind: str) -> None:
    data, weights = world
    include = ["onnx", "openvino"] + (["torchscript"] if kind == "half" else [])
    made = bw.export(weights, include=include, imgsz=128, source=str(images_of(data)), conf_thres=SCORE, **{kind: True})
    for path, agreement in made.items():
        assert f"_{kind}" in path.name
        assert agreement.score is not None
        assert 1e-6 < agreement.score < (0.01 if kind == "half" else 0.2)


def test_a_static_file_takes_one_size(
    world: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, weights = world
    copy = tmp_path / "wide.pt"
    copy.write_bytes(weights.read_bytes())
    made = bw.export(copy, include=["onnx", "torchscript"], imgsz=[64, 128], static=True)
    photo = next(iter(sorted(images_of(data).iterdir())))
    for path in made:
        detector = bw.load(path, device="cpu")
        result = detector.predict(photo, imgsz=640)
        assert not isinstance(result, list)
        assert result.input_size == (64, 128)
        assert f"imgsz 640 is not used: {path} takes 128x64 pixels only" in caplog.text
        caplog.clear()
        with pytest.raises(UserError, match="128x64 pixels only"):
            detector.model(torch.zeros(1, 3, 64, 64))
        found = bw.val(path, data, workers=0, conf_thres=0.0, project=str(tmp_path))
        again = bw.val(copy, data, imgsz=(64, 128), workers=0, conf_thres=0.0, project=str(tmp_path))
        assert isinstance(found, Evaluation)
        assert isinstance(again, Evaluation)
        assert (found.map, found.num_images) == (pytest.approx(again.map, abs=1e-6), again.num_images)


@pytest.mark.parametrize("release", ["v7.0", "v3.0"])
def test_files_say_the_release(world: tuple[Path, Path], tmp_path: Path, release: str) -> None:
    network = world[1].parent / "tiny.yaml"
    spec = replace(load_spec(str(network), 2), generation=release)  # type: ignore[type-var]
    weights = write_checkpoint(tmp_path / "old.pt", build_model(spec))
    (file,) = bw.export(weights, include=["torchscript"], imgsz=64, static=True)
    detector = bw.load(file, device="cpu")
    assert detector.model.release == release
    assert detector._release is RELEASES[release]  # pyright: ignore[reportPrivateUsage]


def test_metadata_of_other_versions() -> None:
    info = YoloInfo(("a",), None, (8, 16), "rows", "v3.0")
    assert YoloInfo.from_json(info.to_json(), Path("x.onnx")) == info
    fields = json.loads(info.to_json())
    del fields["release"]  # as files before the release was written
    assert YoloInfo.from_json(json.dumps(fields), Path("x.onnx")).release == CURRENT
    with pytest.raises(UserError, match="not an exported YOLO network"):
        YoloInfo.from_json(json.dumps(fields | {"release": "v99"}), Path("x.onnx"))


def test_rows_are_those_of_decode(world: tuple[Path, Path]) -> None:
    for spec in (load_spec("yolov3-tiny", 2), load_spec("yolov5s@v1.0", 2)):
        model = sure_network(spec)
        images = torch.rand(2, 3, 64, 96)
        with torch.no_grad():
            torch.testing.assert_close(ExportRows(model)(images), model.decode(model(images)), atol=1e-3, rtol=1e-4)


def missing(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    real = importlib.import_module

    def without(name: str) -> object:
        if name.partition(".")[0] == library:
            raise ModuleNotFoundError(name, name=name)
        return real(name)

    monkeypatch.setattr(exported.importlib, "import_module", without)


@pytest.mark.parametrize(("kind", "library"), [("onnx", "onnxscript"), ("openvino", "openvino")])
def test_a_missing_library(world: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, kind: str, library: str) -> None:
    missing(monkeypatch, library)
    with pytest.raises(UserError, match=rf"needs {library}, which is not installed: pip install"):
        bw.export(world[1], include=[kind])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"include": ["torchscript"], "nms": True}, "--nms is for ONNX and OpenVINO only"),
        ({"half": True, "int8": True}, "do not go together"),
        ({"int8": True}, "--int8 needs --source"),
        ({"imgsz": 100}, "multiples of the largest stride 32, such as 96"),
        ({"imgsz": [64, 64, 64]}, "at most 2 items"),
        ({"source": "nowhere"}, "nowhere"),
        ({"include": ["tensorrt"]}, "include"),
    ],
)
def test_settings_that_cannot_be(
    world: tuple[Path, Path], settings: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(world[1].parent.iterdir())
    with pytest.raises(UserError, match=message):
        bw.export(world[1], **settings)
    assert sorted(world[1].parent.iterdir()) == before


def test_files_that_are_not_ours(world: tuple[Path, Path], files: dict[Path, YoloAgreement], tmp_path: Path) -> None:
    import onnx

    for name in ("a.onnx", "b.torchscript", "c.xml"):
        (tmp_path / name).write_text("no network")
        with pytest.raises(UserError, match="cannot be read as"):
            bw.load(tmp_path / name, device="cpu")
        with pytest.raises(UserError, match="no weights at"):
            bw.load(tmp_path / f"other {name}", device="cpu")
    stranger = onnx.load(str(next(iter(files))))
    onnx.helper.set_model_props(stranger, {"names": "['one']"})
    onnx.save(stranger, str(tmp_path / "stranger.onnx"))
    with pytest.raises(UserError, match=r"neither exported by Boxwright nor by a published YOLOv5"):
        bw.load(tmp_path / "stranger.onnx", device="cpu")
    with pytest.raises(UserError, match=r"precision of .* is fixed"):
        bw.load(next(iter(files)), device="cpu", half=True)
    with pytest.raises(UserError, match="is an exported file already"):
        bw.export(next(iter(files)))


def test_a_failure_leaves_the_old_file(world: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    weights = world[1]
    target = weights.with_suffix(".onnx")
    target.write_bytes(b"old")

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exported, "write_onnx", full_disk)
    before = sorted(weights.parent.iterdir())
    with pytest.raises(UserError, match="No space left"):
        bw.export(weights)
    assert target.read_bytes() == b"old"
    assert sorted(weights.parent.iterdir()) == before


def test_command_line(world: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--weights", str(world[1]), "--include", "torchscript", "--imgsz", "96"]) == 0
    printed = capsys.readouterr().out
    assert "best.torchscript" in printed
    assert "boxes differ by at most" in printed
    assert "nothing was found in these images" not in printed
    assert main(["export", "--weights", str(world[1]), "--include", "torchscript", "--conf-thres", "1"]) == 0
    assert "nothing was found in these images" in capsys.readouterr().out
    assert main(["export"]) == 2
    assert "export needs --weights" in capsys.readouterr().err
