"""The run yaml: keys become settings, and every mistake names file, line and key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from boxwright.errors import UserError
from boxwright.settings.load import load
from boxwright.yolo.run_yaml import RunYaml, prediction_settings, read_run_yaml
from boxwright.yolo.settings import PredictConfig, RunConfig

ARTICLE = """
train_path: data/train
val_path: [data/val, data/more.txt]
task_name: thin things
names: [a, b]
gpu_ids: -1
weights: yolov5x.pt
source: pictures
output_pos: out
"""


def read(folder: Path, text: str) -> RunYaml:
    (folder / "run.yaml").write_text(text, encoding="utf-8")
    return read_run_yaml(folder / "run.yaml")


def test_defaults_are_those_of_the_article(tmp_path: Path) -> None:
    run = read(tmp_path, ARTICLE)
    config = load(RunConfig, run.training())
    periods = (config.val_period, config.save_period)
    assert (config.imgsz, config.epochs, config.batch_size, periods) == ((416,), 50, 4, (5, 5))
    assert (config.save_name, config.device, config.model) == ("epoch_", "cpu", "")
    assert config.weights == str(tmp_path / "yolov5x.pt")
    assert run.names == ("a", "b")
    assert run.paths("val_path") == (tmp_path / "data/val", tmp_path / "data/more.txt")
    assert run.path("work_dir", "work_dir") == tmp_path / "work_dir"


def test_a_prediction(tmp_path: Path) -> None:
    config = load(PredictConfig, read(tmp_path, ARTICLE).prediction())
    # The size is that of the weights: 416 is the default of training.
    assert (config.imgsz, config.source, config.device) == ((), str(tmp_path / "pictures"), "cpu")
    sized = load(PredictConfig, read(tmp_path, f"{ARTICLE}imgsz: 320\n").prediction())
    assert sized.imgsz == (320,)
    both = read(tmp_path, f"{ARTICLE}imgsz: [416, 640]\n")  # of training and test
    assert load(RunConfig, both.training()).imgsz == (416, 640)
    assert load(PredictConfig, both.prediction()).imgsz == (640,)
    camera = load(PredictConfig, read(tmp_path, "weights: w.pt\nsource: 0\n").prediction())
    assert camera.source == "0"


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("gpu_ids: 0", "0"),
        ("gpu_ids: '1'", "1"),
        ("gpu_ids: [2]", "2"),
        ("gpu_ids: '0, 1'", "0,1"),
        ("gpu_ids: [2, 0]", "2,0"),
        ("gpu_ids: []", ""),
        ("", ""),
        ("gpu_ids:", ""),
    ],
)
def test_gpu_ids(tmp_path: Path, text: str, device: str) -> None:
    assert load(RunConfig, read(tmp_path, text).training()).device == device


def test_a_prediction_takes_the_first_gpu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    config = load(PredictConfig, read(tmp_path, "weights: w.pt\nsource: 0\ngpu_ids: '1,0'\n").prediction())
    assert config.device == "1"
    assert "run.yaml:3, gpu_ids: a prediction runs on the first GPU, 1" in caplog.text


def test_a_prediction_finds_the_weights_of_its_task(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    text = "task_name: cells\nwork_dir: runs\nsource: pictures\noutput_pos: out\n"
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(UserError, match="lacks weights"):
        prediction_settings(tmp_path / "run.yaml", {})
    for number, name in enumerate(("01/b/weights/best.pt", "02/a/weights/best.pt", "02/a/weights/last.pt")):
        file = tmp_path / "runs" / "cells" / f"2026-01-{name}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        os.utime(file, (1e9 + number, 1e9 + number))
    newest = tmp_path / "runs" / "cells" / "2026-01-02" / "a" / "weights" / "best.pt"
    assert prediction_settings(tmp_path / "run.yaml", {}).weights == (str(newest),)
    assert "names no weights: those of the newest run of its task are taken" in caplog.text
    named = tmp_path / "own.pt"
    named.touch()
    os.utime(named, (1, 1))
    (tmp_path / "run.yaml").write_text(f"{text}weights: own.pt\n")
    assert prediction_settings(tmp_path / "run.yaml", {}).weights == (str(named),)
    assert "these weights are older than those of this task's newest run" in caplog.text


@pytest.mark.parametrize(
    ("text", "names"), [("names: {0: x, 1: y}", ("x", "y")), ("names: cell", ("cell",)), ("names: [1, 2]", ("1", "2"))]
)
def test_names(tmp_path: Path, text: str, names: tuple[str, ...]) -> None:
    assert read(tmp_path, text).names == names


def test_a_model_file_lies_beside_the_yaml(tmp_path: Path) -> None:
    assert load(RunConfig, read(tmp_path, "model: yolov5x@v3.0").training()).model == "yolov5x@v3.0"
    (tmp_path / "own.yaml").write_text("nc: 1\n")
    assert load(RunConfig, read(tmp_path, "model: own.yaml").training()).model == str(tmp_path / "own.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\ntrain_pth: x", r"run.yaml:2: train_pth is no key of a run yaml; did you mean train_path\?"),
        ("optim.lr0: 1", r"run.yaml:1: optim.lr0 is no key of a run yaml; a run yaml has train_path, .*flags"),
        ("names: []", "run.yaml:1: names is a list of different class names"),
        ("names: [a, a]", "names is a list of different"),
        ("names: {0: a, 2: b}", "keys of names run from 0 to 1"),
        ("- a", "run.yaml:1: settings are lines"),
        ("epochs: 1\nepochs: 2", "run.yaml:2: epochs is set a second time"),
    ],
)
def test_mistakes_of_reading(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epochs: many", r"epochs \(.*run.yaml:1, epochs\)"),
        ("eval_interval: 0", r"val_period \(.*run.yaml:1, eval_interval\)"),
        ("imgsz: [320, 640, 416]", r"imgsz \(.*run.yaml:1, imgsz\)"),
        ("weights: [a]", "run.yaml:1: weights is a path"),
    ],
)
def test_mistakes_of_values_name_the_key(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load(RunConfig, read(tmp_path, text).training())


def test_what_is_missing(tmp_path: Path) -> None:
    run = read(tmp_path, "train_path: x")
    run.need("train_path")
    with pytest.raises(UserError, match=r"run.yaml lacks val_path \(images to validate on.*\), weights"):
        run.need("train_path", "val_path", "weights")
    with pytest.raises(UserError, match=r"run.yaml:1: val_path is a path or a list of paths, not 3"):
        read(tmp_path, "val_path: 3").paths("val_path")


def test_a_task_that_is_a_link_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("work", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "work" / "cells").symlink_to(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "work")
    file = tmp_path / "work" / "run.yaml"
    file.write_text("task_name: cells\nwork_dir: .\nsource: pictures\noutput_pos: out\nweights: w.pt\n")
    with pytest.raises(UserError, match=r"run\.yaml:1: task_name 'cells' lies neither"):
        prediction_settings(file, {})
