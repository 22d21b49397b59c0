"""`train --fine-tune` goes on from the training of a checkpoint: ours, or one in the published form."""

from __future__ import annotations

import shutil
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from boxwright.checkpoints.native import load_checkpoint
from boxwright.cli.main import main
from boxwright.engine import run as engine
from boxwright.engine.optim import SGD, parameter_roles
from boxwright.errors import UserError
from boxwright.settings.load import load
from boxwright.systems import training_of
from boxwright.yolo.fine_tune import read_training
from boxwright.yolo.graph import GraphModel
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.verbs.train import train
from boxwright.yolo.zoo import build_model, load_spec
from tests.integration.small_runs import small_settings
from tests.unit.checkpoints.published_classes import disguise, published, save

__all__ = ["published"]  # a fixture


def fit(settings: dict[str, Any], **more: Any) -> Path:
    return train(load(RunConfig, settings | more))


def state(folder: Path) -> dict[str, Any]:
    return load_checkpoint(folder / "weights" / "last.pt")


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Settings, and the run folder, of a run of two epochs."""
    settings = small_settings(tmp_path_factory.mktemp("two"), epochs=2, precision="fp32", compat="fixed")
    settings |= {"optim": {"nominal_batch_size": 3}}  # no gradients wait for the next step
    return settings, fit(settings, name="before")


def test_it_goes_on_as_a_resume_would(
    two_epochs: tuple[dict[str, Any], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, before = two_epochs
    resumed = tmp_path / "resumed"
    shutil.copytree(before, resumed)
    engine.resume(resumed, {"epochs": 4}, training_of)
    capsys.readouterr()
    # The model of the checkpoint. `compat: fixed`, as a resume rounds no weights to half precision.
    weights = {"weights": str(before / "weights" / "last.pt"), "model": ""}
    tuned = fit(settings, **weights, fine_tune=True, epochs=2, name="tuned")
    said = capsys.readouterr().out
    assert "has been trained for 2 epochs. Fine-tuning for 2 more epochs" in said
    assert "taken over: the optimizer's state of 21 of 21 parameters" in said
    ours, theirs = state(tuned), state(resumed)
    assert ours["epoch"] == theirs["epoch"] == 4
    for part in ("state_dict", "ema"):
        assert all(torch.equal(ours[part][name], value) for name, value in theirs[part].items()), part
    assert (tuned / "results.csv").read_text().splitlines()[1].startswith("3,")
    assert "start" in (tuned / "log.log").read_text()
    assert "resumed" not in (tuned / "log.log").read_text()


def test_without_it_one_line_says_what_is_dropped(
    two_epochs: tuple[dict[str, Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    settings, before = two_epochs
    new = fit(settings, weights=str(before / "weights" / "last.pt"), epochs=1, name="new")
    assert "still has the optimizer and the best fitness of its 2 epochs: they are dropped" in capsys.readouterr().out
    assert state(new)["epoch"] == 1


def test_other_classes_rates_and_optimizer(
    two_epochs: tuple[dict[str, Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """What fits comes along; the length of the whole is named where it is more than is done."""
    settings, before = two_epochs
    changes = {"weights": str(before / "weights" / "last.pt"), "fine_tune": True, "batch_size": 2, "single_cls": True}
    tuned = fit(settings, **changes, epochs=3, optim={"lr0": 0.002, "warmup_bias_lr": 0.001}, name="other")
    said = capsys.readouterr().out
    assert "Fine-tuning for 1 more epoch, up to epoch 3" in said
    assert "state of 15 of 21 parameters" in said  # not of the three predictors, weight and bias
    assert state(tuned)["engine"]["optimizer"]["param_groups"][1]["lr"] <= 0.002
    fit(settings, **changes, epochs=1, optim={"optimizer": "AdamW"}, name="kind")
    assert "state of 0 of 21 parameters" in capsys.readouterr().out


@pytest.mark.parametrize("file", ["best.pt", ""])
def test_nothing_to_go_on_from(two_epochs: tuple[dict[str, Any], Path], file: str) -> None:
    settings, before = two_epochs
    weights = str(before / "weights" / file) if file else ""
    with pytest.raises(UserError, match="no optimizer" if file else "name its last.pt"):
        fit(settings, weights=weights, fine_tune=True, name="never")
    assert not (Path(settings["project"]) / "never").exists()


def published_run(folder: Path, settings: dict[str, Any], made: types.SimpleNamespace, order: list[str]) -> Path:
    """A run folder in the published form, stopped after 3 of 5 epochs, whose optimizer has groups in this order."""
    torch.manual_seed(1)
    model = build_model(load_spec(settings["model"], 2), ["a", "b"])
    assert isinstance(model, GraphModel)
    parameters = dict(model.named_parameters())
    groups = [{"params": [parameters[name] for name in parameter_roles(model)[role]]} for role in order]
    optimizer = SGD(groups, lr=0.01, momentum=0.9, nesterov=True)
    for number, parameter in enumerate(parameters.values()):
        parameter.grad = torch.full_like(parameter, 1e-3 * number)
    optimizer.step()
    average = build_model(load_spec(settings["model"], 2), ["a", "b"])
    networks: list[nn.Module] = [disguise(one, "v6.1", made).half() for one in (model, average)]  # type: ignore[arg-type]
    (folder / "weights").mkdir(parents=True)
    save(
        folder / "weights" / "last.pt",
        networks[0],
        ema=networks[1],
        updates=77,
        epoch=2,
        best_fitness=0.25,
        optimizer=optimizer.state_dict(),
    )
    options = {"epochs": 5, "batch_size": 3, "imgsz": 64, "data": settings["data"], "workers": 0, "linear_lr": False}
    (folder / "opt.yaml").write_text(yaml.safe_dump(options | {"weights": "", "adam": False, "freeze": [0]}))
    (folder / "hyp.yaml").write_text("lr0: 0.004\nfliplr: 0.0\n")
    return folder / "weights" / "last.pt"


@pytest.mark.parametrize("order", [["norm", "weight", "bias"], ["bias", "weight", "norm"]], ids=["v6.1", "v6.2"])
def test_states_of_a_published_optimizer_find_their_parameters(
    tmp_path: Path, published: types.SimpleNamespace, order: list[str]
) -> None:
    file = published_run(tmp_path / "exp", small_settings(tmp_path), published, order)
    weights, earlier = read_training(file)
    assert (earlier.epochs, earlier.best_fitness, earlier.updates) == (3, 0.25, 77)
    names = [name for name, _ in build_model(weights.spec, weights.names).named_parameters()]
    found = {name: kept["momentum_buffer"].flatten()[0].item() for name, kept in earlier.moments.items()}
    assert found == pytest.approx({name: 1e-3 * number for number, name in enumerate(names)})
    assert not torch.equal(weights.state_dict["model.0.conv.weight"], earlier.average["model.0.conv.weight"])


def test_a_published_run_resumes(
    tmp_path: Path, published: types.SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    file = published_run(tmp_path / "exp", small_settings(tmp_path), published, ["norm", "weight", "bias"])
    place = ["--project", str(tmp_path / "runs"), "--name", "on", "--noplots", "--device", "cpu"]
    assert main(["train", "--resume", str(file), *place]) == 0
    said = capsys.readouterr().out
    assert "has been trained for 3 epochs. Fine-tuning for 2 more epochs, up to epoch 5" in said
    assert "state of 21 of 21 parameters, the average after 77 updates, the best fitness 0.25" in said
    settings = load_checkpoint(tmp_path / "runs" / "on" / "weights" / "last.pt")["config"]
    assert (settings["optim"]["lr0"], settings["augment"]["fliplr"], settings["optim"]["cos_lr"]) == (0.004, 0.0, True)
    # One whose training is over has nothing to go on from.
    torch.manual_seed(0)
    model = build_model(load_spec(str(tmp_path / "tiny.yaml"), 2), ["a", "b"])
    done = save(tmp_path / "exp" / "weights" / "done.pt", disguise(model, "v6.1", published))  # type: ignore[arg-type]
    assert main(["train", "--resume", str(done), *place]) == 2
    assert "done.pt is of a training that has ended, which left it no optimizer" in capsys.readouterr().err
