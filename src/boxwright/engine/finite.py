"""Losses and gradients that are not finite: noticed on the device in the step where they come up, asked for later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

_NEVER = -1.0
# A scale starts at 2**16, and each step that is left out halves it: it gets here when some 26 more were than were not.
_LEAST_SCALE = 2.0**-10


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


def scale_is_gone(scale: float) -> str | None:
    """Training in fp16 leaves out steps whose gradients are not finite and then scales the loss less; is it at its end?

    Args:
        scale: what the loss is multiplied by now.
    """
    if scale >= _LEAST_SCALE:
        return None
    return (
        f"the gradients are not finite step after step, so the loss scale of fp16 has fallen to {scale:.2g}. "
        "Try --precision bf16 or fp32, a lower --optim.lr0 or --optim.weight_decay"
    )


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
