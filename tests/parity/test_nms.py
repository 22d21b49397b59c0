"""NMS of every recorded release against its rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from boxwright.ops.nms import batched_nms
from boxwright.yolo.published import RELEASES, V3
from tests.golden import golden_cases, read_case

# What a recorded option is called here. Options that a release did not have stay at their defaults.
OPTIONS = {
    "conf_thres": "score_threshold",
    "iou_thres": "iou_threshold",
    "max_det": "max_detections",
    "max_num": "max_detections",
    "multi_label": "multi_label",
    "agnostic": "agnostic",
    "classes": "classes",
    "merge": "merge",
}


def by_score_then_box(rows: np.ndarray) -> np.ndarray:
    """Equal scores may come in any order where labels are known beforehand."""
    return rows[np.lexsort((*rows.T[::-1][1:5], -rows[:, 4]))]


@pytest.mark.parametrize("file", golden_cases("nms", "*.json"))
def test_rows(file: Path) -> None:
    arrays, meta = read_case(file)
    version = meta["version"].split(" ")[0]
    rules = RELEASES[V3 if version == "yolov3-spp" else version].nms
    assert meta["cases"]
    for case in meta["cases"]:
        predictions = torch.from_numpy(arrays[case["pred"]])
        before = predictions.clone()
        known = None
        if case.get("apriori_labels"):
            known = [torch.from_numpy(arrays[f"labels_img{i}"]).float() for i in range(len(predictions))]
        options = {OPTIONS[name]: value for name, value in case["options"].items()}
        found = batched_nms(predictions, **options, known=known, rules=rules)
        assert torch.equal(predictions, before), "the input was changed"
        for image, (rows, count) in enumerate(zip(found, case["rows"], strict=True)):
            ours, expected = rows.numpy(), arrays[f"c{case['id']}_img{image}"]
            assert len(ours) == (count or 0), (case["id"], image)
            if known is not None:
                ours, expected = by_score_then_box(ours), by_score_then_box(expected)
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-3, err_msg=str(case))
