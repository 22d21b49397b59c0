"""Learning rates, momentum and accumulation as pure functions of the step.

Source: YOLOv5 6.2 to 7.0 as published (spec B6; facts of B14 kept): in warm-up the rates aim at the factor of the
running epoch; after it, epoch e trains with the factor of epoch e - 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from boxwright.config.schema import OptimConfig

MIN_WARMUP_STEPS = 100  # from v6.2 on; 1000 before


def lr_factor(epoch: float, epochs: float, lrf: float, *, cosine: bool) -> float:
    """Multiplier of the initial rate at an epoch: from 1 at epoch 0 to lrf at the last."""
    if cosine:
        return ((1 - math.cos(epoch * math.pi / epochs)) / 2) * (lrf - 1) + 1
    return (1 - epoch / epochs) * (1.0 - lrf) + lrf


@dataclass(frozen=True, slots=True)
class StepSettings:
    """What one step trains with; `accumulate` is the number of batches an optimizer step gathers."""

    lr_bias: float
    lr_other: float
    momentum: float
    accumulate: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """The course of a run.

    Args:
        config: rates, warm-up and nominal batch.
        epochs: planned length.
        steps_per_epoch: batches in an epoch.
        batch_size: images a batch.
        min_warmup_steps: shortest warm-up.
    """

    config: OptimConfig
    epochs: int
    steps_per_epoch: int
    batch_size: int
    min_warmup_steps: int = MIN_WARMUP_STEPS

    @property
    def warmup_steps(self) -> int:
        return max(round(self.config.warmup_epochs * self.steps_per_epoch), self.min_warmup_steps)

    @property
    def scaled_weight_decay(self) -> float:
        """Weight decay for the images that an optimizer step really gathers."""
        nominal = self.config.nominal_batch_size
        accumulate = max(round(nominal / self.batch_size), 1)
        return self.config.weight_decay * self.batch_size * accumulate / nominal

    def factor(self, epoch: float) -> float:
        return lr_factor(epoch, self.epochs, self.config.lrf, cosine=self.config.cos_lr)

    def at(self, step: int) -> StepSettings:
        """Settings of a step counted over the whole run."""
        config = self.config
        full = config.nominal_batch_size / self.batch_size
        epoch = step // self.steps_per_epoch
        if step <= self.warmup_steps:
            share = step / self.warmup_steps
            target = config.lr0 * self.factor(epoch)
            return StepSettings(
                lr_bias=config.warmup_bias_lr + (target - config.warmup_bias_lr) * share,
                lr_other=target * share,
                momentum=config.warmup_momentum + (config.momentum - config.warmup_momentum) * share,
                accumulate=max(1, round(1 + (full - 1) * share)),
            )
        # The epoch in which warm-up ends keeps the rate that warm-up arrived at.
        last_warm_epoch = self.warmup_steps // self.steps_per_epoch
        rate = config.lr0 * self.factor(epoch if epoch == last_warm_epoch else epoch - 1)
        return StepSettings(rate, rate, config.momentum, max(1, round(full)))
