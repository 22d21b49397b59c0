"""Fitness against each hyper-parameter of a search: one panel each, a point a trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from boxwright.reporting.plots import save_figure

_COLUMNS = 5
_BEST = "#d62728"


def plot_evolution(
    names: Sequence[str],
    values: NDArray[np.float64],
    fitness: NDArray[np.float64],
    numbers: NDArray[np.int64],
    best: int,
    path: Path,
) -> None:
    """Draw trials as points whose colour says how late they came, the best one as a cross with its value.

    Args:
        names: (H,) hyper-parameters.
        values: (N, H) their values in each trial.
        fitness: (N,) larger is better.
        numbers: (N,) of the trials.
        best: row of the best one.
        path: of the picture; the suffix picks the format.
    """
    columns = min(_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(max(3.0 * columns, 6.0), 2.6 * rows + 0.7), layout="constrained")
    figure.suptitle(f"{len(fitness)} trials; the best is trial {numbers[best]} with fitness {fitness[best]:.4g}")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    points = None
    for panel, name, column in zip(panels.flat, names, values.T, strict=False):
        points = panel.scatter(column, fitness, c=numbers, cmap="viridis", s=16, alpha=0.75, linewidths=0)
        panel.plot(column[best], fitness[best], "+", color=_BEST, markersize=13, markeredgewidth=2)
        panel.set_title(f"{name} = {column[best]:.4g}", fontsize=9)
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.25)
    for panel in panels.flat[len(names) :]:
        panel.set_visible(False)
    for panel in panels[:, 0]:
        panel.set_ylabel("fitness", fontsize=8)
    if points is not None:
        ticks = MaxNLocator(6, integer=True)
        figure.colorbar(points, ax=panels, label="trial", fraction=0.02, pad=0.01, aspect=40, ticks=ticks)
    save_figure(figure, path)
