"""A run of a Darknet network: published settings where nothing is set, the 12 COCO numbers, tags, sizes, a resume."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from boxwright.settings.load import load
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.task import COCO_COLUMNS, Detect2d
from boxwright.yolo.verbs.train import resume, train
from tests.integration.small_runs import write_world
from tests.integration.test_resume import assert_same

CFG = """
[net]
channels=3
[convolutional]
filters=8
size=8
stride=8
batch_normalize=1
activation=leaky
[convolutional]
filters=8
size=1
batch_normalize=1
activation=leaky
[shortcut]
from=-2
[convolutional]
filters=16
size=4
stride=4
batch_normalize=1
activation=leaky
[convolutional]
filters=21
size=1
activation=linear
[yolo]
mask=0,1,2
anchors=10,14, 23,27, 37,58
classes=2
"""
TAGS = {
    "train/giou_loss",
    "train/obj_loss",
    "train/cls_loss",
    "train/loss",
    "learning_rate",
    "mAP@[IoU=0.50:0.95]",
    "mAP@[IoU=0.5]",
    "mAR@[IoU=0.50:0.95]",
}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data, _ = write_world(tmp_path, num_images=12)
    cfg = tmp_path / "small.cfg"
    cfg.write_text(CFG)
    return {"data": str(data), "model": str(cfg), "batch_size": 2, "imgsz": 128, "workers": 0, "device": "cpu"} | {
        "noplots": True,
        "project": str(tmp_path / "runs"),
        "epochs": 3,
        "optim.nominal_batch_size": 4,
        "optim.warmup_epochs": 1,
        "save_period": 1,
    }


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sides: list[int] = []
    rescaled = Detect2d._rescaled

    def note(self: Detect2d, images: torch.Tensor, epoch: int, step: int) -> torch.Tensor:
        result = rescaled(self, images, epoch, step)
        sides.append(result.shape[-1])
        return result

    monkeypatch.setattr(Detect2d, "_rescaled", note)
    del settings["save_period"]
    best = tmp_path / "best of this.pt"
    settings |= {"save_best_only": True, "best_weight": str(best), "result_name": "results.txt", "summary": True}
    folder = train(load(RunConfig, settings))
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert (written["loss"]["obj"], written["optim"]["release"], written["augment"]["release"]) == (64.3, "v3", "v3")
    rows = rows_of(folder)
    assert [float(row["x/lr0"]) for row in rows] == pytest.approx([0.001, 0.0007525, 0.0002575])
    for name in COCO_COLUMNS:
        assert -1 <= float(rows[-1][f"metrics/{name}"]) <= 1
    events = EventAccumulator(str(folder))
    events.Reload()
    assert {tag for tag in events.Tags()["scalars"] if not tag.startswith("cost/")} == TAGS
    total = events.Scalars("train/loss")[-1].value
    assert total == pytest.approx(
        sum(float(rows[-1][f"train/{name}_loss"]) for name in ("box", "obj", "cls")), rel=1e-4
    )
    assert [file.name for file in (folder / "weights").iterdir()] == ["best.pt"]
    assert best.read_bytes() == (folder / "weights" / "best.pt").read_bytes()
    text = (folder / "results.txt").read_text().splitlines()
    assert [line.split()[0] for line in text] == ["epoch:0", "epoch:1", "epoch:2"]
    expected = [float(rows[-1][f"metrics/{name}"]) for name in COCO_COLUMNS]
    assert [float(number) for number in text[-1].split()[1:]] == pytest.approx(expected, abs=6e-5)
    printed = capsys.readouterr().out
    assert "strides 32; " in printed  # the summary
    assert re.search(r"Using multi-scale training, image range \[\d+, \d+\]", printed)
    assert "weights on disk: best.pt" in printed
    # 64 to 192 for 128, one size for each two batches that gather a nominal one
    assert set(sides) <= set(range(64, 193, 32))
    assert len(set(sides)) > 1
    assert sides[0::2] == sides[1::2]


def test_a_resume(settings: dict[str, Any]) -> None:
    """Made longer after two epochs: with a rate that stays, it equals a run of three."""
    part = train(load(RunConfig, settings | {"name": "part", "optim.lrf": 1.0, "epochs": 2}))
    resume(part, {"epochs": 3})
    flat = train(load(RunConfig, settings | {"name": "flat", "optim.lrf": 1.0}))
    ours, theirs = (torch.load(f / "weights/last.pt", weights_only=True)["state_dict"] for f in (part, flat))
    assert_same(ours, theirs)
    assert rows_of(part) == rows_of(flat)


def test_the_backbone_of_weights_is_frozen(settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    first = train(load(RunConfig, settings | {"epochs": 1}))
    weights = first / "weights" / "last.pt"
    second = train(load(RunConfig, settings | {"epochs": 1, "weights": str(weights), "multi_scale": False}))
    assert "6 parameters of 11 are frozen" in capsys.readouterr().out
    before, after = (torch.load(f / "weights/last.pt", weights_only=True)["state_dict"] for f in (first, second))
    kernels = [f"module_list.{i}.Conv2d.weight" for i in (0, 1, 3, 4)]
    averaged = torch.load(weights, weights_only=True)["ema"]
    assert [torch.equal(averaged[name], after[name]) for name in kernels] == [True, True, False, False]
    assert before.keys() == after.keys()
