"""Learning-rate schedules: their curves, the published ones, and in a run."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import SGD, lr_scheduler

from boxwright.centerfusion.settings import FusionOptimConfig
from boxwright.engine.schedule import Schedule, ScheduleRules, check_schedule
from boxwright.engine.trainer import RunState, load_run
from boxwright.errors import UserError
from boxwright.settings.base import OptimConfig
from boxwright.settings.load import load
from boxwright.yolo.published import schedule_rules, with_release
from boxwright.yolo.settings import RunConfig, YoloOptimConfig
from boxwright.yolo.verbs.train import train
from tests.integration.test_resume import assert_same
from tests.unit.engine.line_task import BATCH, LineTask, make_trainer

EPOCHS, STEPS, LR0 = 40, 5, 0.2


def scheduled(config: YoloOptimConfig, epochs: int, steps_per_epoch: int, batch_size: int) -> Schedule:
    """Make the schedule that the settings name."""
    return Schedule(config, epochs, steps_per_epoch, batch_size, schedule_rules(config.release))


def optimizer(lr: float = LR0) -> SGD:
    return SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.5)


def rates_of_torch(make: Callable[[SGD], Any], *, calls: int = EPOCHS) -> list[float]:
    wheel = optimizer()
    scheduler, rates = make(wheel), list[float]()
    for _ in range(calls):
        rates.append(wheel.param_groups[0]["lr"])
        wheel.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("release", ["", "v5.0", "v2.0", "v3"])
@pytest.mark.parametrize(
    ("settings", "make"),
    [
        ({"schedule": "step", "step_epochs": 7}, lambda w: lr_scheduler.StepLR(w, 7)),
        ({"schedule": "step", "step_epochs": 12, "gamma": 0.5}, lambda w: lr_scheduler.StepLR(w, 12, 0.5)),
        ({"schedule": "multi-step", "milestones": (30, 25)}, lambda w: lr_scheduler.MultiStepLR(w, [25, 30])),
        ({"schedule": "exponential", "gamma": 0.9}, lambda w: lr_scheduler.ExponentialLR(w, 0.9)),
    ],
)
def test_epochs_have_the_rates_of_torch(settings: dict[str, Any], make: Callable[[SGD], Any], release: str) -> None:
    """After warm-up, in every step of an epoch; nothing is late by an epoch."""
    config = YoloOptimConfig(lr0=LR0, release=release, warmup_epochs=1, **settings)
    schedule = scheduled(config, EPOCHS, 200, 16)
    expected = rates_of_torch(make)
    warm = -(-schedule.warmup_steps // 200) + 1
    for place in (0, 199):
        found = [schedule.at(epoch * 200 + place) for epoch in range(warm, EPOCHS)]
        np.testing.assert_allclose([s.lr_other for s in found], expected[warm:], rtol=1e-12)
        assert [s.lr_bias for s in found] == [s.lr_other for s in found]


def test_exponential_ends_at_lrf_by_itself() -> None:
    schedule = scheduled(YoloOptimConfig(schedule="exponential", lrf=0.02), EPOCHS, 200, 16)
    assert schedule.factor(0) == 1
    assert schedule.factor(EPOCHS) == pytest.approx(0.02)


def test_warm_up_aims_at_the_course() -> None:
    config = YoloOptimConfig(schedule="step", step_epochs=1, gamma=0.5, warmup_epochs=2.0)
    schedule = scheduled(config, EPOCHS, 100, 16)
    assert schedule.warmup_steps == 200
    assert schedule.at(50).lr_other == pytest.approx(0.01 / 4)
    assert schedule.at(150).lr_other == pytest.approx(0.01 * 0.5 * 0.75)
    assert schedule.at(150).momentum < schedule.at(201).momentum == 0.937


@pytest.mark.parametrize(("gamma", "patience", "seed"), [(0.1, 10, 0), (0.5, 2, 1), (0.3, 0, 2), (0.5, 4, 3)])
def test_plateau_has_the_rates_of_torch(gamma: float, patience: int, seed: int) -> None:
    """Fitness that rises, stays and falls; torch is told of it epoch by epoch, ours of all of it."""
    draw = random.Random(seed)
    fitness = [round(max(0.0, min(e / 30, 0.6) + draw.choice([-0.1, 0.0, 0.00001, 0.1])), 5) for e in range(60)]
    config = YoloOptimConfig(
        schedule="plateau", lr0=LR0, gamma=gamma, plateau_patience=patience, lrf=0.01, release="v3"
    )
    schedule = scheduled(config, 61, STEPS, 16)
    wheel = optimizer()
    torchs = lr_scheduler.ReduceLROnPlateau(
        wheel, mode="max", factor=gamma, patience=patience, min_lr=LR0 * 0.01, eps=0.0
    )
    falls = 0
    for epoch in range(1, 61):
        before = wheel.param_groups[0]["lr"]
        torchs.step(fitness[epoch - 1])
        falls += wheel.param_groups[0]["lr"] < before
        found = schedule.at(epoch * STEPS, fitness[:epoch]).lr_other
        assert found == pytest.approx(wheel.param_groups[0]["lr"], rel=1e-12)
    assert falls > 1


@pytest.mark.parametrize("release", ["", "v3"])
@pytest.mark.parametrize("rise", [0.3, 0.5, 0.05])
def test_one_cycle_has_the_rates_and_momentum_of_torch(rise: float, release: str) -> None:
    steps = EPOCHS * STEPS
    settings: dict[str, Any] = {"momentum": 0.95, "warmup_momentum": 0.85, "one_cycle_rise": rise}
    config = YoloOptimConfig(schedule="one-cycle", lr0=LR0, lrf=0.001, one_cycle_start=0.1, release=release, **settings)
    schedule = scheduled(config, EPOCHS, STEPS, 16)
    wheel = optimizer()
    torchs = lr_scheduler.OneCycleLR(
        wheel, LR0, total_steps=steps, pct_start=rise, div_factor=10, final_div_factor=100, anneal_strategy="cos"
    )
    for step in range(steps):
        found, group = schedule.at(step), wheel.param_groups[0]
        assert found.lr_other == found.lr_bias == pytest.approx(group["lr"], rel=1e-9)
        assert found.momentum == pytest.approx(group["momentum"], rel=1e-9)
        assert found.accumulate == 4
        wheel.step()
        if step + 1 < steps:
            torchs.step()
    rates = [schedule.at(step).lr_other for step in range(steps)]
    assert abs(rates.index(max(rates)) - schedule.warmup_steps) <= 1
    assert rates[-1] == pytest.approx(LR0 * 0.001)


@pytest.mark.parametrize("release", ["", "v5.0", "v3"])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_names_of_published_schedules_change_nothing(name: str, release: str) -> None:
    plain = scheduled(YoloOptimConfig(cos_lr=name == "cosine", release=release), 9, 30, 16)
    named = scheduled(YoloOptimConfig(schedule=name, release=release), 9, 30, 16)  # pyright: ignore[reportArgumentType]
    assert [plain.at(step) for step in range(270)] == [named.at(step) for step in range(270)]
    other = scheduled(YoloOptimConfig(schedule="exponential", release=release), 9, 30, 16)
    assert plain.at(200) != other.at(200)


def test_a_schedule_by_name_wins_over_the_release() -> None:
    """v4.0 has no linear decay, and YOLOv3-SPP takes cosine if nothing is said."""
    linear = scheduled(YoloOptimConfig(schedule="linear", release="v4.0"), 9, 200, 16)
    assert linear.at(8 * 200) != scheduled(YoloOptimConfig(release="v4.0"), 9, 200, 16).at(8 * 200)
    config = with_release(load(RunConfig, {"optim.schedule": "step"}), "v3", has_backbone=True)
    assert not config.optim.cos_lr
    check_schedule(config.optim, epochs=100)
    assert with_release(RunConfig(), "v3", has_backbone=True).optim.cos_lr


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cos_lr": True, "schedule": "step"}, "--cos-lr and --optim.schedule step are two schedules"),
        ({"schedule": "multi-step"}, "needs the epochs where the rate falls"),
        ({"milestones": (3, 3), "schedule": "multi-step"}, "3 3: each is named once"),
        (
            {"milestones": (3, 100), "schedule": "multi-step"},
            "the run, which has 100 epochs, as --optim.milestones 83 does",
        ),
        ({"milestones": (3,)}, "are for --optim.schedule multi-step, not for linear"),
        ({"schedule": "plateau"}, "leave out --noval"),
    ],
)
def test_mistakes(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_schedule(YoloOptimConfig(**settings), 100, validates=False)


def test_what_is_no_mistake() -> None:
    check_schedule(YoloOptimConfig(cos_lr=True, schedule="cosine"), 100, validates=False)
    check_schedule(YoloOptimConfig(schedule="plateau"), 100)


def test_milestones_are_read_from_text_and_count_from_one() -> None:
    assert load(RunConfig, {"optim.milestones": ["60,80"]}).optim.milestones == (60, 80)
    with pytest.raises(UserError, match=r"optim\.milestones"):
        load(RunConfig, {"optim.milestones": "0 80"})


STEPS_CENTER = 10


def schedule(epochs: int = 60, batch_size: int = 32, **changes: object) -> Schedule:
    config = FusionOptimConfig.model_validate({"milestones": (50,), **changes})
    return Schedule(config, epochs, STEPS_CENTER, batch_size, ScheduleRules("plain"))


def test_published_rates() -> None:
    made = schedule()
    for epoch, rate in ((0, 2.5e-4), (49, 2.5e-4), (50, 2.5e-5), (59, 2.5e-5)):
        for step in (epoch * STEPS_CENTER, epoch * STEPS_CENTER + STEPS_CENTER - 1):
            settings = made.at(step)
            assert settings.lr_bias == settings.lr_other == pytest.approx(rate, rel=1e-12)
            assert (settings.accumulate, settings.loss_scale, settings.momentum) == (1, 1.0, 0.9)
    assert made.warmup_steps == 0
    assert all(made.updates(step, step - 1) for step in range(5))


def test_sgd_decays_everything_by_what_is_set() -> None:
    made = schedule(optimizer="SGD", weight_decay=1e-4)
    assert made.decays_everything
    assert made.weight_decay == 1e-4


def test_warm_up_is_a_straight_line() -> None:
    made = schedule(warmup_epochs=0.4)
    rates = [made.at(step).lr_other / 2.5e-4 for step in range(6)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_gathered_gradients_are_a_mean() -> None:
    made = schedule(batch_size=8, nominal_batch_size=32)
    assert (made.at(0).accumulate, made.at(0).loss_scale) == (4, 0.25)
    assert [step for step in range(8) if made.updates(step, -1 if step < 4 else 3)] == [3, 7]


def test_one_cycle() -> None:
    made = schedule(epochs=10, schedule="one-cycle", milestones=(), one_cycle_start=0.1)
    rates = [made.at(step).lr_other / 2.5e-4 for step in range(10 * STEPS_CENTER)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) == made.warmup_steps
    assert rates[-1] == pytest.approx(0.01)


# The shortest warm-up is 20 epochs of this task. The fitness rises before, and then no more.
FITNESS = [*(epoch / 100 for epoch in range(20)), *[0.19] * 20]
PLATEAU = OptimConfig(schedule="plateau", plateau_patience=2, gamma=0.5, nominal_batch_size=BATCH, warmup_epochs=0)


def rates(folder: Path) -> list[float]:
    with (folder / "results.csv").open() as file:
        return [float(row["x/lr1"]) for row in csv.DictReader(file)]


def test_plateau_falls_when_the_fitness_stays(tmp_path: Path) -> None:
    make_trainer(tmp_path, LineTask(FITNESS), epochs=32, optim=PLATEAU).fit()
    # Epochs 20 to 22 are three without a better fitness, so 23 is the first with half of the rate.
    assert rates(tmp_path)[20:] == pytest.approx([0.01] * 3 + [0.005] * 3 + [0.0025] * 3 + [0.00125] * 3)


def test_plateau_counts_validations(tmp_path: Path) -> None:
    make_trainer(tmp_path, LineTask(FITNESS[10:]), epochs=32, val_period=2, optim=PLATEAU).fit()
    # Validated after epochs 1, 3, 5 ... (from 0): the tenth, which is the best, after 19; without a better: 21, 23, 25.
    assert rates(tmp_path)[21:] == pytest.approx([0.01] * 5 + [0.005] * 6)


def test_plateau_is_the_same_after_a_resume(tmp_path: Path) -> None:
    make_trainer(tmp_path / "whole", LineTask(FITNESS), epochs=30, optim=PLATEAU).fit()
    make_trainer(tmp_path / "parts", LineTask(FITNESS), epochs=22, optim=PLATEAU).fit()
    resumed = make_trainer(tmp_path / "parts", LineTask(FITNESS[22:]), epochs=30, optim=PLATEAU)
    resumed.restore(load_run(tmp_path / "parts/weights/last.pt"))
    assert resumed.state.fitness == FITNESS[:22]
    resumed.fit()
    ours, theirs = (torch.load(tmp_path / name / "weights/last.pt", weights_only=True) for name in ("parts", "whole"))
    assert_same(ours, theirs)
    assert rates(tmp_path / "parts") == rates(tmp_path / "whole")


def test_one_cycle_moves_rate_and_momentum(tmp_path: Path) -> None:
    optim = OptimConfig(schedule="one-cycle", nominal_batch_size=BATCH)
    trainer = make_trainer(tmp_path, epochs=4, optim=optim)
    seen: list[tuple[float, float]] = []
    update = trainer.update_weights

    def look(step: int) -> None:
        group = trainer.optimizer.param_groups[0]
        seen.append((group["lr"], group["momentum"]))
        update(step)

    trainer.update_weights = look  # type: ignore[method-assign]
    trainer.fit()
    assert len(seen) == 20
    assert seen[0] == pytest.approx((0.0004, 0.937))
    assert seen[5] == pytest.approx((0.01, 0.8))
    assert seen[-1] == pytest.approx((0.0001, 0.937))


def test_a_checkpoint_of_before_has_no_fitness() -> None:
    values = asdict(RunState(epoch=3))
    del values["fitness"]
    assert RunState(**values).fitness == []


def test_a_contradiction_leaves_no_run_folder(tmp_path: Path) -> None:
    settings = {"data": "gone.yaml", "project": str(tmp_path / "runs")}
    with pytest.raises(UserError, match="two schedules"):
        train(load(RunConfig, settings | {"optim.schedule": "step", "optim.cos_lr": True}))
    with pytest.raises(UserError, match="leave out --noval"):
        train(load(RunConfig, settings | {"optim.schedule": "plateau", "noval": True}))
    assert not (tmp_path / "runs").exists()
