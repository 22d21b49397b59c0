"""Anchors: the search, its report, and the automatic one before training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from boxwright.data.index import DataIndex, Record
from boxwright.errors import UserError
from boxwright.settings.load import load
from boxwright.yolo import anchors as auto_anchor
from boxwright.yolo.anchors import (
    AnchorFit,
    Sizes,
    anchors_of,
    fit,
    in_levels,
    label_sizes,
    measure,
    search,
    usable,
    with_fitting_anchors,
)
from boxwright.yolo.detection import DetectionModel
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.spec import ModelSpec
from boxwright.yolo.zoo import build_model, load_spec
from tests.integration.small_runs import NETWORK


def found(sizes: Sizes, num_anchors: int = 9, generations: int = 30, seed: int = 0) -> Sizes:
    return search(sizes, num_anchors=num_anchors, anchor_t=4.0, generations=generations, seed=seed)


def like_coco(count: int, seed: int = 0) -> Sizes:
    """Sides as spread as those of COCO at 640 pixels."""
    drawn = np.random.default_rng(seed).normal((3.9, 4.0), 1.1, (count, 2))
    return np.exp(drawn).clip(1, 640).astype(np.float32)


@pytest.mark.filterwarnings("error")
def test_anchors_that_are_still_to_be_found_fit_nothing() -> None:
    assert not measure(np.array([[10, 20]], np.float32), np.zeros((3, 2), np.float32)).any()


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


@pytest.fixture(autouse=True)
def few_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_anchor, "GENERATIONS", 20)


def tiny(anchors: object = None) -> DetectionModel:
    mapping = yaml.safe_load(NETWORK)
    return build_model(ModelSpec.from_mapping(mapping if anchors is None else mapping | {"anchors": anchors}))


def data_of(sides: list[float], count: int = 100) -> DataIndex:
    """Square boxes of these sides (fractions of the image), the same in every image."""
    boxes = np.array([(0.5, 0.5, side, side) for side in sides], np.float32)
    records = [Record(Path(f"{i}.jpg"), 100, 100, np.zeros(len(boxes), np.int32), boxes) for i in range(count)]
    return DataIndex.from_records(records, ["a", "b"])


def config(**settings: object) -> RunConfig:
    return load(RunConfig, {"imgsz": 64, **settings})


def test_anchors_that_fit_stay(capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny()
    assert with_fitting_anchors(model, data_of([0.2, 0.5]), config()) is model
    assert capsys.readouterr().out.startswith("anchors: they fit, best possible recall 1.0000, ")


def test_anchors_that_do_not_fit_change(capsys: pytest.CaptureFixture[str]) -> None:
    """At 640 pixels labels are 320 and 512 pixels wide, the largest anchor is 56."""
    model, data, settings = tiny(), data_of([0.5, 0.8]), config(imgsz=640)
    changed = with_fitting_anchors(model, data, settings)
    assert fit(label_sizes(data, 640), anchors_of(model), 4).recall == 0
    assert fit(label_sizes(data, 640), anchors_of(changed), 4).recall == 1
    said = capsys.readouterr().out
    assert said.startswith("anchors: best possible recall 0.0000, 0.00 anchors a label; changed (--noautoanchor keeps")
    assert said.count("\n") == 1
    again = with_fitting_anchors(model, data, settings)
    np.testing.assert_array_equal(anchors_of(again), anchors_of(changed))
    written = [side for level in changed.spec.to_mapping()["anchors"] for side in level]
    np.testing.assert_allclose(written, anchors_of(changed).ravel(), rtol=1e-6)


def test_just_at_the_published_limit_is_not_enough(capsys: pytest.CaptureFixture[str]) -> None:
    """49 of 50 labels matched is .98: searched. 50 of 51: left alone."""
    for num_good, searched in ((49, True), (50, False)):
        with_fitting_anchors(tiny(), data_of([0.3] * num_good + [0.004]), config(imgsz=64))
        assert ("they fit" not in capsys.readouterr().out) == searched


def test_found_ones_that_recall_no_more_are_not_taken(capsys: pytest.CaptureFixture[str]) -> None:
    """Sides below 2 pixels shape nothing, so they stay unmatched."""
    model = tiny()
    assert with_fitting_anchors(model, data_of([0.3] * 9 + [0.004]), config()) is model
    said = capsys.readouterr().out
    assert said.startswith("anchors: they stay, best possible recall 0.9000")
    assert said.endswith("a search found none with more recall\n")


def test_labels_too_small_to_search_for(capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny()
    assert with_fitting_anchors(model, data_of([0.004]), config()) is model
    assert "the labels are too small to find better ones" in capsys.readouterr().out


def test_noautoanchor(capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny()
    assert with_fitting_anchors(model, data_of([0.8]), config(imgsz=640, noautoanchor=True)) is model
    assert capsys.readouterr().out == ""


def test_a_number_of_anchors_is_always_searched(capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny(anchors=2)
    data = data_of([0.05, 0.1])
    found = with_fitting_anchors(model, data, config())
    assert not found.spec.anchors_to_find
    assert found.anchors.shape == (3, 2, 2)
    assert fit(label_sizes(data, 64), anchors_of(found), 4).recall == 1
    assert capsys.readouterr().out.startswith("anchors: [[")
    with pytest.raises(UserError, match=r"`anchors: 2` asks for anchors .* --noautoanchor forbids"):
        with_fitting_anchors(model, data, config(noautoanchor=True))
    with pytest.raises(UserError, match="no label has a side of 2 pixels or more"):
        with_fitting_anchors(model, data_of([0.004]), config())


def test_recipe_v3_changes_none_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    data = data_of([0.8])
    model = build_model(load_spec("yolov3-tiny", 2).with_anchors([[2, 2], [3, 3]]), data.names)
    assert with_fitting_anchors(model, data, config(imgsz=640)) is model
    assert with_fitting_anchors(tiny(), data, config(imgsz=640, loss={"recipe": "v3"})).strides == tiny().strides
    assert capsys.readouterr().out == ""
    asked = build_model(model.spec.with_anchors(2), data.names)
    assert anchors_of(with_fitting_anchors(asked, data, config(imgsz=640))).min() > 300


def test_levels() -> None:
    anchors = np.arange(1, 13, dtype=np.float32).reshape(6, 2)
    assert in_levels(anchors, 3) == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    with pytest.raises(UserError, match="6 anchors cannot be spread over the 4 levels of the model; take 4 or 8"):
        in_levels(anchors, 4)


def test_verbose_shows_the_search(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = like_coco(200)
    quiet = search(sizes, num_anchors=9, anchor_t=4.0, generations=20, seed=0)
    assert capsys.readouterr().out == ""
    shown = search(sizes, num_anchors=9, anchor_t=4.0, generations=20, seed=0, verbose=True)
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("k-means: fitness 0.")
    assert others[0].startswith("generation ")
    values = [float(line.rpartition(" ")[2]) for line in (first, *others)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(fit(usable(sizes), shown, 4.0).fitness, abs=1e-3)
    np.testing.assert_array_equal(shown, quiet)
