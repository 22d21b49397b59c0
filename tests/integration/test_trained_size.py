"""A network remembers the size that it was trained at: without --imgsz every verb and every form of it takes that."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import boxwright as bw
from boxwright.checkpoints.native import load_checkpoint, save_checkpoint
from boxwright.yolo.detector import Result
from boxwright.yolo.evaluation import Evaluation
from boxwright.yolo.export import ExportedNetwork
from boxwright.yolo.weights import read_weights
from tests.integration.small_runs import write_world

SIDE = 96
SETTINGS: dict[str, Any] = {"epochs": 3, "batch_size": 4, "workers": 0, "device": "cpu", "noplots": True}
LEARN = {
    "loss": {"obj": 50.0},
    "optim": {"lr0": 0.02, "warmup_epochs": 0.0, "nominal_batch_size": 4, "ema_decay": 0.5},
    "seed": 7,
}
LOWEST = 0.0  # so that there is something to find after a few steps


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run folder and its data."""
    root = tmp_path_factory.mktemp("sides")
    data, network = write_world(root, num_images=12)
    settings = SETTINGS | LEARN | {"conf_thres": LOWEST, "project": str(root / "runs")}
    return bw.train(data, model=network, imgsz=SIDE, noautoanchor=True, **settings), data


@pytest.fixture(scope="module")
def exported(run: tuple[Path, Path]) -> Path:
    (made,) = bw.export(best_of(run))
    return made


def best_of(run: tuple[Path, Path]) -> Path:
    return run[0] / "weights" / "best.pt"


def measured(weights: str | Path, run: tuple[Path, Path], **settings: Any) -> Evaluation:
    given = {"workers": 0, "device": "cpu", "conf_thres": LOWEST, "noplots": True, "batch_size": 8}
    found = bw.val(weights, run[1], project=str(run[0].parent / "val"), **(given | settings))
    assert isinstance(found, Evaluation)
    return found


def found_in(weights: str | Path, image: Path, **settings: Any) -> Result:
    found = bw.load(weights, device="cpu").predict(image, conf_thres=LOWEST, max_det=10, **settings)
    assert isinstance(found, Result)
    assert len(found)
    return found


def images_of(run: tuple[Path, Path]) -> list[Path]:
    return sorted((run[1].parent / "images" / "train").iterdir())


def test_every_verb_measures_what_the_run_did(
    run: tuple[Path, Path], exported: Path, caplog: pytest.LogCaptureFixture
) -> None:
    last_table = json.loads((run[0] / "metrics.json").read_text())["yolov5"]
    caplog.set_level(logging.INFO, "boxwright")
    image = images_of(run)[0]
    expected = found_in(best_of(run), image, imgsz=SIDE)
    assert max(expected.input_size) == SIDE
    assert "imgsz" not in caplog.text  # it was asked for
    for weights, how in ((best_of(run), "trained at"), (exported, "exported for")):
        caplog.clear()
        found = measured(weights, run)
        assert caplog.text.count(f"imgsz {SIDE}, which {weights} was {how}") == 1
        numbers = (found.map50, found.map)
        assert numbers == pytest.approx((last_table["mAP_0.5"], last_table["mAP_0.5:0.95"]), rel=1e-3, abs=0)
        assert numbers[0] > 0
        same = found_in(weights, image)
        assert same.input_size == expected.input_size
        np.testing.assert_allclose(same.boxes, expected.boxes, atol=1e-3)
    caplog.clear()
    other = measured(best_of(run), run, imgsz=2 * SIDE)
    assert f"imgsz {2 * SIDE}, but {best_of(run)} was trained at {SIDE} (taken without --imgsz)" in caplog.text
    assert other.map != pytest.approx(last_table["mAP_0.5:0.95"], rel=1e-3, abs=0)


def test_predict_says_it_once(run: tuple[Path, Path], caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.INFO, "boxwright")
    bw.predict(best_of(run), images_of(run)[0].parent, device="cpu", project=str(tmp_path), nosave=True)
    assert caplog.text.count("imgsz") == 1


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_forms_of_the_weights(run: tuple[Path, Path], tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"copy{suffix}"
    bw.convert("weights", best_of(run), target)
    assert read_weights(target).trained_size == (SIDE, SIDE)
    again = tmp_path / "again.pt"
    bw.convert("weights", target, again)
    assert max(found_in(again, images_of(run)[0]).input_size) == SIDE


def test_info_says_it(run: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    bw.info(best_of(run))
    assert f"; trained at {SIDE} px" in capsys.readouterr().out


def test_checkpoints_of_before(run: tuple[Path, Path], tmp_path: Path) -> None:
    """Their description of the model has no size; the settings of their run have."""
    content = load_checkpoint(best_of(run))
    del content["model"]["imgsz"]
    save_checkpoint(tmp_path / "old.pt", content)
    assert read_weights(tmp_path / "old.pt").trained_size == (SIDE, SIDE)
    del content["config"]
    save_checkpoint(tmp_path / "bare.pt", content)
    assert read_weights(tmp_path / "bare.pt").trained_size is None
    assert max(found_in(tmp_path / "bare.pt", images_of(run)[0]).input_size) == 640


def test_fine_tuning_with_two_sizes_remembers_that_of_validation(
    run: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "boxwright")
    settings = SETTINGS | {"epochs": 1, "noautoanchor": True, "project": str(tmp_path)}
    folder = bw.train(run[1], weights=best_of(run), imgsz=(SIDE, 64), conf_thres=LOWEST, **settings)
    assert f"imgsz 64, but {best_of(run)} was trained at {SIDE}" in caplog.text
    assert caplog.text.count(f"imgsz: {SIDE} pixels in training, 64 in validation") == 1
    best, last_table = folder / "weights" / "best.pt", json.loads((folder / "metrics.json").read_text())["yolov5"]
    assert read_weights(best).trained_size == (64, 64)
    assert measured(best, run).map == pytest.approx(last_table["mAP_0.5:0.95"], rel=1e-3, abs=1e-9)
    assert f"imgsz 64, which {best} was validated at" in caplog.text
    longer = bw.train(resume=folder, epochs=2)
    assert read_weights(longer / "weights" / "last.pt").trained_size == (64, 64)


@pytest.mark.parametrize("static", [True, False])
def test_a_file_is_for_the_size_that_it_was_exported_for(
    run: tuple[Path, Path], tmp_path: Path, static: bool, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "two sides.pt"
    copy.write_bytes(best_of(run).read_bytes())
    (made,) = bw.export(copy, imgsz=[32, 64], static=static, include=["torchscript"])
    assert f"imgsz 32 64, but {copy} was trained at {SIDE}" in caplog.text
    network = ExportedNetwork(made, torch.device("cpu"))
    assert network.trained_size == (32, 64)
    assert network.input_size == ((32, 64) if static else None)
    height, width = found_in(made, images_of(run)[0]).input_size
    assert height <= 32
    assert width <= 64


def test_two_sides(run: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    """Predict fits an image into them, val gives every image just that shape."""
    image = images_of(run)[0]
    one, two = (found_in(best_of(run), image, imgsz=size) for size in (64, (64, 64)))
    np.testing.assert_array_equal(one.boxes, two.boxes)
    low = found_in(best_of(run), image, imgsz=(32, 128))
    assert low.input_size[0] == 32
    assert measured(best_of(run), run, imgsz=(32, 128)).num_images == len(images_of(run))
    caplog.clear()
    found_in(best_of(run), image, imgsz=(40, 64))
    assert "imgsz 40 is not a multiple of the largest stride 32; using 64" in caplog.text


def test_networks_of_different_sizes_together(run: tuple[Path, Path], tmp_path: Path) -> None:
    content = load_checkpoint(best_of(run))
    content["model"]["imgsz"] = [32, 32]
    small = tmp_path / "small.pt"
    save_checkpoint(small, content)
    detector = bw.load([small, best_of(run)], device="cpu")
    assert detector.input_size() == (SIDE, SIDE)
