"""Matching without loops against the rule spelled out with loops."""

from __future__ import annotations

import numpy as np
import pytest

from boxwright.data.index import DataIndex
from boxwright.data.structures import Detections
from boxwright.metrics.matching import (
    IOU_THRESHOLDS,
    ConfusionEvaluator,
    FlatBoxes,
    Generation,
    best_labels,
    flatten,
    match,
    ranges,
    truth_of,
)
from tests.unit.metrics.scenes import detections, random_scene, record


def iou(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    overlap = sides.prod()
    return float(overlap / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - overlap + np.float32(1e-7)))


def by_the_rule(found: FlatBoxes, truth: FlatBoxes, generation: Generation) -> np.ndarray:
    """One box after the other: turn to the best label of the own class, the first there gets it."""
    correct = np.zeros((len(found), len(IOU_THRESHOLDS)), bool)
    for column, threshold in enumerate(IOU_THRESHOLDS):
        taken: set[int] = set()
        for d in range(len(found)):
            same = [
                m
                for m in range(len(truth))
                if truth.images[m] == found.images[d] and truth.labels[m] == found.labels[d]
            ]
            if not same:
                continue
            best = max(same, key=lambda m, d=d: iou(found.boxes[d], truth.boxes[m]))
            overlap = iou(found.boxes[d], truth.boxes[best])
            reach = IOU_THRESHOLDS[0] if generation == "v6.1" else threshold
            if overlap >= reach and best not in taken:
                taken.add(best)
                correct[d, column] = overlap >= threshold
    return correct


@pytest.mark.parametrize("generation", ["v6.1", "v7.0"])
@pytest.mark.parametrize("seed", range(12))
def test_equals_the_rule_spelled_out(seed: int, generation: Generation) -> None:
    index, detections = random_scene(seed)
    found, truth = flatten(detections, range(len(index))), truth_of(index, range(len(index)))
    correct = match(found, truth, generation=generation)
    assert correct.any()
    np.testing.assert_array_equal(correct, by_the_rule(found, truth, generation))


def test_generations_differ_where_a_tighter_box_has_a_lower_score() -> None:
    truth = FlatBoxes(*one_image([[0, 0, 10, 10]], [1.0]))
    found = FlatBoxes(*one_image([[0, 0, 10, 6], [0, 0, 10, 10]], [0.9, 0.8]))
    assert match(found, truth, generation="v6.1").sum(axis=1).tolist() == [3, 0]
    assert match(found, truth, generation="v7.0").sum(axis=1).tolist() == [3, 7]


def one_image(boxes: list[list[float]], scores: list[float]) -> tuple[np.ndarray, ...]:
    zeros = np.zeros(len(boxes), np.int64)
    return zeros, np.array(boxes, np.float32).reshape(-1, 4), zeros, np.array(scores, np.float32)


def test_same_place_in_another_image_or_class_is_no_match() -> None:
    images, boxes, labels, scores = one_image([[0, 0, 10, 10]], [1.0])
    truth = FlatBoxes(images, boxes, labels, scores)
    assert match(truth, truth, generation="v7.0").all()
    for other in (FlatBoxes(images + 1, boxes, labels, scores), FlatBoxes(images, boxes, labels + 1, scores)):
        assert not match(other, truth, generation="v7.0").any()
    assert best_labels(FlatBoxes(images, boxes, labels + 1, scores), truth, same_class=False)[0].tolist() == [0]


@pytest.mark.parametrize("generation", ["v6.1", "v7.0"])
@pytest.mark.parametrize(("num_found", "num_truth"), [(0, 0), (0, 3), (3, 0)])
def test_nothing_to_match(num_found: int, num_truth: int, generation: Generation) -> None:
    index, detections = random_scene(0)
    found, truth = flatten(detections, range(len(index))), truth_of(index, range(len(index)))
    found, truth = found.take(np.arange(num_found)), truth.take(np.arange(num_truth))
    correct = match(found, truth, generation=generation)
    assert correct.shape == (num_found, len(IOU_THRESHOLDS))
    assert not correct[: len(found) if num_truth == 0 else 0].any()


def test_ranges() -> None:
    got = ranges(np.array([5, 0, 7]), np.array([2, 0, 3]))
    assert got.tolist() == [5, 6, 7, 8, 9]
    assert ranges(np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []


def test_truth_in_original_pixels() -> None:
    index, _ = random_scene(3)
    flat = truth_of(index, [2, 0])
    expected = []
    for image in (2, 0):
        _, boxes = index.labels(image)
        centre, half = boxes[:, :2] * [160, 120], boxes[:, 2:] * [160, 120] / 2
        expected.append(np.concatenate((centre - half, centre + half), axis=1))
    np.testing.assert_allclose(flat.boxes, np.concatenate(expected), atol=1e-4)
    assert flat.boxes.dtype == np.float32
    assert flat.images.tolist() == [2] * len(expected[0]) + [0] * len(expected[1])


BOX, ELSEWHERE = [10, 10, 30, 30], [60, 60, 90, 90]


def scene() -> tuple[DataIndex, list[Detections]]:
    """Four images: a pair and a false positive; no pair; no label; no detection."""
    records = [
        record([BOX], [0], "pair"),
        record([BOX], [0], "no pair"),
        record([], [], "no label"),
        record([BOX], [1], "no detection"),
    ]
    found = [
        detections([BOX, ELSEWHERE], [0.9, 0.8], [1, 0]),
        detections([ELSEWHERE], [0.8], [1]),
        detections([BOX], [0.8], [0]),
        detections([], [], []),
    ]
    return DataIndex.from_records(records, ["a", "b"]), found


@pytest.mark.parametrize(
    ("compat", "false_positives"), [("faithful", [1, 0]), ("fixed", [2, 1])], ids=["faithful", "fixed"]
)
def test_false_positives_of_images_without_a_pair(compat: str, false_positives: list[int]) -> None:
    index, found = scene()
    evaluator = ConfusionEvaluator(index, "v7.0", "fixed" if compat == "fixed" else "faithful")
    evaluator.process(found, range(4))
    matrix = evaluator.evaluate()
    assert matrix[:2, 2].tolist() == false_positives
    assert matrix[2, :2].tolist() == [1, 1]  # missed: the label without a pair, the image without detections
    assert matrix[:2, :2].tolist() == [[0, 0], [1, 0]]  # the pair: true class 0 was called class 1


@pytest.mark.parametrize(("generation", "missed"), [("v6.1", [1, 0]), ("v7.0", [1, 1])])
def test_labels_of_images_without_detections(generation: str, missed: list[int]) -> None:
    index, found = scene()
    evaluator = ConfusionEvaluator(index, "v6.1" if generation == "v6.1" else "v7.0")
    evaluator.process(found, range(4))
    assert evaluator.evaluate()[2, :2].tolist() == missed


def test_low_scores_do_not_count() -> None:
    index = DataIndex.from_records([record([BOX], [0])], ["a"])
    evaluator = ConfusionEvaluator(index, "v7.0")
    evaluator.process([detections([BOX], [0.25], [0])], [0])
    assert evaluator.evaluate().tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize("seed", range(5))
def test_fixed_counts_every_box_once_and_batches_do_not_matter(seed: int) -> None:
    index, found = random_scene(seed)
    together, single = (ConfusionEvaluator(index, "v7.0", "fixed") for _ in range(2))
    together.process(found, range(len(index)))
    for image, one in enumerate(found):
        single.process([one], [image])
    matrix = together.evaluate()
    np.testing.assert_array_equal(matrix, single.evaluate())
    labels = np.concatenate([index.labels(image)[0] for image in range(len(index))])
    kept = np.concatenate([one.labels[one.scores > 0.25].numpy() for one in found])
    np.testing.assert_array_equal(matrix[:, :-1].sum(axis=0), np.bincount(labels, minlength=3))
    np.testing.assert_array_equal(matrix[:-1].sum(axis=1), np.bincount(kept, minlength=3))


@pytest.mark.parametrize(("height", "paired"), [(8.8, False), (9.2, True)])  # IoU 0.44 and 0.46 with a 20 x 20 label
def test_pairs_need_an_overlap_of_45_percent(height: float, paired: bool) -> None:
    index = DataIndex.from_records([record([BOX], [0])], ["a"])
    evaluator = ConfusionEvaluator(index, "v7.0")
    evaluator.process([detections([[10, 10, 30, 10 + height]], [0.9], [0])], [0])
    assert evaluator.evaluate()[0, 0] == paired
