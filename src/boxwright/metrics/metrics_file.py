"""metrics.json: what was measured last in a run folder, for the report and for other programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boxwright.metrics.coco import STAT_NAMES
from boxwright.yolo.evaluation import Evaluation


def write_metrics(evaluation: Evaluation, path: Path) -> None:
    """Write both metrics and the table of classes as json; numbers that are not finite become null."""
    coco = evaluation.coco
    content = {
        "images": evaluation.num_images,
        "labels": evaluation.num_labels,
        "yolov5": {
            "precision": evaluation.precision,
            "recall": evaluation.recall,
            "mAP_0.5": evaluation.map50,
            "mAP_0.5:0.95": evaluation.map,
        },
        "coco": None if coco is None else dict(zip(STAT_NAMES, coco.tolist(), strict=True)),
        "classes": [
            {
                "name": row.name,
                "images": row.num_images,
                "labels": row.num_labels,
                "precision": row.precision,
                "recall": row.recall,
                "mAP_0.5": row.map50,
                "mAP_0.5:0.95": row.map,
                "coco_AP": row.coco_ap,
            }
            for row in evaluation.per_class
        ],
    }
    path.write_text(json.dumps(_finite(content), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_metrics(path: Path) -> Mapping[str, Any] | None:
    """Read metrics.json; None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _finite(value: Any) -> Any:
    """Replace numbers that json has no word for."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
