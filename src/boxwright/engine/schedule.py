"""Learning rates, momentum and accumulation as pure functions of the step, by the rules of a published release.

Source: YOLOv5 v1.0 to v7.0 as published (docs/spec/yolov5.md, B6 and B14): in warm-up the rates aim at the factor of
the running epoch; after it, epoch e trains with the factor of epoch e - 1. YOLOv3-SPP as published
(docs/spec/yolov3-spp.md, A6), CenterFusion as published (docs/spec/centerfusion.md, C13). Schedules that these did not
have (all but linear and cosine) take the factor of epoch e in epoch e, as in torch; one-cycle has no other warm-
up. Step, multi-step, exponential, plateau and one-cycle give the numbers of the schedulers of that name in
torch.optim.lr_scheduler, of which no code is used: those remember where they are, these are functions of the step.
One-cycle: Smith and Topin 2017, Super-Convergence (arXiv 1708.07120).
"""

import logging
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from boxwright.errors import UserError
from boxwright.settings.base import OptimConfig
from boxwright.terminal import counted

_log = logging.getLogger("boxwright.train")
_FALL = 0.1  # of step, multi-step and plateau where optim.gamma is 0, as in torch
_NOTEWORTHY = 1e-4  # share by which a fitness must exceed the best one, as in torch


def schedule_name(config: OptimConfig) -> str:
    """Select the learning-rate schedule: a value of `optim.schedule` that is not empty."""
    return config.schedule or ("cosine" if config.cos_lr else "linear")


def check_schedule(config: OptimConfig, epochs: int, *, validates: bool = True) -> None:
    """Refuse settings that contradict each other, before anything is done.

    Args:
        config: as the user gave them.
        epochs: of the whole run.
        validates: the run has a fitness after its epochs.

    Raises:
        UserError: two schedules are named, or something is missing that the schedule needs.
    """
    if config.cos_lr and config.schedule not in ("", "cosine"):
        raise UserError(f"--cos-lr and --optim.schedule {config.schedule} are two schedules: leave one out")
    if config.schedule == "multi-step" and not config.milestones:
        raise UserError("--optim.schedule multi-step needs the epochs where the rate falls: --optim.milestones 60 80")
    if config.milestones and config.schedule != "multi-step":
        raise UserError(f"--optim.milestones are for --optim.schedule multi-step, not for {schedule_name(config)}")
    if len(set(config.milestones)) < len(config.milestones) or max(config.milestones, default=0) >= epochs:
        raise UserError(
            f"--optim.milestones {' '.join(map(str, config.milestones))}: each is named once and lies before the end "
            f"of the run, which has {counted(epochs, 'epoch')}"
            + (f", as --optim.milestones {max(epochs * 5 // 6, 1)} does" if epochs > 1 else ": leave it out")
        )
    if config.schedule == "plateau" and not validates:
        raise UserError("--optim.schedule plateau looks at the fitness after each epoch: leave out --noval")


def lr_factor(epoch: float, epochs: float, lrf: float, *, cosine: bool) -> float:
    """Compute the multiplier of the initial rate at an epoch: from 1 at epoch 0 to lrf at the last."""
    if cosine:
        return ((1 - math.cos(epoch * math.pi / epochs)) / 2) * (lrf - 1) + 1
    return (1 - epoch / epochs) * (1.0 - lrf) + lrf


def plateau_factor(fitness: Sequence[float], gamma: float, patience: int, lowest: float) -> float:
    """Compute the multiplier that falls by gamma after more than `patience` validations without a better fitness.

    Args:
        fitness: of all validations so far, in their order; larger is better.
        gamma: of one fall.
        patience: validations that are waited for.
        lowest: multiplier below which it does not fall.
    """
    best, waited, factor = -math.inf, 0, 1.0
    for value in fitness:
        if value > best * (1 + _NOTEWORTHY):
            best, waited = value, 0
        else:
            waited += 1
        if waited > patience:
            factor, waited = max(factor * gamma, lowest), 0
    return factor


def one_cycle(config: OptimConfig, step: int, steps: int) -> tuple[float, float]:
    """Compute the multiplier of lr0, and momentum, at a step: up to 1 in half a cosine wave, down to lrf in another.

    Momentum goes the other way, from `momentum` to `warmup_momentum` and back.

    Args:
        config: where it starts and how long it rises.
        step, steps: counted over the whole run.
    """
    top = config.one_cycle_rise * steps - 1
    if step <= top or top >= steps - 1:
        share = step / top if top > 0 else 1.0
        return _between(config.one_cycle_start, 1.0, share), _between(config.momentum, config.warmup_momentum, share)
    share = min((step - top) / (steps - 1 - top), 1.0)
    return _between(1.0, config.lrf, share), _between(config.warmup_momentum, config.momentum, share)


def _between(start: float, end: float, share: float) -> float:
    """Interpolate along half a cosine wave."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True, slots=True)
class ScheduleRules:
    """What a published release does in its own way; the defaults are those of v6.2 and v7.0.

    The systems list their releases. Forms:

    - "grouped": biases and momentum have warm-ups of their own; only weights decay, scaled to the number of images that
      an optimizer step gathers.
    - "uniform": one rate and one decay for everything. Warm-up, if any, ends within the first epoch, where every batch
      updates the weights. Later they are updated once per nominal batch, by the mean loss of its batches.
    - "plain": as "uniform", but in warm-up the rate rises in a straight line over `warmup_epochs`, and SGD has plain
      momentum.
    """

    form: Literal["grouped", "uniform", "plain"] = "grouped"
    min_warmup_steps: int = 100  # shortest warm-up of "grouped"
    linear_to_last: bool = False  # linear decay is at lrf in the last epoch already, not only after it
    always_cosine: bool = False  # there is no linear decay
    fixed_lrf: float | None = None  # final factor whatever is set; None: as set
    fixed_warmup: bool = False  # three epochs from momentum .9 and a bias rate of .1, whatever is set
    updates_on_multiples: bool = False  # update at multiples of `accumulate`, not `accumulate` steps after the last


_FIRST_UNIFORM_FACTOR = 1 / 1000  # of the rate, where the warm-up of "uniform" begins
_LONGEST_UNIFORM_WARMUP = 1000  # steps


@dataclass(frozen=True, slots=True)
class StepSettings:
    """What one step trains with."""

    lr_bias: float  # rate of biases
    lr_other: float  # rate of everything else
    momentum: float  # of SGD
    accumulate: int  # batches that an optimizer step gathers
    loss_scale: float = 1.0  # what the loss is multiplied by before the backward pass


@dataclass(frozen=True, slots=True)
class Schedule:
    """Rates, momentum, weight decay and accumulation of a whole run."""

    config: OptimConfig  # rates, warm-up and nominal batch
    epochs: int  # planned length
    steps_per_epoch: int
    batch_size: int  # images
    rules: ScheduleRules = ScheduleRules()

    def __post_init__(self) -> None:
        # What this release does not let anyone set.
        fixed: dict[str, object] = {"cos_lr": True} if self.rules.always_cosine else {}
        if self.rules.fixed_lrf is not None:
            fixed["lrf"] = self.rules.fixed_lrf
        if self.rules.fixed_warmup:
            fixed |= {"warmup_epochs": 3.0, "warmup_momentum": 0.9, "warmup_bias_lr": 0.1}
        object.__setattr__(self, "config", self.config.model_copy(update=fixed))

    @property
    def weight_decay(self) -> float:
        """Return the weight decay of the weights."""
        config = self.config
        if not self.decays_everything:
            accumulate = max(round(config.nominal_batch_size / self.batch_size), 1)
            return config.weight_decay * self.batch_size * accumulate / config.nominal_batch_size
        return config.weight_decay

    @property
    def decays_everything(self) -> bool:
        """Whether biases and normalisation decay like weights."""
        return self.rules.form != "grouped"

    @property
    def nesterov(self) -> bool:
        """Whether the momentum of SGD is Nesterov's."""
        return self.rules.form != "plain"

    @property
    def warmup_steps(self) -> int:
        """Count the steps until the rate is at its height."""
        config, steps = self.config, round(self.config.warmup_epochs * self.steps_per_epoch)
        if config.schedule == "one-cycle":
            return max(round(config.one_cycle_rise * self.epochs * self.steps_per_epoch) - 1, 0)
        if self.rules.form == "uniform":
            return min(_LONGEST_UNIFORM_WARMUP, self.steps_per_epoch - 1) if config.warmup_epochs > 0 else 0
        return max(steps, self.rules.min_warmup_steps) if self.rules.form == "grouped" else steps

    def ends_in_warmup(self) -> str:
        """Say that the warm-up is not over before the run is; empty: it is."""
        epochs, steps, warmup = self.epochs, self.steps_per_epoch, self.warmup_steps
        if self.config.schedule == "one-cycle" or warmup < epochs * steps:
            return ""
        shorter = "" if warmup > round(self.config.warmup_epochs * steps) else ", or lower --optim.warmup_epochs"
        run = f"{epochs * steps} ({counted(epochs, 'epoch')} of {counted(steps, 'step')})"
        return (
            f"the run ends in its warm-up: that lasts {warmup} steps, the run {run}, so the rate does not get to "
            f"--optim.lr0 {self.config.lr0:g}; train for more than {counted(-(-warmup // steps), 'epoch')}{shorter}"
        )

    def factor(self, epoch: int, fitness: Sequence[float] = ()) -> float:
        """Compute the multiplier of lr0 at an epoch, from 0, of all schedules but one-cycle.

        fitness: of all validations so far; only plateau looks at it.
        """
        config, gamma = self.config, self.config.gamma or _FALL
        match schedule_name(config):
            case "step":
                return gamma ** (epoch // config.step_epochs)
            case "multi-step":
                return gamma ** bisect_right(sorted(config.milestones), epoch)
            case "exponential":
                return (config.gamma or config.lrf ** (1 / self.epochs)) ** epoch
            case "plateau":
                return plateau_factor(fitness, gamma, config.plateau_patience, config.lrf)
            case "cosine":
                return lr_factor(epoch, max(self.epochs, 1), config.lrf, cosine=True)
            case _:
                return lr_factor(epoch, max(self.epochs - self.rules.linear_to_last, 1), config.lrf, cosine=False)

    def at(self, step: int, fitness: Sequence[float] = ()) -> StepSettings:
        """Return the settings of a step of the run; `fitness` of all validations before it, for plateau."""
        config, form, epoch, warmup = self.config, self.rules.form, step // self.steps_per_epoch, self.warmup_steps
        full = config.nominal_batch_size / self.batch_size
        accumulate = max(round(full), 1)
        scale = 1.0 if form == "grouped" else 1 / accumulate
        if config.schedule == "one-cycle":
            factor, momentum = one_cycle(config, step, self.epochs * self.steps_per_epoch)
            return StepSettings(config.lr0 * factor, config.lr0 * factor, momentum, accumulate, scale)
        if form == "grouped" and step <= warmup:
            share = step / warmup
            target = config.lr0 * self.factor(epoch, fitness)
            return StepSettings(
                lr_bias=config.warmup_bias_lr + (target - config.warmup_bias_lr) * share,
                lr_other=target * share,
                momentum=config.warmup_momentum + (config.momentum - config.warmup_momentum) * share,
                accumulate=max(1, round(1 + (full - 1) * share)),
            )
        if form == "uniform" and epoch == 0 and config.warmup_epochs > 0:
            share = min(step / max(warmup, 1), 1.0)
            rate = config.lr0 * (_FIRST_UNIFORM_FACTOR * (1 - share) + share)
            return StepSettings(rate, rate, config.momentum, 1)
        # Published "grouped" is an epoch late, but the epoch in which warm-up ends keeps the rate that warm-up reached.
        is_published = form == "grouped" and schedule_name(config) in ("linear", "cosine")
        is_late = is_published and epoch != warmup // self.steps_per_epoch
        rate = config.lr0 * self.factor(epoch - is_late, fitness)
        if form == "plain":
            rate *= min((step + 1) / (warmup + 1), 1.0)
        return StepSettings(rate, rate, config.momentum, accumulate, scale)

    def updates(self, step: int, last_update: int) -> bool:
        """Whether the weights move after this step, the last time having been after `last_update`; -1: never."""
        accumulate = self.at(step).accumulate
        return step % accumulate == 0 if self.rules.updates_on_multiples else step - last_update >= accumulate
