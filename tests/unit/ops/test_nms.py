"""Batched NMS against a plain greedy loop, and its limits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from boxwright.ops.boxes import xyxy_from_cxcywh
from boxwright.ops.nms import NmsRules, batched_nms
from boxwright.yolo.published import RELEASES


def crowd(num_images: int, num_rows: int, num_classes: int, seed: int = 0, spread: float = 300) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    predictions = torch.rand(num_images, num_rows, 5 + num_classes, generator=generator)
    predictions[..., :2] *= spread
    predictions[..., 2:4] = predictions[..., 2:4] * 60 + 5
    return predictions


def greedy(rows: Tensor, score_threshold: float, iou_threshold: float, most: int) -> Tensor:
    """One image, multi-label, nothing clever."""
    candidates: list[Tensor] = []
    boxes = xyxy_from_cxcywh(rows[:, :4])
    for box, row in zip(boxes, rows, strict=True):
        for label, score in enumerate(row[5:] * row[4]):
            if row[4] > score_threshold and score > score_threshold:
                candidates.append(torch.cat((box, score[None], torch.tensor([float(label)]))))
    candidates.sort(key=lambda c: -float(c[4]))
    kept: list[Tensor] = []
    for candidate in candidates:
        a = candidate[:4] + candidate[5] * 7680
        if not any(float(overlap(a, k[:4] + k[5] * 7680)) > iou_threshold for k in kept):
            kept.append(candidate)
    return torch.stack(kept[:most]) if kept else torch.zeros(0, 6)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    sides = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0)
    inter = sides.prod()
    return inter / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inter)


@pytest.mark.parametrize("most", [10, 1000])
def test_equals_a_greedy_loop(most: int) -> None:
    predictions = crowd(3, 150, 3)
    predictions[1] = 0  # an image without candidates between two with some
    found = batched_nms(predictions, score_threshold=0.05, iou_threshold=0.3, max_detections=most, multi_label=True)
    assert len(found[1]) == 0
    for rows, image in zip(found, predictions, strict=True):
        torch.testing.assert_close(rows, greedy(image, 0.05, 0.3, most))


def test_more_candidates_than_one_portion() -> None:
    # Dense in one place: few survive, so that many portions are needed and each meets the earlier survivors.
    predictions = crowd(2, 900, 2, spread=100)
    options = {"score_threshold": 0.01, "iou_threshold": 0.2, "multi_label": True}
    few = batched_nms(predictions, max_detections=40, **options)  # type: ignore[arg-type]
    many = batched_nms(predictions, max_detections=5000, **options)  # type: ignore[arg-type]
    for a, b in zip(few, many, strict=True):
        assert len(a) == 40 <= len(b)
        assert torch.equal(a, b[:40])


def test_output_is_sorted_and_the_input_untouched() -> None:
    predictions = crowd(2, 80, 4)
    before = predictions.clone()
    for rows in batched_nms(predictions, score_threshold=0.2, iou_threshold=0.5):
        assert (rows[:-1, 4] >= rows[1:, 4]).all()
        assert (rows[:, 4] > 0.2).all()
    assert torch.equal(predictions, before)


def test_classes_agnostic_and_caps() -> None:
    predictions = crowd(1, 100, 3)
    options = {"score_threshold": 0.1, "iou_threshold": 0.5, "multi_label": True}
    (only,) = batched_nms(predictions, classes=(2,), **options)  # type: ignore[arg-type]
    assert only[:, 5].unique().tolist() == [2.0]
    assert len(batched_nms(predictions, classes=(), **options)[0]) == 0  # type: ignore[arg-type]
    (apart,), (together,) = (
        batched_nms(predictions, agnostic=agnostic, **options)  # type: ignore[arg-type]
        for agnostic in (False, True)
    )
    assert len(together) < len(apart)
    (capped,) = batched_nms(predictions, max_candidates=1, **options)  # type: ignore[arg-type]
    assert torch.equal(capped, apart[:1])


def test_no_image_and_no_row() -> None:
    assert batched_nms(torch.zeros(0, 10, 8), score_threshold=0.1, iou_threshold=0.5) == []
    (empty,) = batched_nms(torch.zeros(1, 0, 8), score_threshold=0.1, iou_threshold=0.5)
    assert empty.shape == (0, 6)


def test_half_precision_predictions_give_float32_boxes() -> None:
    (rows,) = batched_nms(crowd(1, 50, 2).bfloat16(), score_threshold=0.1, iou_threshold=0.5)
    assert rows.dtype is torch.float32
    assert len(rows) > 0


def rows_of(*boxes_and_scores: tuple[float, ...]) -> torch.Tensor:
    """One image; each row cxcywh and the scores of the classes, with full objectness."""
    return torch.tensor([[*row[:4], 1.0, *row[4:]] for row in boxes_and_scores])[None]


def test_sides_at_a_limit_count_or_not() -> None:
    predictions = rows_of((50, 50, 2, 20, 0.9), (150, 50, 20, 64, 0.8), (250, 50, 2.5, 63, 0.7), (350, 50, 1, 9, 0.6))
    options = {"score_threshold": 0.1, "iou_threshold": 0.5}
    for counts, kept in ((True, [0.9, 0.8, 0.7]), (False, [0.7])):
        rules = NmsRules(side_limits=(2.0, 64.0), limits_count=counts)
        (rows,) = batched_nms(predictions, rules=rules, **options)  # type: ignore[arg-type]
        assert rows[:, 4].tolist() == pytest.approx(kept)


def test_classes_of_boxes_wider_than_the_offset_meet() -> None:
    """Two boxes of different classes, one beginning where the shift puts the other."""
    predictions = rows_of((5000, 50, 9000, 90, 0.9, 0.1), (904, -4046, 9000, 90, 0.1, 0.8))
    options = {"score_threshold": 0.2, "iou_threshold": 0.5}
    (near,) = batched_nms(predictions, rules=NmsRules(class_offset=4096.0), **options)  # type: ignore[arg-type]
    (far,) = batched_nms(predictions, **options)  # type: ignore[arg-type]
    assert (len(near), len(far)) == (1, 2)


def test_early_rules_take_every_class_of_a_row_and_an_empty_list_for_all() -> None:
    predictions = rows_of((50, 50, 20, 20, 0.9, 0.8))
    options = {"score_threshold": 0.2, "iou_threshold": 0.5, "classes": []}
    (early,) = batched_nms(predictions, rules=RELEASES["v3.1"].nms, **options)  # type: ignore[arg-type]
    assert early[:, 5].tolist() == [0, 1]
    assert len(batched_nms(predictions, **options)[0]) == 0  # type: ignore[arg-type]


def test_merged_box_is_the_mean_by_score_and_needs_a_second() -> None:
    predictions = rows_of((50, 50, 20, 20, 0.9), (52, 50, 20, 20, 0.6), (150, 50, 20, 20, 0.8))
    (rows,) = batched_nms(predictions, score_threshold=0.2, iou_threshold=0.5, merge=True)
    centre = (50 * 0.9 + 52 * 0.6) / 1.5
    torch.testing.assert_close(rows, torch.tensor([[centre - 10, 40, centre + 10, 60, 0.9, 0.0]]))
    (alone,) = batched_nms(predictions[:, 2:], score_threshold=0.2, iou_threshold=0.5, merge=True)
    assert len(alone) == 1, "a single candidate is left alone"


def test_known_boxes_compete_with_full_score() -> None:
    predictions = rows_of((50, 50, 20, 20, 0.9, 0.1), (150, 50, 20, 20, 0.1, 0.8)).repeat(2, 1, 1)
    known = [torch.tensor([[1.0, 150.0, 52.0, 20.0, 20.0]]), torch.zeros(0, 5)]
    first, second = batched_nms(predictions, score_threshold=0.2, iou_threshold=0.5, known=known)
    assert first[:, 4:].tolist() == [[1.0, 1.0], [pytest.approx(0.9), 0.0]]
    assert len(second) == 2
