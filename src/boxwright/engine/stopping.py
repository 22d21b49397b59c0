"""What ends a run before its last epoch: a fitness that stays, losses that are not finite, signals."""

import math
import os
import signal
import threading
from dataclasses import dataclass
from types import FrameType
from typing import Literal, Self

import torch
from torch import Tensor

from boxwright.engine.device import widest_floats
from boxwright.machine import is_hangup, signals, terminal_is_gone


@dataclass(slots=True)
class EarlyStopping:
    """Early stopping when the fitness has not improved for a number of epochs.

    Source: YOLOv5 as published (docs/spec/yolov5.md, B6, 22): equal fitness counts as an improvement.
    """

    patience: float  # epochs; 0: never stop
    best_fitness: float = 0.0
    best_epoch: int = 0

    def update(self, epoch: int, fitness: float) -> bool:
        """Take in the fitness of an epoch; return whether it is the best so far."""
        improved = fitness >= self.best_fitness
        if improved:
            self.best_epoch, self.best_fitness = epoch, fitness
        return improved

    def exhausted(self, epoch: int) -> bool:
        """Whether the run should stop after this epoch."""
        return epoch - self.best_epoch >= (self.patience or math.inf)

    def may_stop_next(self, epoch: int) -> bool:
        """Whether the next epoch could be the last, so that it must be validated."""
        return self.exhausted(epoch + 1)


_NEVER = -1.0


@dataclass(frozen=True, slots=True)
class NotFinite:
    """The first loss or gradient norm that was not finite."""

    step: int  # counted over the whole run
    what: Literal["loss", "norm of the gradients"]  # of a step where both are bad, the loss
    value: float  # nan, inf or -inf

    def advice(self) -> str:
        """Say what to try, in a sentence without a full stop."""
        if self.what == "loss":
            return "Try a lower --optim.lr0, --precision fp32, or look at these images and their labels"
        return "Try a lower --optim.lr0 or --optim.weight_decay, --precision fp32, or look at these images"


class FiniteWatch:
    """The first step whose loss was not finite, and the first whose gradients were not.

    They are looked for on the device in each step; the host waits for it in `first` only.
    """

    def __init__(self, device: torch.device) -> None:
        never = torch.tensor([_NEVER, 0.0], dtype=widest_floats(device), device=device)
        self._loss, self._gradient = never, never.clone()  # step and value

    def note_loss(self, items: Tensor, step: int) -> None:
        """Look at the parts of a loss, any shape."""
        self._loss = _first_bad(self._loss, items.sum(), ~items.isfinite().all(), step)

    def note_gradient(self, norm: Tensor, step: int) -> None:
        """Look at the norm of all gradients, a scalar."""
        self._gradient = _first_bad(self._gradient, norm, ~norm.isfinite(), step)

    def first(self) -> NotFinite | None:
        """Return what was found so far; waits for the device."""
        (loss_step, loss), (gradient_step, norm) = torch.stack((self._loss, self._gradient)).tolist()
        if loss_step < 0 and gradient_step < 0:
            return None
        if gradient_step < 0 or 0 <= loss_step <= gradient_step:
            return NotFinite(int(loss_step), "loss", loss)
        return NotFinite(int(gradient_step), "norm of the gradients", norm)


def _first_bad(known: Tensor, value: Tensor, bad: Tensor, step: int) -> Tensor:
    """Return `known`, or this step where it is bad and none was before."""
    now = torch.stack((torch.full_like(known[0], step), value.detach().to(known.dtype)))
    return torch.where(bad & (known[0] < 0), now, known)


# What the process exits with. SIGHUP: the terminal was closed, or the connection to it lost.
EXIT_CODES = {number: 128 + number for number in signals("SIGTERM", "SIGINT", "SIGHUP")}


def _leave_terminal() -> None:
    """Write to nowhere from now on where the terminal is gone, so that no line ends the run before it is saved."""
    for descriptor in (1, 2):
        if terminal_is_gone(descriptor):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


class Interrupt:
    """A context that notes SIGTERM, SIGINT and SIGHUP in `received`, so that the running step is finished and saved.

    A second signal ends the process at once, unless it is patient: Ctrl-C reaches one of several processes from the
    terminal and from its launcher, which ends it by itself where it takes too long. Outside the main thread, where
    Python cannot handle signals, nothing is noted.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.patient = patient
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in EXIT_CODES:
                if is_hangup(number) and signal.getsignal(number) == signal.SIG_IGN:
                    continue  # started by nohup: it is to go on
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if is_hangup(number):
            _leave_terminal()
        if not self.patient:
            signal.signal(number, signal.SIG_DFL)
