"""Everything a run needs to go on as if it had never stopped, to and from one file.

`last.pt` holds the whole state; `best.pt` only averaged weights. best.pt is written before last.pt: a run killed
between the two goes on from the older last.pt and writes the same best.pt again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from boxwright.checkpoints.native import load_checkpoint, save_checkpoint
from boxwright.engine.state import RunState
from boxwright.errors import UserError
from boxwright.settings.load import dump

if TYPE_CHECKING:
    from boxwright.engine.trainer import Trainer


def save_last(trainer: Trainer, path: Path) -> None:
    """Write the whole state of a run."""
    content = _described(trainer) | {
        "state_dict": trainer.task.model.state_dict(),
        "ema": trainer.ema.module.state_dict(),
        "engine": {
            "run": trainer.state.to_plain(),
            "ema_updates": trainer.ema.updates,
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "best_fitness": trainer.stopping.best_fitness,
            "best_epoch": trainer.stopping.best_epoch,
            "criterion": trainer.task.criterion.state_dict(),
            "gradients": _gradients(trainer),
        },
    }
    save_checkpoint(path, content)


def save_weights(trainer: Trainer, path: Path) -> None:
    """Write averaged weights only, for use and for fine-tuning."""
    row = trainer.state.history[-1] if trainer.state.history else {}
    save_checkpoint(path, _described(trainer) | {"state_dict": trainer.ema.module.state_dict(), "metrics": dict(row)})


def load_run(path: Path) -> dict[str, Any]:
    """Read a checkpoint that a run can go on from.

    Raises:
        UserError: missing, damaged, or a file of weights only.
    """
    content = load_checkpoint(path)
    if "engine" not in content:
        raise UserError(f"{path} holds weights only; a run goes on from its last.pt (start a new one with --weights)")
    return content


def restore(trainer: Trainer, content: dict[str, Any]) -> None:
    """Put a run into the state that `save_last` wrote."""
    engine = content["engine"]
    trainer.task.model.load_state_dict(content["state_dict"])
    trainer.ema.module.load_state_dict(content["ema"])
    trainer.ema.updates = engine["ema_updates"]
    trainer.optimizer.load_state_dict(engine["optimizer"])
    trainer.scaler.load_state_dict(engine["scaler"])
    trainer.task.criterion.load_state_dict(engine["criterion"])
    trainer.stopping.best_fitness, trainer.stopping.best_epoch = engine["best_fitness"], engine["best_epoch"]
    trainer.state = RunState.from_plain(engine["run"])
    if trainer.state.loss_sum is not None:
        trainer.state.loss_sum = trainer.state.loss_sum.to(trainer.device)
    parameters = dict(trainer.task.model.named_parameters())
    for name, gradient in engine["gradients"].items():
        parameters[name].grad = gradient.to(parameters[name])


def _described(trainer: Trainer) -> dict[str, Any]:
    return {"model": trainer.task.describe_model(), "config": dump(trainer.config), "epoch": trainer.state.epoch}


def _gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Gradients gathered since the last optimizer step; none if there are none to keep."""
    return {name: p.grad for name, p in trainer.task.model.named_parameters() if p.grad is not None}
