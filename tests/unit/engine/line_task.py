"""A task of a few numbers: fits a line. It shows that the trainer knows nothing of images or detectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from boxwright.data.structures import Batch, Detections, Targets
from boxwright.engine.callbacks import Callback, Hooks
from boxwright.engine.device import Policy
from boxwright.engine.loggers import ResultsCsv
from boxwright.engine.schedule import ScheduleRules
from boxwright.engine.task import Autocast, Score, StepLoss, ValWatch
from boxwright.engine.trainer import Trainer
from boxwright.settings.base import OptimConfig, TrainingConfig

CPU = Policy("fp32", torch.device("cpu"))
STEPS, BATCH = 5, 2
KEPT = ("last.previous.pt", "last.pt")  # of a run of two epochs or more


class LineTask:
    """Args:
    fitness: one value an epoch; afterwards the last one again.
    poison: (epoch, step) -> what the loss is multiplied by.
    val_losses: as `fitness`.
    """

    schedule_rules = ScheduleRules()
    loss_names: Sequence[str] = ("loss",)
    steps_per_epoch = STEPS

    def __init__(
        self,
        fitness: Sequence[float] = (0.5,),
        poison: Callable[[int, int], float] = lambda epoch, step: 1.0,
        val_losses: Sequence[float] = (0.25,),
    ) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        self.criterion: nn.Module = nn.Identity()
        self.fitness = fitness
        self.poison = poison
        self.val_losses = val_losses
        self.num_evaluations = 0
        self.closed = False

    def train_batches(self, epoch: int, start_step: int, class_maps: Sequence[float] = ()) -> Iterator[Batch]:
        for step in range(start_step, STEPS):
            generator = torch.Generator().manual_seed(epoch * 100 + step)
            zeros = torch.zeros(BATCH, 1, 4)
            yield Batch(
                images=torch.randn(BATCH, 3, generator=generator),
                targets=Targets(zeros, zeros[..., 0].long(), zeros[..., 0].bool()),
                indices=torch.arange(BATCH),
                original_sizes=torch.ones(BATCH, 2),
                scales=torch.ones(BATCH, 2),
                pads=torch.zeros(BATCH, 2),
                paths=tuple(Path(f"image {epoch}-{step}-{i}.jpg") for i in range(BATCH)),
            )

    def loss(self, batch: Batch, epoch: int, step: int) -> StepLoss:
        error = (self.model(batch.images) - batch.images.sum(1, keepdim=True)).square().mean()
        total = error * self.poison(epoch, step)
        return StepLoss(total, total.detach()[None])

    def evaluate(self, model: nn.Module, autocast: Autocast, watch: ValWatch[Any, Any] | None = None) -> Score:
        assert not model.training
        if watch is not None:
            batch = next(self.train_batches(0, 0))
            watch.before(batch)
            nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
            watch.after(batch, [nothing] * BATCH)
        fitness, loss = (v[min(self.num_evaluations, len(v) - 1)] for v in (self.fitness, self.val_losses))
        self.num_evaluations += 1
        return Score(fitness, {"error": fitness}, [loss], None)

    def describe_model(self) -> dict[str, Any]:
        return {"names": ["line"]}

    def describe_data(self) -> dict[str, dict[str, Any]]:
        return {}

    def close(self) -> None:
        self.closed = True


def make_trainer(
    folder: Path, task: LineTask | None = None, callbacks: Sequence[Callback] = (), **settings: Any
) -> Trainer:
    """A trainer in float32 whose optimizer gathers the gradients of two batches."""
    optim = OptimConfig(nominal_batch_size=2 * BATCH, warmup_epochs=0)
    config = TrainingConfig(**{"epochs": 3, "batch_size": BATCH, "optim": optim} | settings)
    hooks = Hooks([ResultsCsv(folder / "results.csv"), *callbacks])
    trainer = Trainer(task or LineTask(), config, folder, CPU, hooks)
    assert trainer.schedule.warmup_steps == 100 or config.optim.schedule == "one-cycle"
    return trainer
