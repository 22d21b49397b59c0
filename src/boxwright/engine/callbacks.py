"""Callbacks: code of the user, and the logs of a run, told of it at fixed points.

The points have the names of those that YOLOv5 published (spec B6, 25). Three differ:

* `on_params_update` is not here. Settings are frozen when a run begins, so there is nothing to announce later;
  `on_pretrain_routine_start` gets them as the network and the data have changed them.
* `on_train_batch_end` gets losses on the device. The published one had them as numbers, for which a GPU is waited for
  at each step. `on_step_report`, which is new, has numbers every 20 steps, where the device is waited for anyway.
* `optimizer_step` and `on_before_zero_grad` were published as names that nothing called; here they are called.

Callbacks run in the first process only. One that raises stops the run, see `Hooks`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec

from torch import Tensor, nn

from boxwright.engine.meters import StepCost
from boxwright.engine.task import AnyBatch, Score
from boxwright.errors import UserError
from boxwright.settings.base import TrainingConfig

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class RunReport:
    """Args:
    folder: of the run.
    config: all settings, final.
    """

    folder: Path
    config: TrainingConfig


@dataclass(frozen=True, slots=True)
class StartReport:
    """Args:
    folder, config: as in `RunReport`.
    model: the network on its device. It is the one that is trained: who changes it changes the run.
    history: rows of results.csv of the epochs done before; empty at a first start.
    steps_done: steps done before, over all epochs.
    steps: steps of an epoch.
    """

    folder: Path
    config: TrainingConfig
    model: nn.Module
    history: Sequence[Mapping[str, float]]
    steps_done: int
    steps: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run stands.

    Args:
        epoch, epochs: running epoch from 0, and how many there are.
        step, steps: batches of it done, and how many there are.
    """

    epoch: int
    epochs: int
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class StepReport:
    """Args:
    epoch, epochs, step, steps: as in `Place`.
    losses: mean of each loss over the epoch so far.
    rates: learning rate of each parameter group.
    batch_size: images a step.
    recent: median of each loss over the newest 20 steps.
    cost: time and memory of a step of the first process.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    losses: Mapping[str, float]
    rates: Sequence[float]
    batch_size: int
    recent: Mapping[str, float]
    cost: StepCost


@dataclass(frozen=True, slots=True)
class EpochReport:
    """Args:
    epoch, epochs: the epoch that ended, from 0, and how many there are.
    history: rows of results.csv up to and with this epoch.
    score: validation, if there was one.
    improved: it is the best so far.
    """

    epoch: int
    epochs: int
    history: Sequence[Mapping[str, float]]
    score: Score | None
    improved: bool


@dataclass(frozen=True, slots=True)
class SaveReport:
    """Args:
    epoch: the epoch that ended, from 0.
    paths: checkpoints written after it.
    """

    epoch: int
    paths: Sequence[Path]


@dataclass(frozen=True, slots=True)
class EndReport:
    """Args:
    folder: of the run; `weights/best.pt` is there if anything was validated.
    epochs_done: of the whole run.
    history: rows of results.csv.
    best_epoch: from 0, and its fitness.
    reason: why it ended before its last epoch; empty: it did not.
    """

    folder: Path
    epochs_done: int
    history: Sequence[Mapping[str, float]]
    best_epoch: int
    best_fitness: float
    reason: str


class Callback:
    """Hears of a run. Every method does nothing; override those that are wanted.

    They are listed in the order in which they are called. Set `stop_training` to a reason at any time: the run ends
    after the running epoch, is validated and saved, and can be resumed.
    """

    stop_training: str = ""

    def on_pretrain_routine_start(self, report: RunReport) -> None:
        """The data has been read and the run folder is made; the network is not on its device yet."""

    def on_pretrain_routine_end(self, report: StartReport) -> None:
        """Loaders and optimizer are there, a resumed state is restored, plots of the data are drawn."""

    def on_train_start(self, report: StartReport) -> None:
        """The first step comes next, also of a resumed run. Not called where no epoch is left."""

    def on_train_epoch_start(self, place: Place) -> None:
        """The first step of an epoch comes next, or of what was left of it when the run was stopped."""

    def on_train_batch_start(self, place: Place, batch: AnyBatch) -> None:
        """A step comes next. The batch is still on the host."""

    def on_before_zero_grad(self, place: Place) -> None:
        """The weights have been updated; the gradients, clipped, are still in the parameters."""

    def optimizer_step(self, place: Place) -> None:
        """The weights and their average have been updated. Not every batch does that."""

    def on_train_batch_end(self, place: Place, losses: Tensor) -> None:
        """A step is done. `losses`: (number of losses,) on the device; to look at them is to wait for it."""

    def on_step_report(self, report: StepReport) -> None:
        """Some steps are done; called every 20 steps and at the end of an epoch."""

    def on_train_epoch_end(self, place: Place) -> None:
        """All steps of an epoch are done; validation comes next, if it is due."""

    def on_val_start(self, place: Place) -> None:
        """Validation during training comes next. That of best.pt at the end of a run is not told."""

    def on_val_batch_start(self, batch: AnyBatch) -> None:
        """A batch is validated next. Where several processes train, it holds the first one's share of the images."""

    def on_val_image_end(self, path: Path, detections: Any) -> None:
        """An image is done: what was found, on the host, in its own pixels."""

    def on_val_batch_end(self, batch: AnyBatch, detections: Sequence[Any]) -> None:
        """All images of a batch are done."""

    def on_val_end(self, score: Score) -> None:
        """Validation is done."""

    def on_fit_epoch_end(self, report: EpochReport) -> None:
        """An epoch has been trained and, where due, validated. last.pt comes next."""

    def on_model_save(self, report: SaveReport) -> None:
        """Checkpoints of an epoch are written."""

    def on_train_end(self, report: EndReport) -> None:
        """The last epoch is done, or the run stops early; not after a signal or a mistake."""

    def teardown(self) -> None:
        """The run ends, whether well or not; called once, last."""


class CallbackError(UserError):
    """A callback has raised. The text names its class, the hook and the exception, which is the cause."""


class Hooks:
    """The callbacks of a run. As a context it tells `teardown` at its end, once.

    Args:
        callbacks: told in this order.
    """

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        self.callbacks = callbacks
        self._torn_down = False

    def tell(self, hook: Callable[Concatenate[Callback, P], None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call a hook, given as a method of `Callback`, of every callback.

        Raises:
            CallbackError: one of them raised; those after it are not told. KeyboardInterrupt and SystemExit pass.
        """
        for callback in self.callbacks:
            _call(callback, hook.__name__, *args, **kwargs)

    def after_val_batch(self, batch: AnyBatch, detections: Sequence[Any]) -> None:
        """Call the hooks of each image, then that of the batch."""
        detections = tuple(detections)
        for path, found in zip(batch.paths, detections, strict=True):
            self.tell(Callback.on_val_image_end, path, found)
        self.tell(Callback.on_val_batch_end, batch, detections)

    @property
    def stop_reason(self) -> str:
        """Why the first callback that wants the run to end wants it; empty: none does."""
        return next((callback.stop_training for callback in self.callbacks if callback.stop_training), "")

    def __enter__(self) -> Hooks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._torn_down:
            return
        self._torn_down = True
        failed: CallbackError | None = None
        for callback in self.callbacks:  # all are told, also after one that raises
            try:
                _call(callback, "teardown")
            except CallbackError as raised:
                failed = failed or raised
        if failed is not None and error is None:  # what has already gone wrong is the news
            raise failed


def _call(callback: Callback, hook: str, *args: object, **kwargs: object) -> None:
    try:
        getattr(callback, hook)(*args, **kwargs)
    except Exception as error:
        said = " ".join(str(error).split())  # one line
        text = f"{type(error).__name__}: {said}" if said else type(error).__name__
        raise CallbackError(f"callback {type(callback).__name__} raised in {hook}: {text}") from error
