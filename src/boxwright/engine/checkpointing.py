"""The state of a run, to and from one file, from which it resumes as if it had never stopped.

`last.pt` holds the whole state; `best.pt` only averaged weights. best.pt is written before last.pt: a run killed
between the two resumes from the older last.pt and writes the same best.pt again.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from boxwright.checkpoints.native import load_checkpoint, save_checkpoint
from boxwright.errors import UserError
from boxwright.settings.load import dump

if TYPE_CHECKING:
    from boxwright.engine.trainer import Trainer


@dataclass(slots=True)
class RunState:
    """The state of a run that is not weights: where it stands and what it has measured."""

    epoch: int = 0  # the running epoch
    step: int = 0  # batches of it that are done
    last_update: int = -1  # global step of the newest optimizer step; -1 before the first
    loss_sum: Tensor | None = None  # of the loss items over the running epoch, on the device; None at its start
    history: list[dict[str, float]] = field(default_factory=list[dict[str, float]])  # rows of results.csv
    class_maps: list[float] = field(default_factory=list[float])  # of the last validation; weigh images
    fitness: list[float] = field(default_factory=list[float])  # of all validations, in their order


def save_last(trainer: "Trainer", path: Path) -> None:
    """Write the whole state of a run."""
    state, parameters = trainer.state, trainer.task.model.named_parameters()
    # Plain values only: the closed reader of checkpoints knows no class of this package.
    run = {one.name: getattr(state, one.name) for one in fields(state)}
    run["loss_sum"] = None if state.loss_sum is None else state.loss_sum.detach().cpu()
    content = _description(trainer) | {
        "state_dict": trainer.task.model.state_dict(),
        "ema": trainer.ema.module.state_dict(),
        "engine": {
            "run": run,
            "ema_updates": trainer.ema.updates,
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "best_fitness": trainer.stopping.best_fitness,
            "best_epoch": trainer.stopping.best_epoch,
            "criterion": trainer.task.criterion.state_dict(),
            # What was gathered since the last optimizer step; nothing right after one.
            "gradients": {name: p.grad for name, p in parameters if p.grad is not None},
        },
    }
    save_checkpoint(path, content)


def save_weights(trainer: "Trainer", path: Path) -> None:
    """Write averaged weights only, for use and for fine-tuning."""
    row = trainer.state.history[-1] if trainer.state.history else {}
    save_checkpoint(path, _description(trainer) | {"state_dict": trainer.ema.module.state_dict(), "metrics": dict(row)})


def load_run(path: Path) -> dict[str, Any]:
    """Read a checkpoint that a run can resume from.

    Raises:
        UserError: missing, damaged, or a file of weights only.
    """
    content = load_checkpoint(path)
    if "engine" not in content:
        raise UserError(f"{path} holds weights only; a run goes on from its last.pt (start a new one with --weights)")
    return content


def restore(trainer: "Trainer", content: dict[str, Any]) -> None:
    """Restore the state that `save_last` wrote."""
    engine = content["engine"]
    trainer.task.model.load_state_dict(content["state_dict"])
    trainer.ema.module.load_state_dict(content["ema"])
    trainer.ema.updates = engine["ema_updates"]
    trainer.optimizer.load_state_dict(engine["optimizer"])
    trainer.scaler.load_state_dict(engine["scaler"])
    trainer.task.criterion.load_state_dict(engine["criterion"])
    trainer.stopping.best_fitness, trainer.stopping.best_epoch = engine["best_fitness"], engine["best_epoch"]
    trainer.state = RunState(**engine["run"])
    if trainer.state.loss_sum is not None:
        trainer.state.loss_sum = trainer.state.loss_sum.to(trainer.device)
    parameters = dict(trainer.task.model.named_parameters())
    for name, gradient in engine["gradients"].items():
        parameters[name].grad = gradient.to(parameters[name])


def _description(trainer: "Trainer") -> dict[str, Any]:
    """Describe model and run, as every checkpoint does."""
    return {"model": trainer.task.describe_model(), "config": dump(trainer.config), "epoch": trainer.state.epoch}
