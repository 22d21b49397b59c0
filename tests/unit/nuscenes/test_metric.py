"""The nuScenes metric on small scenes: what counts, who matches whom, what is said where there is nothing."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import boxwright.nuscenes.match as nuscenes_match
from boxwright.errors import UserError
from boxwright.nuscenes.match import CLASS_RANGES, match, ranking
from boxwright.nuscenes.metric import DISTANCES, ERROR_NAMES, NuscenesMetrics, evaluate
from boxwright.nuscenes.structures import CLASS_NAMES, GlobalBoxes
from tests.unit.nuscenes.nuscenes_boxes import box, boxes, greedy, loop_ap

CAR, BARRIER = (CLASS_NAMES.index(name) for name in ("car", "barrier"))
ERROR = {name: place for place, name in enumerate(ERROR_NAMES)}
AT_2M = DISTANCES.index(2.0)


def measure(
    truth: GlobalBoxes, found: GlobalBoxes, racks: GlobalBoxes | None = None, num_samples: int = 4
) -> NuscenesMetrics:
    return evaluate(truth, found, np.zeros((num_samples, 2)), racks)


def turned(angle: float) -> tuple[float, float, float, float]:
    return math.cos(angle / 2), 0.0, 0.0, math.sin(angle / 2)


def test_nothing_at_all() -> None:
    metrics = measure(boxes(), boxes())
    assert metrics.mean_ap == 0
    assert set(metrics.tp_errors.values()) == {1.0}
    assert metrics.nd_score == 0
    assert np.isnan(metrics.range_aps).all()


def test_no_predictions() -> None:
    metrics = measure(boxes(box()), boxes())
    assert metrics.mean_ap == 0
    assert metrics.range_aps[CAR, 0] == 0


def test_class_without_annotations_has_ap_0_and_errors_1() -> None:
    metrics = measure(boxes(box()), boxes(box(score=0.9), box(label="bus", score=0.9)))
    assert metrics.class_aps[CAR] == pytest.approx(1)
    assert metrics.class_aps[CLASS_NAMES.index("bus")] == 0
    np.testing.assert_array_equal(metrics.errors[CLASS_NAMES.index("bus")], 1)
    assert metrics.num_predictions[CLASS_NAMES.index("bus")] == 1


def test_one_sample_and_one_box() -> None:
    truth = boxes(box(velocity=(3, 4), attribute=5))
    found = boxes(
        box(center=(5.5, 0, 9), size=(1, 4, 1.5), rotation=turned(0.3), velocity=(0, 0), attribute=6, score=0.5)
    )
    metrics = measure(truth, found, num_samples=1)
    np.testing.assert_allclose(metrics.aps[CAR], [0, 1, 1, 1], atol=1e-12)  # 0.5 m is not closer than 0.5 m
    np.testing.assert_allclose(metrics.errors[CAR], [0.5, 0.5, 0.3, 5, 1], atol=1e-12)


def test_errors_that_are_not_defined() -> None:
    truth = boxes(box(label="traffic_cone"), box(label="barrier"))
    metrics = measure(truth, truth)
    cone, barrier = metrics.errors[CLASS_NAMES.index("traffic_cone")], metrics.errors[BARRIER]
    np.testing.assert_array_equal(np.isnan(cone), [False, False, True, True, True])
    np.testing.assert_array_equal(np.isnan(barrier), [False, False, False, True, True])


@pytest.mark.parametrize(("label", "error"), [("barrier", 0.0), ("car", math.pi)])
def test_a_barrier_has_no_front(label: str, error: float) -> None:
    metrics = measure(boxes(box(label=label)), boxes(box(label=label, rotation=turned(math.pi), score=1)))
    assert metrics.errors[CLASS_NAMES.index(label), ERROR["orient_err"]] == pytest.approx(error)


def test_length_of_a_quaternion_does_not_matter() -> None:
    double = tuple(2 * value for value in turned(0.7))
    metrics = measure(boxes(box(rotation=turned(0.5))), boxes(box(rotation=double, score=1)))
    assert metrics.errors[CAR, ERROR["orient_err"]] == pytest.approx(0.2)


def test_unknown_velocities_and_attributes_count_as_1() -> None:
    truth = boxes(box(velocity=(math.nan, math.nan)), box(1, velocity=(math.nan, math.nan)))
    found = boxes(box(score=0.9, attribute=5), box(1, score=0.8, attribute=5))
    metrics = measure(truth, found)
    np.testing.assert_allclose(metrics.errors[CAR], [0, 0, 0, 1, 1])


def test_an_unknown_value_is_left_out_of_the_mean() -> None:
    # Half of the matches are unknown; the mean is that of the others, taken from recall 0.11 up, where the first match
    # has none yet (0) and the second, of which the mean is 3, is reached at recall 1.
    truth = boxes(box(velocity=(math.nan, 0)), box(1, velocity=(0, 0), attribute=6))
    found = boxes(box(score=0.9, attribute=6), box(1, velocity=(3, 0), attribute=6, score=0.8))
    curve = measure(truth, found).curves[CAR][AT_2M]
    assert curve.errors[ERROR["vel_err"], -1] == pytest.approx(3)
    assert curve.errors[ERROR["vel_err"], 0] == 0
    np.testing.assert_array_equal(curve.errors[ERROR["attr_err"]], 0)


def test_attribute_that_is_not_predicted_is_wrong() -> None:
    metrics = measure(boxes(box(attribute=5)), boxes(box(attribute=-1, score=1)))
    assert metrics.errors[CAR, ERROR["attr_err"]] == 1


@pytest.mark.parametrize("label", CLASS_NAMES)
def test_the_range_itself_is_outside(label: str) -> None:
    edge = float(CLASS_RANGES[label])
    inside, outside = (edge - 1e-6, 0, 100), (0, -edge, 0)  # height does not count
    truth = boxes(box(label=label, center=inside), box(label=label, center=outside))
    metrics = measure(truth, replace(truth, scores=np.array([0.5, 0.9])))
    assert metrics.num_truth.sum() == metrics.num_predictions.sum() == 1
    assert metrics.class_aps[CLASS_NAMES.index(label)] == pytest.approx(1)


def test_range_is_from_the_vehicle_of_the_sample() -> None:
    truth = boxes(box(0, center=(100, 0, 0)), box(1, center=(100, 0, 0)))
    metrics = evaluate(truth, truth, np.array([[0.0, 0, 0], [90.0, 0, 0]]))
    assert metrics.num_truth[CAR] == 1


def test_annotations_without_points_do_not_count() -> None:
    metrics = measure(boxes(box(points=0), box(1, points=1)), boxes(box(1, score=0.5)))
    assert metrics.num_truth[CAR] == 1
    assert metrics.class_aps[CAR] == pytest.approx(1)


@pytest.mark.parametrize(
    ("center", "inside"),
    [
        ((0.9, 10, 0), True),
        ((0, 12.9, 0), True),  # the length, 6, lies along y
        ((1, 10, 0), True),  # a face belongs to it
        ((1.1, 10, 0), False),
        ((0, 13.1, 0), False),
        ((0, 10, 0.6), False),
    ],
)
@pytest.mark.parametrize("label", ["bicycle", "motorcycle"])
def test_parked_in_a_rack(label: str, center: tuple[float, ...], inside: bool) -> None:
    racks = boxes(
        box(1, center=(0, 10, 0), size=(2, 6, 1), rotation=turned(math.pi / 2)),
        box(1, center=(0, -10, 0), size=(1, 1, 1)),
    )
    other_sample, other_class = box(0, label=label, center=(0, 10, 0)), box(1, label="car", center=(0, 10, 0))
    parked, row = boxes(box(1, label=label, center=center)), CLASS_NAMES.index(label)
    metrics = measure(parked, parked, racks)
    assert metrics.num_truth[row] == metrics.num_predictions[row] == (not inside)
    assert measure(parked, parked).num_truth[row] == 1
    assert measure(boxes(other_sample, other_class), boxes(), racks).num_truth.sum() == 2


def test_of_equal_scores_the_later_comes_first() -> None:
    np.testing.assert_array_equal(ranking(np.array([0.5, 0.9, 0.5, 0.9])), [3, 1, 2, 0])
    far, near = box(center=(6.9, 0, 0), score=0.5), box(center=(5.1, 0, 0), score=0.5)
    assert measure(boxes(box()), boxes(near, far)).errors[CAR, 0] == pytest.approx(1.9)
    assert measure(boxes(box()), boxes(far, near)).errors[CAR, 0] == pytest.approx(0.1)


def test_of_equally_near_annotations_the_first_is_taken() -> None:
    truth = boxes(box(center=(7, 0, 0), velocity=(1, 0)), box(center=(5, 0, 0), velocity=(2, 0)))
    got = match(np.zeros(1, int), np.array([[6.0, 0]]), truth.samples, truth.centers[:, :2], (2.0,))
    assert got.tolist() == [[0]]


def test_a_match_lost_to_a_better_one_goes_to_the_next_nearest() -> None:
    found, truth = np.array([[0.0, 0], [0.1, 0], [0.2, 0]]), np.array([[0.0, 0], [1.5, 0]])
    none = np.zeros(3, int)
    assert match(none, found, none[:2], truth, (1.0, 4.0)).tolist() == [[0, -1, -1], [0, 1, -1]]


def test_a_match_belongs_to_the_range_of_its_annotation() -> None:
    truth = boxes(box(center=(10.1, 0, 0)), box(center=(25, 0, 0)))
    found = boxes(box(center=(9.9, 0, 0), score=0.9), box(center=(30, 0, 0), score=0.8))
    metrics = measure(truth, found)
    np.testing.assert_array_equal(metrics.range_truth[CAR], [0, 1, 1, 0, 0])
    np.testing.assert_allclose(metrics.range_aps[CAR], [math.nan, 1, 0, math.nan, math.nan])
    np.testing.assert_allclose(metrics.range_errors[CAR, 1], [0.2, 0, 0, 0, 1], atol=1e-12)


def test_a_false_prediction_belongs_to_its_own_range() -> None:
    truth = boxes(box(center=(5, 0, 0)), box(center=(15, 0, 0)))
    found = boxes(
        box(center=(0, 17, 0), score=0.9), box(center=(5, 0, 0), score=0.8), box(center=(15, 0, 0), score=0.8)
    )
    # In the second range precision climbs from 0 to 0.5: mean of max(recall / 2 - 0.1, 0) over 90 recalls, by 0.9.
    np.testing.assert_allclose(measure(truth, found).range_aps[CAR, :2], [1, 16.2 / 90 / 0.9])


coordinates = st.integers(0, 8).map(lambda step: step / 2)  # a coarse grid has many ties
drawn = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["car", "bus"]), coordinates, coordinates), max_size=25)


@settings(max_examples=80)
@given(truth=drawn, found=drawn, scores=st.randoms(use_true_random=False), limit=st.sampled_from([1, 7, 1 << 20]))
def test_equals_the_plain_loop(truth: list[Any], found: list[Any], scores: Any, limit: int) -> None:
    annotations = boxes(*(box(s, label, (x, y, 0)) for s, label, x, y in truth))
    predictions = boxes(
        *(box(s, label, (x, y, 0), score=scores.randint(0, 5) / 5) for s, label, x, y in found),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nuscenes_match, "_MAX_PAIRS", limit)
        metrics = measure(annotations, predictions)
        for label in (CAR, CLASS_NAMES.index("bus")):
            own, theirs = ((side.labels == label).nonzero()[0] for side in (predictions, annotations))
            turns = own[ranking(predictions.scores[own])]
            got = match(
                predictions.samples[turns],
                predictions.centers[turns, :2],
                annotations.samples[theirs],
                annotations.centers[theirs, :2],
                DISTANCES,
            )
            for row, distance in enumerate(DISTANCES):
                pairs = {int(p): int(theirs[m]) for p, m in zip(turns, got[row], strict=True) if m >= 0}
                assert pairs == greedy(predictions, annotations, label, distance)
                expected = loop_ap(predictions, annotations, label, distance)
                assert metrics.aps[label, row] == pytest.approx(expected, abs=1e-12)


def test_summary_has_the_published_keys(tmp_path: Path) -> None:
    metrics = measure(boxes(box()), boxes(box(score=0.5)))
    metrics.write(tmp_path / "new", use_radar=False)
    summary = json.loads((tmp_path / "new" / "metrics_summary.json").read_text())
    assert list(summary) == [
        *("label_aps", "mean_dist_aps", "mean_ap", "label_tp_errors", "tp_errors", "tp_scores", "nd_score"),
        *("eval_time", "cfg", "meta"),
    ]
    assert summary["label_aps"]["car"] == pytest.approx({"0.5": 1, "1.0": 1, "2.0": 1, "4.0": 1})
    assert math.isnan(summary["label_tp_errors"]["traffic_cone"]["vel_err"])
    assert summary["meta"]["use_radar"] is False
    details = json.loads((tmp_path / "new" / "metrics_details.json").read_text())
    assert set(details) == {f"{name}:{distance}" for name in CLASS_NAMES for distance in DISTANCES}
    assert all(len(values) == 101 for values in details["car:0.5"].values())
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [
        "metrics_details.json",
        "metrics_summary.json",
    ]


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        measure(boxes(), boxes()).write(tmp_path / "file")


def test_logged_tags() -> None:
    tags = measure(boxes(box()), boxes(box(score=0.5))).scalars()
    assert tags["AP/car"] == pytest.approx(100)
    assert tags["AP/overall"] == pytest.approx(10)
    assert set(tags) == {
        *(f"AP/{name}" for name in ("overall", *CLASS_NAMES)),
        *(f"Scores/{name}" for name in (*ERROR_NAMES, "NDS")),
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (box(center=(math.nan, 0, 0)), r"prediction 1 \(sample 0 of the split\): its centre is not a finite number"),
        (box(rotation=(math.inf, 0, 0, 0)), "its rotation is not"),
        (box(score=math.nan), "its score is not"),
        (box(size=(1, 0, 1)), r"its size \[1.0, 0.0, 1.0\] should be larger than 0"),
        (box(sample=4), "the split has 4 samples"),
    ],
)
def test_boxes_that_cannot_be_measured(wrong: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        measure(boxes(), boxes(box(score=0.5), wrong))


def test_too_many_predictions_of_a_sample() -> None:
    with pytest.raises(UserError, match=r"sample 2 of the split has 501 predicted boxes; .* takes 500 at most"):
        measure(boxes(), boxes(*[box(2, score=0.5)] * 501))
