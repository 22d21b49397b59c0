"""The training job of any system: settings to a trained model in a run folder, and resuming a run that was stopped.

What differs from system to system is the class of the prepared run, which the callers hand in (`PreparedRun`).
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

import torch
from torch import nn

from boxwright.checkpoints.native import previous
from boxwright.data.files import file_errors, write_atomically
from boxwright.engine.callbacks import Callback, Hooks, RunReport, checked_callbacks, named_callbacks
from boxwright.engine.device import (
    Policy,
    allow_tf32,
    choose_kernels,
    count_processes,
    device_of_rank,
    one_core_left,
    resolve,
    room_for_kernels,
)
from boxwright.engine.distributed import World
from boxwright.engine.launch import folder_before_restart, is_launched, remember_folder, run_job
from boxwright.engine.optim import EarlierTraining
from boxwright.engine.run_folder import (
    drop_checkpoints,
    drop_if_not_begun,
    keep_best_alone,
    new_run_folder,
    only_run_in,
    weights_on_disk,
    with_checked_saving,
    with_stored_places,
)
from boxwright.engine.schedule import check_schedule
from boxwright.engine.task import Task
from boxwright.engine.trainer import Trainer, load_run
from boxwright.errors import UserError
from boxwright.settings.base import Frozen, TrainingConfig, set_limits
from boxwright.settings.load import dump_yaml, flatten, load
from boxwright.terminal import counted, say_once

LAST = "last.pt"
_MOST_NAMED = 5  # frozen layers
_log = logging.getLogger("boxwright.train")
C = TypeVar("C", bound=TrainingConfig)
V = TypeVar("V", bound=Frozen)


class PreparedRun(Protocol[C]):
    """A training run of one system, ready to start. The class is sent to other processes by its name."""

    settings: ClassVar[type[TrainingConfig]]  # class of the settings, C

    @property
    def config(self) -> C: ...  # final

    @property
    def model(self) -> nn.Module: ...  # on the CPU at first

    @property
    def earlier(self) -> EarlierTraining | None: ...  # the training that a new run goes on from

    @classmethod
    def completed(cls, config: C) -> C:
        """Fill in settings that follow from others and refuse what cannot be trained, before any process starts."""
        ...

    @classmethod
    def begin(cls, config: C, policy: Policy, world: World) -> Self:
        """Prepare a new run: open the data and build the network."""
        ...

    @classmethod
    def go_on(cls, config: C, content: Mapping[str, Any], world: World) -> Self:
        """Prepare the run of a checkpoint with this content."""
        ...

    def freeze(self) -> Sequence[str]:
        """Stop the gradients of what the settings name; return those parameters."""
        ...

    def make_task(self, device: torch.device, world: World) -> Task[Any, Any]:
        """Make the task: network, loss, loaders and metric bound together."""
        ...

    def logs(self, folder: Path) -> Sequence[Callback]:
        """Make the loggers that every run of this system has."""
        ...

    def log_summary(self, policy: Policy, folder: Path) -> None:
        """Print what is trained on what."""

    def finish(self, folder: Path, policy: Policy) -> None:
        """Measure the best weights and write what belongs to a finished run."""


AnyRun = type[PreparedRun[Any]]
FindRun = Callable[[Mapping[str, Any]], AnyRun]  # from the settings in a checkpoint; a function of a module


def train(config: C, run: type[PreparedRun[C]], callbacks: Sequence[Callback] = ()) -> Path:
    """Train a detector from scratch or from weights.

    Args:
        config: settings of the run.
        run: class of the system's runs.
        callbacks: called after the loggers, in the first process. Where this starts several processes they are
            pickled, so what they gather stays there.

    Returns:
        the run folder.

    Raises:
        UserError: something in the settings, the data or the weights is wrong.
    """
    config = with_checked_saving(run.completed(config))
    check_schedule(config.optim, config.epochs, validates=not config.noval)
    num_processes = count_processes(config.device, config.nproc)
    return run_job(_train, num_processes, config, run, checked_callbacks(callbacks, num_processes))


def resume(
    path: Path | None, overrides: Mapping[str, object], find_run: FindRun, callbacks: Sequence[Callback] = ()
) -> Path:
    """Resume a run; the result equals that of a run that was never stopped.

    Args:
        path: its last.pt or its folder; None takes the newest run below runs/train.
        overrides: settings that may differ: workers, device, nproc, best_weight, data (the same, at another place),
            epochs (which changes the rates).
        find_run: gives the class of runs for the settings of the checkpoint.
        callbacks: as in `train`; callback objects of the stopped run are not remembered.

    Returns:
        the run folder.
    """
    if "data" in overrides:  # as a new run keeps it
        overrides = {**overrides, "data": str(Path(str(overrides["data"])).expanduser().absolute())}
    num_processes = 1
    if not is_launched():
        path = _find_checkpoint(path)
        config, _ = _settings_of(_read_run(path)[0], overrides, find_run, path.parent.parent)
        num_processes = count_processes(config.device, config.nproc)
    checked = checked_callbacks(callbacks, num_processes)
    return run_job(_resume, num_processes, path, dict(overrides), find_run, checked)


def settings_of_validation(kind: type[V], config: TrainingConfig, folder: Path, policy: Policy, **other: object) -> V:
    """Make the settings that measure the best weights of a run: those that both classes have, and `other`."""
    shared = kind.model_fields.keys() & type(config).model_fields.keys()
    own = {"weights": str(folder / "weights" / "best.pt"), "device": str(policy.device)}
    place = {"project": str(folder.parent), "name": folder.name, "exist_ok": True}
    return kind.model_validate({name: getattr(config, name) for name in shared} | own | place | other)


def _train(world: World, config: TrainingConfig, run: AnyRun, callbacks: Sequence[Callback]) -> Path:
    # torchrun starts all processes anew when one dies; what they had saved by then is gone on with.
    before = world.from_first(folder_before_restart() if world.is_first else None)
    if before is not None and world.from_first((before / "weights" / "last.pt").is_file()):
        typed = {"best_weight": config.best_weight}  # which a checkpoint may not name everywhere
        return _resume(world, before, typed, lambda _: run, callbacks)
    policy, callbacks = _begin_process(config, world, callbacks)
    prepared = run.begin(config, policy, world)
    folder = before or Path()
    is_new = before is None and not (config.exist_ok and Path(config.project, config.name).exists())
    if world.is_first:
        folder = before or new_run_folder(config.project, config.name, config.exist_ok)
    with only_run_in(folder) if world.is_first else nullcontext():
        if world.is_first and before is None:  # not after a restart, where last.pt may be all that is left of this run
            drop_checkpoints(folder)
        try:
            if world.is_first:
                write_atomically(folder / "config.yaml", dump_yaml(prepared.config))
            return _fit(prepared, policy, world.from_first(folder), world, callbacks)
        except UserError:
            if world.is_first and is_new:  # what was there before is not ours to remove
                drop_if_not_begun(folder)
            raise


def _resume(
    world: World, path: Path | None, overrides: Mapping[str, object], find_run: FindRun, callbacks: Sequence[Callback]
) -> Path:
    """Resume in one process; only the first one looks for the checkpoint, which others may not see."""
    checkpoint = world.from_first(_find_checkpoint(path) if world.is_first else Path())
    folder = checkpoint.parent.parent
    with only_run_in(folder) if world.is_first else nullcontext():
        # Read once the folder is ours: another process may have been writing it until then.
        content = world.from_first(readable_run(checkpoint) if world.is_first else {})
        config, run = _settings_of(content, overrides, find_run, folder)
        policy, callbacks = _begin_process(config, world, callbacks)
        try:
            prepared = run.go_on(config, content, world)
        except UserError as error:
            if "data" in overrides or config.data not in str(error):
                raise
            raise UserError(f"{error}; if the data was moved: --resume '{folder}' --data WHERE_IT_IS_NOW") from error
        if world.is_first:
            write_atomically(folder / "config.yaml", dump_yaml(prepared.config))
        print(f"resuming {folder} after epoch {content['epoch']} of {config.epochs}")
        if late := [epoch for epoch in config.optim.milestones if epoch >= config.epochs]:
            _log.warning("the rate does not fall after epoch %d: the run ends before", min(late))
        if policy.device.type == "cuda" and not config.deterministic:
            print(
                "its last digits may differ from an undisturbed run's, which only a run with --deterministic excludes"
            )
        return _fit(prepared, policy, folder, world, callbacks, content)


def _settings_of(
    content: Mapping[str, Any], overrides: Mapping[str, object], find_run: FindRun, folder: Path
) -> tuple[TrainingConfig, AnyRun]:
    """Read the settings of the run that a checkpoint in this run folder belongs to, and find its class."""
    run = find_run(content["config"])
    origin = f"of the run in {folder}, perhaps begun by another version"
    stored = {name: replace(setting, origin=origin) for name, setting in flatten(content["config"]).items()}
    return with_stored_places(load(run.settings, overrides, below=stored), folder, overrides), run


def _begin_process(
    config: TrainingConfig, world: World, callbacks: Sequence[Callback]
) -> tuple[Policy, Sequence[Callback]]:
    """Choose device and precision of this process, and load the callbacks that the settings name."""
    set_limits(config)
    device = device_of_rank(config.device, world)
    if config.cuda_graph:
        from boxwright.engine.cuda_graph import check_cuda_graph

        check_cuda_graph(device, world.size)
    policy = resolve(config.precision, device)
    policy = Policy(world.from_first(policy.name), policy.device)  # machines may differ in what auto is
    return policy, (*callbacks, *named_callbacks(config.callbacks)) if world.is_first else ()


def _fit(
    prepared: PreparedRun[Any],
    policy: Policy,
    folder: Path,
    world: World,
    callbacks: Sequence[Callback],
    content: dict[str, Any] | None = None,
) -> Path:
    """Train a prepared run to its end; `content`: of the checkpoint that it resumes."""
    config, model = prepared.config, prepared.model
    if world.is_first:
        remember_folder(folder)
    if policy.device.type == "cuda":
        choose_kernels(deterministic=config.deterministic)
        allow_tf32(policy.name == "tf32")
    # channels_last: convolutions of either device read it without a copy to their own layout.
    model.to(policy.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    frozen = prepared.freeze()
    if frozen:
        verb = "is" if len(frozen) == 1 else "are"
        layers = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in frozen))
        span = ", ".join(layers) if len(layers) < _MOST_NAMED else f"{layers[0]} to {layers[-1]}"
        print(f"frozen: {counted(len(frozen), 'parameter')} of {len(list(model.parameters()))} {verb} frozen, {span}")
    with Hooks((*prepared.logs(folder), *callbacks) if world.is_first else ()) as hooks:
        hooks.notify(Callback.on_pretrain_routine_start, RunReport(folder, config))
        task = prepared.make_task(policy.device, world)
        with closing(task):
            trainer = Trainer(task, config, folder, policy, hooks, world)
            prepared.log_summary(policy, folder)
            print(trainer.describe_optimizer())
            if config.sync_bn:
                several = f"Using SyncBatchNorm() over {world.size} processes"
                print(several if world.size > 1 else "--sync-bn has no effect in a run of one process")
            if content is not None:
                trainer.restore(content)
            elif prepared.earlier is not None:
                trainer.carry_on(prepared.earlier)
            if content is None and world.is_first and (note := trainer.schedule.ends_in_warmup()):
                say_once(note, logging.WARNING)
            hooks.notify(Callback.on_pretrain_routine_end, trainer.start_report)
            if trainer.finished:  # perhaps killed during the last measurement, which is done again below
                done = counted(trainer.state.epoch, "epoch")
                _log.warning("%s has finished its %s; train longer with --epochs", folder, done)
            else:
                with one_core_left(policy.device), room_for_kernels():
                    trainer.fit()
    if world.is_first:
        prepared.finish(folder, policy)
        if config.save_best_only:
            keep_best_alone(folder)
        print(weights_on_disk(folder))
    world.wait()  # a launcher ends all when one ends, so that the others stay until the first has measured
    return folder


def _read_run(checkpoint: Path) -> tuple[dict[str, Any], UserError | None]:
    """Read a checkpoint to resume from, or the one before it where it cannot be read.

    Returns:
        the content, and why it is that of the one before; None: it is not.

    Raises:
        UserError: neither can be read; the sentence says which weights are left.
    """
    try:
        return load_run(checkpoint), None
    except UserError as error:
        if checkpoint.name != LAST:
            raise
        before = previous(checkpoint)
        with suppress(UserError):
            return load_run(before), error
        others = [f for f in sorted(checkpoint.parent.glob("*.pt")) if f.name not in (LAST, before.name)]
        best = next((file for file in others if file.name == "best.pt"), others[-1] if others else None)
        left = "there is no older checkpoint to go on from"
        left += f"; start a new run from what is left, --weights '{best}'" if best else ""
        raise UserError(f"{error}; {left}") from error


def readable_run(checkpoint: Path) -> dict[str, Any]:
    """Read the checkpoint that a run resumes from; the one before it takes the place of one that cannot be read."""
    content, error = _read_run(checkpoint)
    if error is not None:
        _log.warning("%s; going on from the checkpoint before it, of epoch %d", error, content["epoch"])
        with file_errors("write", checkpoint):
            os.replace(previous(checkpoint), checkpoint)  # else the next save would keep the damaged one as the older
    return content


def _find_checkpoint(path: Path | None) -> Path:
    """Find the last.pt that a run resumes from; it may be missing where the one before it is there."""
    if path is None:
        files = [*Path("runs/train").glob(f"*/weights/{LAST}"), *Path("runs/train").glob("*/weights/last.previous.pt")]
        if not files:
            raise UserError("there is no runs/train/*/weights/last.pt to go on with; name one: --resume PATH")
        return max(files, key=lambda file: file.stat().st_mtime).with_name(LAST)
    if path.is_dir():
        path = path / "weights" / LAST
    if not path.is_file() and not (path.name == LAST and previous(path).is_file()):
        raise UserError(f"there is no checkpoint {path} to go on with")
    path = path.absolute()
    if path.parent.name != "weights":
        raise UserError(f"{path} does not lie in a run folder: a run goes on from its RUN/weights/last.pt")
    return path
