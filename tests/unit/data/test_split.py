"""Iterative stratification: sizes as asked for, classes shared out evenly, rare ones first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwright.data.split import list_sizes, stratify
from boxwright.errors import UserError


@pytest.mark.parametrize(
    ("count", "shares", "sizes"),
    [
        (128, (0.9, 0.1, 0.0), [115, 13, 0]),
        (10, (0.7, 0.2, 0.1), [7, 2, 1]),
        (5, (0.9, 0.1, 0.0), [4, 1, 0]),
        (3, (0.98, 0.01, 0.01), [1, 1, 1]),
        (7, (0.0, 1.0, 0.0), [0, 7, 0]),
    ],
)
def test_sizes(count: int, shares: tuple[float, ...], sizes: list[int]) -> None:
    assert list_sizes(count, shares) == sizes


@pytest.mark.parametrize("shares", [(0.9, 0.2, 0.0), (1.1, -0.1, 0.0), (float("nan"), 1.0, 0.0)])
def test_shares_that_are_none(shares: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="sum to 1"):
        list_sizes(10, shares)


def test_too_few_images() -> None:
    with pytest.raises(UserError, match="too few images for 3 lists: 2"):
        list_sizes(2, (0.8, 0.1, 0.1))


def random_set(seed: int, count: int = 400) -> np.ndarray:
    """Classes from frequent to rare (two images), and some images without any."""
    rng = np.random.default_rng(seed)
    present = rng.random((count, 6)) < (0.6, 0.3, 0.1, 0.03, 0.0, 0.0)
    present[:2, 4] = True
    present[rng.permutation(count)[:20], 5] = True
    return present


@pytest.mark.parametrize("seed", range(5))
def test_each_class_has_its_share(seed: int) -> None:
    present, shares = random_set(seed), np.array((0.7, 0.2, 0.1))
    sizes = list_sizes(len(present), tuple(shares))
    chosen = stratify(present, np.ones(len(present), np.int64), sizes, seed)
    assert np.bincount(chosen, minlength=3).tolist() == sizes
    with_empty = np.concatenate((present, ~present.any(axis=1, keepdims=True)), axis=1)
    got = np.stack([with_empty[chosen == s].sum(axis=0) for s in range(3)])
    total = with_empty.sum(axis=0)
    away = np.abs(got - np.outer(shares, total))
    assert (away <= np.maximum(1.5, 0.03 * total)).all()  # the most frequent class bears that sizes are kept
    by_chance = np.random.default_rng(seed).permutation(chosen)
    chance = np.stack([with_empty[by_chance == s].sum(axis=0) for s in range(3)])
    assert away.sum() < 0.6 * np.abs(chance - np.outer(shares, total)).sum()


def test_the_seed_decides() -> None:
    present, ones = random_set(0), np.ones(400, np.int64)
    first, again, other = (stratify(present, ones, [360, 40], seed) for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()


@settings(max_examples=30)
@given(st.integers(3, 40), st.integers(0, 5), st.integers(0, 1000))
def test_everything_is_in_one_list(count: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 3, count)
    sizes = list_sizes(int(weights.sum()), (0.6, 0.3, 0.1))
    chosen = stratify(rng.random((count, classes)) < 0.3, weights, sizes, seed)
    assert chosen.min() >= 0
    got = np.bincount(chosen, weights, minlength=3)
    assert (np.abs(got - sizes) <= 1).all()  # a pair may not fit
    assert got.sum() == weights.sum()
