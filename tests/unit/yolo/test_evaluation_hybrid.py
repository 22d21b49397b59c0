"""Detections besides the labels: what a label suppresses is gone, what only a suppressed box suppressed is there."""

from __future__ import annotations

from pathlib import Path

import torch

from boxwright.data.structures import Batch, Detections, Targets
from boxwright.yolo.evaluation import suppress_labelled
from boxwright.yolo.postprocess import YoloPostprocess

HEIGHT, WIDTH = 64, 128


def batch_with(labels: list[list[tuple[int, float, float, float, float]]]) -> Batch:
    """A batch whose images have these labels: class, cxcywh in network pixels."""
    most = max(map(len, labels))
    boxes, classes = torch.zeros(len(labels), most, 4), torch.zeros(len(labels), most, dtype=torch.int64)
    valid = torch.zeros(len(labels), most, dtype=torch.bool)
    for image, own in enumerate(labels):
        for row, (label, *box) in enumerate(own):
            boxes[image, row] = torch.tensor(box) / torch.tensor((WIDTH, HEIGHT) * 2)
            classes[image, row], valid[image, row] = label, True
    images = torch.zeros(len(labels), 3, HEIGHT, WIDTH, dtype=torch.uint8)
    count = len(labels)
    sizes, ones = torch.tensor([[HEIGHT, WIDTH]] * count), torch.ones(count, 2)
    targets = Targets(boxes, classes, valid)
    return Batch(images, targets, torch.arange(count), sizes, ones, ones * 0, (Path("x.jpg"),) * count)


def decoded(rows: list[list[tuple[float, ...]]]) -> torch.Tensor:
    """Rows of cxcywh, score of class 0, score of class 1."""
    return torch.tensor([[(*row[:4], 1.0, *row[4:]) for row in own] for own in rows])


def boxes_of(found: Detections) -> list[list[float]]:
    return [
        [round(x, 3) for x in (*box, label)]
        for box, label in zip(found.boxes.tolist(), found.labels.tolist(), strict=True)
    ]


def test_labels_take_part_and_are_not_returned() -> None:
    nms = YoloPostprocess(0.1, 0.5, multi_label=True)
    rows = [
        (32.0, 32.0, 20.0, 20.0, 0.9, 0.0),  # as the label: gone
        (41.0, 32.0, 20.0, 20.0, 0.8, 0.0),  # overlaps the first by 0.38 only: there
        (33.0, 32.0, 20.0, 20.0, 0.0, 0.7),  # another class: there
        (100.0, 32.0, 20.0, 20.0, 1.0, 0.0),  # far from it, and as certain as a label: there
    ]
    found = suppress_labelled(nms, decoded([rows, rows]), batch_with([[(0, 32, 32, 20, 20)], []]))
    first = {tuple(row) for row in boxes_of(found[0])}
    assert first == {(31, 22, 51, 42, 0), (23, 22, 43, 42, 1), (90, 22, 110, 42, 0)}
    assert len(found[1]) == 4  # no label there


def test_what_a_suppressed_box_suppressed_is_back() -> None:
    nms = YoloPostprocess(0.1, 0.5)
    rows = [(34.0, 32.0, 20.0, 20.0, 0.9, 0.0), (39.0, 32.0, 20.0, 20.0, 0.8, 0.0)]
    (alone,) = nms(decoded([rows]))
    assert boxes_of(alone) == [[24, 22, 44, 42, 0]]
    (found,) = suppress_labelled(nms, decoded([rows]), batch_with([[(0, 30, 32, 20, 20)]]))
    assert boxes_of(found) == [[29, 22, 49, 42, 0]]


def test_no_label_comes_back_when_labels_overlap() -> None:
    label = (0, 33.3, 31.7, 20.1, 20.9)
    near = (0, 34.1, 31.7, 20.1, 20.9)
    (found,) = suppress_labelled(
        YoloPostprocess(0.1, 0.5), decoded([[(9.0, 9.0, 4.0, 4.0, 0.0, 0.0)]]), batch_with([[label, near]])
    )
    assert len(found) == 0
