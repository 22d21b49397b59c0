"""The nuScenes metric of a run folder as tables of its report, read from metrics_summary.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boxwright.nuscenes.metric_tables import SHORT_ERRORS
from boxwright.reporting.tables import Table


def read_summary(folder: Path) -> Mapping[str, Any] | None:
    """The summary that `val` has written; None where there is none."""
    path = folder / "metrics_summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def fusion_tables(summary: Mapping[str, Any] | None) -> list[Table]:
    """Overall scores, and a row a class: AP at each distance and the five errors."""
    if summary is None:
        return []
    errors = summary["tp_errors"]
    overall = Table(
        "nuScenes metric",
        ("NDS", "mAP", *(f"m{name}" for name in SHORT_ERRORS.values())),
        [
            [
                _number(value)
                for value in (summary["nd_score"], summary["mean_ap"], *(errors[name] for name in SHORT_ERRORS))
            ]
        ],
    )
    distances = list(next(iter(summary["label_aps"].values())))
    header = ("class", "AP", *(f"AP at {distance} m" for distance in distances), *SHORT_ERRORS.values())
    rows = [
        [
            name,
            _number(summary["mean_dist_aps"][name]),
            *(_number(aps[distance]) for distance in distances),
            *(_number(summary["label_tp_errors"][name][error]) for error in SHORT_ERRORS),
        ]
        for name, aps in summary["label_aps"].items()
    ]
    return [overall, Table("by class; errors in m, 1 - IoU, rad, m/s, 1 - accuracy", header, rows)]


def _number(value: float) -> str:
    return "" if value != value else f"{value:.3f}"
