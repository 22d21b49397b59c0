"""The confusion matrix, with its published defect and without."""

from __future__ import annotations

import numpy as np
import pytest

from boxwright.data.index import DataIndex
from boxwright.data.structures import Detections
from boxwright.metrics.matching import ConfusionEvaluator
from tests.unit.metrics.scenes import detections, random_scene, record

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
