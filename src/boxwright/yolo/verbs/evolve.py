"""The evolve verb: search hyper-parameters by many short trainings, on any number of workers, stopped at any time.

Source of the search space and of the files' names: hyper-parameter evolution as published with YOLOv5 v7.0
(docs/spec/yolov5.md, B6); facts only.
"""

import importlib.util
import logging
import math
import os
import shlex
import shutil
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import TypeAdapter

from boxwright.data.files import picture_errors, write_atomically
from boxwright.engine.callbacks import Callback, EpochReport
from boxwright.engine.run_folder import new_run_folder
from boxwright.engine.schedule import check_schedule
from boxwright.engine.trainer import load_run
from boxwright.errors import DivergedError, UserError
from boxwright.extras import not_installed
from boxwright.search.space import Range, Space, read_space, searched
from boxwright.settings.flags import flags_of, setting_names, suggest
from boxwright.settings.load import Setting, dump, flatten, load
from boxwright.yolo.hyp import SETTING_OF_KEY
from boxwright.yolo.published import with_release
from boxwright.yolo.settings import OF_A_WORKER, OF_THE_SEARCH, EvolveConfig, RunConfig
from boxwright.yolo.verbs.info import open_network
from boxwright.yolo.verbs.train import resume, train

if TYPE_CHECKING:  # Optuna is an extra
    from optuna import Study
    from optuna.trial import Trial

    from boxwright.search.results import FinishedTrial
    from boxwright.search.study import StudyLocation
    from boxwright.search.worker import OpenTrial, Outcome

_log = logging.getLogger("boxwright.evolve")
_TRIALS_KEPT = "; the trials so far are in the study"
_KEY, _VERSION = "boxwright evolve", 1  # under which the settings of a search are kept in its study
_NOT_KEPT = ("project", "name", "exist_ok", "study", "space", "device", "nproc")
# On the result.
_NO_EFFECT = ("project", "name", "exist_ok", "noplots", "nosave", "workers", "device", "nproc", "loader_timeout")
KEY_OF_SETTING = {setting: key for key, setting in SETTING_OF_KEY.items() if key != "giou"}
METRICS = (
    *("metrics/precision", "metrics/recall", "metrics/mAP_0.5", "metrics/mAP_0.5:0.95"),
    *("val/box_loss", "val/obj_loss", "val/cls_loss"),
)
PUBLISHED_ANCHORS = 3.0  # per level; where the published search begins when the settings leave anchors to the model

PUBLISHED: Space = {
    "optim.lr0": Range(1, 1e-5, 1e-1),
    "optim.lrf": Range(1, 0.01, 1.0),
    "optim.momentum": Range(0.3, 0.6, 0.98),
    "optim.weight_decay": Range(1, 0.0, 0.001),
    "optim.warmup_epochs": Range(1, 0.0, 5.0),
    "optim.warmup_momentum": Range(1, 0.0, 0.95),
    "optim.warmup_bias_lr": Range(1, 0.0, 0.2),
    "loss.box": Range(1, 0.02, 0.2),
    "loss.cls": Range(1, 0.2, 4.0),
    "loss.cls_pw": Range(1, 0.5, 2.0),
    "loss.obj": Range(1, 0.2, 4.0),
    "loss.obj_pw": Range(1, 0.5, 2.0),
    "loss.iou_t": Range(0, 0.1, 0.7),
    "loss.anchor_t": Range(1, 2.0, 8.0),
    "anchors": Range(2, 2.0, 10.0),
    "loss.fl_gamma": Range(0, 0.0, 2.0),
    "augment.hsv_h": Range(1, 0.0, 0.1),
    "augment.hsv_s": Range(1, 0.0, 0.9),
    "augment.hsv_v": Range(1, 0.0, 0.9),
    "augment.degrees": Range(1, 0.0, 45.0),
    "augment.translate": Range(1, 0.0, 0.9),
    "augment.scale": Range(1, 0.0, 0.9),
    "augment.shear": Range(1, 0.0, 10.0),
    "augment.perspective": Range(0, 0.0, 0.001),
    "augment.flipud": Range(1, 0.0, 1.0),
    "augment.fliplr": Range(0, 0.0, 1.0),
    "augment.mosaic": Range(1, 0.0, 1.0),
    "augment.mixup": Range(1, 0.0, 1.0),
    "augment.copy_paste": Range(1, 0.0, 1.0),
}


def evolve(config: EvolveConfig) -> Path:
    """Search hyper-parameters; begin a study, join one, or go on with one.

    Args:
        config: settings of trials and search. A worker that joins a study needs none of them but `study`: the study
            keeps those that it was begun with.

    Returns:
        the folder with evolve.csv, hyp_evolve.yaml, evolve.png and the trials.

    Raises:
        UserError: a setting, the search space, the data, or the study's database is wrong; a package is missing.
    """
    _check(config)
    space = make_space(config, config.space)
    new_folder = None if config.study else new_run_folder(config.project, config.name, config.exist_ok)
    from boxwright.search.study import locate_study

    location = locate_study(config.study, config.project, config.name, new_folder)
    is_new = (new_folder is not None and not config.exist_ok) or not location.folder.exists()
    try:
        _work(config, space, location)
    except UserError:
        # A user error leaves nothing behind, unless another worker has come meanwhile.
        kept = (*location.folder.glob("evolve.csv"), *location.folder.glob("trials/*/weights/*"))
        if is_new and not kept:
            shutil.rmtree(location.folder, ignore_errors=True)
        raise
    except (SystemExit, KeyboardInterrupt):
        print(f"the search goes on with: {_command(config, location)}", flush=True)
        raise
    return location.folder


def make_space(config: RunConfig, file: str) -> Space:
    """Return the hyper-parameters that are searched.

    Args:
        config: settings of the trials. As published, anchors are left out where they are given as sides, or where
            automatic ones are not wanted.
        file: yaml of limits; empty: the published table.

    Raises:
        UserError: see `read_space`; or the file searches the number of anchors, and the settings name their sides.
    """

    space = read_hyp_space(Path(file).expanduser()) if file else PUBLISHED
    fixed = config.noautoanchor or not isinstance(config.anchors, int)
    if file and fixed and "anchors" in space:
        raise UserError(f"{file} searches the number of anchors, but --anchors or --noautoanchor says what they are")
    return {name: limits for name, limits in searched(space).items() if not (fixed and name == "anchors")}


def read_hyp_space(path: Path) -> Space:
    """Read a search space over what a hyper-parameter file can hold, see `search.space.read_space`."""

    def setting_of(name: str) -> str:
        target = SETTING_OF_KEY.get(name, name)
        if target not in KEY_OF_SETTING:
            hint = suggest(name, [flag for flag in flags_of(RunConfig) if flag.setting in SETTING_OF_KEY.values()])
            raise ValueError(hint or "; it is one that a hyper-parameter file can hold, such as optim.lr0 or loss.box")
        return target

    def check(name: str, limit: Setting) -> None:
        load(RunConfig, {name: limit})

    return read_space(path, setting_of, check)


def kept_space(limits: object, study_name: str) -> Space:
    """Return the limits that a study keeps; it may come from someone else.

    Raises:
        UserError: they are not limits of hyper-parameters.
    """
    try:
        found = TypeAdapter(dict[str, tuple[float, float, float]]).validate_python(limits)
        space = {name: Range(*values) for name, values in found.items()}
        for name, r in space.items():
            if name not in KEY_OF_SETTING or not (r.gain > 0 and -math.inf < r.low < r.high < math.inf):
                raise ValueError(name)
            load(RunConfig, {name: r.low})
            load(RunConfig, {name: r.high})
    except ValueError as error:
        raise UserError(
            f"the search space in the study {study_name} is none: {' '.join(str(error).split())[:200]}"
        ) from error
    return space


def start_values(config: RunConfig, space: Space) -> dict[str, float]:
    """Return the values of the searched settings, within their limits: where a search begins."""
    values: dict[str, float] = {}
    for name, limits in space.items():
        value = float(attrgetter(name)(config) or (PUBLISHED_ANCHORS if name == "anchors" else 0))
        values[name] = min(max(value, limits.low), limits.high)
        if values[name] != value:
            _log.warning("%s begins at %g, its limit, not at %g; --space sets others", name, values[name], value)
    return values


def _check(config: EvolveConfig) -> None:
    """Raise a UserError for what can be seen without opening anything."""
    if importlib.util.find_spec("optuna") is None:
        raise not_installed("boxwright evolve", "optuna", "tune")
    if config.sampler == "cmaes" and importlib.util.find_spec("cmaes") is None:
        raise not_installed("--sampler cmaes", "cmaes", "tune")
    if config.nproc > 1 or "," in config.device or "TORCHELASTIC_RUN_ID" in os.environ:
        raise UserError(
            "a trial runs in one process; start a worker for each GPU: boxwright evolve --study NAME --device 0, and "
            "the same with --device 1"
        )
    if config.best_weight:
        raise UserError("evolve takes no --best-weight: the weights of the best trial are in trials/NUMBER/weights")
    if config.batch_size == -1:
        raise UserError(
            "evolve needs --batch-size N: trials with batches of different sizes cannot be compared; one epoch of "
            "boxwright train --batch-size -1 says what fits"
        )
    if config.sampler == "cmaes" and config.space and len(make_space(config, config.space)) < 2:
        raise UserError("--sampler cmaes searches two hyper-parameters or more: take tpe, or name more in --space")
    check_schedule(config.optim, config.epochs, validates=config.validates)
    if config.prune and config.noval and "noval" in config.model_fields_set:
        raise UserError("--prune compares trials after each epoch, so that it does not go with --noval")


def _work(config: EvolveConfig, space: Space, location: "StudyLocation") -> None:
    from boxwright.search.samplers import SearchSampler
    from boxwright.search.study import database_errors, make_pruner, open_study, quiet_optuna
    from boxwright.search.worker import run_search

    with quiet_optuna():
        try:  # SQLite makes its file, but not the folder
            location.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write the folder of the search, {location.folder}: {error.strerror}") from error
        study, is_new = open_study(location)
        with database_errors(location):
            if is_new and not config.data:
                raise UserError("evolve needs --data, as train does: this study is a new one")
            config, space = agree(study, config, space, is_new=is_new)
            # Where the settings are silent, the first trial takes the values that its network is published with.
            network = open_network(config.model or config.weights)
            full = with_release(config, network.release, has_backbone=network.num_backbone_layers > 0)
            start = start_values(full, space)
            study.sampler = SearchSampler(config.sampler, space, start, config.parents, config.seed)
            study.pruner = make_pruner(config.prune)
            print(f"searching {len(space)} hyper-parameters in {location.folder}; another worker joins with:")
            print(f"  {_command(config, location)}", flush=True)
            trials = Trials(config, space, location)
            run_search(study, location, space, config.generations, trials.run, trials.report)
        count = len(trials.finished)
        print(f"{count} trial{'s have' if count != 1 else ' has'} finished; results in {location.folder}")


def agree(study: "Study", config: EvolveConfig, space: Space, *, is_new: bool) -> tuple[EvolveConfig, Space]:
    """Return the settings that all workers of a study share; the worker that created it brings them.

    Raises:
        UserError: the study is of something else, or a worker asks for another search than the study is.
    """
    from boxwright.search.study import shared_settings

    own = _absolute(config).model_dump(mode="json", exclude_unset=True)
    settings = {name: value for name, value in own.items() if name not in _NOT_KEPT}
    limits = {name: [r.gain, r.low, r.high] for name, r in space.items()}
    content = {"version": _VERSION, "settings": settings, "space": limits}
    kept = shared_settings(study, _KEY, content if is_new else None)
    if is_new or not kept:  # an empty study that somebody made beforehand becomes ours
        shared_settings(study, _KEY, content)
        return _absolute(config), space
    if kept.get("version") != _VERSION:
        raise UserError(f"the study {study.study_name} was begun by another version of boxwright")
    shared = kept.get("settings")
    if not isinstance(shared, dict) or not shared.keys().isdisjoint(_NOT_KEPT):  # a study may come from someone else
        raise UserError(
            f"the settings in the study {study.study_name} are none of boxwright evolve; name another study"
        )
    begun = load(EvolveConfig, shared)
    merged = load(EvolveConfig, {**flatten(shared), **flatten(own)})
    theirs = kept_space(kept.get("space"), study.study_name)
    before, now = flatten(dump(begun)), flatten(dump(merged))
    names = [name for name in setting_names(EvolveConfig) if name not in (*OF_A_WORKER, "space", "noplots")]
    pairs = ((name, before[name].value, now[name].value) for name in names)
    different = "; ".join(f"{name} {old}, not {new}" for name, old, new in pairs if old != new)
    if different:
        raise UserError(
            f"this study was begun with other settings: {different}. Leave them out to go on with it, or begin a new "
            "one with another --study"
        )
    if config.space and dict(space) != theirs:
        raise UserError(f"--space {config.space} is not the search space that this study was begun with: leave it out")
    for name in ("data", "weights"):
        if getattr(merged, name) != getattr(begun, name):
            _log.warning(
                "this worker takes --%s %s, the study was begun with %s: both must hold the same",
                *(name, getattr(merged, name), getattr(begun, name)),
            )
    return merged, theirs


class Trials:
    """Trains the trials of a search and writes its results."""

    def __init__(self, config: EvolveConfig, space: Space, location: "StudyLocation") -> None:
        self.config = config  # of trials and search, as the study keeps them
        self.space = space
        self.location = location
        self.finished: list[FinishedTrial] = []

    def run(self, trial: "OpenTrial") -> "Outcome":
        """Train one trial, or go on with one that was stopped."""
        from boxwright.search.worker import Outcome, has_checkpoint

        config, saved = self._settings(trial.folder, trial.values), has_checkpoint(trial.folder)
        goes_on = " goes on" if saved else ""
        print(f"trial {trial.number} of {self.config.generations}{goes_on}: {trial.folder}", flush=True)
        pruning = Pruning(trial.trial, self.location)
        callbacks = (pruning,) if self.config.prune else ()
        try:
            if saved:
                resume(
                    trial.folder,
                    {name: getattr(self.config, name) for name in ("workers", "device", "loader_timeout")},
                    callbacks,
                )
            else:
                train(config, callbacks)
            fitness, metrics, config = _result(trial.folder)
        except DivergedError as error:
            print(f"trial {trial.number} counts as fitness 0: {error}", flush=True)
            fitness, metrics = 0.0, {}
        return Outcome(fitness, bool(pruning.stop_training), {"metrics": metrics, "hyps": hyps_of(config)})

    def report(self, finished: "list[FinishedTrial]") -> None:
        """Write evolve.csv, hyp_evolve.yaml and evolve.png anew; drop the weights of trials that are not the best.

        Another worker may write the same files a moment later or earlier: each is replaced as a whole, and every worker
        writes them once more at its end.
        """
        from boxwright.search.results import best_of, csv_text, plot_search
        from boxwright.search.worker import trial_folder

        new = [trial for trial in finished if trial not in self.finished]
        self.finished = finished
        if not finished:
            return
        folder = self.location.folder
        write_atomically(folder / "evolve.csv", csv_text(finished, METRICS), advice=_TRIALS_KEPT)
        best = best_of(finished)
        also = "" if best is None else f"; the best is {best.fitness:.5g} of trial {best.number}"
        for trial in new:
            how = "was pruned" if trial.pruned else "has finished"
            print(f"trial {trial.number} {how} with fitness {trial.fitness:.5g}{also}", flush=True)
        if best is None:
            return
        # All digits; the comments hold the command that repeats the trial.
        file = folder / "hyp_evolve.yaml"
        metrics = ", ".join(f"{name.partition('/')[2]} {best.metrics.get(name, 0.0):.4f}" for name in METRICS)
        flags = as_flags(self._settings(Path("trials"), {}))
        text = (
            f"# Hyper-parameters of the best of {len(finished)} trials: trial {best.number}, "
            f"fitness {best.fitness!r}.\n# {metrics}\n# The same run again, to the last digit on the same device:\n"
            f"#   boxwright train --hyp {shlex.quote(str(file))} {flags}\n"
        )
        write_atomically(file, text + yaml.safe_dump(dict(best.hyps), sort_keys=False), advice=_TRIALS_KEPT)
        with picture_errors():
            from boxwright.reporting.plots import save_figure

            figure = plot_search(finished, [KEY_OF_SETTING[name] for name in self.space], best)
            save_figure(figure, folder / "evolve.png")
        if self.config.nosave:
            # Hundreds of trials would fill a disk. A trial that is not the best now will not be the best later.
            others = (trial_folder(folder, trial.number) for trial in finished if trial.number != best.number)
            for weights in (file for other in others for file in other.glob("weights/*.pt")):
                weights.unlink(missing_ok=True)

    def _settings(self, folder: Path, values: Mapping[str, float]) -> RunConfig:
        """Return the settings of a normal run in the folder of a trial; what nobody has set stays unset."""
        config = self.config
        given = config.model_dump(mode="json", exclude_unset=True, exclude=set(OF_THE_SEARCH))
        own = {
            "project": str(folder.parent),
            "name": folder.name,
            "exist_ok": True,
            "nosave": False,  # a trial that was killed goes on from its last epoch
            "noval": not config.validates,
            "noplots": config.noplots,
        }
        return load(RunConfig, given | own | dict(values))


class Pruning(Callback):
    """Ends a trial whose fitness is hopeless beside that of others at the same epoch."""

    def __init__(self, trial: "Trial", location: "StudyLocation") -> None:
        self._trial = trial
        self._location = location

    def on_fit_epoch_end(self, report: EpochReport) -> None:
        from boxwright.search.study import database_errors

        if report.score is None:
            return
        with database_errors(self._location):
            self._trial.report(report.score.fitness, report.epoch + 1)
            if report.epoch + 1 < report.epochs and self._trial.should_prune():
                self.stop_training = "pruned: other trials are better at this epoch"


def hyps_of(config: RunConfig) -> dict[str, Any]:
    """Return all hyper-parameters of a run, by their names in a hyp file."""
    values: dict[str, Any] = {}
    for name, key in KEY_OF_SETTING.items():
        value = attrgetter(name)(config)
        if name != "anchors" or value:  # 0 anchors: those of the model
            values[key] = [list(level) for level in value] if isinstance(value, tuple) else value
    return values


def as_flags(config: RunConfig) -> str:
    """Return the flags of `train` for settings that are no hyper-parameters and not the default; the seed always."""
    default, words = RunConfig(), list[str]()
    for name in setting_names(RunConfig):
        value = attrgetter(name)(config)
        if name in KEY_OF_SETTING or name in _NO_EFFECT or (value == attrgetter(name)(default) and name != "seed"):
            continue
        flag = f"--{name}" if "." in name else f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else f"{flag}=false")
        elif isinstance(value, tuple):
            words += [flag, *map(str, value)]
        else:
            words += [flag, shlex.quote(str(value))]
    return " ".join(words)


def _result(folder: Path) -> tuple[float, dict[str, float], RunConfig]:
    """Read what a finished run has reached: fitness and metrics of the epoch that its best.pt is of, and settings."""
    content = load_run(folder / "weights" / "last.pt")
    engine = content["engine"]
    row = engine["run"]["history"][engine["best_epoch"]]
    metrics = {name: float(row.get(name, 0.0)) for name in METRICS}
    return float(engine["best_fitness"]), metrics, load(RunConfig, content["config"])


def _absolute(config: EvolveConfig) -> EvolveConfig:
    """Make paths absolute, so that they do not depend on the folder in which a worker is started."""
    paths = {name: getattr(config, name) for name in ("data", "weights", "model")}
    there = {name: str(Path(p).expanduser().absolute()) for name, p in paths.items() if p and Path(p).exists()}
    return config.model_copy(update=there)


def _command(config: EvolveConfig, location: "StudyLocation") -> str:
    """Return the command that joins the search or goes on with it."""
    if config.study and "://" in config.study:
        words = ["--study", config.study, "--project", config.project, "--name", config.name]
    else:
        words = ["--study", str(location.folder)]
    return "boxwright evolve " + shlex.join(words)
