"""metrics.json holds both metrics and reads back as written."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from boxwright.data.index import DataIndex, Record
from boxwright.data.structures import Batch, Detections, Targets
from boxwright.drawing.sheets import labels_and_predictions
from boxwright.reporting.report import Measured
from boxwright.yolo.evaluation import ClassRow, Evaluation
from boxwright.yolo.val_output import WorstImages, read_measured, write_metrics


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


def test_images_with_the_most_errors_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missed objects and false alarms count; scores that are not drawn do not; an image without errors is left out."""
    monkeypatch.setattr("boxwright.yolo.val_output._NUM_WORST", 2)
    box = [8.0, 8.0, 24.0, 24.0]  # of the one label of each image, 32 x 32 pixels
    label = (np.zeros(1, np.int32), np.full((1, 4), 0.5, np.float32))
    index = DataIndex.from_records([Record(tmp_path / f"{i}.jpg", 32, 32, *label) for i in range(4)], ["car"])
    batch = Batch(
        images=torch.zeros((4, 3, 32, 32), dtype=torch.uint8),
        targets=Targets(torch.full((4, 1, 4), 0.5), torch.zeros(4, 1).long(), torch.ones(4, 1).bool()),
        indices=torch.arange(4),
        original_sizes=torch.full((4, 2), 32),
        scales=torch.ones(4, 2),
        pads=torch.zeros(4, 2),
        paths=tuple(tmp_path / f"{i}.jpg" for i in range(4)),
    )

    def found(*scores: float) -> Detections:
        return Detections(torch.tensor([box] * len(scores)), torch.tensor(scores), torch.zeros(len(scores)).long())

    titles: list[str] = []
    drawn = labels_and_predictions

    def note(*arguments: Any) -> Any:
        titles.append(arguments[-1])
        return drawn(*arguments)

    monkeypatch.setattr("boxwright.yolo.val_output.labels_and_predictions", note)
    worst = WorstImages(index)
    worst.take(batch, [found(0.9, 0.1), found(0.2), found(0.9, 0.8, 0.7), found(0.9)])
    assert titles == ["1 missed, 0 false: 1.jpg", "0 missed, 2 false: 2.jpg"]
    worst.write(tmp_path / "worst.jpg")
    assert (tmp_path / "worst.jpg").is_file()
    WorstImages(index).write(tmp_path / "none.jpg")
    assert not (tmp_path / "none.jpg").exists()
