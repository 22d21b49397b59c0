"""What the trainer knows of the work it does: a Task. A new system adds a Task and touches no other engine file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from boxwright.centerfusion.structures import FusionBatch
from boxwright.data.structures import Batch, Detections
from boxwright.nuscenes.structures import Detections3d

AnyBatch = Batch | FusionBatch
AnyDetections = Detections | Detections3d
B = TypeVar("B", bound=AnyBatch)


@dataclass(frozen=True, slots=True)
class StepLoss:
    """Args:
    total: scalar with gradient; where processes share a batch, the mean of theirs has the gradient of the batch.
    items: (len(loss_names),) detached parts, on the device; of the whole batch, the same for all processes.
    """

    total: Tensor
    items: Tensor


@dataclass(frozen=True, slots=True)
class Score:
    """Result of a validation.

    Args:
        fitness: what best.pt is chosen by; larger is better.
        metrics: column name to value, in the order of results.csv.
        losses: one value a loss name; zeros where no loss was taken.
        detail: the evaluation itself, for reports.
        more: further columns of results.csv, which the console leaves out.
        class_maps: mAP of each class, for the order of the next epochs; empty if the task has no classes.
    """

    fitness: float
    metrics: Mapping[str, float]
    losses: Sequence[float]
    detail: Any
    more: Mapping[str, float] = field(default_factory=dict[str, float])
    class_maps: Sequence[float] = ()


class ValWatch(Protocol):
    """Is told of the batches of a validation."""

    def before_val_batch(self, batch: AnyBatch) -> None:
        """A batch, still on the host, comes next."""
        ...

    def after_val_batch(self, batch: AnyBatch, detections: Sequence[AnyDetections]) -> None:
        """A batch is done: detections of each image, on the host and in its own pixels."""
        ...


class Task(Protocol[B]):
    """Model, criterion, data and metric of one kind of work, whose batches are B."""

    model: nn.Module
    criterion: nn.Module
    loss_names: Sequence[str]
    metric_names: Sequence[str]

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        ...

    def train_batches(self, epoch: int, start_step: int, class_maps: Sequence[float] = ()) -> Iterator[B]:
        """Batches of an epoch from a step on; the same for the same arguments.

        class_maps: those of the last score, empty before the first.
        """
        ...

    def loss(self, batch: B, epoch: int, step: int) -> StepLoss:
        """Forward pass and criterion of one batch, already on the device."""
        ...

    def evaluate(
        self, model: nn.Module, autocast: Callable[[], AbstractContextManager[object]], watch: ValWatch | None = None
    ) -> Score:
        """Measure a model of this task on its validation data; of several processes the first one's score counts."""
        ...

    def describe_model(self) -> dict[str, Any]:
        """Plain values from which the model can be built again."""
        ...

    def close(self) -> None:
        """End loader processes."""
        ...
