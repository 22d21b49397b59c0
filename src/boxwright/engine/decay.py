"""How the rate falls over a run: multipliers of lr0 as pure functions of the epoch, or of the fitness so far.

Source: linear and cosine as YOLOv5 published them (spec B6, 9). Step, multi-step, exponential, plateau and one-cycle
give the numbers of the schedulers of that name in torch.optim.lr_scheduler, of which no code is used: those remember
where they are, these are asked for a place. One-cycle: Smith and Topin 2017, Super-Convergence (arXiv 1708.07120).

What is not here: warm-up and what a release does with these numbers (schedule.py).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from boxwright.errors import UserError
from boxwright.settings.base import OptimConfig

Course = str  # a value of `optim.schedule` that is not empty

_FALL = 0.1  # of step, multi-step and plateau where optim.gamma is 0, as in torch
_NOTEWORTHY = 1e-4  # share by which a fitness must exceed the best one, as in torch


def course(config: OptimConfig) -> Course:
    """Which course the settings choose."""
    return config.schedule or ("cosine" if config.cos_lr else "linear")


def check_course(config: OptimConfig, epochs: int, *, validates: bool = True) -> None:
    """Refuse settings that contradict each other, before anything is done.

    Args:
        config: as the user gave them.
        epochs: of the whole run.
        validates: the run has a fitness after its epochs.

    Raises:
        UserError: two courses are named, or something is missing that the course needs.
    """
    if config.cos_lr and config.schedule not in ("", "cosine"):
        raise UserError(f"--cos-lr and --optim.schedule {config.schedule} are two schedules: leave one out")
    if config.schedule == "multi-step" and not config.milestones:
        raise UserError("--optim.schedule multi-step needs the epochs where the rate falls: --optim.milestones 60 80")
    if config.milestones and config.schedule != "multi-step":
        raise UserError(
            f"--optim.milestones are for --optim.schedule multi-step, not for {config.schedule or course(config)}"
        )
    if len(set(config.milestones)) < len(config.milestones) or max(config.milestones, default=0) >= epochs:
        raise UserError(
            f"--optim.milestones {' '.join(map(str, config.milestones))}: each is named once and lies before the end "
            f"of the run, which has {epochs} epochs"
        )
    if config.schedule == "plateau" and not validates:
        raise UserError("--optim.schedule plateau looks at the fitness after each epoch: leave out --noval")


def lr_factor(epoch: float, epochs: float, lrf: float, *, cosine: bool) -> float:
    """Multiplier of the initial rate at an epoch: from 1 at epoch 0 to lrf at the last."""
    if cosine:
        return ((1 - math.cos(epoch * math.pi / epochs)) / 2) * (lrf - 1) + 1
    return (1 - epoch / epochs) * (1.0 - lrf) + lrf


def stepped_factor(config: OptimConfig, epoch: float, epochs: int, fitness: Sequence[float]) -> float:
    """Multiplier of the courses that change from epoch to epoch only: step, multi-step, exponential, plateau.

    Args:
        config: which one, and its numbers.
        epoch: from 0.
        epochs: of the whole run.
        fitness: of all validations so far; only plateau looks at it.
    """
    gamma = config.gamma or _FALL
    match config.schedule:
        case "step":
            return gamma ** (epoch // config.step_epochs)
        case "multi-step":
            return gamma ** bisect_right(sorted(config.milestones), epoch)
        case "exponential":
            return (config.gamma or config.lrf ** (1 / epochs)) ** epoch
        case "plateau":
            return plateau_factor(fitness, gamma, config.plateau_patience, config.lrf)
        case _:
            raise ValueError(f"{config.schedule or course(config)} does not go by steps")


def plateau_factor(fitness: Sequence[float], gamma: float, patience: int, lowest: float) -> float:
    """Multiplier that falls by gamma when more than `patience` validations in a row were not better than the best.

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
    """Multiplier of lr0 and momentum at a step: up to 1 in half a cosine wave, down to lrf in another.

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
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
