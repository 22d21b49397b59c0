"""Rates and momentum of a run against the epoch, before it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from boxwright.engine.schedule import StepSettings
from boxwright.reporting.plots import save_figure

_BELOW_THE_LAST = 0.5  # the logarithmic axis ends at this share of the lowest rate after warm-up, which begins at 0


@dataclass(frozen=True)
class DrawnSchedule:
    """A schedule looked at in some of its steps.

    Args:
        title: over the picture.
        epochs: (S,) where each of the steps is, in epochs from 0.
        settings: of each of the steps.
        warmup_end: epoch at which the warm-up is over, or the rate highest; 0: there is none.
    """

    title: str
    epochs: NDArray[np.float64]
    settings: Sequence[StepSettings]
    warmup_end: float


def plot_schedule(drawn: DrawnSchedule, path: Path) -> None:
    """Draw rates of biases and of the other groups, momentum, and batches per optimizer step.

    Args:
        drawn: what is drawn.
        path: of the picture; the suffix picks the format.
    """
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    figure.suptitle(drawn.title)
    rates, momentum, accumulate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1.3, 1))
    other = np.array([s.lr_other for s in drawn.settings])
    bias = np.array([s.lr_bias for s in drawn.settings])
    lowest = float(other[drawn.epochs >= min(drawn.warmup_end, drawn.epochs[-1])].min()) * _BELOW_THE_LAST
    both = bool(np.array_equal(bias, other))
    if not both:
        rates.plot(drawn.epochs, np.maximum(bias, lowest), color="#ff7f0e", label="biases")
    label = "all parameter groups" if both else "weights, normalisation weights"
    rates.plot(drawn.epochs, np.maximum(other, lowest), color="#1f77b4", label=label)
    rates.set(yscale="log", ylabel="learning rate")
    rates.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    rates.yaxis.set_minor_formatter(NullFormatter())
    rates.legend(loc="best", fontsize=9)
    momentum.plot(drawn.epochs, [s.momentum for s in drawn.settings], color="#2ca02c")
    momentum.set(ylabel="momentum")
    accumulate.step(drawn.epochs, [s.accumulate for s in drawn.settings], where="post", color="#9467bd")
    accumulate.set(ylabel="batches a step", xlabel="epoch", xlim=(0, float(drawn.epochs[-1]) or 1), ylim=(0, None))
    accumulate.yaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (rates, momentum, accumulate):
        axes.grid(alpha=0.3)
        if drawn.warmup_end:
            axes.axvline(drawn.warmup_end, color="black", linestyle=":", linewidth=1)
    save_figure(figure, path)
