"""What a run would train with: the lines and the picture of `boxwright info --schedule`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright.data.dataset import open_dataset
from boxwright.engine.schedule import StepSettings, check_schedule, make_schedule, schedule_name
from boxwright.errors import UserError
from boxwright.yolo.published import schedule_rules, with_release
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.verbs.info import open_network

_MOST_POINTS = 4000  # steps that are looked at, besides the first and the last of each epoch
_ANY_FITNESS = 0.5
_PICTURES = (".png", ".jpg", ".svg", ".pdf")


@dataclass(frozen=True)
class ScheduleReport:
    """The course of a run.

    Args:
        config: settings with what the recipe of the model makes of them.
        steps_per_epoch: batches in an epoch.
        steps: (S,) steps looked at, counted over the run.
        settings: of each of these steps.
        warmup_steps: until the rate is at its height.
    """

    config: RunConfig
    steps_per_epoch: int
    steps: NDArray[np.int64]
    settings: tuple[StepSettings, ...]
    warmup_steps: int

    @property
    def title(self) -> str:
        optim, name = self.config.optim, schedule_name(self.config.optim)
        release = f" of {optim.release}" if optim.release else ""
        constant = ", for a fitness that never changes" if name == "plateau" else ""
        return (
            f"{optim.optimizer}, {name}{release}{constant}: {self.config.epochs} epochs of {self.steps_per_epoch} steps"
        )

    def text(self) -> str:
        """Format for the terminal."""
        first, last = self.settings[0], self.settings[-1]
        peak = max(range(len(self.steps)), key=lambda i: self.settings[i].lr_other)
        lines = [
            f"{self.title}, {self.config.batch_size} images each, {last.accumulate} gathered for a step in the end"
        ]
        if self.warmup_steps:
            what = "rises" if self.config.optim.schedule == "one-cycle" else "warm-up"
            lines.append(
                f"{what}: until step {self.warmup_steps} (epoch {self._epoch(self.warmup_steps)}), biases from "
                f"{first.lr_bias:.3g}, others from {first.lr_other:.3g}, momentum from {first.momentum:.3g}"
            )
        lines.append(
            f"highest rate: {self.settings[peak].lr_other:.4g} at step {self.steps[peak]} "
            f"(epoch {self._epoch(int(self.steps[peak]))})"
        )
        lines.append(f"last rate: {last.lr_other:.4g}, momentum {last.momentum:.3g}")
        total = self.config.epochs * self.steps_per_epoch
        if self.warmup_steps >= total:
            lines.append(f"the run ends in its warm-up: it has {total} steps, the warm-up {self.warmup_steps}")
        return "\n".join(lines)

    def _epoch(self, step: int) -> str:
        return f"{step / self.steps_per_epoch:.4g}"

    def draw(self, path: Path) -> None:
        """Draw it.

        Raises:
            UserError: the file cannot be written, or is no picture by its suffix.
        """
        if path.suffix.lower() not in _PICTURES:
            raise UserError(f"--schedule {path}: the picture is a file that ends in {', '.join(_PICTURES)}")
        from boxwright.reporting.plots import DrawnSchedule, plot_schedule

        warm = min(self.warmup_steps / self.steps_per_epoch, float(self.config.epochs))
        drawn = DrawnSchedule(self.title, self.steps / self.steps_per_epoch, self.settings, warm)
        try:
            plot_schedule(drawn, path)
        except OSError as error:
            raise UserError(f"--schedule {path} cannot be written: {error.strerror}") from error


def describe_schedule(config: RunConfig, num_images: int | None = None) -> ScheduleReport:
    """Look at the schedule of a run without training it.

    Args:
        config: settings of the run; a model or weights bring the settings of their recipe.
        num_images: to train on; None: as `data` has.

    Raises:
        UserError: settings that contradict each other, or nothing says how many images there are.
    """
    check_schedule(config.optim, config.epochs, validates=not config.noval)
    if config.batch_size < 1:
        raise UserError("a schedule needs the number of images a step: --batch-size N; -1 is measured by train alone")
    if num_images is None and not config.data:
        raise UserError("a schedule needs the number of training images: --images N, or --data")
    if num_images is not None and num_images < 1:
        raise UserError(f"--images {num_images}: there is at least one image to train on")
    if config.model or config.weights:
        network = open_network(config.model, weights=config.weights)
        config = with_release(config, network.release, has_backbone=network.num_backbone_layers > 0)
    if num_images is None:
        num_images = len(open_dataset(config.data, "train", single_cls=config.single_cls, compat=config.compat))
    per_epoch = -(-num_images // config.batch_size)
    schedule = make_schedule(
        config.optim, config.epochs, per_epoch, config.batch_size, schedule_rules(config.optim.release)
    )
    steps = _looked_at(config.epochs, per_epoch)
    is_plateau = config.optim.schedule == "plateau"
    settings = tuple(
        schedule.at(int(step), [_ANY_FITNESS] * (step // per_epoch if is_plateau else 0)) for step in steps
    )
    if config.optim.optimizer != "SGD":  # its beta1 stays
        settings = tuple(replace(one, momentum=config.optim.momentum) for one in settings)
    return ScheduleReport(config, per_epoch, steps, settings, schedule.warmup_steps)


def _looked_at(epochs: int, per_epoch: int) -> NDArray[np.int64]:
    """Return steps spread over the run, with the first and last of each epoch, or of some epochs of a very long run."""
    starts = np.unique(np.linspace(0, epochs - 1, min(_MOST_POINTS, epochs)).astype(np.int64)) * per_epoch
    spread = np.linspace(0, epochs * per_epoch - 1, min(_MOST_POINTS, epochs * per_epoch)).astype(np.int64)
    return np.unique(np.concatenate((starts, starts + per_epoch - 1, spread)))
