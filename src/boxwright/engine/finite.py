"""Losses and gradients that are not finite: noticed on the device in the step where they come up, asked for later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

_NEVER = -1.0


@dataclass(frozen=True, slots=True)
class NotFinite:
    """The first of them.

    Args:
        step: counted over the whole run.
        what: of a step where both are bad, the loss.
        value: nan, inf or -inf.
    """

    step: int
    what: Literal["loss", "norm of the gradients"]
    value: float

    def advice(self) -> str:
        """What to try, in a sentence without a full stop."""
        if self.what == "loss":
            return "Try a lower --optim.lr0, --precision fp32, or look at these images and their labels"
        return "Try a lower --optim.lr0 or --optim.weight_decay, --precision fp32, or look at these images"


class FiniteWatch:
    """Keeps the first step whose loss was not finite, and the first whose gradients were not. Waits only in `first`.

    Args:
        device: where the losses are.
    """

    def __init__(self, device: torch.device) -> None:
        never = torch.tensor([_NEVER, 0.0], dtype=torch.float64, device=device)
        self._loss, self._gradient = never, never.clone()  # step and value

    def note_loss(self, items: Tensor, step: int) -> None:
        """Look at the parts of a loss, any shape."""
        self._loss = _noted(self._loss, items.sum(), ~items.isfinite().all(), step)

    def note_gradient(self, norm: Tensor, step: int) -> None:
        """Look at the norm of all gradients, a scalar."""
        self._gradient = _noted(self._gradient, norm, ~norm.isfinite(), step)

    def first(self) -> NotFinite | None:
        """What was found so far. The device is waited for here."""
        (loss_step, loss), (gradient_step, norm) = torch.stack((self._loss, self._gradient)).tolist()
        if loss_step < 0 and gradient_step < 0:
            return None
        if gradient_step < 0 or 0 <= loss_step <= gradient_step:
            return NotFinite(int(loss_step), "loss", loss)
        return NotFinite(int(gradient_step), "norm of the gradients", norm)


def _noted(known: Tensor, value: Tensor, bad: Tensor, step: int) -> Tensor:
    """`known`, or this step where it is bad and none was before."""
    now = torch.stack((torch.full_like(known[0], step), value.detach().to(known.dtype)))
    return torch.where(bad & (known[0] < 0), now, known)
