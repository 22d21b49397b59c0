"""The schedule of CenterFusion: one rate, a fall at its milestones, no warm-up unless asked for."""

from __future__ import annotations

import pytest

from boxwright.centerfusion.settings import FusionOptimConfig
from boxwright.engine.schedule import Schedule, ScheduleRules

STEPS = 10


def schedule(epochs: int = 60, batch_size: int = 32, **changes: object) -> Schedule:
    config = FusionOptimConfig.model_validate({"milestones": (50,), **changes})
    return Schedule(config, epochs, STEPS, batch_size, ScheduleRules("plain"))


def test_published_rates() -> None:
    made = schedule()
    for epoch, rate in ((0, 2.5e-4), (49, 2.5e-4), (50, 2.5e-5), (59, 2.5e-5)):
        for step in (epoch * STEPS, epoch * STEPS + STEPS - 1):
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
    rates = [made.at(step).lr_other / 2.5e-4 for step in range(10 * STEPS)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) == made.warmup_steps
    assert rates[-1] == pytest.approx(0.01)
