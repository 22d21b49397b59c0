"""Order, batches and generators are functions of their arguments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.data.collate import pad_labels
from boxwright.data.letterbox import fit_letterbox
from boxwright.data.rng import sample_generator
from boxwright.data.sampler import BatchPlan, plan_rect
from boxwright.data.shapes import Labels
from boxwright.errors import UserError


def plan(count: int, batch_size: int, seed: int | None = 0, rank: int = 0, num_ranks: int = 1) -> BatchPlan:
    return BatchPlan(np.arange(count), batch_size, seed, rank, num_ranks)


@given(st.integers(1, 70), st.integers(1, 20), st.integers(-5, 5), st.integers(0, 3))
def test_an_epoch_has_every_image_once(count: int, batch_size: int, seed: int, epoch: int) -> None:
    batches = plan(count, batch_size, seed)
    images = np.concatenate([batches.batch(epoch, step) for step in range(len(batches))])
    assert sorted(images.tolist()) == list(range(count))


@given(st.integers(1, 70), st.integers(1, 20), st.integers(1, 5))
def test_ranks_together_have_the_batch_of_one(count: int, batch_size: int, num_ranks: int) -> None:
    single = plan(count, batch_size)
    ranks = [plan(count, batch_size, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    for step in range(len(single)):
        whole = single.batch(2, step)
        shares = [rank.batch(2, step) for rank in ranks]
        assert [share[0] for share in shares if len(share)] == whole[:num_ranks].tolist()
        assert sorted(np.concatenate(shares).tolist()) == sorted(whole.tolist())


def test_order_changes_with_epoch_and_seed_and_does_not_depend_on_history() -> None:
    batches = plan(50, 50)
    first, second = batches.batch(0, 0), batches.batch(1, 0)
    assert (first != second).any()
    assert (plan(50, 50, seed=1).batch(0, 0) != first).any()
    np.testing.assert_array_equal(batches.batch(0, 0), first)
    np.testing.assert_array_equal(plan(50, 50).batch(1, 0), second)


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
    rect = plan_rect(np.array(sizes, np.int32), imgsz=320, batch_size=batch_size, stride=32, pad=pad)
    assert (rect.shapes_hw % 32 == 0).all()
    for position, image in enumerate(rect.order):
        scale = 320 / max(sizes[image])
        shape = rect.shapes_hw[position // batch_size]
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
