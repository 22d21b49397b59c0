"""The search for anchors: awkward data sets, the seed, and what it takes from an index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boxwright.data.index import DataIndex, Record
from boxwright.errors import UserError
from boxwright.yolo.anchors import AnchorFit, Sizes, fit, label_sizes, measure, search


def found(sizes: Sizes, num_anchors: int = 9, generations: int = 30, seed: int = 0) -> Sizes:
    return search(sizes, num_anchors=num_anchors, anchor_t=4.0, generations=generations, seed=seed)


def like_coco(count: int, seed: int = 0) -> Sizes:
    """Sides as spread as those of COCO at 640 pixels."""
    drawn = np.random.default_rng(seed).normal((3.9, 4.0), 1.1, (count, 2))
    return np.exp(drawn).clip(1, 640).astype(np.float32)


def test_the_measure_is_the_worst_ratio_of_sides() -> None:
    got = measure(np.array([[10, 20], [10, 10]], np.float32), np.array([[20, 20], [10, 80], [10, 10]], np.float32))
    np.testing.assert_allclose(got, [[0.5, 0.25, 0.5], [0.5, 0.125, 1.0]])


def test_fit() -> None:
    sizes = np.array([[10, 10], [10, 40], [100, 100], [10, 10]], np.float32)
    got = fit(sizes, np.array([[10, 10], [20, 20]], np.float32), 4.0)
    # Best measures 1, .5, .2, 1: the third is below 1/4. A measure of just 1/4 is no match.
    assert got == AnchorFit(
        recall=0.75,
        per_label=pytest.approx(5 / 4),
        fitness=pytest.approx(2.5 / 4),
        mean_measure=pytest.approx((1 + 0.5 + 0.25 + 0.5 + 0.1 + 0.2 + 1 + 0.5) / 8),
        mean_best=pytest.approx(2.7 / 4),
    )


def test_a_measure_of_just_the_threshold_is_no_match() -> None:
    got = fit(np.array([[10, 40]], np.float32), np.array([[10, 10]], np.float32), 4.0)
    assert (got.recall, got.per_label, got.fitness, got.mean_best) == (0, 0, 0, 0.25)


def test_more_steps_fit_better_and_the_seed_decides() -> None:
    sizes = like_coco(300)
    fitness = [fit(sizes, found(sizes, generations=steps), 4.0).fitness for steps in (0, 20, 100)]
    assert fitness == sorted(fitness)
    assert fitness[0] < fitness[2]
    np.testing.assert_array_equal(found(sizes, seed=3), found(sizes, seed=3))
    assert not np.array_equal(found(sizes, seed=3), found(sizes, seed=4))


def test_anchors_are_ordered_by_area_and_written_as_they_are() -> None:
    anchors = found(like_coco(300))
    assert anchors.shape == (9, 2)
    assert (np.diff(anchors.prod(axis=1)) >= 0).all()
    np.testing.assert_array_equal(anchors, anchors.astype(np.float64).round(2).astype(np.float32))


def test_a_large_data_set_is_sampled() -> None:
    sizes = like_coco(60_000)
    anchors = found(sizes, generations=2)
    assert fit(sizes, anchors, 4.0).fitness > 0.6


@pytest.mark.parametrize(
    "sizes",
    [
        [[30, 40]],
        [[30, 40]] * 50,
        [[30, 40], [200, 100], [5, 9]],
        [[30, 40]] * 20 + [[60, 20]] * 20,
        [[30, 10 * i] for i in range(1, 30)],
    ],
    ids=["one", "identical", "fewer than anchors", "two kinds", "one width"],
)
def test_few_or_equal_labels(sizes: list[list[float]]) -> None:
    labels = np.array(sizes, np.float32)
    anchors = found(labels)
    assert anchors.shape == (9, 2)
    assert np.isfinite(anchors).all()
    assert (anchors >= 2).all()
    assert fit(labels, anchors, 4.0).recall == 1
    assert fit(labels, anchors, 4.0).fitness > 0.85


def test_labels_below_two_pixels_shape_nothing() -> None:
    large, specks = like_coco(40), np.full((500, 2), 1.5, np.float32)
    large = np.maximum(large, 2)
    np.testing.assert_array_equal(found(np.concatenate([large, specks])), found(large))
    assert found(np.array([[1.0, 9.0]], np.float32), 3).min() == 2
    with pytest.raises(UserError, match="no label has a side of 2 pixels or more"):
        found(specks)
    with pytest.raises(UserError, match="nothing to fit anchors to"):
        found(np.zeros((0, 2), np.float32))


def index_of(*images: tuple[int, int, list[tuple[float, float]]]) -> DataIndex:
    """Images of a height and width, with boxes of these normalised sides."""
    records = [
        Record(
            Path(f"{i}.jpg"),
            height,
            width,
            np.zeros(len(sides), np.int32),
            np.array([(0.5, 0.5, *side) for side in sides], np.float32).reshape(-1, 4),
        )
        for i, (height, width, sides) in enumerate(images)
    ]
    return DataIndex.from_records(records, ["a"])


def test_sides_when_the_longer_side_of_the_image_is_imgsz() -> None:
    index = index_of((100, 200, [(0.5, 0.5), (1, 1)]), (50, 50, []), (400, 300, [(0.1, 0.2)]))
    np.testing.assert_allclose(label_sizes(index, 640), [[320, 160], [640, 320], [48, 128]], rtol=1e-6)


def test_the_check_scales_each_image() -> None:
    index = index_of(*[(100, 100, [(0.5, 0.5), (0.1, 0.2)])] * 200)
    plain, scaled = label_sizes(index, 640), label_sizes(index, 640, np.random.default_rng(0))
    factors = (scaled / plain).reshape(-1, 4)
    np.testing.assert_allclose(factors, factors[:, :1].repeat(4, 1), rtol=1e-5)  # one factor an image
    assert 0.9 < factors.min() < 0.91
    assert 1.09 < factors.max() < 1.1


def test_no_labels_and_sides_of_no_length() -> None:
    assert label_sizes(index_of((10, 10, [])), 640).shape == (0, 2)
    flat = label_sizes(index_of((10, 10, [(0.5, 0.0)])), 640)
    assert (flat > 0).all()
    assert fit(flat, np.array([[10, 10]], np.float32), 4.0).recall == 0
