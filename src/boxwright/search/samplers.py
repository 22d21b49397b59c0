"""Samplers of a search: the published mutation, TPE and CMA-ES; every draw is a function of seed and generation.

Source of the mutation: hyper-parameter evolution as published with YOLOv5 (docs/spec/yolov5.md, B6): a parent is drawn
from the best five trials, or is their mean, by weights of fitness - min + 1e-6; every hyper-parameter is multiplied,
with probability 0.8, by 1 + gain * N(0,1) * U(0,1) * 0.2, limited to 0.3 .. 3, until one has changed; then limits and
five decimals. As published, a value of 0 stays 0.

Deviation: draws follow from the seed and the generation, so that a search by one worker can be repeated.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, TPESampler
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
        rng = np.random.default_rng([self.seed, generation_of(trial, trials)])
        finished = [t for t in before if t.state == TrialState.COMPLETE and self.space.keys() <= t.params.keys()]
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
        if self.kind == "published" or not _trials_before(trial, trials):
            return None
        if self._drawing is None or self._drawing[0] != trial.number:
            seed = int(np.random.SeedSequence([self.seed, generation_of(trial, trials)]).generate_state(1)[0])
            if self.kind == "tpe":
                self._drawing = trial.number, TPESampler(seed=seed)
            else:
                x0 = dict(self.start)
                self._drawing = trial.number, CmaEsSampler(x0=x0, seed=seed, warn_independent_sampling=False)
        return self._drawing[1]


def _trials_before(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    generation = generation_of(trial, trials)
    return [t for t in trials if t.state != TrialState.FAIL and generation_of(t, trials) < generation]
