"""The nuScenes metric as text: by class, and AP and errors by distance to the vehicle."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from boxwright.nuscenes.metric import ERROR_NAMES, RANGE_EDGES, NuscenesMetrics
from boxwright.nuscenes.structures import CLASS_NAMES

SHORT_ERRORS = {"trans_err": "ATE", "scale_err": "ASE", "orient_err": "AOE", "vel_err": "AVE", "attr_err": "AAE"}
_NAME_WIDTH = 22


def format_metrics(metrics: NuscenesMetrics, *, verbose: bool = True) -> str:
    """The metric as lines of text.

    Args:
        metrics: what was measured.
        verbose: add the tables by class and by distance; a dash stands where a number is not defined.
    """
    errors = metrics.tp_errors
    heads = ["mAP", "NDS", *(f"m{SHORT_ERRORS[name]}" for name in ERROR_NAMES)]
    lines = ["nuScenes metric", _line("", heads), _line("all", (metrics.mean_ap, metrics.nd_score, *errors.values()))]
    if not verbose:
        return "\n".join(lines)
    lines += ["", _line("class", ["labels", "found", "AP", *SHORT_ERRORS.values()])]
    for row, name in enumerate(CLASS_NAMES):
        counts = int(metrics.num_truth[row]), int(metrics.num_predictions[row])
        lines.append(_line(name, (*counts, float(metrics.class_aps[row]), *metrics.errors[row].tolist())))
    table = metrics.by_range
    ranges = [f"{near}-{far} m" for near, far in pairwise(RANGE_EDGES)]
    lines += ["", _line("AP by distance", ranges)]
    lines += [_line(name, row.tolist()) for name, row in zip(CLASS_NAMES, table.ap, strict=True)]
    lines += [_line("mean", _mean(table.ap)), "", _line("mean error by distance", ranges)]
    for place, name in enumerate(ERROR_NAMES):
        lines.append(_line(f"m{SHORT_ERRORS[name]}", _mean(table.errors[:, :, place])))
    lines.append(_line("labels", table.num_truth.sum(axis=0).tolist()))
    return "\n".join(lines)


def _mean(rows: NDArray[np.float64]) -> list[float]:
    """Mean (R,) over the classes that have a number in a range; NaN where none has."""
    known = ~np.isnan(rows)
    return np.where(known.any(axis=0), np.nansum(rows, axis=0) / np.maximum(known.sum(axis=0), 1), np.nan).tolist()


def _line(name: str, cells: Iterable[float | int | str]) -> str:
    return (f"{name:<{_NAME_WIDTH}}" + "".join(f"{_word(cell):>10}" for cell in cells)).rstrip()


def _word(cell: float | int | str) -> str:
    if isinstance(cell, float):
        return "-" if np.isnan(cell) else f"{cell:.3f}"
    return str(cell)
