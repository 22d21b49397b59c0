"""Order, batches and generators are functions of their arguments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.data.letterbox import fit_letterbox
from boxwright.data.sampler import BatchPlan, plan_rect, sample_generator
from boxwright.errors import UserError
from boxwright.yolo.geometry import Labels
from boxwright.yolo.loader import pad_labels


def plan(count: int, batch_size: int, seed: int | None = 0, rank: int = 0, num_ranks: int = 1) -> BatchPlan:
    return BatchPlan(np.arange(count), batch_size, seed, rank, num_ranks)


@given(st.integers(1, 70), st.integers(1, 20), st.integers(-5, 5), st.integers(0, 3))
def test_an_epoch_has_every_image_once(count: int, batch_size: int, seed: int, epoch: int) -> None:
    batches = plan(count, batch_size, seed)
    images = np.concatenate([batches.epoch(epoch)(step).images for step in range(len(batches))])
    assert sorted(images.tolist()) == list(range(count))


@given(st.integers(1, 70), st.integers(1, 20), st.integers(1, 5))
def test_ranks_together_have_the_batch_of_one(count: int, batch_size: int, num_ranks: int) -> None:
    single = plan(count, batch_size)
    ranks = [plan(count, batch_size, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    for step in range(len(single)):
        whole = single.epoch(2)(step).images
        shares = [rank.epoch(2)(step).images for rank in ranks]
        assert [share[0] for share in shares if len(share)] == whole[:num_ranks].tolist()
        assert sorted(np.concatenate(shares).tolist()) == sorted(whole.tolist())


def test_order_changes_with_epoch_and_seed_and_does_not_depend_on_history() -> None:
    batches = plan(50, 50)
    first, second = batches.epoch(0)(0).images, batches.epoch(1)(0).images
    assert (first != second).any()
    assert (plan(50, 50, seed=1).epoch(0)(0).images != first).any()
    np.testing.assert_array_equal(batches.epoch(0)(0).images, first)
    np.testing.assert_array_equal(plan(50, 50).epoch(1)(0).images, second)


def test_no_images_are_a_users_mistake() -> None:
    with pytest.raises(UserError, match="no image"):
        plan(0, 4)


def test_generators_of_different_keys_differ() -> None:
    keys = [(s, e, i, t) for s in (0, 1, -1) for e in (0, 1) for i in (0, 1, 2**40) for t in (0, 1)]
    draws = {tuple(sample_generator(*key).integers(2**63, size=4).tolist()) for key in keys}
    assert len(draws) == len(keys)
    assert sample_generator(3, 4, 5).random() == sample_generator(3, 4, 5).random()


def test_streams_of_neighbours_do_not_overlap() -> None:
    longer = sample_generator(0, 0, 0).integers(2**63, size=10_000)
    for other in ((0, 0, 1), (0, 1, 0)):
        assert not np.isin(sample_generator(*other).integers(2**63, size=100), longer).any()


def test_the_draws_of_a_sample_stay_as_they_are() -> None:
    """A change here changes every training run: it must be meant."""
    assert sample_generator(0, 0, 0).integers(1000, size=4).tolist() == [34, 11, 611, 241]


@given(
    st.lists(st.tuples(st.integers(10, 500), st.integers(10, 500)), min_size=1, max_size=40),
    st.integers(1, 8),
    st.sampled_from([0.0, 0.5]),
)
def test_rectangular_shapes_hold_their_images(sizes: list[tuple[int, int]], batch_size: int, pad: float) -> None:
    order, shapes = plan_rect(np.array(sizes, np.int32), imgsz=320, batch_size=batch_size, stride=32, pad=pad)
    assert (shapes % 32 == 0).all()
    for position, image in enumerate(order):
        scale = 320 / max(sizes[image])
        shape = shapes[position // batch_size]
        assert (shape + 1 >= np.array(sizes[image]) * scale).all()


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 20), st.booleans(), st.booleans())
def test_letterboxed_points_come_back(height: int, width: int, cells: int, auto: bool, up: bool) -> None:
    fit = fit_letterbox((height, width), 32 * cells, auto=auto, stride=32, scale_up=up)
    assert max(fit.out_hw) <= 32 * cells
    if not auto:
        assert fit.out_hw == (32 * cells, 32 * cells)
    for side in (0, 1):
        border = fit.out_hw[side] - fit.resized_hw[side]
        start = (fit.top, fit.left)[side]
        assert 0 <= start <= border
        assert abs(start - fit.pad_yx[side]) <= 0.5
        wanted = max((height, width)[side] * fit.scale_yx[side], 1)  # a line of pixels keeps one
        assert abs(fit.resized_hw[side] - wanted) <= 0.5 + 1e-9


@pytest.mark.parametrize(("most", "padded"), [(0, 16), (1, 16), (16, 16), (17, 32)])
def test_labels_are_padded_to_few_different_counts(most: int, padded: int) -> None:
    rng = np.random.default_rng(0)
    full = Labels(np.arange(most, dtype=np.int32), rng.random((most, 4), dtype=np.float32))
    empty = Labels(np.zeros(0, np.int32), np.zeros((0, 4), np.float32))
    targets = pad_labels([empty, full])
    assert targets.boxes_cxcywh.shape == (2, padded, 4)
    assert targets.valid.sum(dim=1).tolist() == [0, most]
    np.testing.assert_array_equal(targets.boxes_cxcywh[1, :most].numpy(), full.boxes)
    assert targets.labels[1, :most].tolist() == list(range(most))
    assert not targets.boxes_cxcywh[1, most:].any()


@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 3))
def test_groups_stay_together_and_every_image_comes(count: int, groups: int, num_ranks: int) -> None:
    size = 4 * groups * num_ranks
    single = BatchPlan(np.arange(count), size, 0, group=4)
    ranks = [BatchPlan(np.arange(count), size, 0, rank, num_ranks, group=4) for rank in range(num_ranks)]
    seen: list[int] = []
    for step in range(len(single)):
        whole = single.epoch(1)(step).images.reshape(-1, 4)
        for rank, share in enumerate(ranks):
            np.testing.assert_array_equal(share.epoch(1)(step).images.reshape(-1, 4), whole[rank::num_ranks])
        seen += whole.ravel().tolist()
    assert set(seen) == set(range(count))
    assert len(seen) == -(-count // 4) * 4


def test_images_are_drawn_as_often_as_they_weigh() -> None:
    weights = np.array([0.0, 1.0, 3.0, 0.0, 4.0])
    plan_of_five = BatchPlan(np.arange(5), 2, 7)
    counts = np.zeros(5)
    for epoch in range(800):
        share = plan_of_five.epoch(epoch, weights)
        counts += np.bincount(np.concatenate([share(step).images for step in range(len(plan_of_five))]), minlength=5)
    np.testing.assert_allclose(counts / counts.sum(), weights / weights.sum(), atol=0.03)
    again, first = (plan_of_five.epoch(3, weights)(0).images for _ in range(2))
    np.testing.assert_array_equal(again, first)
    orders = {plan_of_five.epoch(3, weights + k)(1).images.tobytes() for k in range(9)}
    assert len(orders) > 1


def test_an_image_that_comes_again_knows_how_often_it_came() -> None:
    share = BatchPlan(np.arange(3), 12, 0, group=4).epoch(0)(0)
    assert share.images.tolist() == [*share.images[:3].tolist(), share.images[0]]
    assert share.repeats.tolist() == [0, 0, 0, 1]
    weights = np.array([1.0, 0.0, 1.0])
    share = BatchPlan(np.arange(3), 3, 0).epoch(5, weights)(0)
    for place, (image, repeat) in enumerate(zip(share.images, share.repeats, strict=True)):
        assert repeat == (share.images[:place] == image).sum()


def test_where_nothing_weighs_anything_all_images_are_drawn() -> None:
    share = BatchPlan(np.arange(50), 50, 0).epoch(0, np.zeros(50))(0)
    assert len(set(share.images.tolist())) > 20
