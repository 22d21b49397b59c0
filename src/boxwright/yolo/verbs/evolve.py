"""The evolve verb: a search for hyper-parameters that any number of workers share and that can be stopped at any time.

Here: what is searched, where, and whether it fits a study that is there already. The trials are in evolve_worker.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from boxwright.engine.decay import check_course
from boxwright.engine.run_folder import new_run_folder
from boxwright.errors import UserError
from boxwright.search.space import Range, Space, make_space
from boxwright.settings.load import dump, load, setting_names
from boxwright.yolo.evolve_settings import OF_A_WORKER, EvolveConfig, validates

if TYPE_CHECKING:
    from optuna import Study

    from boxwright.search.study import StudyPlace

_log = logging.getLogger("boxwright.evolve")
_KEY, _VERSION = "boxwright evolve", 1  # under which the settings of a search are kept in its study
_NOT_KEPT = ("project", "name", "exist_ok", "study", "space", "device", "nproc")


def evolve(config: EvolveConfig) -> Path:
    """Search hyper-parameters; begin a study, join one, or go on with one.

    Args:
        config: settings of trials and search. A worker that joins a study needs none of them but `study`: those that
            it was begun with are kept in it.

    Returns:
        the folder with evolve.csv, hyp_evolve.yaml, evolve.png and the trials.

    Raises:
        UserError: a setting, the search space, the data, or the study's database is wrong; a package is missing.
    """
    _check(config)
    space = make_space(config, config.space)
    new_folder = None if config.study else new_run_folder(config.project, config.name, config.exist_ok)
    from boxwright.search.study import study_place

    place = study_place(config.study, config.project, config.name, new_folder)
    is_new = (new_folder is not None and not config.exist_ok) or not place.folder.exists()
    try:
        return _work(config, space, place)
    except UserError:
        if is_new and _is_unused(place.folder):
            shutil.rmtree(place.folder, ignore_errors=True)  # a mistake leaves nothing behind
        raise
    except (SystemExit, KeyboardInterrupt):
        print(f"the search goes on with: {_command(config, place)}", flush=True)
        raise


def _is_unused(folder: Path) -> bool:
    """No trial has saved anything there, and no other worker has come."""
    patterns = {"evolve.csv": 0, "trials/*/weights/*": 0, "workers/*.lock": 2}  # that of the folder, and our own
    return all(len(list(folder.glob(pattern))) <= most for pattern, most in patterns.items())


def _check(config: EvolveConfig) -> None:
    """Mistakes that can be seen without opening anything."""
    if importlib.util.find_spec("optuna") is None:
        raise UserError("boxwright evolve needs the package optuna: pip install 'boxwright[tune]'")
    if not config.study and not config.data:
        raise UserError("evolve needs --data, as train does, or --study of a search to go on with")
    if config.nproc > 1 or "," in config.device or "TORCHELASTIC_RUN_ID" in os.environ:
        raise UserError(
            "a trial runs in one process; start a worker for each GPU: boxwright evolve --study NAME --device 0, and "
            "the same with --device 1"
        )
    if config.batch_size == -1:
        raise UserError(
            "evolve needs --batch-size N: trials with batches of different sizes cannot be compared; one epoch of "
            "boxwright train --batch-size -1 says what fits"
        )
    if config.sampler == "cmaes" and config.space and len(make_space(config, config.space)) < 2:
        raise UserError("--sampler cmaes searches two hyper-parameters or more: take tpe, or name more in --space")
    check_course(config.optim, config.epochs, validates=validates(config))
    if config.prune and config.noval and "noval" in config.model_fields_set:
        raise UserError("--prune compares trials after each epoch, so that it does not go with --noval")


def _work(config: EvolveConfig, space: Space, place: StudyPlace) -> Path:
    from boxwright.search.claims import Worker, one_at_a_time
    from boxwright.search.study import open_study, quiet_optuna, storage_mistakes

    with quiet_optuna():
        with one_at_a_time(place.folder):
            study = open_study(place)
            with storage_mistakes(place):
                config, space = agree(study, config, space)
        if not config.data:
            raise UserError("evolve needs --data, as train does: this study is a new one")
        print(f"searching {len(space)} hyper-parameters in {place.folder}; another worker joins with:")
        print(f"  {_command(config, place)}", flush=True)
        from boxwright.yolo.verbs.evolve_worker import Search

        with storage_mistakes(place), Worker(study, place.folder, config.generations) as worker:
            Search(study, worker, config, space, place).run()
    return place.folder


def agree(study: Study, config: EvolveConfig, space: Space) -> tuple[EvolveConfig, Space]:
    """The settings that all workers of a study share; the first worker brings them.

    Raises:
        UserError: the study is of something else, or a worker asks for another search than the study is.
    """
    kept = study.user_attrs.get(_KEY)
    if kept is None:
        if study.get_trials(deepcopy=False):
            raise UserError(f"the study {study.study_name} has trials that boxwright evolve did not make; name another")
        settings = _placed(config).model_dump(mode="json", exclude_unset=True)
        settings = {name: value for name, value in settings.items() if name not in _NOT_KEPT}
        limits = {name: [r.gain, r.low, r.high] for name, r in space.items()}
        study.set_user_attr(_KEY, {"version": _VERSION, "settings": settings, "space": limits})
        return _placed(config), space
    if kept.get("version") != _VERSION:
        raise UserError(f"the study {study.study_name} was begun by another version of boxwright")
    own = _placed(config).model_dump(mode="json", exclude_unset=True)
    begun = load(EvolveConfig, kept["settings"])
    merged = load(EvolveConfig, {**_flat(kept["settings"]), **_flat(own)})
    theirs = {name: Range(*limits) for name, limits in kept["space"].items()}
    _refuse_others(begun, merged)
    if config.space and dict(space) != theirs:
        raise UserError(f"--space {config.space} is not the search space that this study was begun with: leave it out")
    for name in ("data", "weights"):
        if getattr(merged, name) != getattr(begun, name):
            _log.warning(
                "this worker takes --%s %s, the study was begun with %s: both must hold the same",
                *(name, getattr(merged, name), getattr(begun, name)),
            )
    return merged, theirs


def _refuse_others(begun: EvolveConfig, asked: EvolveConfig) -> None:
    before, now = _flat(dump(begun)), _flat(dump(asked))
    names = [name for name in setting_names(EvolveConfig) if name not in (*OF_A_WORKER, "space", "noplots")]
    different = [f"{name} {before[name]}, not {now[name]}" for name in names if before[name] != now[name]]
    if different:
        raise UserError(
            f"this study was begun with other settings: {'; '.join(different)}. Leave them out to go on with it, or "
            "begin a new one with another --study"
        )


def _placed(config: EvolveConfig) -> EvolveConfig:
    """Paths that do not depend on the folder in which a worker is started."""
    paths = {name: getattr(config, name) for name in ("data", "weights", "model")}
    there = {name: str(Path(p).expanduser().absolute()) for name, p in paths.items() if p and Path(p).exists()}
    return config.model_copy(update=there)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(cast("Mapping[str, Any]", value), f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _command(config: EvolveConfig, place: StudyPlace) -> str:
    """What a worker types to join or to go on."""
    if config.study and "://" in config.study:
        words = ["--study", config.study, "--project", config.project, "--name", config.name]
    else:
        words = ["--study", str(place.folder)]
    return "boxwright evolve " + shlex.join(words)
