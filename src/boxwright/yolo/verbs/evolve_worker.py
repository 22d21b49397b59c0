"""One worker of a search: it trains one trial after the other until enough have finished."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from optuna import Study
from optuna.trial import Trial, TrialState

from boxwright.engine.callbacks import Callback, EpochReport
from boxwright.engine.checkpointing import load_run
from boxwright.errors import DivergedError, UserError
from boxwright.search.claims import FINISHED, Claim, Worker, one_at_a_time, trial_folder
from boxwright.search.genetic_sampler import distributions
from boxwright.search.results import METRICS, FinishedTrial, best_of, hyps_of, write_csv, write_hyp
from boxwright.search.space import KEY_OF_SETTING, Range, Space, start_values
from boxwright.search.study import StudyPlace, make_pruner, make_sampler, storage_mistakes
from boxwright.settings.load import load
from boxwright.yolo.evolve_settings import OF_THE_SEARCH, EvolveConfig, validates
from boxwright.yolo.published import with_release
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.verbs.info import open_network
from boxwright.yolo.verbs.train import resume, train

_log = logging.getLogger("boxwright.evolve")
_POLL_SECONDS = 5.0  # how often a worker without a trial looks whether another one has died


@dataclass(frozen=True, slots=True)
class Result:
    """What is kept of a trial besides its fitness; see `FinishedTrial`."""

    fitness: float
    metrics: dict[str, float]
    config: RunConfig


class Search:
    """Args:
    study, worker: whose trials are run.
    config: settings of trials and search, as the study keeps them.
    space: what is searched.
    place: of study and results.
    """

    def __init__(self, study: Study, worker: Worker, config: EvolveConfig, space: Space, place: StudyPlace) -> None:
        self.study = study
        self.worker = worker
        self.config = config
        self.space = space
        self.place = place
        self.start = _start(config, space)
        study.pruner = make_pruner(config)

    def run(self) -> None:
        """Train trials until the study has as many as are wanted; take over those of workers that have died."""
        waiting = ""
        while True:
            claim = self.worker.next_trial()
            if claim is not None:
                self._run_trial(claim)
                waiting = ""
            elif self.worker.num_finished >= self.config.generations:
                break
            else:
                others = ", ".join(self.worker.running())
                if others != waiting:
                    print(f"waiting for trial {others}; Ctrl-C leaves the rest to the others", flush=True)
                waiting = others
                time.sleep(_POLL_SECONDS)
        self._write()
        print(f"{self.worker.num_finished} trials have finished; results in {self.place.folder}")

    def _run_trial(self, claim: Claim) -> None:
        trial, values = self._values(claim.number)
        wanted = self._settings(claim, values)
        saved = (claim.folder / "weights" / "last.pt").is_file()
        print(
            f"trial {claim.number} of {self.config.generations}{' goes on' if saved else ''}: {claim.folder}",
            flush=True,
        )
        pruning = Pruning(trial, self.place)
        callbacks = (pruning,) if self.config.prune else ()
        try:
            if saved:
                own = {name: getattr(self.config, name) for name in ("workers", "device")}
                resume(claim.folder, own, callbacks)
            else:
                train(wanted, callbacks)
            result = _result(claim.folder)
        except DivergedError as error:
            print(f"trial {claim.number} counts as fitness 0: {error}", flush=True)
            result = Result(0.0, {}, wanted)
        except UserError:
            if not (claim.folder / "weights" / "last.pt").is_file():  # else it can go on once the mistake is mended
                self.study.tell(claim.number, state=TrialState.FAIL)
            raise
        self._tell(trial, result, pruned=bool(pruning.stop_training))

    def _values(self, number: int) -> tuple[Trial, dict[str, float]]:
        """The hyper-parameters of a trial, drawn now unless they were before."""
        before = [t for t in self.study.get_trials(deepcopy=False)[:number] if t.state != TrialState.FAIL]
        self.study.sampler = make_sampler(self.config, self.space, self.start, number if before else 0)
        trial_id = self.study.get_trials(deepcopy=False)[number]._trial_id  # pyright: ignore[reportPrivateUsage]
        trial = Trial(self.study, trial_id)
        found = distributions(self.space)
        return trial, {name: trial.suggest_float(name, d.low, d.high, log=d.log) for name, d in found.items()}

    def _settings(self, claim: Claim, values: dict[str, float]) -> RunConfig:
        """The settings of a normal run in the folder of the trial; what nobody has set stays unset."""
        config = self.config
        given = config.model_dump(mode="json", exclude_unset=True)
        given = {name: value for name, value in given.items() if name not in OF_THE_SEARCH}
        own: dict[str, Any] = {
            "project": str(claim.folder.parent),
            "name": claim.folder.name,
            "exist_ok": True,
            "nosave": False,  # a trial that was killed goes on from its last epoch
            "noval": not validates(config),
            "noplots": config.noplots,
        }
        return load(RunConfig, {**given, **own, **values})

    def _tell(self, trial: Trial, result: Result, *, pruned: bool) -> None:
        trial.set_user_attr("metrics", result.metrics)
        trial.set_user_attr("hyps", hyps_of(result.config))
        if pruned:
            self.study.tell(trial.number, state=TrialState.PRUNED)
        else:
            self.study.tell(trial.number, result.fitness)
        self._write()
        best = best_of(self._finished())
        also = "" if best is None else f"; the best is {best.fitness:.5g} of trial {best.number}"
        how = "pruned" if pruned else "finished"
        print(f"trial {trial.number} has {how} with fitness {result.fitness:.5g}{also}", flush=True)

    def _finished(self) -> list[FinishedTrial]:
        trials = sorted(self.study.get_trials(deepcopy=False, states=FINISHED), key=lambda trial: trial.number)
        return [
            FinishedTrial(
                trial.number,
                float(trial.value or 0.0),
                trial.state == TrialState.PRUNED,
                trial.user_attrs.get("metrics", {}),
                trial.user_attrs.get("hyps", {}),
            )
            for trial in trials
        ]

    def _write(self) -> None:
        """Write all results anew. The study is read inside the lock, so that an older state never comes last."""
        folder = self.place.folder
        with one_at_a_time(folder):
            trials = self._finished()
            if not trials:
                return
            write_csv(trials, folder / "evolve.csv")
            best = best_of(trials)
            if best is None:
                return
            shared = self._settings(Claim(best.number, trial_folder(folder, best.number)), {})
            write_hyp(best, shared, len(trials), folder / "hyp_evolve.yaml")
            self._plot(trials, best)
            if self.config.nosave:
                _drop_weights(folder, trials, best)

    def _plot(self, trials: list[FinishedTrial], best: FinishedTrial) -> None:
        from boxwright.search.plot import plot_evolution

        names = [KEY_OF_SETTING[name] for name in self.space]
        plot_evolution(
            names,
            np.array([[float(trial.hyps.get(name, np.nan)) for name in names] for trial in trials]),
            np.array([trial.fitness for trial in trials]),
            np.array([trial.number for trial in trials]),
            trials.index(best),
            self.place.folder / "evolve.png",
        )


def _start(config: EvolveConfig, space: Space) -> dict[str, float]:
    """The values of the first trial; where the settings are silent, those that the network is published with."""
    network = open_network(config.model or config.weights)
    full = with_release(config, network.release, has_backbone=network.num_backbone_layers > 0)
    start = start_values(full, space)
    for name, wanted in start_values(full, {name: Range(1, -math.inf, math.inf) for name in space}).items():
        if wanted != start[name]:
            _log.warning("%s begins at %g, its limit, not at %g; --space sets others", name, start[name], wanted)
    return start


class Pruning(Callback):
    """Ends a trial whose fitness is hopeless beside that of others at the same epoch."""

    def __init__(self, trial: Trial, place: StudyPlace) -> None:
        self._trial = trial
        self._place = place

    def on_fit_epoch_end(self, report: EpochReport) -> None:
        if report.score is None:
            return
        with storage_mistakes(self._place):
            self._trial.report(report.score.fitness, report.epoch + 1)
            if report.epoch + 1 < report.epochs and self._trial.should_prune():
                self.stop_training = "pruned: other trials are better at this epoch"


def _result(folder: Path) -> Result:
    """What a finished run has reached: the epoch that its best.pt is of."""
    content = load_run(folder / "weights" / "last.pt")
    engine = content["engine"]
    row = engine["run"]["history"][engine["best_epoch"]]
    metrics = {name: float(row.get(name, 0.0)) for name in METRICS}
    return Result(float(engine["best_fitness"]), metrics, load(RunConfig, content["config"]))


def _drop_weights(folder: Path, trials: list[FinishedTrial], best: FinishedTrial) -> None:
    """Hundreds of trials would fill a disk: those that are finished and not the best keep their other files."""
    for trial in trials:
        if trial.number != best.number:
            for file in trial_folder(folder, trial.number).glob("weights/*.pt"):
                file.unlink(missing_ok=True)
