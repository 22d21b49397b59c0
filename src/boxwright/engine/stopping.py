"""Early stopping: end a run when its fitness has not improved for a number of epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class EarlyStopping:
    """Source: YOLOv5 as published (spec B6, 22): equal fitness counts as an improvement; patience 0 never stops."""

    patience: float
    best_fitness: float = 0.0
    best_epoch: int = 0

    @property
    def limit(self) -> float:
        return self.patience or math.inf

    def update(self, epoch: int, fitness: float) -> bool:
        """Take in the fitness of an epoch; True: it is the best so far."""
        improved = fitness >= self.best_fitness
        if improved:
            self.best_epoch, self.best_fitness = epoch, fitness
        return improved

    def exhausted(self, epoch: int) -> bool:
        """Whether the run should stop after this epoch."""
        return epoch - self.best_epoch >= self.limit

    def may_stop_next(self, epoch: int) -> bool:
        """Whether the next epoch could be the last, so that it must be validated."""
        return epoch - self.best_epoch >= self.limit - 1
