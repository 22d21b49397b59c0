"""What a search has found: its finished trials, the best one, evolve.csv with one line per trial, and the plot.

Source: names of the files and order of the columns as published with YOLOv5 (docs/spec/yolov5.md, B6); three columns
follow them here.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna import Study
from optuna.trial import TrialState

from boxwright.data.files import csv_cell
from boxwright.extras import needed
from boxwright.search.samplers import generation_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANEL_COLUMNS = 5
_BEST_COLOR = "#d62728"


@dataclass(frozen=True, slots=True)
class FinishedTrial:
    number: int  # generation, from 0
    fitness: float  # of the epoch that best.pt is of; of the last one measured if it was pruned
    pruned: bool  # ended early
    metrics: Mapping[str, float]  # by column
    hyps: Mapping[str, Any]  # every hyper-parameter by its name in a hyp file, searched or not


def finished_trials(study: Study) -> list[FinishedTrial]:
    """Return the trials of a study that have finished or were pruned, in the order of their generations."""
    trials = study.get_trials(deepcopy=False)
    finished = [
        FinishedTrial(
            generation_of(trial, trials),
            float(trial.value or 0.0),
            trial.state == TrialState.PRUNED,
            trial.user_attrs.get("metrics", {}),
            trial.user_attrs.get("hyps", {}),
        )
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    ]
    return sorted(finished, key=lambda trial: trial.number)


def best_of(trials: Sequence[FinishedTrial]) -> FinishedTrial | None:
    """Return the fittest trial that was not pruned; of equal ones the first."""
    whole = [trial for trial in trials if not trial.pruned]
    return max(whole, key=lambda trial: (trial.fitness, -trial.number)) if whole else None


def csv_text(trials: Sequence[FinishedTrial], metrics: Sequence[str]) -> str:
    """Format one line per trial: metrics, hyper-parameters, trial, fitness, state; numbers with all their digits."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.hyps))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*map(csv_cell, (*metrics, *keys)), "trial", "fitness", "state"))
    for trial in trials:
        values = [trial.metrics.get(name, 0.0) for name in metrics] + [trial.hyps.get(key, "") for key in keys]
        writer.writerow((*map(csv_cell, values), trial.number, trial.fitness, "pruned" if trial.pruned else "complete"))
    return text.getvalue()


def plot_search(trials: Sequence[FinishedTrial], names: Sequence[str], best: FinishedTrial) -> "Figure":
    """Plot fitness against each hyper-parameter: one point per trial, coloured by its number, the best one a cross.

    Args:
        trials: finished ones.
        names: hyper-parameters, by their names in a hyp file; one panel each.
        best: one of the trials.
    """
    with needed("a plot", "plots"):
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    columns = min(_PANEL_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(max(3.0 * columns, 6.0), 2.6 * rows + 0.7), layout="constrained")
    noun = "trial" if len(trials) == 1 else "trials"
    figure.suptitle(f"{len(trials)} {noun}; the best is trial {best.number} with fitness {best.fitness:.4g}")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    numbers, fitness = [trial.number for trial in trials], [trial.fitness for trial in trials]
    for panel, name in zip(panels.flat, names, strict=False):
        values = [float(trial.hyps.get(name, math.nan)) for trial in trials]
        panel.scatter(values, fitness, c=numbers, cmap="viridis", s=16, alpha=0.75, linewidths=0)
        chosen = float(best.hyps.get(name, math.nan))
        panel.plot(chosen, best.fitness, "+", color=_BEST_COLOR, markersize=13, markeredgewidth=2)
        panel.set_title(f"{name} = {chosen:.4g}", fontsize=9)
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.25)
    for panel in panels.flat[len(names) :]:
        panel.set_visible(False)
    for panel in panels[:, 0]:
        panel.set_ylabel("fitness", fontsize=8)
    points, ticks = panels[0, 0].collections[0], MaxNLocator(6, integer=True)
    figure.colorbar(points, ax=panels, label="trial", fraction=0.02, pad=0.01, aspect=40, ticks=ticks)
    return figure
