"""Plots of a run: labels, results over epochs, curves, confusion matrix; and the contact sheets of `sheets`.

Matplotlib is used through Figure objects only: no pyplot, no global state, no display needed.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from boxwright.data.index import DataIndex
from boxwright.drawing.lettering import class_color
from boxwright.drawing.sheets import plot_batch, plot_val_batch
from boxwright.yolo.evaluation import Evaluation

__all__ = ["plot_batch", "plot_confusion", "plot_curves", "plot_labels", "plot_results", "plot_val_batch"]

_MAX_OUTLINES = 1000  # boxes drawn as outlines: more only turn the panel black
_MAX_NAMED_BARS = 40
_MAX_NUMBERED_CELLS = 20
_MAX_LEGEND = 20


def short(name: str, length: int = 22) -> str:
    """Return a class name that fits an axis: no math markup, cut with an ellipsis."""
    line = " ".join(name.split()).replace("$", r"\$")
    return line if len(line) <= length else line[: length - 1] + "…"


def save_figure(figure: Figure, path: Path) -> None:
    """Draw a figure into a file; the suffix picks the format."""
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # drawn as an empty box, which is good enough
        figure.savefig(path, dpi=130)


def plot_labels(index: DataIndex, path: Path) -> None:
    """Draw instances per class, box outlines, box centres and box sizes of a data set."""
    classes, boxes = np.asarray(index.classes), np.asarray(index.boxes, dtype=np.float64)
    figure = Figure(figsize=(11, 9.4), layout="constrained")
    figure.suptitle(f"{len(index)} images, {len(boxes)} boxes, {len(index.names)} classes")
    counts, outlines, centres, sizes = figure.subplots(2, 2).flat
    _bar_classes(counts, np.bincount(classes, minlength=len(index.names)), index.names)
    _box_outlines(outlines, boxes, classes)
    _density(centres, boxes[:, 0], boxes[:, 1], "box centre x", "box centre y", "where boxes lie")
    centres.invert_yaxis()  # as in the image: y grows downwards
    _density(sizes, boxes[:, 2], boxes[:, 3], "box width", "box height", "how large boxes are (fraction of the image)")
    save_figure(figure, path)


def _bar_classes(axes: Axes, counts: NDArray[np.int64], names: Sequence[str]) -> None:
    positions = np.arange(len(counts))
    axes.bar(positions, counts, color=[np.divide(class_color(i), 255) for i in positions])
    axes.set(title="instances per class", ylabel="boxes")
    axes.margins(x=0.01)
    if 0 < len(counts) <= _MAX_NAMED_BARS:
        size = 9 if len(counts) <= 16 else 7
        axes.set_xticks(
            positions, [short(name) for name in names], rotation=90 if len(counts) > 5 else 0, fontsize=size
        )
    else:
        axes.set_xlabel("class index")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _box_outlines(axes: Axes, boxes: NDArray[np.float64], classes: NDArray[np.int32]) -> None:
    chosen = np.linspace(0, len(boxes) - 1, min(len(boxes), _MAX_OUTLINES)).astype(int)
    shapes = [Rectangle((-w / 2, -h / 2), w, h) for w, h in boxes[chosen, 2:]]
    edges = [np.divide(class_color(int(classes[i])), 255) for i in chosen]
    axes.add_collection(PatchCollection(shapes, facecolor="none", edgecolor=edges, linewidth=0.6, alpha=0.6))
    axes.set(title=f"outlines of {len(chosen)} boxes, centred", xlim=(-0.52, 0.52), ylim=(-0.52, 0.52), aspect="equal")
    axes.set(xlabel="fraction of the image width", ylabel="fraction of the image height")


def _density(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], x_name: str, y_name: str, title: str) -> None:
    axes.set(title=title, xlabel=x_name, ylabel=y_name, xlim=(0, 1), ylim=(0, 1), aspect="equal")
    if len(x) == 0:
        axes.text(0.5, 0.5, "no boxes", ha="center", va="center")
        return
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=50, range=[[0, 1], [0, 1]])
    shown = np.ma.masked_equal(counts.T, 0)
    mesh = axes.pcolormesh(x_edges, y_edges, shown, cmap="viridis", norm=PowerNorm(0.5, vmin=0))
    figure = axes.get_figure()
    if figure is not None:
        figure.colorbar(mesh, ax=axes, shrink=0.8, label="boxes", ticks=MaxNLocator(6, integer=True))


YOLO_PANELS = (
    ("train/box_loss", "train/obj_loss", "train/cls_loss", "metrics/precision", "metrics/recall"),
    ("val/box_loss", "val/obj_loss", "val/cls_loss", "metrics/mAP_0.5", "metrics/mAP_0.5:0.95"),
)
FUSION_PANELS = (
    ("train/tot", "train/hm", "train/dep_sec", "train/velocity", "metrics/mAP", "metrics/NDS"),
    ("val/tot", "val/hm", "metrics/mATE", "metrics/mASE", "metrics/mAOE", "metrics/mAVE"),
)


def read_results(csv_path: Path) -> dict[str, NDArray[np.float64]]:
    """Read results.csv into one array a column; blanks and words become nan."""
    with csv_path.open(newline="", encoding="utf-8") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    header, body = (rows[0], rows[1:]) if rows else ([], [])
    return {name: np.array([_number(row, i) for row in body], np.float64) for i, name in enumerate(header)}


def _number(row: Sequence[str], position: int) -> float:
    try:
        return float(row[position])
    except (IndexError, ValueError):
        return float("nan")


def plot_results(csv_path: Path, path: Path, panels: Sequence[Sequence[str]] = YOLO_PANELS) -> None:
    """Draw losses and metrics of results.csv over epochs.

    Args:
        csv_path, path: what is read and written.
        panels: two rows of column names.
    """
    columns = read_results(csv_path)
    measured = _measured(columns)
    figure = Figure(figsize=(3 * len(panels[0]), 6), layout="constrained")
    axes: NDArray[Any] = np.asarray(figure.subplots(2, len(panels[0]), sharex=True))
    for row, names in enumerate(panels):
        for column, name in enumerate(names):
            panel: Axes = axes[row, column]
            panel.set_title(name, fontsize=11)
            panel.grid(alpha=0.3)
            values = columns.get(name, np.zeros(0))
            epochs = columns.get("epoch", np.arange(len(values), dtype=np.float64))
            shown = np.ones(len(values), bool) if name.startswith("train/") else measured[: len(values)]
            marker = "o" if len(values) < 40 else None
            panel.plot(epochs[: len(values)][shown], values[shown], marker=marker, markersize=3.5)
            if len(values):
                panel.set_xlim(np.nanmin(epochs) - 0.5, np.nanmax(epochs) + 0.5)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            if name.startswith("metrics/") and np.all(~(values > 1)):
                panel.set_ylim(0, 1)
            else:
                top = float(np.nanmax(values[shown], initial=0.0))
                panel.set_ylim(0, 1.05 * top if top > 0 else None)
            if row == 1:
                panel.set_xlabel("epoch")
    save_figure(figure, path)


def _measured(columns: dict[str, NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Epochs that were validated: results.csv has zeros for the others, as published. All, if none was."""
    found = [values != 0 for name, values in columns.items() if name.startswith(("val/", "metrics/"))]
    measured = np.any(found, axis=0) if found else np.zeros(0, bool)
    return measured if measured.any() else np.ones(max(map(len, columns.values()), default=0), bool)


def plot_confusion(matrix: NDArray[Any], names: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix, each true class (column) scaled to one.

    Args:
        matrix: (C + 1, C + 1) counts; row: predicted class, column: true class, last: background.
        names: C class names.
        path: the image file to write.
    """
    counts = np.asarray(matrix, np.float64)
    ticks = [*(short(name) for name in names), "background"]
    share = counts / np.maximum(counts.sum(0, keepdims=True), 1)
    size = float(np.clip(3 + 0.45 * len(ticks), 5.5, 15))
    figure = Figure(figsize=(size * 1.12, size), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(np.ma.masked_less(share, 0.005), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, shrink=0.8, label="share of the true class")
    font = 9 if len(ticks) <= 30 else 6
    axes.set_xticks(range(len(ticks)), ticks, rotation=90, fontsize=font)
    axes.set_yticks(range(len(ticks)), ticks, fontsize=font)
    axes.set(xlabel="true", ylabel="predicted", title="confusion matrix (columns sum to one)")
    if len(ticks) <= _MAX_NUMBERED_CELLS:
        for row, column in np.argwhere(share >= 0.005):
            color = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, f"{share[row, column]:.2f}", ha="center", va="center", fontsize=8, color=color)
    save_figure(figure, path)


def plot_curve(
    path: Path,
    x: NDArray[Any],
    curves: NDArray[Any],
    names: Sequence[str],
    *,
    x_name: str,
    y_name: str,
    summary: str,
) -> None:
    """Draw one line a class and their mean.

    Args:
        path: the image file to write.
        x: (P,) abscissa in 0..1.
        curves: (K, P) one row a class in `names`; may have no rows.
        names: K class names.
        x_name: what x is.
        y_name: what the curves are.
        summary: legend of the mean line.
    """
    figure = Figure(figsize=(8.6, 5.6), layout="constrained")
    axes = figure.subplots()
    named = len(curves) <= _MAX_LEGEND
    for row, curve in enumerate(curves):
        color = np.divide(class_color(row), 255)
        label = short(names[row]) if named else None
        axes.plot(x, curve, linewidth=1.1 if named else 0.5, color=color, alpha=0.85 if named else 0.4, label=label)
    if len(curves):
        axes.plot(x, np.mean(curves, 0), linewidth=3, color="black", label=summary)
        figure.legend(loc="outside right upper", fontsize=8)
    else:
        axes.text(0.5, 0.5, "no labels", ha="center", va="center")
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel=x_name, ylabel=y_name, title=f"{y_name} over {x_name}")
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def plot_curves(evaluation: Evaluation, folder: Path) -> None:
    """Write PR_curve.png, F1_curve.png, P_curve.png and R_curve.png into a folder."""
    curves = evaluation.curves
    names = [evaluation.names[i] for i in curves.class_ids]
    plot_curve(
        folder / "PR_curve.png",
        curves.recall_axis,
        curves.precision_at_recall,
        names,
        x_name="recall",
        y_name="precision",
        summary=f"all classes {evaluation.map50:.3f} mAP@0.5",
    )
    for file_name, y_name, values in (
        ("F1_curve.png", "F1", curves.f1),
        ("P_curve.png", "precision", curves.precision),
        ("R_curve.png", "recall", curves.recall),
    ):
        summary = "all classes"
        if len(values):
            mean = np.mean(values, 0)
            best = int(np.argmax(mean))
            summary = f"all classes, best {mean[best]:.2f} at {curves.confidence[best]:.3f}"
        plot_curve(
            folder / file_name, curves.confidence, values, names, x_name="confidence", y_name=y_name, summary=summary
        )
