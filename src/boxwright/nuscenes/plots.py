"""Curves of the nuScenes metric as pictures: precision and true-positive errors over recall.

What is not here: the numbers (evaluation/nuscenes_metric) and pictures of boxes (inference).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from boxwright.drawing.lettering import class_color
from boxwright.nuscenes.metric import (
    DISTANCES,
    ERROR_DISTANCE,
    ERROR_NAMES,
    MIN_PRECISION,
    MIN_RECALL,
    RECALLS,
    UNDEFINED,
    Curve,
    NuscenesMetrics,
)
from boxwright.nuscenes.structures import CLASS_NAMES
from boxwright.reporting.plots import save_figure

_ERROR_TITLES = {
    "trans_err": "translation (m)",
    "scale_err": "scale (1 - IoU)",
    "orient_err": "orientation (rad)",
    "vel_err": "velocity (m/s)",
    "attr_err": "attribute (1 - accuracy)",
}
_AT_ERROR = DISTANCES.index(ERROR_DISTANCE)
_DISTANCE_SHADES = ("#08306b", "#2171b5", "#6baed6", "#e3c27a")


def plot_nuscenes_curves(metrics: NuscenesMetrics, folder: Path) -> list[Path]:
    """Write PR_curves.png and TP_errors.png over all classes, and CLASS.png with both for each class with annotations.

    Args:
        metrics: what was measured.
        folder: where to; made if it is not there.

    Returns:
        the files, in that order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "PR_curves.png", folder / "TP_errors.png"]
    _plot_precision(metrics, files[0])
    _plot_errors(metrics, files[1])
    for row in metrics.num_truth.nonzero()[0].tolist():
        files.append(folder / f"{CLASS_NAMES[row]}.png")
        _plot_class(metrics, row, files[-1])
    return files


def _plot_precision(metrics: NuscenesMetrics, path: Path) -> None:
    """One panel a matching distance: a line a class, and their mean."""
    figure = Figure(figsize=(12.4, 8.6), layout="constrained")
    figure.suptitle(f"precision over recall: mAP {metrics.mean_ap:.3f}, NDS {metrics.nd_score:.3f}")
    panels: NDArray[Any] = np.asarray(figure.subplots(2, 2, sharex=True, sharey=True))
    for column, (axes, distance) in enumerate(zip(panels.flat, DISTANCES, strict=True)):
        precision = np.array([curves[column].precision for curves in metrics.curves])
        for row, name in enumerate(CLASS_NAMES):
            if metrics.num_truth[row]:
                axes.plot(
                    RECALLS, precision[row], linewidth=1.1, color=_color(row), label=name if column == 0 else None
                )
        mean = "mean" if column == 0 else None
        axes.plot(RECALLS, precision.mean(axis=0), linewidth=2.6, color="black", label=mean)
        _shade_uncounted(axes)
        axes.set_title(f"matched within {distance:g} m: mAP {metrics.aps[:, column].mean():.3f}", fontsize=11)
    for axes in panels[1]:
        axes.set_xlabel("recall")
    for axes in panels[:, 0]:
        axes.set_ylabel("precision")
    figure.legend(loc="outside right upper", fontsize=9)
    save_figure(figure, path)


def _plot_errors(metrics: NuscenesMetrics, path: Path) -> None:
    """One panel an error: a line a class, as far as its recall reaches."""
    figure = Figure(figsize=(14.4, 8), layout="constrained")
    figure.suptitle(f"true-positive errors over recall, matched within {ERROR_DISTANCE:g} m")
    panels: list[Axes] = list(np.asarray(figure.subplots(2, 3)).flat)
    for place, (axes, error) in enumerate(zip(panels, ERROR_NAMES, strict=False)):
        for row, name in enumerate(CLASS_NAMES):
            recalls, values = _reached(metrics.curves[row][_AT_ERROR], place)
            if len(recalls) and error not in UNDEFINED.get(name, ()):
                axes.plot(
                    recalls, values, linewidth=1.3, color=_color(row), label=f"{name} {metrics.errors[row, place]:.2f}"
                )
        axes.set_title(f"{_ERROR_TITLES[error]}: mean {metrics.tp_errors[error]:.3f}", fontsize=11)
        _finish_errors(axes)
        if axes.lines:
            axes.legend(fontsize=7.5, loc="upper left", ncols=2)
    panels[-1].axis("off")
    save_figure(figure, path)


def _plot_class(metrics: NuscenesMetrics, row: int, path: Path) -> None:
    """Precision at each matching distance beside the errors that are defined for the class."""
    figure = Figure(figsize=(12.4, 4.8), layout="constrained")
    name = CLASS_NAMES[row]
    figure.suptitle(f"{name}: AP {metrics.class_aps[row]:.3f}, {metrics.num_truth[row]} annotations")
    left, right = np.asarray(figure.subplots(1, 2)).flat
    for column in reversed(range(len(DISTANCES))):  # the widest below, thickest, so that equal curves are all seen
        label = f"{DISTANCES[column]:g} m: AP {metrics.aps[row, column]:.3f}"
        precision = metrics.curves[row][column].precision
        left.plot(RECALLS, precision, color=_DISTANCE_SHADES[column], linewidth=1.3 + 1.1 * column, label=label)
    _shade_uncounted(left)
    left.set(xlabel="recall", ylabel="precision")
    left.legend(fontsize=9, loc="upper right", reverse=True)
    for place, error in enumerate(ERROR_NAMES):
        recalls, values = _reached(metrics.curves[row][_AT_ERROR], place)
        if len(recalls) and error not in UNDEFINED.get(name, ()):
            label = f"{_ERROR_TITLES[error]}: {metrics.errors[row, place]:.3f}"
            right.plot(recalls, values, linewidth=1.8, color=_color(place), label=label)
    right.set_title(f"errors of matches within {ERROR_DISTANCE:g} m", fontsize=11)
    _finish_errors(right)
    if right.lines:
        right.legend(fontsize=9, loc="upper left")
    save_figure(figure, path)


def _reached(curve: Curve, error: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The part of an error's curve that counts: recall above 0.1, as far as it is reached."""
    counted = (curve.confidence > 0) & (RECALLS > MIN_RECALL)
    return RECALLS[counted], curve.errors[error, counted]


def _shade_uncounted(axes: Axes) -> None:
    """Grey what AP leaves out: recall and precision up to 0.1."""
    axes.axvspan(0, MIN_RECALL, color="0.9", zorder=0)
    axes.axhspan(0, MIN_PRECISION, color="0.9", zorder=0)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)


def _finish_errors(axes: Axes) -> None:
    axes.set(xlim=(0, 1), xlabel="recall")
    top = max((float(np.max(np.asarray(line.get_ydata()))) for line in axes.lines), default=1.0)
    height = max(0.6, top) * 1.55  # room for the legend
    axes.set_ylim(-0.015 * height, height)
    axes.grid(alpha=0.3)
    if not axes.lines:
        axes.text(0.5, 0.5, "no matches", ha="center", va="center", transform=axes.transAxes)


def _color(row: int) -> NDArray[np.float64]:
    return np.divide(class_color(row), 255)
