"""Learning rates, momentum and accumulation as pure functions of the step, by the rules of a published release.

Source: YOLOv5 v1.0 to v7.0 as published (spec B6; facts of B14 kept): in warm-up the rates aim at the factor of the
running epoch; after it, epoch e trains with the factor of epoch e - 1. YOLOv3-SPP as published (spec A6),
CenterFusion as published (spec C13). Schedules
that these did not have (decay.py) take the factor of epoch e in epoch e, as in torch; one-cycle has no other warm-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from boxwright.engine.decay import course, lr_factor, one_cycle, stepped_factor
from boxwright.settings.base import OptimConfig


@dataclass(frozen=True, slots=True)
class ScheduleRules:
    """What a published release does in its own way; the defaults are those of v6.2 and v7.0.

    The releases themselves are listed by the systems.
    """

    form: Literal["v5", "v3", "centernet"] = "v5"  # which class below; the other fields are for v5 alone
    min_warmup_steps: int = 100  # shortest warm-up
    linear_to_last: bool = False  # linear decay is at lrf in the last epoch already, not only after it
    always_cosine: bool = False  # there is no linear decay
    fixed_lrf: float | None = None  # final factor whatever is set; None: as set
    fixed_warmup: bool = False  # three epochs from momentum .9 and a bias rate of .1, whatever is set
    updates_on_multiples: bool = False  # weights move at steps that `accumulate` divides, not when so many have passed

    def applied(self, config: OptimConfig) -> OptimConfig:
        """The settings with what this release does not let anyone set."""
        fixed: dict[str, object] = {"cos_lr": True} if self.always_cosine else {}
        if self.fixed_lrf is not None:
            fixed["lrf"] = self.fixed_lrf
        if self.fixed_warmup:
            fixed |= {"warmup_epochs": 3.0, "warmup_momentum": 0.9, "warmup_bias_lr": 0.1}
        return config.model_copy(update=fixed)


CENTERNET = ScheduleRules(form="centernet")


_FIRST_V3_FACTOR = 1 / 1000  # of the rate, where the warm-up of YOLOv3-SPP begins
_LONGEST_V3_WARMUP = 1000  # steps


@dataclass(frozen=True, slots=True)
class StepSettings:
    """What one step trains with.

    Args:
        lr_bias, lr_other: rates of biases and of everything else.
        momentum: of SGD.
        accumulate: number of batches an optimizer step gathers.
        loss_scale: what the loss is multiplied by before the backward pass.
    """

    lr_bias: float
    lr_other: float
    momentum: float
    accumulate: int
    loss_scale: float = 1.0


class Schedule(Protocol):
    """The course of a run."""

    @property
    def weight_decay(self) -> float:
        """Of the weights."""
        ...

    @property
    def decays_everything(self) -> bool:
        """Biases and normalisation decay like weights."""
        ...

    @property
    def warmup_steps(self) -> int:
        """Steps until the rate is at its height."""
        ...

    def at(self, step: int, fitness: Sequence[float] = ()) -> StepSettings:
        """Settings of a step counted over the whole run; `fitness` of all validations before it, for plateau."""
        ...

    def updates(self, step: int, last_update: int) -> bool:
        """Whether the weights move after this step, the last time having been after `last_update`; -1: never."""
        ...


class _Timed(Protocol):
    """What the course of the rate reads of a schedule."""

    @property
    def config(self) -> OptimConfig: ...

    @property
    def epochs(self) -> int: ...

    @property
    def steps_per_epoch(self) -> int: ...


def make_schedule(
    config: OptimConfig, epochs: int, steps_per_epoch: int, batch_size: int, rules: ScheduleRules
) -> Schedule:
    """Make the schedule of a release.

    Args:
        config: rates, warm-up and nominal batch.
        epochs: planned length.
        steps_per_epoch: batches in an epoch.
        batch_size: images a batch.
        rules: of the release.
    """
    if rules.form == "centernet":
        return CenterSchedule(config, epochs, steps_per_epoch, batch_size)
    if rules.form == "v3":
        return V3Schedule(config, epochs, steps_per_epoch, batch_size)
    return V5Schedule(config, epochs, steps_per_epoch, batch_size, rules)


@dataclass(frozen=True, slots=True)
class V5Schedule:
    """Args:
    config, epochs, steps_per_epoch, batch_size: as of `make_schedule`.
    rules: of a release.
    """

    config: OptimConfig
    epochs: int
    steps_per_epoch: int
    batch_size: int
    rules: ScheduleRules = ScheduleRules()

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", self.rules.applied(self.config))

    @property
    def warmup_steps(self) -> int:
        if self.config.schedule == "one-cycle":
            return _steps_of_rise(self)
        return max(round(self.config.warmup_epochs * self.steps_per_epoch), self.rules.min_warmup_steps)

    @property
    def weight_decay(self) -> float:
        """For the images that an optimizer step really gathers."""
        nominal = self.config.nominal_batch_size
        accumulate = max(round(nominal / self.batch_size), 1)
        return self.config.weight_decay * self.batch_size * accumulate / nominal

    @property
    def decays_everything(self) -> bool:
        return False

    @property
    def is_published(self) -> bool:
        return course(self.config) in ("linear", "cosine")

    def factor(self, epoch: float, fitness: Sequence[float] = ()) -> float:
        if not self.is_published:
            return stepped_factor(self.config, epoch, self.epochs, fitness)
        cosine = course(self.config) == "cosine"
        epochs = self.epochs - 1 if self.rules.linear_to_last and not cosine else self.epochs
        return lr_factor(epoch, max(epochs, 1), self.config.lrf, cosine=cosine)

    def at(self, step: int, fitness: Sequence[float] = ()) -> StepSettings:
        config = self.config
        full = config.nominal_batch_size / self.batch_size
        if config.schedule == "one-cycle":
            return _at_one_cycle(self, step, max(1, round(full)))
        epoch = step // self.steps_per_epoch
        if step <= self.warmup_steps:
            share = step / self.warmup_steps
            target = config.lr0 * self.factor(epoch, fitness)
            return StepSettings(
                lr_bias=config.warmup_bias_lr + (target - config.warmup_bias_lr) * share,
                lr_other=target * share,
                momentum=config.warmup_momentum + (config.momentum - config.warmup_momentum) * share,
                accumulate=max(1, round(1 + (full - 1) * share)),
            )
        # The epoch in which warm-up ends keeps the rate that warm-up arrived at.
        on_time = not self.is_published or epoch == self.warmup_steps // self.steps_per_epoch
        rate = config.lr0 * self.factor(epoch if on_time else epoch - 1, fitness)
        return StepSettings(rate, rate, config.momentum, max(1, round(full)))

    def updates(self, step: int, last_update: int) -> bool:
        accumulate = self.at(step).accumulate
        return step % accumulate == 0 if self.rules.updates_on_multiples else step - last_update >= accumulate


@dataclass(frozen=True, slots=True)
class V3Schedule:
    """YOLOv3-SPP: one rate for everything, a factor an epoch, warm-up within the first epoch if at all.

    In an epoch that warms up every batch moves the weights; later ones move them once a nominal batch, with the mean
    loss of its batches. Args: as of `make_schedule`.
    """

    config: OptimConfig
    epochs: int
    steps_per_epoch: int
    batch_size: int

    @property
    def weight_decay(self) -> float:
        return self.config.weight_decay

    @property
    def decays_everything(self) -> bool:
        return True

    @property
    def warmup_steps(self) -> int:
        if self.config.schedule == "one-cycle":
            return _steps_of_rise(self)
        return min(_LONGEST_V3_WARMUP, self.steps_per_epoch - 1) if self.config.warmup_epochs > 0 else 0

    def at(self, step: int, fitness: Sequence[float] = ()) -> StepSettings:
        config, epoch = self.config, step // self.steps_per_epoch
        accumulate = max(round(config.nominal_batch_size / self.batch_size), 1)
        if config.schedule == "one-cycle":
            return replace(_at_one_cycle(self, step, accumulate), loss_scale=1 / accumulate)
        if epoch == 0 and config.warmup_epochs > 0:
            share = min(step / max(self.warmup_steps, 1), 1.0)
            rate = config.lr0 * (_FIRST_V3_FACTOR * (1 - share) + share)
            return StepSettings(rate, rate, config.momentum, 1)
        rate = config.lr0 * _factor_of_epoch(self, epoch, fitness)
        return StepSettings(rate, rate, config.momentum, accumulate, 1 / accumulate)

    def updates(self, step: int, last_update: int) -> bool:
        return step % self.at(step).accumulate == 0


@dataclass(frozen=True, slots=True)
class CenterSchedule:
    """CenterNet and CenterFusion: one rate for everything, a factor an epoch, the same decay for everything.

    Published without warm-up; `warmup_epochs` lets the rate rise in a straight line. Args: as of `make_schedule`.
    """

    config: OptimConfig
    epochs: int
    steps_per_epoch: int
    batch_size: int

    @property
    def weight_decay(self) -> float:
        return self.config.weight_decay

    @property
    def decays_everything(self) -> bool:
        return True

    @property
    def warmup_steps(self) -> int:
        if self.config.schedule == "one-cycle":
            return _steps_of_rise(self)
        return round(self.config.warmup_epochs * self.steps_per_epoch)

    def at(self, step: int, fitness: Sequence[float] = ()) -> StepSettings:
        config, epoch = self.config, step // self.steps_per_epoch
        accumulate = max(round(config.nominal_batch_size / self.batch_size), 1)
        if config.schedule == "one-cycle":
            return replace(_at_one_cycle(self, step, accumulate), loss_scale=1 / accumulate)
        rate = config.lr0 * _factor_of_epoch(self, epoch, fitness) * min((step + 1) / (self.warmup_steps + 1), 1.0)
        return StepSettings(rate, rate, config.momentum, accumulate, 1 / accumulate)

    def updates(self, step: int, last_update: int) -> bool:
        return step - last_update >= self.at(step).accumulate


def _factor_of_epoch(schedule: _Timed, epoch: int, fitness: Sequence[float]) -> float:
    """Multiplier of lr0 where epoch e has the factor of epoch e."""
    config = schedule.config
    if course(config) in ("linear", "cosine"):
        return lr_factor(epoch, schedule.epochs, config.lrf, cosine=course(config) == "cosine")
    return stepped_factor(config, epoch, schedule.epochs, fitness)


def _steps_of_rise(schedule: _Timed) -> int:
    return max(round(schedule.config.one_cycle_rise * schedule.epochs * schedule.steps_per_epoch) - 1, 0)


def _at_one_cycle(schedule: _Timed, step: int, accumulate: int) -> StepSettings:
    """One rate for everything, from the first step of the run to its last."""
    factor, momentum = one_cycle(schedule.config, step, schedule.epochs * schedule.steps_per_epoch)
    rate = schedule.config.lr0 * factor
    return StepSettings(rate, rate, momentum, accumulate)
