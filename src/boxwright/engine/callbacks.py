"""Callbacks: code of the user, and the loggers of a run, called at fixed points.

The points have the names of those that YOLOv5 published (docs/spec/yolov5.md, B6, 25). Three differ:

* `on_params_update` is not here. Settings are frozen when a run begins, so there is nothing to announce later;
  `on_pretrain_routine_start` gets them as the network and the data have changed them.
* `on_train_batch_end` gets losses on the device. The published one had them as numbers, for which a GPU is waited for
  at each step. `on_step_report`, which is new, has numbers every 20 steps, where the device is waited for anyway.
* `optimizer_step` and `on_before_zero_grad` were published as names that nothing called; here they are called.

Callbacks run in the first process only. One that raises stops the run, see `Hooks`.

An installed package offers a callback in its pyproject.toml:

    [project.entry-points."boxwright.callbacks"]
    my-log = "my_package.log:MyLog"

where MyLog is a subclass of `Callback`, or a function, that takes no arguments. It is loaded only where a run names it
(`--callbacks my-log`), so that what is installed changes no run by itself.
"""

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self

from torch import Tensor, nn

from boxwright.engine.meters import StepCost
from boxwright.engine.task import AnyBatch, Score
from boxwright.errors import UserError
from boxwright.settings.base import TrainingConfig

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class RunReport:
    """A run before its network is on a device."""

    folder: Path
    config: TrainingConfig  # all settings, final


@dataclass(frozen=True, slots=True)
class StartReport(RunReport):
    """A run before its first step."""

    model: nn.Module  # the network that is trained, on its device: changing it changes the run
    history: Sequence[Mapping[str, float]]  # rows of results.csv of the epochs done before; empty at a first start
    steps_done: int  # done before, over all epochs
    steps: int  # steps per epoch
    loss_names: Sequence[str] = ()  # what the losses of a step are, in their order
    first_epoch: int = 0  # where the run began; more than 0: it goes on from the training of its weights

    @property
    def resumed(self) -> bool:
        """Whether steps of this run were done before."""
        return self.steps_done > self.first_epoch * self.steps


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands."""

    epoch: int  # running epoch, from 0
    epochs: int  # of the whole run
    step: int  # batches of this epoch that are done
    steps: int  # steps per epoch

    @property
    def steps_done(self) -> int:
        """Count the steps over all epochs."""
        return self.epoch * self.steps + self.step


@dataclass(frozen=True, slots=True)
class StepReport(Progress):
    """Numbers of the newest steps."""

    losses: Mapping[str, float]  # mean of each loss over the epoch so far
    rates: Sequence[float]  # learning rate of each parameter group
    batch_size: int  # images per step
    recent: Mapping[str, float]  # median of each loss over the newest 20 steps
    cost: StepCost  # time and memory of a step


@dataclass(frozen=True, slots=True)
class EpochReport:
    """An epoch that has ended."""

    epoch: int  # from 0
    epochs: int  # of the whole run
    history: Sequence[Mapping[str, float]]  # rows of results.csv up to and with this epoch
    score: Score | None  # of the validation, if there was one
    improved: bool  # the best fitness so far


@dataclass(frozen=True, slots=True)
class SaveReport:
    """Checkpoints written after an epoch."""

    epoch: int  # the epoch that ended, from 0
    paths: Sequence[Path]


@dataclass(frozen=True, slots=True)
class EndReport:
    """A run that has ended."""

    folder: Path  # its `weights/best.pt` is there if anything was validated
    epochs_done: int  # of the whole run
    history: Sequence[Mapping[str, float]]  # rows of results.csv
    best_epoch: int  # from 0
    best_fitness: float
    reason: str  # why it ended before its last epoch; empty: it did not


class Callback:
    """Base class of callbacks. Every method does nothing; override those that are wanted.

    They are listed in the order in which they are called. Set `stop_training` to a reason at any time: the run ends
    after the running epoch, is validated and saved, and can be resumed.
    """

    stop_training: str = ""

    def on_pretrain_routine_start(self, report: RunReport) -> None:
        """Run when the data has been read and the folder is made; the network is not on its device yet."""

    def on_pretrain_routine_end(self, report: StartReport) -> None:
        """Run when loaders and optimizer exist and a resumed state is restored."""

    def on_train_start(self, report: StartReport) -> None:
        """Run before the first step, also of a resumed run. Not called where no epoch is left."""

    def on_train_epoch_start(self, progress: Progress) -> None:
        """Run before the first step of an epoch, or of what was left of it when the run was stopped."""

    def on_train_batch_start(self, progress: Progress, batch: AnyBatch) -> None:
        """Run before a step. The batch is still on the host."""

    def on_before_zero_grad(self, progress: Progress) -> None:
        """Run after an update of the weights; the gradients, clipped, are still in the parameters."""

    def optimizer_step(self, progress: Progress) -> None:
        """Run after an update of the weights and their average. Not every batch does that."""

    def on_train_batch_end(self, progress: Progress, losses: Tensor) -> None:
        """Run after a step. `losses`: (number of losses,) on the device; reading them waits for it."""

    def on_step_report(self, report: StepReport) -> None:
        """Run every 20 steps and at the end of an epoch."""

    def on_train_epoch_end(self, progress: Progress) -> None:
        """Run after all steps of an epoch; validation comes next, if it is due."""

    def on_val_start(self, progress: Progress) -> None:
        """Run before a validation during training. That of best.pt at the end of a run calls no hooks."""

    def on_val_batch_start(self, batch: AnyBatch) -> None:
        """Run before a batch is validated. Of several processes, it holds the first one's share of the images."""

    def on_val_image_end(self, path: Path, detections: Any) -> None:
        """Run for each image with what was found, on the host, in its own pixels."""

    def on_val_batch_end(self, batch: AnyBatch, detections: Sequence[Any]) -> None:
        """Run after all images of a batch."""

    def on_val_end(self, score: Score) -> None:
        """Run after a validation."""

    def on_fit_epoch_end(self, report: EpochReport) -> None:
        """Run when an epoch has been trained and, where due, validated. last.pt comes next."""

    def on_model_save(self, report: SaveReport) -> None:
        """Run when the checkpoints of an epoch are written."""

    def on_train_end(self, report: EndReport) -> None:
        """Run after the last epoch or an early stop; not after a signal or an error."""

    def teardown(self) -> None:
        """Run once, last, whether the run ended well or not."""


class FirstBatches(Callback):
    """Draws the first batches of a new run, each after the step on it: no step waits for a library of plots to load.

    Args:
        draw: draws a batch, on the host, with its number from 0.
        count: how many.
    """

    def __init__(self, draw: Callable[[Any, int], None], count: int = 3) -> None:
        self._draw = draw
        self._count = count
        self._drawn = 0
        self._batch: AnyBatch | None = None

    def on_train_start(self, report: StartReport) -> None:
        if report.resumed:
            self._count = 0

    def on_train_batch_start(self, progress: Progress, batch: AnyBatch) -> None:
        self._batch = batch if self._drawn < self._count else None

    def on_train_batch_end(self, progress: Progress, losses: Tensor) -> None:
        if self._batch is not None:
            self._draw(self._batch, self._drawn)
            self._drawn += 1


class CallbackError(UserError):
    """A callback has raised. The text names its class, the hook and the exception, which is the cause."""


class Hooks:
    """The callbacks of a run, called in their order. As a context it calls `teardown` at its end, once."""

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        self.callbacks = callbacks

    def notify(self, hook: Callable[Concatenate[Callback, P], None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call a hook, given as a method of `Callback`, of every callback.

        Raises:
            CallbackError: one of them raised; those after it are not called. KeyboardInterrupt and SystemExit pass.
        """
        for callback in self.callbacks:
            _call(callback, hook.__name__, *args, **kwargs)

    def after_val_batch(self, batch: AnyBatch, detections: Sequence[Any]) -> None:
        """Call the hooks of each image, then that of the batch."""
        detections = tuple(detections)
        for path, found in zip(batch.paths, detections, strict=True):
            self.notify(Callback.on_val_image_end, path, found)
        self.notify(Callback.on_val_batch_end, batch, detections)

    @property
    def stop_reason(self) -> str:
        """Return why the first callback that wants the run to end wants it; empty: none does."""
        return next((callback.stop_training for callback in self.callbacks if callback.stop_training), "")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        failed: CallbackError | None = None
        callbacks, self.callbacks = self.callbacks, ()  # once
        for callback in callbacks:  # all of them, also after one that raises
            try:
                _call(callback, "teardown")
            except CallbackError as raised:
                failed = failed or raised
        if failed is not None and error is None:  # an earlier error matters more
            raise failed


def _call(callback: Callback, hook: str, *args: object, **kwargs: object) -> None:
    """Call a hook; what it raises becomes a CallbackError."""
    try:
        getattr(callback, hook)(*args, **kwargs)
    except Exception as error:
        if isinstance(error, UserError):  # a sentence for the user already
            raise CallbackError(str(error)) from error
        said = " ".join(str(error).split())  # one line
        text = f"{type(error).__name__}: {said}" if said else type(error).__name__
        raise CallbackError(f"callback {type(callback).__name__} raised in {hook}: {text}") from error


GROUP = "boxwright.callbacks"
OWN = [
    EntryPoint(name, f"boxwright.engine.trackers:{name.capitalize()}Log", GROUP)
    for name in ("mlflow", "wandb", "clearml", "comet")
]


def named_callbacks(names: Sequence[str]) -> list[Callback]:
    """Make the callbacks of these names.

    Raises:
        UserError: nothing of that name is installed, it cannot be loaded, or it is named twice.
    """
    offered = {point.name: point for point in (*entry_points(group=GROUP), *OWN)}
    for name in names:
        if name not in offered:
            raise UserError(
                f"there is no callback {name!r} to be named in callbacks; there are {', '.join(sorted(offered))}"
            )
        if list(names).count(name) > 1:
            raise UserError(f"callback {name!r} is named twice in callbacks")
    callbacks: list[Callback] = []
    for point in (offered[name] for name in names):
        what = f"callback {point.name!r} ({point.value})"
        try:
            callback = point.load()()
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{what} cannot be loaded: {type(error).__name__}: {error}") from error
        callbacks.append(_checked(callback, what))
    return callbacks


def checked_callbacks(callbacks: Sequence[object], num_processes: int) -> tuple[Callback, ...]:
    """Check callbacks given as objects, which a run of several processes sends to them.

    Raises:
        UserError: one is no callback, or there are several processes and it cannot be sent to them.
    """
    if isinstance(callbacks, Callback):
        raise UserError("callbacks is a list of callbacks, not a callback by itself: write callbacks=[...]")
    checked = tuple(_checked(callback, f"callbacks[{number}]") for number, callback in enumerate(callbacks))
    for callback in checked if num_processes > 1 else ():
        try:
            pickle.dumps(callback)
        except Exception as error:
            raise UserError(
                f"callback {type(callback).__name__} cannot be sent to the {num_processes} processes of this run "
                f"({error}); its class has to stand in a module, and what it holds has to be picklable"
            ) from error
    return checked


def _checked(callback: object, what: str) -> Callback:
    """Refuse an object that is no callback."""
    if not isinstance(callback, Callback):
        raise UserError(f"{what} is of type {type(callback).__name__}, not a subclass of engine.callbacks.Callback")
    return callback
