"""Plots of a run: labels, results over epochs, curves, confusion matrix, schedule.

Matplotlib is used through Figure objects only: no pyplot, no global state, no display needed.
"""

import io
import logging
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from boxwright.data.files import write_atomically
from boxwright.data.index import DataIndex
from boxwright.drawing.canvas import class_color, write_image
from boxwright.drawing.text import FIRST_FONT, font_runs, readable_names
from boxwright.engine.schedule import StepSettings
from boxwright.extras import needed
from boxwright.ops.arrays import Array, Floats
from boxwright.reporting.report import read_results

with needed("a plot", "plots"):
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.font_manager import fontManager, get_font
    from matplotlib.patches import Rectangle
    from matplotlib.text import Text
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

_DPI = 130
_MAX_OUTLINES = 1000  # boxes drawn as outlines: more only turn the panel black
_MAX_NAMED_BARS = 40  # more names overlap below the axis
_MAX_NUMBERED_CELLS = 40  # more numbers do not fit into the cells
_MAX_SHARES = 16  # below them
_MAX_LEGEND = 40


def rgb(label: int) -> Floats:
    """Return the color of a class as matplotlib takes it: RGB, 0..1."""
    return np.divide(class_color(label)[::-1], 255)


def short(name: str, length: int = 22) -> str:
    """Return a class name that fits an axis: no math markup, cut with an ellipsis."""
    line = " ".join(name.split()).replace("$", r"\$")
    return line if len(line) <= length else line[: length - 1] + "…"


def save_figure(figure: Figure, path: Path) -> None:
    """Draw a figure into a file; the suffix picks the format.

    Raises:
        UserError: it cannot be written.
    """
    canvas = FigureCanvasAgg(figure)
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        fonts = {font for font, _ in font_runs(text.get_text())} - {FIRST_FONT}
        if fonts:
            text.set_fontfamily([*text.get_fontfamily(), *map(_family, sorted(fonts))])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # drawn as an empty box, which is good enough
        if path.suffix != ".png":
            content = io.BytesIO()
            figure.savefig(content, format=path.suffix[1:], dpi=_DPI)
            write_atomically(path, content.getbuffer())
            return
        figure.set_dpi(_DPI)
        canvas.draw()  # savefig would draw all of it a second time, to lay it out
    write_image(path, np.asarray(canvas.buffer_rgba())[..., 2::-1])


@lru_cache
def _family(font: Path) -> str:
    """Make a font file known to matplotlib; return the name of its family."""
    fontManager.addfont(font)
    # It warns where a family has no face of the weight asked for, as that of many fonts for Chinese.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    return get_font(font).family_name


def plot_labels(index: DataIndex, path: Path) -> None:
    """Draw instances per class, box outlines, box centres and box sizes of a data set."""
    classes, boxes = np.asarray(index.classes), np.asarray(index.boxes, dtype=np.float64)
    figure = Figure(figsize=(11, 9.4), layout="constrained")
    counted = ((len(index), "image", "images"), (len(boxes), "box", "boxes"), (len(index.names), "class", "classes"))
    figure.suptitle(", ".join(f"{count} {one if count == 1 else many}" for count, one, many in counted))
    counts, outlines, centres, sizes = figure.subplots(2, 2).flat
    bars = np.arange(len(index.names))
    counts.bar(bars, np.bincount(classes, minlength=len(bars)), color=[rgb(i) for i in bars.tolist()])
    counts.set(title="instances per class", ylabel="boxes")
    counts.margins(x=0.01)
    if 0 < len(bars) <= _MAX_NAMED_BARS:
        size, turn = 9 if len(bars) <= 16 else 7, 90 if len(bars) > 5 else 0
        counts.set_xticks(bars, [short(name) for name in readable_names(index.names)], rotation=turn, fontsize=size)
    else:
        counts.set_xlabel("class index")
        counts.xaxis.set_major_locator(MaxNLocator(integer=True))
    chosen = np.linspace(0, len(boxes) - 1, min(len(boxes), _MAX_OUTLINES)).astype(int)
    shapes = [Rectangle((-w / 2, -h / 2), w, h) for w, h in boxes[chosen, 2:]]
    edges = [rgb(int(classes[i])) for i in chosen]
    outlines.add_collection(PatchCollection(shapes, facecolor="none", edgecolor=edges, linewidth=0.6, alpha=0.6))
    title = f"outlines of {len(chosen)} {'box' if len(chosen) == 1 else 'boxes'}, centred"
    outlines.set(title=title, xlim=(-0.52, 0.52), ylim=(-0.52, 0.52), aspect="equal")
    outlines.set(xlabel="fraction of the image width", ylabel="fraction of the image height")
    _draw_density(centres, boxes[:, 0], boxes[:, 1], "box centre x", "box centre y", "where boxes lie")
    centres.invert_yaxis()  # as in the image: y grows downwards
    size_title = "how large boxes are (fraction of the image)"
    _draw_density(sizes, boxes[:, 2], boxes[:, 3], "box width", "box height", size_title)
    save_figure(figure, path)


def _draw_density(axes: Axes, x: Floats, y: Floats, x_name: str, y_name: str, title: str) -> None:
    """Draw how many boxes have each pair of two numbers in 0..1."""
    axes.set(title=title, xlabel=x_name, ylabel=y_name, xlim=(0, 1), ylim=(0, 1), aspect="equal")
    if len(x) == 0:
        axes.text(0.5, 0.5, "no boxes", ha="center", va="center")
        return
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=50, range=[[0, 1], [0, 1]])
    shown = np.ma.masked_equal(counts.T, 0)
    # A square root: one box in a bin must be seen beside the hundreds of a large data set.
    mesh = axes.pcolormesh(x_edges, y_edges, shown, cmap="viridis", norm=PowerNorm(0.5, vmin=0))
    figure = axes.get_figure()
    if figure is not None:
        figure.colorbar(mesh, ax=axes, shrink=0.8, label="boxes", ticks=MaxNLocator(6, integer=True))


def plot_results(csv_path: Path, path: Path, panels: Sequence[Sequence[str]], best_epoch: int = 0) -> None:
    """Draw losses and metrics of results.csv over epochs, with a line at the best one.

    Args:
        csv_path: what is read.
        path: the image file to write.
        panels: two rows of column names.
        best_epoch: from 1; 0: there is none.
    """
    columns = read_results(csv_path)
    figure = Figure(figsize=(3 * len(panels[0]), 6), layout="constrained")
    axes = np.asarray(figure.subplots(2, len(panels[0]), sharex=True))
    for row, names in enumerate(panels):
        for column, name in enumerate(names):
            panel: Axes = axes[row, column]
            panel.set_title(name, fontsize=11)
            panel.grid(alpha=0.3)
            values = columns.get(name, np.zeros(0))
            epochs = columns.get("epoch", np.arange(1.0, len(values) + 1))[: len(values)]
            measured = np.isfinite(values)  # cells of epochs that were not validated are empty
            marker = "o" if len(values) < 40 else None
            panel.plot(epochs[measured], values[measured], marker=marker, markersize=3.5)
            if best_epoch:
                label = f"best: epoch {best_epoch}"
                panel.axvline(best_epoch, color="#d62728", linewidth=1, linestyle="--", zorder=0, label=label)
            if len(values):
                panel.set_xlim(np.nanmin(epochs) - 0.5, np.nanmax(epochs) + 0.5)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            top = float(np.nanmax(values[measured], initial=0.0))
            if name.startswith("metrics/") and np.all(~(values > 1)):
                panel.set_ylim(0, 1)
            elif top > 0:
                panel.set_ylim(0, 1.05 * top)
            elif measured.any():  # as the class loss of a single class
                panel.text(0.5, 0.5, "0 in every epoch", ha="center", va="center", transform=panel.transAxes)
                panel.set_ylim(0, 1)
            if row == 1:
                panel.set_xlabel("epoch")
    if best_epoch:
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", fontsize=10)
    save_figure(figure, path)


def plot_confusion(matrix: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix: counts, on the color of their share.

    A column is shared out between what its true class was taken for. The last column holds false alarms, which are no
    share of anything: they are colored by their number per true object of the class that they were taken for.

    Args:
        matrix: (C + 1, C + 1) counts; row: predicted class, column: true class, last: background.
        names: C class names.
        path: the image file to write.
    """
    counts = np.asarray(matrix, np.float64)
    ticks = [*(short(name) for name in readable_names(tuple(names))), "background"]
    objects = np.maximum(counts.sum(0), 1)
    share = counts / objects
    share[:-1, -1] = np.minimum(counts[:-1, -1] / objects[:-1], 1)
    size = float(np.clip(3 + 0.45 * len(ticks), 5.5, 15))
    figure = Figure(figsize=(size * 1.12, size), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(np.ma.masked_where(counts == 0, share), cmap="Blues", vmin=0, vmax=1)
    bar = figure.colorbar(picture, ax=axes, shrink=0.8)
    bar.set_label("share of the true class; last column: false alarms per true object", fontsize=8)
    font = 9 if len(ticks) <= 30 else 8 if len(ticks) <= _MAX_NUMBERED_CELLS else 6
    axes.set_xticks(range(len(ticks)), ticks, rotation=90, fontsize=font)
    axes.set_yticks(range(len(ticks)), ticks, fontsize=font)
    axes.set(xlabel="true", ylabel="predicted", title="confusion matrix: number of objects")
    axes.axvline(len(ticks) - 1.5, color="0.75", linewidth=0.8)
    axes.axhline(len(ticks) - 1.5, color="0.75", linewidth=0.8)
    if len(ticks) <= _MAX_NUMBERED_CELLS:
        with_share = len(ticks) <= _MAX_SHARES
        for row, column in np.argwhere(counts > 0).tolist():
            text = f"{counts[row, column]:.0f}"
            if with_share and column < len(names):
                text += f"\n{share[row, column]:.0%}"
            color = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=0.85 * font, color=color)
    save_figure(figure, path)


def plot_curve(
    path: Path,
    x: Array,
    curves: Array,
    names: Sequence[str],
    *,
    x_name: str,
    y_name: str,
    summary: str,
) -> None:
    """Draw one line per class and their mean; the line of a single class is that mean.

    Args:
        path: the image file to write.
        x: (P,) abscissa in 0..1.
        curves: (K, P) one row per class in `names`; may have no rows.
        names: (K) what the legend says of each class, where there are several.
        x_name: what x is.
        y_name: what the curves are.
        summary: what it says of the mean line.
    """
    figure = Figure(figsize=(8.6, 5.6), layout="constrained")
    axes = figure.subplots()
    named = len(curves) <= _MAX_LEGEND
    for row, curve in enumerate(curves if len(curves) > 1 else ()):
        label = names[row] if named else None
        axes.plot(x, curve, linewidth=1.1 if named else 0.5, color=rgb(row), alpha=0.85 if named else 0.4, label=label)
    if len(curves):
        axes.plot(x, np.mean(curves, 0), linewidth=3, color="black", label=summary)
        crowded = named and len(curves) > _MAX_LEGEND // 2
        # Above the axes where it is one line: beside them a long name would take half of the picture.
        place = "outside right upper" if len(curves) > 1 else "outside upper center"
        figure.legend(loc=place, fontsize=6.5 if crowded else 8, labelspacing=0.25 if crowded else 0.5)
    else:
        axes.text(0.5, 0.5, "no labels", ha="center", va="center")
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel=x_name, ylabel=y_name, title=f"{y_name} over {x_name}")
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def plot_schedule(title: str, epochs: Floats, settings: Sequence[StepSettings], warmup_end: float, path: Path) -> None:
    """Draw rates of biases and of the other groups, momentum, and batches per optimizer step into an image file.

    Args:
        title: over the picture.
        epochs: (S,) where each of the sampled steps is, in epochs from 0.
        settings: (S) of each of the steps.
        warmup_end: epoch at which the warm-up is over, or the rate highest; 0: there is none.
        path: the image file to write.
    """
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    figure.suptitle(title)
    rates, momentum, accumulate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1.3, 1))
    other, bias = np.array([(s.lr_other, s.lr_bias) for s in settings]).T
    # The axis is logarithmic and the warm-up begins at 0: the axis ends at half the lowest rate after the warm-up.
    lowest = 0.5 * float(other[epochs >= min(warmup_end, epochs[-1])].min())
    both = np.array_equal(bias, other)
    if not both:
        rates.plot(epochs, np.maximum(bias, lowest), color="#ff7f0e", label="biases")
    label = "all parameter groups" if both else "weights, normalisation weights"
    rates.plot(epochs, np.maximum(other, lowest), color="#1f77b4", label=label)
    rates.set(yscale="log", ylabel="learning rate")
    rates.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    rates.yaxis.set_minor_formatter(NullFormatter())
    rates.legend(loc="best", fontsize=9)
    momentum.plot(epochs, [s.momentum for s in settings], color="#2ca02c")
    momentum.set(ylabel="momentum")
    accumulate.step(epochs, [s.accumulate for s in settings], where="post", color="#9467bd")
    accumulate.set(ylabel="batches per step", xlabel="epoch", xlim=(0, float(epochs[-1]) or 1), ylim=(0, None))
    accumulate.yaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (rates, momentum, accumulate):
        axes.grid(alpha=0.3)
        if warmup_end:
            axes.axvline(warmup_end, color="black", linestyle=":", linewidth=1)
    save_figure(figure, path)
