"""The train verb: settings to a trained model in a run folder; and going on with a run that was stopped.

What differs from system to system is in yolo_run.py and fusion_run.py.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from boxwright.centerfusion.settings import MODEL as FUSION_MODEL
from boxwright.centerfusion.settings import FusionConfig
from boxwright.centerfusion.verbs import train as fusion_run
from boxwright.centerfusion.verbs.train import FusionRun
from boxwright.engine.callbacks import Callback, Hooks, RunReport
from boxwright.engine.checkpointing import load_run, restore
from boxwright.engine.decay import check_course
from boxwright.engine.device import count_processes, device_of_rank
from boxwright.engine.distributed import World
from boxwright.engine.job_board import folder_before_restart, remember_folder
from boxwright.engine.launch import is_launched, run_job
from boxwright.engine.named_callbacks import checked_callbacks, named_callbacks
from boxwright.engine.precision import Policy, resolve
from boxwright.engine.run_folder import drop_checkpoints, drop_if_not_begun, new_run_folder, only_run_in
from boxwright.engine.task import Task
from boxwright.engine.threads import one_core_left
from boxwright.engine.trainer import Trainer
from boxwright.errors import UserError
from boxwright.settings.base import TrainingConfig
from boxwright.settings.load import dump_yaml, load
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.verbs import train as yolo_run
from boxwright.yolo.verbs.train import YoloRun

_log = logging.getLogger("boxwright.train")


class PreparedRun(Protocol):
    """What a training run is made of, ready to start."""

    @property
    def config(self) -> TrainingConfig:
        """Settings, final."""
        ...

    @property
    def model(self) -> nn.Module:
        """The network, on the CPU at first."""
        ...

    def freeze(self) -> Sequence[str]:
        """Stop the gradients of what the settings name; returns those parameters."""
        ...

    def make_task(self, device: torch.device, world: World) -> Task[Any]:
        """Bind network, loss, loaders and metric."""
        ...

    def logs(self, folder: Path) -> Sequence[Callback]:
        """What every run of this kind tells, and where."""
        ...

    def introduce(self, policy: Policy, folder: Path) -> None:
        """Print what is trained on what."""
        ...

    def plot_data(self, task: Any, folder: Path) -> None:
        """Draw what is trained on."""
        ...

    def finish(self, folder: Path, policy: Policy) -> None:
        """Measure the best weights and write what belongs to a finished run."""
        ...


def train(config: RunConfig | FusionConfig, callbacks: Sequence[Callback] = ()) -> Path:
    """Train a detector from scratch or from weights.

    Args:
        config: settings of the run.
        callbacks: told how it goes, after the logs, in the first process. Where this starts several processes they are
            pickled, so that what they gather stays there.

    Returns:
        the run folder.

    Raises:
        UserError: something in the settings, the data or the weights is wrong; says what.
    """
    if isinstance(config, FusionConfig):
        config = fusion_run.with_milestones(config)
    if not config.data:
        kinds = "a nuScenes root" if isinstance(config, FusionConfig) else yolo_run.KINDS_OF_DATA
        raise UserError(f"train needs --data: {kinds}")
    check_course(config.optim, config.epochs, validates=not config.noval)
    num_processes = count_processes(config.device, config.nproc)
    return run_job(_train, num_processes, config, checked_callbacks(callbacks, num_processes))


def resume(path: Path | None, overrides: Mapping[str, object], callbacks: Sequence[Callback] = ()) -> Path:
    """Go on with a run; the result equals that of a run that was never stopped.

    Args:
        path: its last.pt or its folder; None takes the newest run below runs/train.
        overrides: settings that may differ: workers, device, nproc, epochs (which changes the rates).
        callbacks: as in `train`; a run does not remember those that were objects.

    Returns:
        the run folder.
    """
    if is_launched():
        return run_job(_resume, 1, path, overrides, checked_callbacks(callbacks, 1))
    checkpoint = _find_checkpoint(path)
    config = _config_of(load_run(checkpoint), overrides)
    num_processes = count_processes(config.device, config.nproc)
    return run_job(_resume, num_processes, checkpoint, dict(overrides), checked_callbacks(callbacks, num_processes))


def _train(world: World, config: RunConfig | FusionConfig, callbacks: Sequence[Callback] = ()) -> Path:
    before = world.from_first(folder_before_restart() if world.is_first else None)
    if before is not None and world.from_first((before / "weights" / "last.pt").is_file()):
        return _resume(world, before, {}, callbacks)
    policy = _policy(config, world)
    callbacks = (*callbacks, *named_callbacks(config.callbacks)) if world.is_first else ()
    prepared: PreparedRun
    if isinstance(config, FusionConfig):
        prepared = FusionRun.begin(config, world)
    else:
        prepared = YoloRun.begin(config, policy, world)
    folder = before or Path()
    is_new = before is None and not (config.exist_ok and Path(config.project, config.name).exists())
    if world.is_first:
        folder = before or new_run_folder(config.project, config.name, config.exist_ok)
    with _claimed(folder, world):
        if world.is_first:
            if before is None:
                drop_checkpoints(folder)
            (folder / "config.yaml").write_text(dump_yaml(prepared.config), encoding="utf-8")
        try:
            return _run(prepared, policy, world.from_first(folder), world, callbacks)
        except UserError:
            if world.is_first and is_new:  # what was there before is not ours to remove
                drop_if_not_begun(folder)
            raise


def _resume(
    world: World, path: Path | None, overrides: Mapping[str, object], callbacks: Sequence[Callback] = ()
) -> Path:
    checkpoint = world.from_first(_find_checkpoint(path) if world.is_first else Path())
    with _claimed(checkpoint.parent.parent, world):
        return _go_on(world, checkpoint, overrides, callbacks)


def _claimed(folder: Path, world: World) -> AbstractContextManager[None]:
    return only_run_in(folder) if world.is_first else nullcontext()


def _go_on(world: World, checkpoint: Path, overrides: Mapping[str, object], callbacks: Sequence[Callback]) -> Path:
    folder, content = checkpoint.parent.parent, world.from_first(load_run(checkpoint) if world.is_first else {})
    config = _config_of(content, overrides)
    policy = _policy(config, world)
    callbacks = (*callbacks, *named_callbacks(config.callbacks)) if world.is_first else ()
    prepared: PreparedRun
    if isinstance(config, FusionConfig):
        prepared = FusionRun.go_on(config, content, world)
    else:
        prepared = YoloRun.go_on(config, content, world)
    print(f"going on with {folder} after epoch {content['epoch']} of {config.epochs}")
    return _run(prepared, policy, folder, world, callbacks, content)


def _config_of(content: Mapping[str, Any], overrides: Mapping[str, object]) -> RunConfig | FusionConfig:
    """The settings of the run that a checkpoint belongs to."""
    settings = {**content["config"], **overrides}
    return load(FusionConfig, settings) if settings.get("model") == FUSION_MODEL else load(RunConfig, settings)


def _policy(config: RunConfig | FusionConfig, world: World) -> Policy:
    """Device and precision of this process."""
    if isinstance(config, FusionConfig):
        fusion_run.check_loading(config, world)
    else:
        yolo_run.check_loading(config, world)
    policy = resolve(config.precision, device_of_rank(config.device, world))
    return Policy(world.from_first(policy.name), policy.device)


def _run(
    prepared: PreparedRun,
    policy: Policy,
    folder: Path,
    world: World,
    callbacks: Sequence[Callback],
    content: dict[str, Any] | None = None,
) -> Path:
    config, model = prepared.config, prepared.model
    if world.is_first:
        remember_folder(folder)
    if policy.device.type == "cuda":  # an exact resume needs the same kernels to give the same bits
        torch.use_deterministic_algorithms(True, warn_only=True)
    model.to(policy.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    frozen = prepared.freeze()
    if frozen:
        print(f"{len(frozen)} parameters of {len(list(model.parameters()))} are frozen")
    told = (*prepared.logs(folder), *callbacks) if world.is_first else ()
    with Hooks(told) as hooks:
        hooks.tell(Callback.on_pretrain_routine_start, RunReport(folder, config))
        task = prepared.make_task(policy.device, world)
        with closing(task):
            trainer = Trainer(task, config, folder, policy, hooks, world)
            prepared.introduce(policy, folder)
            if content is not None:
                restore(trainer, content)
            elif world.is_first and not config.noplots:
                prepared.plot_data(task, folder)
            hooks.tell(Callback.on_pretrain_routine_end, trainer.start_report)
            if trainer.finished:  # perhaps killed while it was measured: that is done again
                _log.warning("%s has finished its %d epochs; train longer with --epochs", folder, trainer.state.epoch)
            else:
                with one_core_left(policy.device):
                    trainer.fit()
    if world.is_first:
        prepared.finish(folder, policy)
    world.wait()
    return folder


def _find_checkpoint(path: Path | None) -> Path:
    if path is None:
        found = sorted(Path("runs/train").glob("*/weights/last.pt"), key=lambda file: file.stat().st_mtime)
        if not found:
            raise UserError("there is no runs/train/*/weights/last.pt to go on with; name one: --resume PATH")
        return found[-1]
    if path.is_dir():
        path = path / "weights" / "last.pt"
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path} to go on with")
    path = path.absolute()
    if path.parent.name != "weights":
        raise UserError(f"{path} does not lie in a run folder: a run goes on from its RUN/weights/last.pt")
    return path
