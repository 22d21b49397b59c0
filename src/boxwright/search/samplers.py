"""Samplers of a search: the published mutation, TPE and CMA-ES; every draw is a function of seed and generation.

Source of the mutation: hyper-parameter evolution as published with YOLOv5 (docs/spec/yolov5.md, B6): a parent is drawn
from the best five trials, or is their mean, by weights of fitness - min + 1e-6; every hyper-parameter is multiplied,
with probability 0.8, by 1 + gain * N(0,1) * U(0,1) * 0.2, limited to 0.3 .. 3, until one has changed; then limits and
five decimals. As published, a value of 0 stays 0.

Deviation: draws follow from the seed and the generation, so that a search by one worker can be repeated.

CMA-ES (Hansen, arXiv:1604.00772) by the package cmaes. Optuna's own sampler keeps its state in the study as a pickle,
and a study may come from someone else. Here the state is computed anew from the numbers of the finished trials.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from boxwright.search.space import Range, Space

Kind = Literal["published", "tpe", "cmaes"]
Parents = Literal["single", "weighted"]
Values = NDArray[np.float64]

NUM_PARENTS = 5
_SMALLEST_WEIGHT = 1e-6
_PROBABILITY, _SIGMA = 0.8, 0.2
_LEAST, _MOST = 0.3, 3.0  # factors of one mutation
_DECIMALS = 5
_ATTEMPTS = 1000  # where all values are 0 or at a limit nothing can change
_CMA_SIGMA = 1 / 6  # of the first generation, in shares of the limits; Optuna's default
_CMA_RESAMPLING = 10  # draws of a point outside of the limits per dimension, before it is clipped; likewise


def distributions(space: Space) -> dict[str, FloatDistribution]:
    """Return the limits as distributions of Optuna."""
    return {name: FloatDistribution(r.low, r.high, log=r.is_logarithmic) for name, r in space.items()}


def draw_parent(values: Values, fitness: Values, method: Parents, rng: np.random.Generator) -> Values:
    """Draw one of the best trials by weight, or average them.

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
    """Return a child within the limits, to five decimals, that differs from its parent if it can.

    Args:
        parent: (H,) values.
        ranges: limits and gain of each.

    Returns:
        (H,)
    """
    gains = np.array([r.gain for r in ranges])
    low, high = (np.array([getattr(r, side) for r in ranges]) for side in ("low", "high"))
    # All decimals are cut before the comparison, so that "changed" means changed in the file that is written.
    unchanged = child = np.clip(np.round(parent, _DECIMALS), low, high)
    for _ in range(_ATTEMPTS):
        chosen = rng.random(len(parent)) < _PROBABILITY
        step = gains * chosen * rng.standard_normal(len(parent)) * rng.random() * _SIGMA
        child = np.round(parent * np.clip(1 + step, _LEAST, _MOST), _DECIMALS)
        child = np.clip(child, low, high)  # after rounding: a limit may have more decimals
        if (child != unchanged).any():
            break
    return child


def draw_by_cma(
    space: Space, start: Mapping[str, float], finished: Sequence[tuple[Mapping[str, float], float]], seed: int
) -> dict[str, float]:
    """Draw from CMA-ES after as many of its generations as the finished trials fill.

    Args:
        space: what is searched; two values or more.
        start: where the search begins.
        finished: values and fitness of each trial, in order; one worker gets what CMA-ES is, of several workers some
            trials were drawn a generation earlier.
        seed: of this draw.
    """
    from cmaes import CMA

    limits = np.array([(r.low, r.high) for r in space.values()])
    logarithmic = np.array([r.is_logarithmic for r in space.values()])

    def scaled(values: Values) -> Values:
        return np.log(values, out=values.copy(), where=logarithmic)

    low, high = scaled(limits[:, 0]), scaled(limits[:, 1])

    def shares(values: Mapping[str, float]) -> Values:
        return np.clip((scaled(np.array([float(values[name]) for name in space])) - low) / (high - low), 0.0, 1.0)

    bounds = np.tile((0.0, 1.0), (len(space), 1))
    cma = CMA(shares(start), _CMA_SIGMA, bounds=bounds, n_max_resampling=_CMA_RESAMPLING * len(space), seed=seed)
    size = cma.population_size
    for first in range(0, len(finished) // size * size, size):
        cma.tell([(shares(values), -fitness) for values, fitness in finished[first : first + size]])
    point = low + cma.ask() * (high - low)
    values = np.clip(np.exp(point, out=point.copy(), where=logarithmic), limits[:, 0], limits[:, 1])
    return dict(zip(space, values.tolist(), strict=True))


def generation_of(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
    """Return the number of a trial in the search, counted from 0.

    A trial that is queued again after its worker died gets a new number from Optuna, but keeps its generation: the
    count of trials, retries not counted, that began before it.
    """
    first = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    number = trial.number if first is None else first
    return sum(
        other.number < number and RetryHeartbeatStaleTrialCallback.retried_trial_number(other) is None
        for other in trials
    )


class SearchSampler(BaseSampler):
    """Draws each trial with a sampler of its own.

    Workers share no random generator, so each trial has its own seed, or all workers would draw the same values. The
    first trial takes the start values with every kind of sampler.
    """

    def __init__(self, kind: Kind, space: Space, start: Mapping[str, float], parents: Parents, seed: int) -> None:
        self.kind: Kind = kind
        self.space = space
        self.start = start  # values of the first trial, and the parent of trials that begin before one has finished
        self.parents: Parents = parents
        self.seed = seed % 2**64
        self._drawing: tuple[int, BaseSampler] | None = None  # trial number and its sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        sampler = self._sampler(study, trial)
        return sampler.infer_relative_search_space(study, trial) if sampler else dict(distributions(self.space))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if sampler := self._sampler(study, trial):
            return sampler.sample_relative(study, trial, search_space)
        trials = study.get_trials(deepcopy=False)
        before = _trials_before(trial, trials)
        if not before:
            return dict(self.start)
        finished = [t for t in before if t.state == TrialState.COMPLETE and self._has_values(t)]
        if self.kind == "cmaes":
            shown = [(t.params, float(t.value or 0.0)) for t in sorted(finished, key=lambda t: t.number)]
            return draw_by_cma(self.space, self.start, shown, self._seed(trial, trials))
        rng = np.random.default_rng([self.seed, generation_of(trial, trials)])
        if finished:
            values = np.array([[t.params[name] for name in self.space] for t in finished])
            parent = draw_parent(values, np.array([float(t.value or 0.0) for t in finished]), self.parents, rng)
        else:
            parent = np.array([self.start[name] for name in self.space])
        child = mutate(parent, list(self.space.values()), rng)
        return dict(zip(self.space, child.tolist(), strict=True))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        sampler = self._sampler(study, trial)
        assert sampler is not None, "a trial that is drawn here has all its values at once"
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _sampler(self, study: Study, trial: FrozenTrial) -> BaseSampler | None:
        """Return Optuna's sampler of a trial; None: its values are drawn here."""
        trials = study.get_trials(deepcopy=False)
        if self.kind != "tpe" or not _trials_before(trial, trials):
            return None
        if self._drawing is None or self._drawing[0] != trial.number:
            self._drawing = trial.number, TPESampler(seed=self._seed(trial, trials))
        return self._drawing[1]

    def _seed(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> int:
        return int(np.random.SeedSequence([self.seed, generation_of(trial, trials)]).generate_state(1)[0])

    def _has_values(self, trial: FrozenTrial) -> bool:
        """Whether a trial has a fitness, and all values within their limits: a study may come from someone else."""
        values = [trial.params.get(name) for name in self.space]
        return (
            isinstance(trial.value, int | float)
            and math.isfinite(trial.value)
            and all(
                isinstance(value, int | float) and r.low <= value <= r.high
                for value, r in zip(values, self.space.values(), strict=True)
            )
        )


def _trials_before(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    generation = generation_of(trial, trials)
    return [t for t in trials if t.state != TrialState.FAIL and generation_of(t, trials) < generation]
