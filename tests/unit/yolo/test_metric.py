"""The published metric: identities, edge cases, and independence of the batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from boxwright.data.index import DataIndex
from boxwright.data.structures import Detections
from boxwright.metrics.matching import Generation, truth_of
from boxwright.yolo.metric import (
    YoloEvaluator,
    YoloMetrics,
    average_precision,
    average_precision_per_class,
    fitness,
    smooth,
)
from tests.unit.metrics.scenes import random_scene

GENERATIONS: tuple[Generation, ...] = ("v6.1", "v7.0")


def measure(
    index: DataIndex, found: list[Detections], batch_size: int = 3, generation: Generation = "v7.0"
) -> YoloMetrics:
    evaluator = YoloEvaluator(index, generation)
    for start in range(0, len(found), batch_size):
        part = found[start : start + batch_size]
        evaluator.process(part, range(start, start + len(part)))
    return evaluator.evaluate()


def perfect(index: DataIndex) -> list[Detections]:
    flat = [truth_of(index, [image]) for image in range(len(index))]
    return [
        Detections(torch.from_numpy(one.boxes), torch.linspace(0.9, 0.8, len(one)), torch.from_numpy(one.labels))
        for one in flat
    ]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_perfect_detector_has_ap_995(generation: Generation) -> None:
    index, _ = random_scene(1)
    metrics = measure(index, perfect(index), generation=generation)
    np.testing.assert_allclose(metrics.ap, 0.995, rtol=1e-12)
    assert (metrics.mean_precision, metrics.mean_recall) == (1, 1)
    np.testing.assert_array_equal(metrics.true_positives, metrics.num_labels)
    assert not metrics.false_positives.any()


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_batches_do_not_matter(batch_size: int) -> None:
    index, found = random_scene(2)
    metrics, expected = measure(index, found, batch_size), measure(index, found)
    np.testing.assert_array_equal(metrics.ap, expected.ap)
    assert 0 < metrics.map < metrics.map50 < 1


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("what", ["no detections", "no labels", "nothing", "no images"])
def test_empty_is_zero_and_finite(what: str, generation: Generation) -> None:
    index, found = random_scene(4)
    if what in ("no labels", "nothing"):
        records, _ = random_scene(4, num_images=0)
        index = DataIndex.from_records([], records.names)
    if what in ("no detections", "nothing"):
        found = [Detections.empty() for _ in found]
    if what == "no labels":
        empty = average_precision_per_class(
            np.zeros((4, 10), bool), np.full(4, 0.5), np.zeros(4), np.zeros(0), generation=generation
        )
    else:
        images = 0 if what in ("nothing", "no images") else len(index)
        evaluator = YoloEvaluator(index, generation)
        evaluator.process(found[:images], range(images))
        empty = evaluator.evaluate()
    assert (empty.mean_precision, empty.mean_recall, empty.map50, empty.map, fitness(empty.map50, empty.map)) == (
        0,
        0,
        0,
        0,
        0,
    )
    for values in (empty.ap, empty.curves.f1, empty.curves.precision_at_recall, empty.false_positives):
        assert np.isfinite(values).all()


def test_class_without_detections_counts_as_zero() -> None:
    correct = np.ones((2, 10), bool)
    metrics = average_precision_per_class(
        correct, np.array([0.9, 0.8]), np.array([0, 0]), np.array([0, 0, 1]), generation="v7.0"
    )
    assert metrics.class_ids.tolist() == [0, 1]
    np.testing.assert_allclose(metrics.ap[:, 0], [0.995, 0], rtol=1e-12)
    assert metrics.precision.tolist() == [1, 0]


def test_detections_of_a_class_without_labels_are_ignored() -> None:
    args = np.ones((2, 10), bool), np.array([0.9, 0.8])
    metrics = average_precision_per_class(*args, np.array([5, 0]), np.array([0]), generation="v7.0")
    assert metrics.class_ids.tolist() == [0]
    np.testing.assert_allclose(metrics.map, 0.995)


def test_equal_scores_keep_their_order() -> None:
    correct = np.zeros((40, 10), bool)
    correct[:20] = True
    scores, labels = np.full(40, 0.5, np.float32), np.zeros(40)
    first = average_precision_per_class(correct, scores, labels, np.zeros(20), generation="v7.0")
    last = average_precision_per_class(correct[::-1], scores, labels, np.zeros(20), generation="v7.0")
    assert first.map == pytest.approx(0.995)
    assert last.map < 0.6


@given(hnp.arrays(bool, st.integers(1, 60)), st.integers(0, 30))
def test_average_precision_is_an_area(hits: np.ndarray, missed: int) -> None:
    true_positives = hits.cumsum()
    recall = true_positives / (hits.sum() + missed + 1e-16)
    precision = true_positives / np.arange(1, len(hits) + 1)
    area, axis, envelope = average_precision(recall, precision)
    assert 0 <= area <= 0.995 + 1e-12
    assert (np.diff(axis) >= 0).all()
    assert (np.diff(envelope) <= 0).all()
    better, _, _ = average_precision(recall, np.maximum(precision, 0.9))
    assert better >= area - 1e-12


def test_the_envelope_begins_at_a_precision_of_one() -> None:
    """Over (0, 1), (.5, .5) and (1, 0) the area is that of two trapezoids."""
    area, axis, envelope = average_precision(np.array([0.5]), np.array([0.5]))
    assert list(zip(axis, envelope, strict=True)) == [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]
    assert area == pytest.approx(0.5 * 0.75 + 0.5 * 0.25)


@given(hnp.arrays(np.float64, 200, elements=st.floats(0, 1)), st.floats(0.02, 0.3))
def test_smoothing_keeps_length_and_range(values: np.ndarray, fraction: float) -> None:
    smoothed = smooth(values, fraction)
    assert len(smoothed) == len(values)
    assert values.min() - 1e-12 <= smoothed.min() <= smoothed.max() <= values.max() + 1e-12
    np.testing.assert_allclose(smooth(np.full(200, 0.3), fraction), 0.3)


def test_fitness_is_mostly_the_strict_map() -> None:
    index, found = random_scene(2)
    metrics = measure(index, found)
    assert fitness(metrics.map50, metrics.map) == pytest.approx(0.1 * metrics.map50 + 0.9 * metrics.map)


def test_beyond_the_highest_score_precision_is_one_and_recall_zero() -> None:
    correct, scores = np.zeros((1, 10), bool), np.array([0.1])
    curves = average_precision_per_class(correct, scores, np.zeros(1), np.zeros(1), generation="v7.0").curves
    beyond = curves.axis > 0.1
    assert (curves.precision[0][beyond] == 1).all()
    assert (curves.precision[0][~beyond] == 0).all()
    assert not curves.recall.any()
