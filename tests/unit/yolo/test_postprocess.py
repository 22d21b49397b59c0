"""YoloPostprocess: settings reach the NMS, and its rows become Detections."""

from __future__ import annotations

import torch

from boxwright.yolo.postprocess import YoloPostprocess


def decoded() -> torch.Tensor:
    predictions = torch.zeros(2, 4, 5 + 2)
    predictions[0, 0] = torch.tensor([50.0, 50, 20, 20, 0.9, 0.9, 0.8])
    predictions[0, 1] = torch.tensor([51.0, 50, 20, 20, 0.8, 0.1, 0.9])
    predictions[0, 2] = torch.tensor([90.0, 90, 10, 20, 0.3, 0.9, 0.1])
    return predictions


def test_detections_of_each_image() -> None:
    first, second = YoloPostprocess(score_threshold=0.25)(decoded())
    torch.testing.assert_close(first.scores, torch.tensor([0.81, 0.72, 0.27]))
    assert first.labels.tolist() == [0, 1, 0]
    assert first.labels.dtype is torch.int64
    assert first.boxes[0].tolist() == [40, 40, 60, 60]
    assert len(second) == 0
    assert second.boxes.shape == (0, 4)


def test_settings() -> None:
    assert len(YoloPostprocess(score_threshold=0.5)(decoded())[0]) == 2
    assert len(YoloPostprocess(agnostic=True)(decoded())[0]) == 2
    assert len(YoloPostprocess(max_detections=1)(decoded())[0]) == 1
    assert YoloPostprocess(classes=(1,))(decoded())[0].labels.tolist() == [1]
    # The second class of the first row loses to the better box of that class, unless the threshold lets both live.
    assert len(YoloPostprocess(multi_label=True, iou_threshold=0.99)(decoded())[0]) == 4
