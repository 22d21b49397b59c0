"""The state of a run that is not weights: where it stands and what it has measured, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(slots=True)
class RunState:
    """Args:
    epoch: the running epoch, from 0.
    step: batches of it that are done.
    last_update: global step of the newest optimizer step; -1 before the first.
    loss_sum: sum of the loss items over the running epoch's batches, on the device; None at its start.
    history: one row an epoch, column name to value, as in results.csv.
    class_maps: mAP of each class in the last validation, by which images are weighed; empty before the first.
    fitness: of all validations, in their order.
    """

    epoch: int = 0
    step: int = 0
    last_update: int = -1
    loss_sum: Tensor | None = None
    history: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    class_maps: list[float] = field(default_factory=list[float])
    fitness: list[float] = field(default_factory=list[float])

    def to_plain(self) -> dict[str, Any]:
        """Values for a checkpoint."""
        loss_sum = None if self.loss_sum is None else self.loss_sum.detach().cpu()
        return {
            "epoch": self.epoch,
            "step": self.step,
            "last_update": self.last_update,
            "loss_sum": loss_sum,
            "history": [dict(row) for row in self.history],
            "class_maps": list(self.class_maps),
            "fitness": list(self.fitness),
        }

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> RunState:
        return cls(**values)
