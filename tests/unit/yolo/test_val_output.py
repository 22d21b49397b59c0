"""metrics.json holds both metrics and reads back as written."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from boxwright.reporting.report import Measured
from boxwright.yolo.evaluation import ClassRow, Evaluation
from boxwright.yolo.val_output import read_measured, write_metrics


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = (
        ClassRow("Fußgänger", 2, 3, 0.5, 0.6, 0.7, 0.4, None),
        ClassRow("car", 1, 1, 1.0, 1.0, 1.0, 1.0, float("nan")),
    )
    coco = np.linspace(0, 1, 12)
    measured: dict[str, Any] = {"num_images": 2, "num_labels": 4, "per_class": rows, "coco": coco}
    measured |= {"precision": 0.75, "recall": 0.8, "map50": 0.85, "map": 0.7}
    path = tmp_path / "metrics.json"
    write_metrics(cast(Evaluation, SimpleNamespace(**measured)), path)
    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda word: 1 / 0)
    assert content["yolov5"]["mAP_0.5"] == 0.85
    assert list(content["coco"].values()) == coco.tolist()
    assert [row["name"] for row in content["classes"]] == ["Fußgänger", "car"]
    assert content["classes"][1]["coco_AP"] is None
    (table, *_) = read_measured(tmp_path).tables
    header, (overall, first, second) = table.header, table.rows
    assert dict(zip(header, overall, strict=True))["mAP50"] == "0.850"
    assert (first[0], first[-2], second[-1]) == ("Fußgänger", "0.400", "")


def test_no_file_is_no_metrics(tmp_path: Path) -> None:
    assert read_measured(tmp_path) == Measured()
