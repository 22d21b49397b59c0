"""`boxwright info --schedule`: lines and picture of the rates of a run."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from boxwright.cli.main import main
from boxwright.errors import UserError
from boxwright.settings.load import load
from boxwright.yolo.hyp import load_run
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.verbs.info import describe_schedule
from tests.integration.small_runs import write_world

pytestmark = pytest.mark.filterwarnings("error")


def test_lines_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--images", "1000", "--epochs", "60", "--batch-size", "32", "--cos-lr", "--optim.lr0", "0.02"]
    assert main(["info", "--schedule", str(tmp_path / "a.png"), *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "SGD, cosine: 60 epochs of 32 steps, 32 images each, 2 gathered for a step in the end"
    assert lines[1] == "warm-up: until step 100 (epoch 3.125), biases from 0.1, others from 0, momentum from 0.8"
    assert lines[2].startswith("highest rate: 0.01988 at step 100")
    assert lines[3].startswith("last rate: 0.000254")
    assert lines[4] == f"drawn in {tmp_path / 'a.png'}"
    assert main(["info", "--schedule", str(tmp_path / "b.png"), *flags, "--optim.optimizer", "Adam"]) == 0
    first, second = (cv2.imread(str(tmp_path / name)) for name in ("a.png", "b.png"))
    assert first is not None
    assert second is not None
    assert np.ptp(first) > 100
    assert first.shape == second.shape
    assert (first != second).any()


@pytest.mark.parametrize("name", ["step", "exponential", "plateau", "one-cycle", "linear"])
@pytest.mark.parametrize("epochs", [1, 40])
def test_each_schedule_is_drawn(tmp_path: Path, name: str, epochs: int) -> None:
    report = describe_schedule(load(RunConfig, {"optim.schedule": name, "epochs": epochs}), 200)
    report.draw(tmp_path / f"{name}.svg")
    assert f"SGD, {name}" in report.text().splitlines()[0]
    assert (tmp_path / f"{name}.svg").stat().st_size > 5000
    assert ("ends in its warm-up" in report.text()) == (epochs == 1 and name != "one-cycle")


def test_all_epochs_are_looked_at_and_plateau_stands_still(tmp_path: Path) -> None:
    settings = {"optim.schedule": "plateau", "optim.plateau_patience": 3, "epochs": 30, "batch_size": 1}
    report = describe_schedule(load(RunConfig, settings), 5000)
    assert len(report.steps) <= 4000 + 60
    starts = {int(step) // 5000: one.lr_other for step, one in zip(report.steps, report.settings, strict=True)}
    assert [starts[epoch] for epoch in (3, 4, 5, 7, 8, 9)] == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.001, 0.0001])


def test_images_of_the_data_and_recipe_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data, network = write_world(tmp_path, num_images=6)
    report = describe_schedule(load(RunConfig, {"data": str(data), "model": str(network), "batch_size": 4}))
    assert report.steps_per_epoch == 2
    spp = describe_schedule(load(RunConfig, {"model": "yolov3-spp", "batch_size": 4}), 100)
    assert spp.config.optim.cos_lr
    assert spp.title.startswith("SGD, cosine of v3: 100 epochs of 25 steps")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--schedule"], "needs the number of training images"),
        (["--schedule", "--images", "0"], "images (--images): should be greater than or equal to 1"),
        (["--schedule", "yolov5n", "--images", "9"], "the picture is a file that ends in"),
        (["--schedule", "gone/a.png", "--images", "9"], "cannot write gone/a.png"),
        (["--schedule", "--images", "9", "--cos-lr", "--optim.schedule", "step"], "two schedules"),
        (["yolov5n", "--epochs", "3"], "--epochs is about a training run"),
        (["yolov5n", "--hyp", "VOC"], "--hyp is about a training run"),
    ],
)
def test_mistakes(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["info", *argv]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_preset_moves_the_rates() -> None:
    low, voc = (describe_schedule(load_run(RunConfig, hyp=name), 320) for name in ("scratch-low", "VOC"))
    assert low.settings[-1] != voc.settings[-1]
    with pytest.raises(UserError, match="no hyper-parameters"):
        load_run(RunConfig, hyp="gone")
