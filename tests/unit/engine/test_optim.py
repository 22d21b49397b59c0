"""Options of the trainer that a run must show: freezing, accumulation, patience, periods of saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from boxwright.engine.optim import apply_settings, clip_gradients, make_optimizer
from boxwright.engine.schedule import StepSettings
from boxwright.errors import UserError
from boxwright.settings.base import OptimConfig
from boxwright.settings.load import load
from boxwright.yolo.fine_tune import freeze_layers
from boxwright.yolo.graph import GraphModel
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.verbs.train import train
from boxwright.yolo.zoo import build_model, load_spec
from tests.integration.small_runs import small_settings
from tests.unit.engine.line_task import KEPT


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return small_settings(tmp_path, epochs=2)


def last(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "weights/last.pt", weights_only=True)


@pytest.mark.parametrize(("freeze", "layers"), [((0,), set()), ((2,), {0, 1}), ((0, 3), {0, 3})])
def test_freeze(freeze: tuple[int, ...], layers: set[int]) -> None:
    model = build_model(load_spec("yolov5n"))
    freeze_layers(model, freeze)
    frozen = {int(name.split(".")[1]) for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == layers


@pytest.mark.parametrize("freeze", [(-1,), (99,), (3, 99)])
def test_freeze_of_layers_that_are_not_there(freeze: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="go from 0 to 24"):
        freeze_layers(build_model(load_spec("yolov5n")), freeze)


def test_settings_of_an_iteration_reach_the_optimizer() -> None:
    model = build_model(load_spec("yolov5n", 2))
    settings = StepSettings(lr_bias=0.3, lr_other=0.2, momentum=0.55, accumulate=1)
    sgd = make_optimizer(model, OptimConfig(), 0.0)
    apply_settings(sgd, settings)
    assert {group["momentum"] for group in sgd.param_groups} == {0.55}
    assert sorted(group["lr"] for group in sgd.param_groups) == [0.2, 0.2, 0.3]
    adam = make_optimizer(model, OptimConfig(optimizer="Adam"), 0.0)
    apply_settings(adam, settings)
    assert all("momentum" not in group for group in adam.param_groups)


def test_gradients_are_scaled_down_to_the_norm() -> None:
    layer = torch.nn.Linear(3, 1)
    for largest, expected in ((10.0, 10.0), (1e3, 60.0)):
        layer.weight.grad = torch.tensor([[20.0, 40.0, 40.0]])
        assert clip_gradients(layer, largest).item() == pytest.approx(60)
        assert layer.weight.grad.norm().item() == pytest.approx(expected, rel=1e-5)


def test_multi_scale_shows_the_network_several_sizes(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Published: a side of 0.5 to 1.5 times imgsz, a multiple of the stride, for each step."""
    seen: list[tuple[int, ...]] = []
    forward = GraphModel.forward

    def looking(model: GraphModel, images: torch.Tensor) -> list[torch.Tensor]:
        if model.training:
            seen.append(tuple(images.shape[2:]))
        return forward(model, images)

    monkeypatch.setattr(GraphModel, "forward", looking)
    for multi_scale, expected in ((False, {64}), (True, {32, 64, 96})):
        seen.clear()
        train(load(RunConfig, settings | {"multi_scale": multi_scale, "epochs": 8, "noval": True}))
        assert len(seen) == 16
        assert {side for shape in seen for side in shape} == expected


def test_freeze_by_word() -> None:
    """Published: Darknet-53 is layers 0 to 74, of which 69 parameters are left; or only the three predictors train."""
    model = build_model(load_spec("yolov3-spp", 2))
    frozen = freeze_layers(model, "backbone")
    assert {int(name.split(".")[1]) for name in frozen} <= set(range(75))
    assert sum(p.requires_grad for p in model.parameters()) == 69
    freeze_layers(model, "all-but-predictors")
    left = [name for name, p in model.named_parameters() if p.requires_grad]
    assert left == [f"module_list.{i}.Conv2d.{kind}" for i in (88, 100, 112) for kind in ("weight", "bias")]
    make_optimizer(model, OptimConfig(), 0.0).step()  # a group without parameters
    with pytest.raises(UserError, match="it is not known where the backbone of this model ends"):
        freeze_layers(build_model(load_spec("yolov3-tiny", 2)), "backbone")


def test_everything_decays_where_the_release_says_so() -> None:
    model = build_model(load_spec("yolov5n", 2))
    for everything, decays in ((False, [0.0, 0.1, 0.0]), (True, [0.1] * 3)):
        optimizer = make_optimizer(model, OptimConfig(), 0.1, decays_everything=everything)
        assert [group["weight_decay"] for group in optimizer.param_groups] == decays


def test_clipping() -> None:
    """To a norm that is given, or not at all; either way the norm before is told."""
    layer = torch.nn.Linear(2, 1, bias=False)
    for largest, kept in ((10.0, 10.0), (0.0, 50.0), (100.0, 50.0)):
        layer.weight.grad = torch.tensor([[30.0, 40.0]])
        assert float(clip_gradients(layer, largest)) == 50.0
        assert float(layer.weight.grad.norm()) == pytest.approx(kept, rel=1e-5)


def test_frozen_layers_stay_but_their_statistics_move(settings: dict[str, Any]) -> None:
    config = load(RunConfig, settings | {"freeze": [2]})
    after = last(train(config))["state_dict"]
    torch.manual_seed(0)
    before = build_model(load_spec(settings["model"]), ["a", "b"]).state_dict()
    first = before["model.1.conv.weight"].half().float()  # a run begins in half precision
    assert torch.equal(after["model.1.conv.weight"], first)
    assert not torch.equal(after["model.1.bn.running_mean"], before["model.1.bn.running_mean"])
    assert not torch.equal(after["model.2.conv.weight"], before["model.2.conv.weight"])


def test_patience_ends_the_run(settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    # With a threshold no box passes, so the fitness is 0 throughout, which counts as no worse: the run goes on.
    folder = train(load(RunConfig, settings | {"epochs": 4, "patience": 1, "conf_thres": 1.0}))
    assert last(folder)["epoch"] == 4
    assert "no better fitness" not in capsys.readouterr().out


def test_save_period_and_noval(settings: dict[str, Any]) -> None:
    folder = train(load(RunConfig, settings | {"epochs": 3, "save_period": 2, "noval": True}))
    assert sorted(file.name for file in (folder / "weights").iterdir()) == ["best.pt", "epoch2.pt", *KEPT]
    rows = (folder / "results.csv").read_text().splitlines()
    assert rows[0].startswith("epoch,train/box_loss,train/obj_loss,train/cls_loss,metrics/precision,metrics/recall")
    assert rows[0].endswith("x/lr0,x/lr1,x/lr2")
    column = rows[0].split(",").index("val/box_loss")
    assert [bool(row.split(",")[column]) for row in rows[1:]] == [False, False, True]


def test_optimizer_steps_follow_the_accumulation(settings: dict[str, Any]) -> None:
    few = last(train(load(RunConfig, settings | {"epochs": 10, "noval": True})))
    each = last(train(load(RunConfig, settings | {"epochs": 10, "noval": True, "optim.nominal_batch_size": 3})))
    assert each["engine"]["ema_updates"] == 20
    assert few["engine"]["ema_updates"] < 16


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_other_optimizers(settings: dict[str, Any], name: str) -> None:
    state = last(train(load(RunConfig, settings | {"optim.optimizer": name})))["engine"]["optimizer"]["state"]
    assert "exp_avg" in state[0]


def test_cosine_rate_and_seed_change_the_run(settings: dict[str, Any]) -> None:
    plain, again, cosine, seeded = (
        last(train(load(RunConfig, settings | {"epochs": 3} | change)))
        for change in ({}, {}, {"optim.cos_lr": True}, {"seed": 1})
    )
    key = "model.2.conv.weight"
    assert torch.equal(plain["state_dict"][key], again["state_dict"][key])
    assert not torch.equal(plain["state_dict"][key], cosine["state_dict"][key])
    assert not torch.equal(plain["state_dict"][key], seeded["state_dict"][key])
