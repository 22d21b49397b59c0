"""The published hyper-parameter evolution as a sampler of Optuna: a child of the best trials so far, mutated.

Source: the mutation published with YOLOv5 (spec B6, hyper-parameter evolution): parents are the best five, chosen or
averaged by weights of fitness - min + 1e-6; every hyper-parameter is multiplied, with probability 0.8, by
1 + gain * N(0,1) * U(0,1) * 0.2, limited to 0.3 .. 3, until one has changed; limits; five decimals.
As published a value of 0 stays 0: nothing times a number is nothing.

Deviation: draws are a function of the seed and the number of the trial, so that a study of one worker can be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from boxwright.search.space import Range, Space

Parents = Literal["single", "weighted"]
Values = NDArray[np.float64]

NUM_PARENTS = 5
_SMALLEST_WEIGHT = 1e-6
_PROBABILITY, _SIGMA = 0.8, 0.2
_LEAST, _MOST = 0.3, 3.0  # factors of one mutation
_DECIMALS = 5
_ATTEMPTS = 1000  # where all values are 0 or at a limit nothing can change


def distributions(space: Space) -> dict[str, FloatDistribution]:
    """What Optuna is told of the limits."""
    return {name: FloatDistribution(r.low, r.high, log=r.is_logarithmic) for name, r in space.items()}


def draw_parent(values: Values, fitness: Values, method: Parents, rng: np.random.Generator) -> Values:
    """One of the best trials by weight, or their weighted mean.

    Args:
        values: (N, H) hyper-parameters of finished trials, N at least 1.
        fitness: (N,) larger is better.

    Returns:
        (H,)
    """
    best = np.argsort(-fitness, kind="stable")[:NUM_PARENTS]
    weights = fitness[best] - fitness[best].min() + _SMALLEST_WEIGHT
    weights /= weights.sum()
    if method == "weighted":
        return weights @ values[best]
    return values[best[rng.choice(len(best), p=weights)]]


def mutate(parent: Values, ranges: Sequence[Range], rng: np.random.Generator) -> Values:
    """A child within the limits, to five decimals, that differs from its parent if it can.

    Args:
        parent: (H,) values.
        ranges: limits and gain of each.

    Returns:
        (H,)
    """
    gains = np.array([r.gain for r in ranges])
    low, high = (np.array([getattr(r, side) for r in ranges]) for side in ("low", "high"))
    unchanged = child = np.clip(np.round(parent, _DECIMALS), low, high)
    for _ in range(_ATTEMPTS):
        chosen = rng.random(len(parent)) < _PROBABILITY
        step = gains * chosen * rng.standard_normal(len(parent)) * rng.random() * _SIGMA
        child = np.round(parent * np.clip(1 + step, _LEAST, _MOST), _DECIMALS)
        child = np.clip(child, low, high)  # after rounding: a limit may have more decimals
        if (child != unchanged).any():
            break
    return child


class GeneticSampler(BaseSampler):
    """Args:
    space: what is searched.
    start: values of the first trial, which are also the parent of those that are begun before one has finished.
    parents: how they are drawn.
    seed: of the search; negative ones are taken modulo 2^64.
    """

    def __init__(self, space: Space, start: Mapping[str, float], parents: Parents = "single", seed: int = 0) -> None:
        self._space = space
        self._start = start
        self._parents: Parents = parents
        self._seed = seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(distributions(self._space))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        before = [t for t in study.get_trials(deepcopy=False) if t.number < trial.number and t.state != TrialState.FAIL]
        if not before:
            return dict(self._start)
        rng = np.random.default_rng([self._seed % 2**64, trial.number])
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        finished = [t for t in before if t.state == TrialState.COMPLETE and self._space.keys() <= t.params.keys()]
        if finished:
            values = np.array([[t.params[name] for name in self._space] for t in finished])
            fitness = np.array([sign * float(t.value or 0.0) for t in finished])
            parent = draw_parent(values, fitness, self._parents, rng)
        else:
            parent = np.array([self._start[name] for name in self._space])
        child = mutate(parent, list(self._space.values()), rng)
        return dict(zip(self._space, child.tolist(), strict=True))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._start[param_name]  # all are drawn together; Optuna asks here for none of them
