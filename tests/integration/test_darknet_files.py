"""A network of YOLOv4's kinds of layers: trained by two losses, written as `.weights`, measured and run by its cfg."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import boxwright as bw
from boxwright.cli.main import main
from boxwright.yolo.weights import load_model
from tests.integration.small_runs import write_world

CFG = """
[net]
width=128
height=128
channels=3
mosaic=1

[convolutional]
batch_normalize=1
filters=8
size=8
stride=8
activation=mish

[convolutional]
batch_normalize=1
filters=8
size=3
pad=1
activation=swish
stopbackward=800

[shortcut]
from=-2
weights_type=per_feature
weights_normalization=softmax
activation=linear

[route]
layers=-1
groups=2
group_id=1

[maxpool]
size=2
stride=2

[convolutional]
filters=21
size=1
activation={}

[yolo]
mask=0,1,2
anchors=10,14, 23,27, 37,58
classes=2
num=3
scale_x_y={}
"""
CFGS = {"scale_x_y": CFG.format("linear", "1.2"), "new_coords": CFG.format("logistic", "2.0\nnew_coords=1")}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return str(write_world(tmp_path, num_images=6)[0])


def test_train_convert_val_predict_export(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of_run = ["--data", data, "--imgsz", "128", "--workers", "0", "--device", "cpu", "--noplots"]
    best: dict[str, Path] = {}
    for (kind, text), release in zip(CFGS.items(), ("v3", "v7.0"), strict=True):
        cfg = tmp_path / f"{kind}.cfg"
        cfg.write_text(text)
        project = ["--project", str(tmp_path / "runs"), "--name", kind, "--epochs", "1", "--batch-size", "4"]
        assert main(["train", "--cfg", str(cfg), "--release", release, *of_run, *project]) == 0
        best[kind] = tmp_path / "runs" / kind / "weights" / "best.pt"
        written = tmp_path / "files" / f"{kind}.weights"
        written.parent.mkdir(exist_ok=True)
        assert main(["convert", "weights", str(best[kind]), str(written)]) == 0
        assert "width=128\nheight=128\n" in written.with_suffix(".cfg").read_text()
    # Away from its cfg a file does not say its network.
    alone = Path(shutil.copy(written, tmp_path / "alone.weights"))
    shutil.copy(written.with_suffix(".names"), alone.with_suffix(".names"))
    image = str(next(file for file in tmp_path.rglob("*") if file.suffix in (".jpg", ".png", ".bmp")))
    for argv in (["val", *of_run], ["predict", "--source", image], ["export"]):
        assert main([*argv, "--weights", str(alone)]) == 2
        assert "put the cfg beside it as alone.cfg, or name it by --cfg" in capsys.readouterr().err
    to = ["--project", str(tmp_path / "out")]
    assert main(["val", *of_run, *to, "--weights", str(alone), "--cfg", str(cfg)]) == 0
    measured = bw.val(str(alone), data, model=str(cfg), imgsz=128, workers=0, device="cpu", **places(tmp_path))
    own = bw.val(str(best[kind]), data, imgsz=128, workers=0, device="cpu", **places(tmp_path))
    np.testing.assert_array_equal(measured.coco, own.coco)
    assert main(["predict", "--source", image, "--imgsz", "128", *to, "--weights", str(alone), "--cfg", str(cfg)]) == 0
    assert main(["export", "--imgsz", "128", "--weights", str(alone), "--cfg", str(cfg)]) == 0
    given = {"conf_thres": 0.01, "imgsz": 128}
    expected = bw.load(best[kind]).predict(image, **given)
    for found in (
        bw.load(alone, model=str(cfg)).predict(image, **given),
        bw.load(tmp_path / "alone.onnx").predict(image, **given),
    ):
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-2)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    # Nothing is taken for the network of a file that says its own.
    capsys.readouterr()
    assert main(["val", *of_run, "--weights", str(best[kind]), "--cfg", str(cfg)]) == 2
    assert "says its network itself: leave it out" in capsys.readouterr().err
    assert main(["predict", "--source", image, "--weights", str(alone), "--cfg", "yolov4-tiny"]) == 2
    assert "is too short" in capsys.readouterr().err


def places(tmp_path: Path) -> dict[str, Any]:
    return {"project": str(tmp_path / "out"), "noplots": True}


def test_darknet_files_keep_the_size_of_the_training(
    data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It stands in the cfg beside them, and is taken from there."""
    cfg = tmp_path / "net.cfg"
    cfg.write_text(CFGS["scale_x_y"])
    settings = {"epochs": 1, "batch_size": 4, "workers": 0, "device": "cpu", "noval": True}
    run = bw.train(data, model=str(cfg), imgsz=64, **settings, **places(tmp_path))
    best, target = run / "weights" / "last.pt", tmp_path / "of_run.weights"
    bw.convert("weights", best, target)
    assert "width=64\nheight=64\n" in target.with_suffix(".cfg").read_text()
    assert load_model(target).trained_size == (64, 64)
    target.with_suffix(".cfg").write_text(cfg.read_text().replace("width=128", "width=224"))
    assert load_model(target).trained_size == (128, 224)
    # Not made larger, though its release pads images to a multiple of 64.
    assert bw.load(target, device="cpu").input_size() == (128, 224)
    caplog.clear()
    bw.convert("weights", best, target)
    assert f"of_run.cfg stays as it is, but {best} was trained at width=64 and height=64" in caplog.text


def test_training_begins_from_a_file_of_any_name(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cfg beside the file comes first, then a published name; else it is taken for what is trained."""
    cfg = tmp_path / "net.cfg"
    cfg.write_text(CFGS["scale_x_y"])
    start = ["--data", data, "--imgsz", "64", "--workers", "0", "--device", "cpu", "--noplots", "--epochs", "1"]
    argv = ["train", "--cfg", str(cfg), *start, "--project", str(tmp_path), "--batch-size", "8"]
    assert main([*argv, "--name", "first"]) == 0
    assert (
        main(["convert", "weights", str(tmp_path / "first" / "weights" / "best.pt"), str(tmp_path / "a.weights")]) == 0
    )
    (tmp_path / "a.cfg").unlink()
    backbone = tmp_path / "some.conv.2"
    values = len(load_model(tmp_path / "a.weights", str(cfg)).state_dict())
    backbone.write_bytes((tmp_path / "a.weights").read_bytes()[: 20 + 4 * (8 * 4 + 8 * 3 * 64)])
    capsys.readouterr()
    assert main([*argv, "--weights", str(tmp_path / "a.weights"), "--name", "second"]) == 0
    assert f"Transferred {values}/{values} items" in capsys.readouterr().out
    assert main([*argv, "--weights", str(backbone), "--name", "third"]) == 0
    assert f"Transferred 6/{values} items" in capsys.readouterr().out


def test_a_backbone_of_a_published_name_is_known_by_it(tmp_path: Path) -> None:
    """As yolov4.conv.137 is found: the name before .conv. says the network."""
    from boxwright.yolo.darknet import DarknetModel
    from boxwright.yolo.weights import read_weights
    from boxwright.yolo.zoo import load_spec

    torch.manual_seed(0)
    model = DarknetModel(load_spec("yolov4-tiny"))  # type: ignore[arg-type]
    first = [model.state_dict()[f"module_list.0.{part}"] for part in ("BatchNorm2d.bias", "BatchNorm2d.weight")]
    first += [model.state_dict()[f"module_list.0.BatchNorm2d.running_{part}"] for part in ("mean", "var")]
    first.append(model.state_dict()["module_list.0.Conv2d.weight"])
    body = b"".join(value.detach().numpy().tobytes() for value in first)
    file = tmp_path / "yolov4-tiny.conv.1"
    file.write_bytes(np.array([0, 2, 5], "<i4").tobytes() + bytes(8) + body)
    assert set(read_weights(file).state_dict) == {key for key in model.state_dict() if key.startswith("module_list.0.")}
