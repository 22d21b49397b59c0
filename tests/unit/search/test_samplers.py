"""The published mutation: its distribution, its limits, its parents; and the samplers of a study."""

from __future__ import annotations

import pickle

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState, create_trial

from boxwright.search.samplers import (
    Parents,
    SearchSampler,
    distributions,
    draw_by_cma,
    draw_parent,
    generation_of,
    mutate,
)
from boxwright.search.space import Range
from boxwright.yolo.settings import EvolveConfig
from boxwright.yolo.verbs.evolve import PUBLISHED, start_values

WIDE = Range(1, -1e9, 1e9)
SPACE = {name: PUBLISHED[name] for name in ("optim.lr0", "optim.momentum", "loss.box", "augment.degrees")}
START = start_values(EvolveConfig(), SPACE)


def factors(gain: float, count: int = 4000) -> np.ndarray:
    """(count, 4) factors that mutation multiplies by; the values are large, so that rounding does not matter."""
    rng = np.random.default_rng(0)
    ranges = [Range(gain, -1e9, 1e9)] * 4
    return np.array([mutate(np.full(4, 1e6), ranges, rng) for _ in range(count)]) / 1e6


def test_the_factors_are_distributed_as_published() -> None:
    found = factors(1)
    # An untouched value has probability 0.2; draws in which none of four is touched are repeated.
    assert np.mean(found == 1) == pytest.approx((0.2 - 0.2**4) / (1 - 0.2**4), abs=0.01)
    step = (found - 1)[found != 1]
    assert step.mean() == pytest.approx(0, abs=0.003)
    # N(0,1) * U(0,1) * 0.2 has the variance 0.2^2 / 3.
    assert step.std() == pytest.approx(0.2 / np.sqrt(3), rel=0.03)


def test_one_width_for_all_values_of_a_child() -> None:
    """U(0,1) is drawn once a child: the sizes of its steps go together."""
    step = np.abs(factors(1) - 1)
    both = step[(step[:, 0] > 0) & (step[:, 1] > 0)]
    assert np.corrcoef(both[:, 0], both[:, 1])[0, 1] > 0.15


def test_a_factor_is_limited() -> None:
    found = factors(50)
    assert (found.min(), found.max()) == (0.3, 3.0)


def test_limits_and_decimals() -> None:
    rng = np.random.default_rng(1)
    ranges = list(PUBLISHED.values())
    parent = np.array([(r.low + r.high) / 2 for r in ranges])
    for _ in range(300):
        child = mutate(parent, ranges, rng)
        assert (child != parent).any()
        assert all(r.low <= value <= r.high for r, value in zip(ranges, child, strict=True))
        assert np.array_equal(np.round(child, 5), child)
        fixed = [r.gain == 0 for r in ranges]
        assert np.array_equal(child[fixed], np.round(parent[fixed], 5))
        parent = child


def test_nothing_stays_nothing_and_ends() -> None:
    assert mutate(np.zeros(3), [WIDE] * 3, np.random.default_rng(0)).tolist() == [0, 0, 0]


def test_parents_are_the_best_five_by_weight() -> None:
    fitness = np.array([0.1, 0.5, 0.3, 0.2, 0.0, 0.4, 0.1])
    values = np.arange(7.0)[:, None]
    rng = np.random.default_rng(0)
    drawn = [draw_parent(values, fitness, "single", rng)[0] for _ in range(3000)]
    share = {int(v): drawn.count(v) / 3000 for v in set(drawn)}
    # The fifth best, of 0.1 (the earlier one), has the weight 1e-6.
    assert share.keys() <= {0, 1, 2, 3, 5}
    assert share[1] == pytest.approx(0.4, abs=0.03)
    assert share[3] == pytest.approx(0.1, abs=0.03)
    mean = draw_parent(values, fitness, "weighted", rng)[0]
    assert mean == pytest.approx((1 * 0.4 + 5 * 0.3 + 2 * 0.2 + 3 * 0.1) / 1.0, abs=1e-4)


def run_study(sampler: str, seed: int, count: int = 8) -> list[dict[str, float]]:
    """Values of the trials of a study that likes a high momentum."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    study.sampler = SearchSampler(sampler, SPACE, START, "single", seed)  # type: ignore[arg-type]
    for _ in range(count):
        trial = study.ask(dict(distributions(SPACE)))
        study.tell(trial, trial.params["optim.momentum"])
    return [trial.params for trial in study.get_trials()]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("sampler", ["published", "tpe", "cmaes"])
def test_a_study_is_repeated_by_its_seed(sampler: str) -> None:
    first = run_study(sampler, 3)
    assert first[0] == START
    assert all(values != START for values in first[1:])
    assert len({tuple(values.values()) for values in first}) == len(first)
    assert run_study(sampler, 3) == first
    assert run_study(sampler, -4)[1:] != first[1:]


def test_children_come_of_the_best() -> None:
    momenta = [values["optim.momentum"] for values in run_study("published", 0, 60)]
    assert max(momenta[-20:]) == 0.98
    assert np.mean(momenta[-20:]) > np.mean(momenta[:20])


def test_trials_begun_before_one_has_finished_differ() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=SearchSampler("published", SPACE, START, "single", 0))
    trials = [study.ask(dict(distributions(SPACE))) for _ in range(3)]
    assert len({tuple(trial.params.values()) for trial in trials}) == 3
    assert trials[0].params == START


def test_parents_are_chosen_or_averaged() -> None:
    assert children_of_two("single") != children_of_two("weighted")


def children_of_two(parents: Parents) -> list[float]:
    """Return momenta after two trials of equal fitness and unlike momenta: of one of the two, or of their mean."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=SearchSampler("published", SPACE, START, parents, 0))
    found: list[float] = []
    for _ in range(8):
        trial = study.ask(dict(distributions(SPACE)))
        study.tell(trial, 1.0)
        found.append(trial.params["optim.momentum"])
    return found


def test_a_retried_trial_keeps_its_generation_and_its_values() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    whole, broken = (
        optuna.create_study(direction="maximize", sampler=SearchSampler("published", SPACE, START, "single", 7))
        for _ in range(2)
    )
    for study, fails in ((whole, False), (broken, True)):
        for count in range(4):
            trial = study.ask(dict(distributions(SPACE)))
            if fails and count == 1:  # its worker dies: it fails and is queued again under a new number
                study.tell(trial, state=TrialState.FAIL)
                RetryHeartbeatStaleTrialCallback()(study, study.get_trials()[trial.number])
                trial = study.ask(dict(distributions(SPACE)))
            study.tell(trial, trial.params["loss.box"])
    finished = [t for t in broken.get_trials() if t.state == TrialState.COMPLETE]
    assert [t.params for t in finished] == [t.params for t in whole.get_trials()]
    assert [t.number for t in finished] == [0, 2, 3, 4]
    assert [generation_of(t, broken.get_trials()) for t in finished] == [0, 1, 2, 3]


def test_cma_es_learns_from_the_numbers_of_the_trials() -> None:
    """Its draws gather around what the trials liked, and need nothing but their numbers."""
    space = {"loss.box": Range(1, 0.0, 1.0), "loss.cls": Range(1, 1e-4, 1.0)}
    start = {"loss.box": 0.5, "loss.cls": 0.01}
    finished: list[tuple[dict[str, float], float]] = []
    for seed in range(120):
        drawn = draw_by_cma(space, start, finished, seed)
        assert all(space[name].low <= value <= space[name].high for name, value in drawn.items())
        finished.append((drawn, -((drawn["loss.box"] - 0.8) ** 2) - (np.log10(drawn["loss.cls"]) + 3) ** 2 / 10))
    last = [values for values, _ in finished[-20:]]
    assert np.mean([values["loss.box"] for values in last]) == pytest.approx(0.8, abs=0.1)
    assert np.mean([np.log10(values["loss.cls"]) for values in last]) == pytest.approx(-3, abs=0.4)


def test_a_study_holds_no_pickle_and_none_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that Optuna's own sampler would read its state from."""

    def refuse(*_: object) -> None:
        raise AssertionError("unpickled")

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=SearchSampler("cmaes", SPACE, START, "single", 0))
    monkeypatch.setattr(pickle, "loads", refuse)
    for count in range(20):
        trial = study.ask(dict(distributions(SPACE)))
        assert not study.trials[-1].system_attrs
        if count == 5:
            study._storage.set_trial_system_attr(trial._trial_id, "cma:optimizer:0", "80049500")
        study.tell(trial, trial.params["optim.momentum"])


def test_trials_whose_values_cannot_be_are_left_out() -> None:
    """A study may come from someone else."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=SearchSampler("cmaes", SPACE, START, "single", 0))
    limits = {name: FloatDistribution(-1e9, 1e9) for name in SPACE}
    for value in (1e8, -5.0):
        study.add_trial(create_trial(params=dict.fromkeys(SPACE, value), distributions=limits, value=9.0))
    trial = study.ask(dict(distributions(SPACE)))
    assert all(SPACE[name].low <= value <= SPACE[name].high for name, value in trial.params.items())
