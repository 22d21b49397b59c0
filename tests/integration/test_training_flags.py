"""Flags of `boxwright train` on a few images, through the command line: each test needs its flag to work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from boxwright.cli.main import main
from boxwright.data import source_images
from boxwright.data.structures import Batch
from boxwright.engine.task import StepLoss
from boxwright.yolo import auto_batch
from boxwright.yolo.metric import YoloMetrics
from boxwright.yolo.task import Detect2d
from tests.integration.small_runs import NETWORK
from tests.integration.test_resume import assert_same
from tests.unit.data.small_sets import write_image

IMAGES, BATCH, SIDE = 12, 4, 64
STEPS = 3
SETTINGS = {
    "--epochs": "2",
    "--batch-size": str(BATCH),
    "--imgsz": str(SIDE),
    "--workers": "0",
    "--device": "cpu",
    "--precision": "fp32",
    "--optim.nominal_batch_size": str(BATCH),  # an update a step
    "--seed": "3",
}


@dataclass
class Seen:
    """What a run has shown of itself."""

    folder: Path
    batches: list[Batch] = field(default_factory=list)
    losses: list[StepLoss] = field(default_factory=list)
    inputs: list[tuple[int, int]] = field(default_factory=list)  # what the network got in training
    decoded: list[int] = field(default_factory=list)  # files so far, at each step
    first: dict[str, torch.Tensor] = field(default_factory=dict)  # weights before the first step

    @property
    def order(self) -> list[list[int]]:
        """Images of each epoch."""
        images = [batch.indices.tolist() for batch in self.batches]
        return [list(chain(*images[start : start + STEPS])) for start in range(0, len(images), STEPS)]

    def checkpoint(self) -> dict[str, Any]:
        return torch.load(self.folder / "weights" / "last.pt", weights_only=True)

    def weights(self) -> dict[str, torch.Tensor]:
        return self.checkpoint()["state_dict"]


Train = Callable[..., Seen]


def write_few(root: Path) -> list[str]:
    """Images of several sizes with boxes of ten classes, and a small network; gives the flags that name them."""
    rng = np.random.default_rng(5)
    (root / "labels" / "few").mkdir(parents=True)
    for number in range(IMAGES):
        height, width = ((48, 64), (64, 64), (64, 40))[number % 3]
        write_image(root / "images" / "few" / f"{number:02}.jpg", height, width, seed=number)
        boxes = np.c_[rng.uniform(0.35, 0.65, (3, 2)), rng.uniform(0.2, 0.6, (3, 2))].round(3)
        rows = [f"{(number + 4 * k) % 10} " + " ".join(map(str, box)) for k, box in enumerate(boxes.tolist())]
        (root / "labels" / "few" / f"{number:02}.txt").write_text("\n".join(rows) + "\n")
    names = [f"kind {k}" for k in range(10)]
    (root / "few.yaml").write_text(yaml.safe_dump({"train": "images/few", "val": "images/few", "names": names}))
    (root / "tiny.yaml").write_text(NETWORK)
    return ["--data", str(root / "few.yaml"), "--model", str(root / "tiny.yaml"), "--project", str(root / "runs")]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    root = tmp_path_factory.mktemp("flags")
    files = write_few(root)
    given = [word for pair in SETTINGS.items() for word in pair]

    def trained(name: str, *flags: str) -> Seen:
        seen = Seen(root / "runs" / name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
            watch(seen, patch)
            quiet = ["--noplots", "--noautoanchor", "--name", name]
            assert main(["train", *files, *given, *quiet, *flags]) == 0
        return seen

    return trained


def watch(seen: Seen, patch: pytest.MonkeyPatch) -> None:
    loss, read = Detect2d.loss, source_images.read_indexed_image
    count = [0]

    def watched_loss(task: Detect2d, batch: Batch, epoch: int, step: int) -> StepLoss:
        if not seen.batches:
            seen.first = {name: value.clone() for name, value in task.model.state_dict().items()}
            task.model.register_forward_pre_hook(lambda _, args: seen.inputs.append(tuple(args[0].shape[2:])))
        found = loss(task, batch, epoch, step)
        seen.batches.append(batch)
        seen.losses.append(StepLoss(found.total.detach(), found.items))
        seen.decoded.append(count[0])
        return found

    def watched_read(*args: Any) -> Any:
        count[0] += 1
        return read(*args)

    patch.setattr(Detect2d, "loss", watched_loss)
    patch.setattr(source_images, "read_indexed_image", watched_read)


@pytest.fixture(scope="module")
def plain(train: Train) -> Seen:
    return train("plain")


def same_weights(first: Seen, second: Seen) -> bool:
    one, other = first.weights(), second.weights()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_nothing_random_is_left(train: Train, plain: Seen) -> None:
    """What the other tests compare with."""
    assert same_weights(train("again"), plain)
    assert {batch.images.shape for batch in plain.batches} == {(BATCH, 3, SIDE, SIDE)}
    first, second = plain.order
    assert sorted(first) == sorted(second) == list(range(IMAGES))
    assert first != second
    assert plain.decoded[-1] > 4 * IMAGES
    for batch, loss in zip(plain.batches, plain.losses, strict=True):
        torch.testing.assert_close(loss.total, loss.items.sum() * len(batch))


def test_rect(train: Train) -> None:
    seen = train("rect", "--rect", "--imgsz", "128")
    assert seen.order[0] == seen.order[1]
    shapes = [tuple(batch.images.shape[2:]) for batch in seen.batches[:3]]
    assert shapes[0] == (96, 128)  # the widest
    ratios = [float(h / w) for batch in seen.batches[:3] for h, w in batch.original_sizes.tolist()]
    assert ratios == sorted(ratios)


def test_quad(train: Train) -> None:
    seen = train("quad", "--quad")
    assert {batch.images.shape for batch in seen.batches} == {(BATCH // 4, 3, 2 * SIDE, 2 * SIDE)}
    for batch, loss in zip(seen.batches, seen.losses, strict=True):
        torch.testing.assert_close(loss.total, 4 * loss.items.sum() * len(batch))


def test_quad_with_a_batch_that_is_no_multiple_of_four(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError):
        train("quad6", "--quad", "--batch-size", "6")
    told = "--batch-size 6 cannot be split into groups of four, as --quad takes them; take 4 or 8"
    assert told in capsys.readouterr().err


def test_image_weights(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs after a validation draw only images with the one class that was not found perfectly."""
    wanted = 0

    def maps(_: YoloMetrics, num_classes: int) -> list[float]:
        return [float(k != wanted) for k in range(num_classes)]

    monkeypatch.setattr(YoloMetrics, "class_maps", maps)
    seen = train("weights", "--image-weights")
    labels = sorted((seen.folder.parent.parent / "labels" / "few").iterdir())
    with_it = {k for k, file in enumerate(labels) if any(row.split()[0] == str(wanted) for row in file.open())}
    first, second = map(set, seen.order)
    assert 0 < len(with_it) < IMAGES
    assert first - with_it
    assert second <= with_it
    assert len(seen.batches) == 6


@pytest.mark.parametrize("where", ["ram", "disk"])
def test_cache(train: Train, plain: Seen, where: str) -> None:
    """Each file is decoded once, and nothing else changes."""
    seen = train(f"cache {where}", "--cache", where)
    assert 0 < seen.decoded[0] < seen.decoded[-1] <= 2 * IMAGES  # those of validation too
    assert same_weights(seen, plain)
    again = train(f"cache {where} again", "--cache", where)
    assert again.decoded[-1] == (0 if where == "disk" else seen.decoded[-1])


def test_multi_scale(train: Train, plain: Seen) -> None:
    seen = train("scales", "--multi-scale")
    assert set(plain.inputs[:6]) == {(SIDE, SIDE)}
    sides = {max(hw) for hw in seen.inputs}
    assert len(sides) > 1
    assert min(sides) >= SIDE // 2
    assert max(sides) <= SIDE * 1.5 + 32


def test_single_cls(train: Train, plain: Seen) -> None:
    seen = train("single", "--single-cls")
    assert len(seen.checkpoint()["model"]["names"]) == 1
    assert {int(k) for batch in seen.batches for k in batch.targets.labels[batch.targets.valid]} == {0}
    assert len({int(k) for batch in plain.batches for k in batch.targets.labels[batch.targets.valid]}) > 5
    assert all(loss.items[2] == 0 for loss in seen.losses)


def test_freeze(train: Train) -> None:
    seen = train("frozen", "--freeze", "10", "--model", "yolov5n", "--epochs", "1", "--nosave")
    weights = seen.weights()
    parameters = [name for name in weights if name.endswith((".weight", ".bias"))]
    layer = {name: int(next(part for part in name.split(".") if part.isdigit())) for name in parameters}
    assert {layer[name] < 10 for name in parameters} == {True, False}
    for name in parameters:
        assert torch.equal(weights[name], seen.first[name]) == (layer[name] < 10), name


def test_optimizer(train: Train, plain: Seen) -> None:
    seen = train("adamw", "--optimizer", "AdamW")
    states = [run.checkpoint()["engine"]["optimizer"]["state"][0] for run in (seen, plain)]
    assert {"exp_avg", "exp_avg_sq"} <= set(states[0])
    assert "momentum_buffer" in states[1]
    assert not same_weights(seen, plain)


def test_label_smoothing(train: Train, plain: Seen) -> None:
    seen = train("smooth", "--label-smoothing", ".1")
    (box, obj, cls), (plain_box, plain_obj, plain_cls) = seen.losses[0].items, plain.losses[0].items
    assert (box, obj) == (plain_box, plain_obj)
    assert abs(cls - plain_cls) > 0.01 * plain_cls
    assert not same_weights(seen, plain)


def test_a_cache_that_does_not_fit_leaves_nothing_behind(
    train: Train, plain: Seen, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(source_images, "available_memory", lambda: 1000)
    with pytest.raises(AssertionError):
        train("no room", "--cache", "ram")
    assert "--cache ram needs 0.00 GB for 24 images but 0.00 GB of memory are available" in capsys.readouterr().err
    assert not plain.folder.with_name("no room").exists()


@pytest.mark.parametrize(("mib", "expected"), [(2, range(1, IMAGES)), (4000, [IMAGES])])
def test_batch_size_of_what_fits(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mib: int, expected: Sequence[int]
) -> None:
    monkeypatch.setattr(auto_batch, "available_memory", lambda: mib * 2**20)
    seen = train(f"fits {mib}", "--batch-size", "-1", "--epochs", "1", "--nosave")
    size = max(map(len, seen.batches))
    assert size in expected
    assert yaml.safe_load((seen.folder / "config.yaml").read_text())["batch_size"] == size
    assert f"0.8 of which are used: --batch-size {size}" in capsys.readouterr().out


def test_sync_bn(train: Train, tmp_path: Path) -> None:
    """Two processes have the running averages of one: not so where each takes those of its own images."""
    one = train("one", "--epochs", "1", "--nosave", "--noval")
    files = write_few(tmp_path)
    given = [word for pair in SETTINGS.items() for word in pair]
    flags = ["--noplots", "--noautoanchor", "--nosave", "--noval", "--epochs", "1", "--nproc", "2", "--name", "two"]
    command = [sys.executable, "-m", "boxwright", "train", *files, *given, *flags, "--sync-bn"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    found, expected = Seen(tmp_path / "runs" / "two").weights(), one.weights()
    averages = [key for key in found if key.endswith("running_var")]
    assert averages
    for key in averages:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-6)


def test_image_weights_of_a_run_that_was_stopped(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of the running epoch comes from the validation before the stop, and goes on the same."""
    # So that there is something to measure after a few steps.
    flags = ["--image-weights", "--conf-thres", "0", "--optim.lr0", "0.05"]
    whole = train("whole", *flags)
    loss = Detect2d.loss

    def stopped(task: Detect2d, batch: Batch, epoch: int, step: int) -> StepLoss:
        if (epoch, step) == (1, 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(task, batch, epoch, step)

    monkeypatch.setattr(Detect2d, "loss", stopped)
    with pytest.raises(SystemExit):
        train("stopped", *flags)
    monkeypatch.undo()
    last = whole.folder.with_name("stopped") / "weights" / "last.pt"
    run = torch.load(last, weights_only=True)["engine"]["run"]
    assert (run["epoch"], run["step"]) == (1, 2)
    assert np.ptp(run["class_maps"]) > 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(whole.folder.parent.parent / "cache"))
    assert main(["train", "--resume", str(last)]) == 0
    resumed, expected = torch.load(last, weights_only=True), whole.checkpoint()
    for key in ("state_dict", "ema", "engine"):
        assert_same(resumed[key], expected[key], key)
