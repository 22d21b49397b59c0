"""NMS of the 6.x generation against recorded rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from boxwright.ops.nms import batched_nms
from tests.golden import golden_cases, read_case


def with_labels(predictions: torch.Tensor, labels: list[np.ndarray]) -> torch.Tensor:
    """Append a-priori labels as rows of full confidence; images with fewer get rows of no confidence."""
    most = max(len(rows) for rows in labels)
    extra = torch.zeros(predictions.shape[0], most, predictions.shape[2])
    for image, rows in enumerate(labels):
        for row, (label, *box) in enumerate(rows.tolist()):
            extra[image, row, :4] = torch.tensor(box)
            extra[image, row, 4] = 1.0
            extra[image, row, 5 + int(label)] = 1.0
    return torch.cat((predictions, extra), dim=1)


def sizes_of(version: str) -> dict[str, object]:
    """Size rules that differ between releases (golden README)."""
    if version == "v6.0":
        return {"class_offset": 4096.0}
    return {"side_limits": (2.0, 7680.0)} if version == "v6.1" else {}


@pytest.mark.parametrize("file", golden_cases("nms", "v[67].*.json"))
def test_rows(file: Path) -> None:
    arrays, meta = read_case(file)
    for case in meta["cases"]:
        predictions = torch.from_numpy(arrays[case["pred"]])
        before = predictions.clone()
        if case["apriori_labels"]:
            predictions = with_labels(predictions, [arrays[f"labels_img{i}"] for i in range(predictions.shape[0])])
        options = case["options"]
        found = batched_nms(
            predictions,
            score_threshold=options["conf_thres"],
            iou_threshold=options["iou_thres"],
            max_detections=options["max_det"],
            multi_label=options["multi_label"],
            agnostic=options["agnostic"],
            classes=options["classes"],
            **sizes_of(meta["version"]),  # type: ignore[arg-type]
        )
        assert torch.equal(torch.from_numpy(arrays[case["pred"]]), before), "the input was changed"
        for image, rows in enumerate(found):
            expected = arrays[f"c{case['id']}_img{image}"]
            assert rows.shape == expected.shape, (case["id"], image)
            if case["apriori_labels"]:  # equal scores may come in any order
                order = np.lexsort((*expected.T[::-1][1:5], -expected[:, 4]))
                expected = expected[order]
                ours = rows.numpy()
                rows = torch.from_numpy(ours[np.lexsort((*ours.T[::-1][1:5], -ours[:, 4]))])
            np.testing.assert_allclose(rows.numpy(), expected, rtol=1e-5, atol=1e-3, err_msg=str(case))
