"""Schedules of every release, parameter groups, averaging, early stopping, gain scaling: against recorded numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from boxwright.engine.optim import ModelEma, apply_settings, make_optimizer, parameter_roles
from boxwright.engine.schedule import Schedule, lr_factor
from boxwright.engine.stopping import EarlyStopping
from boxwright.yolo.hyp import load_run
from boxwright.yolo.loss import scale_gains, scale_gains_v3
from boxwright.yolo.published import RELEASES, schedule_rules
from boxwright.yolo.settings import LossConfig, RunConfig, YoloOptimConfig
from boxwright.yolo.task import v3_sides
from boxwright.yolo.zoo import build_model, load_spec
from tests.golden import golden_cases, read_case

RTOL, ATOL = 1e-9, 1e-12


@pytest.mark.parametrize("file", golden_cases("schedule", "iterations_v*.json"))
def test_iterations(file: Path) -> None:
    content = json.loads(file.read_text())
    for case in content["cases"]:
        hyp = {key: value for key, value in case["hyp"].items() if key in YoloOptimConfig.model_fields}
        options = {"cos_lr": case["cosine"], "nominal_batch_size": case["nominal_batch"]}
        config = YoloOptimConfig(**hyp, **options, release=content["version"])
        schedule = Schedule(
            config, case["epochs"], case["batches_per_epoch"], case["batch_size"], schedule_rules(config.release)
        )
        assert schedule.warmup_steps == case["nw"]
        np.testing.assert_allclose([schedule.factor(e) for e in range(len(case["lf"]))], case["lf"], RTOL, ATOL)
        np.testing.assert_allclose(schedule.weight_decay, case["scaled_weight_decay"]["weight"], RTOL, ATOL)
        settings = [schedule.at(step) for step in case["iterations"]]
        for key, values in (
            ("lr_bias", [s.lr_bias for s in settings]),
            ("lr_weight", [s.lr_other for s in settings]),
            ("lr_norm", [s.lr_other for s in settings]),
            ("momentum", [s.momentum for s in settings]),
            ("accumulate", [s.accumulate for s in settings]),
        ):
            np.testing.assert_allclose(values, case[key], RTOL, ATOL, err_msg=f"{case['name']} {key}")
        assert all(s.loss_scale == 1 for s in settings)
        num_steps = case["epochs"] * case["batches_per_epoch"]  # `iterations` may be a selection
        assert steps_of_updates(schedule, num_steps) == case["step_iterations"], case["name"]


def steps_of_updates(schedule: Schedule, num_steps: int) -> list[int]:
    last, steps = -1, list[int]()
    for step in range(num_steps):
        if schedule.updates(step, last):
            steps.append(step)
            last = step
    return steps


@pytest.mark.parametrize("file", golden_cases("schedule", "yolov3spp*.json"))
def test_yolov3_spp(file: Path) -> None:
    content = json.loads(file.read_text())
    for case in content["lr_cases"]:
        config = YoloOptimConfig(
            lr0=case["lr0"], lrf=case["lrf"], cos_lr=True, warmup_epochs=float(case["warmup"]), release="v3"
        )
        schedule = Schedule(
            config, case["epochs"], case["batches_per_epoch"], case["batch_size"], schedule_rules(config.release)
        )
        settings = [schedule.at(step) for step in case["iterations"]]
        np.testing.assert_allclose([s.lr_other for s in settings], case["lr"], RTOL, ATOL)
        assert [s.lr_bias for s in settings] == [s.lr_other for s in settings]
        np.testing.assert_allclose([s.loss_scale for s in settings], case["loss_scale"], RTOL, ATOL)
        assert schedule.at(10**9).accumulate == case["accumulate"]
        steps = steps_of_updates(schedule, case["epochs"] * case["batches_per_epoch"])
        assert steps == case["step_iterations"]
    preset = load_run(RunConfig, hyp="yolov3-spp").loss
    for case in content["hyp_scaling"]:
        after = scale_gains_v3(preset, num_classes=case["nc"], imgsz=case["img_size"])
        found = (after.cls, after.obj, after.box)
        np.testing.assert_allclose(found, (case["cls"], case["obj"], case["giou"]), RTOL, ATOL)
    for case in content["multi_scale_range"]:
        assert v3_sides(case["img_size"], 32) == (case["min"], case["max"])


@pytest.mark.parametrize("file", golden_cases("schedule", "param_groups_v[67]*.json"))
def test_parameter_groups(file: Path) -> None:
    content = json.loads(file.read_text())
    model = build_model(load_spec(Path(content["model"]).stem))
    roles = parameter_roles(model)
    optimizer = make_optimizer(model, YoloOptimConfig(), 0.0005)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for expected, group in zip(content["groups"], optimizer.param_groups, strict=True):
        assert roles[expected["role"]] == expected["keys"]
        assert [names[id(p)] for p in group["params"]] == expected["keys"]
        assert (group["weight_decay"] > 0) == (expected["role"] == "weight")
    adam = make_optimizer(model, YoloOptimConfig(optimizer="AdamW"), 0.0005)
    assert list(adam.param_groups[0]["betas"]) == content["adam_betas"]
    apply_settings(adam, Schedule(YoloOptimConfig(), 3, 10, 16, schedule_rules("")).at(5))
    assert adam.param_groups[0]["lr"] > adam.param_groups[1]["lr"]


@pytest.mark.parametrize("file", golden_cases("schedule", "misc.json"))
def test_ema(file: Path) -> None:
    misc, arrays = json.loads(file.read_text()), read_case(file.with_name("ema.npz"))[0]
    decay = misc["ema_decay"]
    ema = ModelEma(nn.Linear(1, 1), decay["base"], decay["tau"])
    np.testing.assert_allclose([ema.decay_at(u) for u in decay["updates"]], decay["decay"], RTOL, ATOL)
    sequence = misc["ema_sequence"]

    def state(prefix: str) -> dict[str, torch.Tensor]:
        return {key: torch.from_numpy(arrays[f"{prefix}|{key}"].copy()) for key in sequence["keys"]}

    for start in sequence["start_updates"]:
        model = nn.ModuleDict({"lin": nn.Linear(3, 2), "bn": nn.BatchNorm1d(2)})
        model.load_state_dict(state("model0"))
        ema = ModelEma(model, decay["base"], decay["tau"], updates=start)
        for step in range(sequence["steps"]):
            model.load_state_dict(state(f"model{step}"))
            ema.update()
            for key, value in ema.module.state_dict().items():
                expected = arrays[f"start{start}|ema{step}|{key}"]
                np.testing.assert_allclose(value.numpy(), expected, RTOL, ATOL, err_msg=f"{start} {step} {key}")


@pytest.mark.parametrize("file", golden_cases("schedule", "misc.json"))
def test_early_stopping_and_factors(file: Path) -> None:
    misc = json.loads(file.read_text())
    for case in misc["early_stopping"]:
        stopper = EarlyStopping(case["patience"])
        for entry in case["log"]:
            stopper.update(entry["epoch"], entry["fitness"])
            assert stopper.exhausted(entry["epoch"]) == entry["stop"]
            assert stopper.may_stop_next(entry["epoch"]) == entry["possible_stop"]
            assert (stopper.best_epoch, stopper.best_fitness) == (entry["best_epoch"], entry["best_fitness"])
    for case in misc["lr_lambda"]:
        epochs = case["epochs"]
        for key, cosine, divisor in (
            ("cosine", True, epochs),
            ("linear_6_1_and_later", False, epochs),
            ("linear_5_0_and_6_0", False, epochs - 1),
        ):
            values = [lr_factor(e, divisor, case["lrf"], cosine=cosine) for e in range(len(case[key]))]
            np.testing.assert_allclose(values, case[key], RTOL, ATOL)


@pytest.mark.parametrize("file", golden_cases("schedule", "hyp_scaling_v*.json"))
def test_gain_scaling(file: Path) -> None:
    content = json.loads(file.read_text())
    rules = RELEASES[content["version"]].loss
    assert rules is not None
    for case in content["cases"]:
        before = LossConfig(**case["before"])
        sizes = {"num_layers": case["nl"], "num_classes": case["nc"], "imgsz": case["imgsz"]}
        after = scale_gains(before, **sizes, rules=rules)
        for key, value in case["after"].items():
            np.testing.assert_allclose(getattr(after, key), value, RTOL, ATOL)
