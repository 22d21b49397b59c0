"""The sides of labels against anchors, and how close the best anchor comes to each label."""

from pathlib import Path

import numpy as np

from boxwright.extras import needed
from boxwright.reporting.plots import save_figure, short
from boxwright.yolo.anchors import Sizes, measure

with needed("a plot", "plots"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

_MOST_POINTS = 20_000  # labels drawn: more only turn the panel into one blot
_UNMATCHED = "#d62728"


def plot_anchors(sizes: Sizes, found: Sizes, current: tuple[str, Sizes] | None, anchor_t: float, path: Path) -> None:
    """Draw labels and anchors on logarithmic axes, where a label is matched inside a square around an anchor.

    Args:
        sizes: (N, 2) width, height of labels in pixels.
        found: (K, 2) anchors whose reach is drawn.
        current: name and anchors that they are compared with.
        anchor_t: largest side ratio that matches.
        path: of the picture; the suffix picks the format.
    """
    figure = Figure(figsize=(13, 6.6), layout="constrained")
    figure.suptitle(f"{len(sizes)} boxes, {len(found)} anchors, side ratio up to {anchor_t:g}")
    plane, histogram = figure.subplots(1, 2, width_ratios=(1.25, 1))
    best = measure(sizes, found).max(axis=1)
    _draw_plane(plane, sizes, found, best, current, anchor_t)
    bins = np.linspace(0, 1, 41).tolist()
    if current is not None:
        now = measure(sizes, current[1]).max(axis=1)
        label = f"{short(current[0])}: mean {now.mean():.3f}"
        histogram.hist(now, bins=bins, histtype="step", color="black", linewidth=1.4, label=label)
    label = f"found: mean {best.mean():.3f}"
    histogram.hist(best, bins=bins, color="#ff7f0e", alpha=0.65, label=label)
    histogram.axvline(1 / anchor_t, color=_UNMATCHED, linestyle="--", label=f"no match below 1 / {anchor_t:g}")
    histogram.set(title="how close the best anchor comes", xlabel="smallest side ratio, 1 is equal", ylabel="boxes")
    histogram.set_xlim(0, 1)
    histogram.legend(loc="upper left", fontsize=9)
    save_figure(figure, path)


def _draw_plane(
    axes: Axes, sizes: Sizes, found: Sizes, best: Sizes, current: tuple[str, Sizes] | None, anchor_t: float
) -> None:
    chosen = np.linspace(0, len(sizes) - 1, min(len(sizes), _MOST_POINTS)).astype(int)
    drawn, best = sizes[chosen], best[chosen]
    for width, height in found:
        corner = (width / anchor_t, height / anchor_t)
        sides = (width * anchor_t - corner[0], height * anchor_t - corner[1])
        axes.add_patch(Rectangle(corner, *sides, facecolor="#1f77b4", alpha=0.05, linewidth=0))
    matched = best > 1 / anchor_t
    points = axes.scatter(*drawn[matched].T, c=best[matched], s=7, vmin=1 / anchor_t, vmax=1, cmap="viridis", alpha=0.7)
    if not matched.all():
        axes.scatter(*drawn[~matched].T, s=14, c=_UNMATCHED, marker="x", linewidths=1, label="box without an anchor")
    if current is not None:
        style = {"s": 60, "marker": "D", "facecolors": "none", "edgecolors": "black", "linewidths": 1.2}
        axes.scatter(*current[1].T, label=f"{short(current[0])} anchors", **style)
    axes.scatter(*found.T, s=75, marker="s", c="#ff7f0e", edgecolors="black", label="found anchors")
    axes.set(xscale="log", yscale="log", xlabel="width (pixels)", ylabel="height (pixels)", aspect="equal")
    sides = np.concatenate([drawn, found, *([current[1]] if current is not None else [])])
    low, high = max(sides.min() / 1.3, 0.5), sides.max() * 1.3
    axes.set(xlim=(low, high), ylim=(low, high), title="boxes and anchors; shaded: within reach of found ones")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.legend(loc="upper left", fontsize=9)
    figure = axes.get_figure()
    if figure is not None:
        figure.colorbar(points, ax=axes, shrink=0.8, label="smallest side ratio of a box and its best anchor")
