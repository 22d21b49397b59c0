"""The nuScenes metric for readers: as text, as tables of the report, and as curves over recall."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boxwright.nuscenes.metric import (
    AT_ERROR_DISTANCE,
    DISTANCES,
    ERROR_DISTANCE,
    ERROR_NAMES,
    MIN_PRECISION,
    MIN_RECALL,
    RANGE_EDGES,
    RECALLS,
    SHORT_ERRORS,
    UNDEFINED,
    NuscenesMetrics,
)
from boxwright.nuscenes.structures import CLASS_NAMES
from boxwright.ops.arrays import Floats
from boxwright.reporting.report import Measured, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAME_WIDTH = 22
_CLASS_WIDTHS = (8, 8, *[7] * 6)  # with the name 80 columns
_ERROR_TITLES = {
    "trans_err": "translation (m)",
    "scale_err": "scale (1 - IoU)",
    "orient_err": "orientation (rad)",
    "vel_err": "velocity (m/s)",
    "attr_err": "attribute (1 - accuracy)",
}
_DISTANCE_SHADES = ("#08306b", "#2171b5", "#6baed6", "#e3c27a")


def format_metrics(metrics: NuscenesMetrics, *, verbose: bool = True) -> str:
    """Format the metric as lines of text.

    Args:
        verbose: add the tables by class and by distance; a dash stands where a number is not defined.
    """
    errors = metrics.tp_errors
    heads = ["mAP", "NDS", *(f"m{SHORT_ERRORS[name]}" for name in ERROR_NAMES)]
    lines = ["nuScenes metric", _line("", heads), _line("all", (metrics.mean_ap, metrics.nd_score, *errors.values()))]
    if not verbose:
        return "\n".join(lines)
    lines += ["", _line("class", ["labels", "found", "AP", *SHORT_ERRORS.values()], _CLASS_WIDTHS)]
    for row, name in enumerate(CLASS_NAMES):
        counts = int(metrics.num_truth[row]), int(metrics.num_predictions[row])
        cells = (*counts, float(metrics.class_aps[row]), *metrics.errors[row].tolist())
        lines.append(_line(name, cells, _CLASS_WIDTHS))
    ranges = [f"{near}-{far} m" for near, far in pairwise(RANGE_EDGES)]
    lines += ["", _line("AP by distance", ranges)]
    lines += [_line(name, row.tolist()) for name, row in zip(CLASS_NAMES, metrics.range_aps, strict=True)]
    lines += [_line("mean", _mean(metrics.range_aps)), "", _line("mean error by distance", ranges)]
    for index, name in enumerate(ERROR_NAMES):
        lines.append(_line(f"m{SHORT_ERRORS[name]}", _mean(metrics.range_errors[:, :, index])))
    lines.append(_line("labels", metrics.range_truth.sum(axis=0).tolist()))
    if note := absent_classes(metrics):
        lines += ["", note]
    return "\n".join(lines)


def absent_classes(metrics: NuscenesMetrics) -> str:
    """Say how many classes lower mAP because nothing of them is annotated; empty: none."""
    absent = [name for name, count in zip(CLASS_NAMES, metrics.num_truth, strict=True) if not count]
    if not absent:
        return ""
    verbs = "has no annotations here and counts" if len(absent) == 1 else "have no annotations here and count"
    return f"{len(absent)} of {len(CLASS_NAMES)} classes {verbs} as AP 0: {', '.join(absent)}"


def _mean(rows: Floats) -> list[float]:
    """Average (R,) over the classes that have a number in a range; NaN where none has."""
    # Masked, since numpy's nanmean warns where a range has no number at all, which is no fault here.
    return np.ma.masked_invalid(rows).mean(axis=0).filled(np.nan).tolist()


def _line(name: str, cells: Iterable[float | int | str], widths: Iterable[int] = repeat(8)) -> str:
    """Format a row: floats with three digits, a dash for NaN."""
    words = [("-" if np.isnan(c) else f"{c:.3f}") if isinstance(c, float) else str(c) for c in cells]
    return (
        f"{name:<{_NAME_WIDTH}}" + "".join(word.rjust(width) for word, width in zip(words, widths, strict=False))
    ).rstrip()


def read_measured(folder: Path) -> Measured:
    """Read metrics_summary.json of a run folder: overall scores, and a row per class with AP and errors."""
    path = folder / "metrics_summary.json"
    if not path.is_file():
        return Measured()
    summary = json.loads(path.read_text(encoding="utf-8"))
    errors, precisions = summary["tp_errors"], summary["label_aps"]
    header = ["NDS", "mAP", *(f"m{name}" for name in SHORT_ERRORS.values())]
    overall = [summary["nd_score"], summary["mean_ap"], *(errors[name] for name in SHORT_ERRORS)]
    class_header = ("class", "AP", *(f"AP at {distance} m" for distance in DISTANCES), *SHORT_ERRORS.values())

    def words(values: Iterable[float]) -> list[str]:
        return ["" if np.isnan(value) else f"{value:.3f}" for value in values]

    rows: list[list[str]] = []
    for name, aps in precisions.items():
        class_errors = [summary["label_tp_errors"][name][error] for error in SHORT_ERRORS]
        rows.append([name, *words([summary["mean_dist_aps"][name], *aps.values(), *class_errors])])
    tables = [
        Table("nuScenes metric", header, [words(overall)]),
        Table("By class; errors in m, 1 - IoU, rad, m/s, 1 - accuracy", class_header, rows),
    ]
    return Measured({f"metrics/{name}": value for name, value in zip(header, overall, strict=True)}, tables)


def plot_nuscenes_curves(metrics: NuscenesMetrics, folder: Path) -> list[Path]:
    """Write PR_curves.png and TP_errors.png over all classes, and CLASS.png with both for each class with annotations.

    Args:
        folder: created if missing.

    Returns:
        the files, in that order.
    """
    from boxwright.reporting.plots import Figure, rgb, save_figure  # matplotlib is slow to import

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "PR_curves.png", folder / "TP_errors.png"]
    figure = Figure(figsize=(12.4, 8.6), layout="constrained")
    figure.suptitle(f"precision over recall: mAP {metrics.mean_ap:.3f}, NDS {metrics.nd_score:.3f}")
    panels: np.ndarray = np.asarray(figure.subplots(2, 2, sharex=True, sharey=True))
    for column, (axes, distance) in enumerate(zip(panels.flat, DISTANCES, strict=True)):
        precision = np.array([curves[column].precision for curves in metrics.curves])
        for row, name in enumerate(CLASS_NAMES):
            if metrics.num_truth[row]:
                axes.plot(RECALLS, precision[row], linewidth=1.1, color=rgb(row), label=name if column == 0 else None)
        mean = "mean" if column == 0 else None
        axes.plot(RECALLS, precision.mean(axis=0), linewidth=2.6, color="black", label=mean)
        _mark_uncounted(axes)
        axes.set_title(f"matched within {distance:g} m: mAP {metrics.aps[:, column].mean():.3f}", fontsize=11)
    for axes in panels[1]:
        axes.set_xlabel("recall")
    for axes in panels[:, 0]:
        axes.set_ylabel("precision")
    figure.legend(loc="outside right upper", fontsize=9)
    save_figure(figure, files[0])
    figure = Figure(figsize=(14.4, 8), layout="constrained")
    figure.suptitle(f"true-positive errors over recall, matched within {ERROR_DISTANCE:g} m")
    *error_panels, last = np.asarray(figure.subplots(2, 3)).flat
    for index, (axes, error) in enumerate(zip(error_panels, ERROR_NAMES, strict=True)):
        for row, name in enumerate(CLASS_NAMES):
            label = f"{name} {metrics.errors[row, index]:.2f}"
            _draw_error(axes, metrics, row, index, linewidth=1.3, color=rgb(row), label=label)
        axes.set_title(f"{_ERROR_TITLES[error]}: mean {metrics.tp_errors[error]:.3f}", fontsize=11)
        _finish_errors(axes, fontsize=7.5, ncols=2)
    last.axis("off")
    save_figure(figure, files[1])
    for row in metrics.num_truth.nonzero()[0].tolist():
        files.append(folder / f"{CLASS_NAMES[row]}.png")
        _plot_class(metrics, row, files[-1])
    return files


def _plot_class(metrics: NuscenesMetrics, row: int, path: Path) -> None:
    """Draw precision at each matching distance beside the errors that are defined for the class."""
    from boxwright.reporting.plots import Figure, rgb, save_figure

    figure = Figure(figsize=(12.4, 4.8), layout="constrained")
    name = CLASS_NAMES[row]
    figure.suptitle(f"{name}: AP {metrics.class_aps[row]:.3f}, {metrics.num_truth[row]} annotations")
    left, right = np.asarray(figure.subplots(1, 2)).flat
    for column in reversed(range(len(DISTANCES))):  # the widest below, thickest, so that equal curves are all seen
        label = f"{DISTANCES[column]:g} m: AP {metrics.aps[row, column]:.3f}"
        precision = metrics.curves[row][column].precision
        left.plot(RECALLS, precision, color=_DISTANCE_SHADES[column], linewidth=1.3 + 1.1 * column, label=label)
    _mark_uncounted(left)
    left.set(xlabel="recall", ylabel="precision")
    left.legend(fontsize=9, loc="upper right", reverse=True)
    for index, error in enumerate(ERROR_NAMES):
        label = f"{_ERROR_TITLES[error]}: {metrics.errors[row, index]:.3f}"
        _draw_error(right, metrics, row, index, linewidth=1.8, color=rgb(index), label=label)
    right.set_title(f"errors of matches within {ERROR_DISTANCE:g} m", fontsize=11)
    _finish_errors(right, fontsize=9)
    save_figure(figure, path)


def _draw_error(axes: Axes, metrics: NuscenesMetrics, row: int, index: int, **line: Any) -> None:
    """Draw an error of a class over recall above 0.1, as far as that is reached, if the class has the error."""
    curve = metrics.curves[row][AT_ERROR_DISTANCE]
    counted = (curve.confidence > 0) & (RECALLS > MIN_RECALL)
    if counted.any() and ERROR_NAMES[index] not in UNDEFINED.get(CLASS_NAMES[row], ()):
        axes.plot(RECALLS[counted], curve.errors[index, counted], **line)


def _mark_uncounted(axes: Axes) -> None:
    """Mark what AP leaves out: recall and precision up to 0.1."""
    axes.axvspan(0, MIN_RECALL, color="0.9", zorder=0)
    axes.axhspan(0, MIN_PRECISION, color="0.9", zorder=0)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)


def _finish_errors(axes: Axes, **legend: Any) -> None:
    """Set axes, grid and legend of a panel of errors."""
    axes.set(xlim=(0, 1), xlabel="recall")
    top = max((float(np.max(np.asarray(line.get_ydata()))) for line in axes.lines), default=1.0)
    height = max(0.6, top) * 1.55  # room for the legend
    axes.set_ylim(-0.015 * height, height)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(loc="upper left", **legend)
    else:
        axes.text(0.5, 0.5, "no matches", ha="center", va="center", transform=axes.transAxes)
