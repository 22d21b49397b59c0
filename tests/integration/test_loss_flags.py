"""Each flag of the optimizer and of the loss does in a run what it says; the published values stand in tests/parity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from boxwright.cli.main import main
from boxwright.data.dataset import open_dataset
from boxwright.engine.optim import make_optimizer
from boxwright.engine.run import resume
from boxwright.errors import UserError
from boxwright.settings.base import OptimConfig
from boxwright.settings.load import load
from boxwright.systems import training_of
from boxwright.yolo.loss import check_criterion, make_criterion
from boxwright.yolo.settings import LossConfig, RunConfig
from boxwright.yolo.task import Detect2d
from boxwright.yolo.verbs.train import train
from boxwright.yolo.zoo import build_model, load_spec
from tests.integration.small_runs import NETWORK, write_world

KEY = "model.2.conv.weight"


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data, network = write_world(tmp_path, num_images=6)
    words = (
        f"--batch-size 3 --imgsz 64 --workers 0 --device cpu --noplots --noval --epochs 1 --project {tmp_path / 'runs'}"
    )
    return ["train", "--data", str(data), "--model", str(network), "--optim.nominal_batch_size", "3", *words.split()]


def last(flags: list[str], *more: str) -> dict[str, Any]:
    """Train by command line; last.pt."""
    name = "_".join(word.strip("-") for word in more) or "plain"
    assert main([*flags, *more, "--name", name]) == 0
    project = Path(flags[flags.index("--project") + 1])
    return torch.load(project / name / "weights/last.pt", weights_only=True)


def test_each_changes_the_weights(flags: list[str]) -> None:
    plain, again = last(flags), last(flags, "--seed", "0")
    assert torch.equal(plain["state_dict"][KEY], again["state_dict"][KEY])
    changes = (
        ("--label-smoothing", "0.1"),
        ("--loss.fl_gamma", "1.5"),
        ("--optimizer", "Adam"),
        ("--optimizer", "AdamW"),
        ("--optim.schedule", "one-cycle"),
    )
    weights = [plain["state_dict"][KEY]]
    for change in changes:
        changed = last(flags, *change)["state_dict"][KEY]
        assert not any(torch.equal(changed, other) for other in weights), change
        weights.append(changed)


def test_autobalance_moves_the_weights_of_the_levels_and_keeps_them(flags: list[str]) -> None:
    balance = [last(flags, *more)["engine"]["criterion"]["balance"] for more in ((), ("--loss.autobalance",))]
    assert balance[0].tolist() == pytest.approx([4.0, 1.0, 0.4])
    assert balance[1][1] == 1
    assert (balance[1] != balance[0]).tolist() == [True, False, True]


def test_gains_follow_levels_classes_and_size() -> None:
    """YOLOv5 as published: all by 3 / levels, cls by classes / 80, obj by the area."""
    for name, levels, classes, imgsz in (("yolov5n", 3, 80, 640), ("yolov5n", 3, 20, 320), ("yolov5n6", 4, 2, 1280)):
        gains = make_criterion(build_model(load_spec(name, classes)), LossConfig(), imgsz).config
        assert gains.box == pytest.approx(0.05 * 3 / levels)
        assert gains.cls == pytest.approx(0.5 * classes / 80 * 3 / levels)
        assert gains.obj == pytest.approx(1.0 * (imgsz / 640) ** 2 * 3 / levels)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_adam_is_that_of_torch_with_the_published_betas(name: str) -> None:
    """Decay only for weights: in Adam it joins the gradient, in AdamW it is apart."""
    ours, theirs = (torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    config = OptimConfig(optimizer=name, lr0=0.01, momentum=0.9)  # pyright: ignore[reportArgumentType]
    optimizer = make_optimizer(ours, config, 0.5)
    linear, norm = theirs
    kind = getattr(torch.optim, name)
    plain = kind([linear.bias, norm.bias, norm.weight], lr=0.01, betas=(0.9, 0.999), weight_decay=0.0)
    decayed = kind([linear.weight], lr=0.01, betas=(0.9, 0.999), weight_decay=0.5)
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        for network, optimizers in ((ours, [optimizer]), (theirs, [plain, decayed])):
            network.zero_grad()
            network(inputs).pow(3).sum().backward()
            for one in optimizers:
                one.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_autobalance_where_there_is_nothing_to_balance(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*flags, "--loss.autobalance", "--loss.recipe", "v3"]) == 2
    assert "no weights of levels that could be balanced" in capsys.readouterr().err
    assert not Path(flags[flags.index("--project") + 1]).exists()
    model = build_model(load_spec("yolov5n"))
    check_criterion(model, LossConfig(autobalance=True))
    network = Path(flags[4])
    network.write_text(NETWORK.replace("[[2, 3, 4]", "[[2, 4]").replace("[20, 20, 30, 24, 24, 30], ", ""))
    with pytest.raises(UserError, match="stride 16 fixed; this model has only the strides 8, 32"):
        check_criterion(build_model(load_spec(str(network))), LossConfig(autobalance=True))


def test_a_schedule_reaches_the_rates_of_the_run(flags: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """And a run that goes on to an end before its fall says so."""
    settings: dict[str, Any] = {"data": flags[2], "model": flags[4], "project": flags[-1], "epochs": 5}
    settings |= {"batch_size": 3, "imgsz": 64, "workers": 0, "device": "cpu", "noplots": True, "noval": True}
    settings |= {"optim.release": "v3", "optim.warmup_epochs": 0, "optim.schedule": "multi-step"}
    folder = train(load(RunConfig, settings | {"optim.milestones": [2, 4]}))
    header, *rows = (folder / "results.csv").read_text().splitlines()
    rates = [float(line.split(",")[header.split(",").index("x/lr1")]) for line in rows]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001])
    resume(folder, {"epochs": 4}, training_of)
    assert "the rate does not fall after epoch 4: the run ends before" in caplog.text


@pytest.mark.parametrize(("recipe", "side"), [("v3", 96), ("v7.0", 64)])
def test_gains_of_two_sizes(recipe: Any, side: int, tmp_path: Path) -> None:
    """YOLOv3-SPP scales them by the size of validation, YOLOv5 by that of training."""
    data, network = write_world(tmp_path, num_images=2)
    index = open_dataset(data, "train")
    model = build_model(load_spec(str(network), index.num_classes), index.names)
    config = RunConfig(imgsz=(64, 96), workers=0, loss=LossConfig(recipe=recipe))
    task = Detect2d(model, index, None, config, torch.device("cpu"))
    assert task.criterion.config == make_criterion(model, config.loss, side).config
