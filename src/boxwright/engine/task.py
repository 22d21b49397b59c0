"""What the trainer knows of the work it does: a Task. A new system adds a Task and touches no engine file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from boxwright.engine.schedule import ScheduleRules


class AnyBatch(Protocol):
    """What the engine reads of a batch of any system."""

    @property
    def paths(self) -> tuple[Path, ...]:  # of its images, in order
        ...

    @property
    def indices(self) -> Tensor:  # (B,) int64 position of each image in its data set, on the host
        ...

    def __len__(self) -> int: ...

    def to(self, device: torch.device) -> Self: ...


B = TypeVar("B", bound=AnyBatch)  # batch of a system
D = TypeVar("D")  # what a system detects in one image
Autocast = Callable[[], AbstractContextManager[object]]  # makes the context of a forward pass


@dataclass(frozen=True, slots=True)
class StepLoss:
    """The loss of a step."""

    total: Tensor  # scalar with gradient; where ranks share a batch, the mean of theirs has the gradient of the batch
    items: Tensor  # (len(loss_names),) detached parts on the device; of the whole batch, the same for all ranks


@dataclass(frozen=True, slots=True)
class Score:
    """Result of a validation."""

    fitness: float  # best.pt is chosen by it; larger is better
    metrics: Mapping[str, float]  # column name to value, in the order of results.csv
    losses: Sequence[float]  # one value per loss name; zeros where no loss was taken
    detail: Any  # the evaluation itself, for reports
    more: Mapping[str, float] = field(default_factory=dict[str, float])  # columns that the console leaves out
    class_maps: Sequence[float] = ()  # mAP of each class, for the order of the next epochs; empty without classes


@dataclass(frozen=True, slots=True)
class ValWatch(Generic[B, D]):
    """What a validation calls before and after each batch."""

    before: Callable[[B], None] | None = None  # the batch is still on the host
    after: Callable[[B, Sequence[D]], None] | None = None  # detections of each image, on the host, in its own pixels


class LoaderTask:
    """What tasks that read their batches from loaders have in common."""

    train_loader: Any  # of the system's own class, with `__len__` and `close`
    val_loader: Any  # the same, or None where nothing is validated

    @property
    def steps_per_epoch(self) -> int:
        """Count the batches of an epoch."""
        return len(self.train_loader)

    def close(self) -> None:
        """End the loader processes."""
        self.train_loader.close()
        if self.val_loader is not None:
            self.val_loader.close()


class Task(Protocol[B, D]):
    """Model, criterion, data and metric of one kind of work, whose batches are B and whose detections are D."""

    model: nn.Module
    criterion: nn.Module
    schedule_rules: ScheduleRules  # of the release that the settings name
    loss_names: Sequence[str]

    @property
    def steps_per_epoch(self) -> int: ...

    def train_batches(self, epoch: int, start_step: int, class_maps: Sequence[float] = ()) -> Iterator[B]:
        """Yield the batches of an epoch from a step on; the same for the same arguments.

        class_maps: those of the last score, empty before the first.
        """
        ...

    def loss(self, batch: B, epoch: int, step: int) -> StepLoss:
        """Run the forward pass and the criterion of one batch, already on the device."""
        ...

    def evaluate(self, model: nn.Module, autocast: Autocast, watch: ValWatch[B, D] | None = None) -> Score:
        """Measure a model of this task on its validation data; of several ranks the first one's score counts."""
        ...

    def describe_model(self) -> dict[str, Any]:
        """Return plain values from which the model can be built again."""
        ...

    def describe_data(self) -> dict[str, dict[str, Any]]:
        """Return by split what the same data has wherever it lies, see `data.identity`."""
        ...

    def close(self) -> None:
        """End the loader processes."""
