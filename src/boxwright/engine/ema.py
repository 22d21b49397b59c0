"""Exponential moving average of a model's weights and statistics.

Source: YOLOv5 as published (spec B6, 10): decay(u) = 0.9999 (1 - exp(-u / 2000)) after u updates, over every
floating-point entry of the state dict.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn


class ModelEma:
    """A second model that follows the first.

    Args:
        model: the trained one, on its device; its tensors are looked up once and must stay the same objects.
        decay: decay after the ramp.
        tau: number of updates over which it ramps up.
        updates: updates done so far.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999, tau: float = 2000.0, updates: int = 0) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.tau = tau
        self.updates = updates
        self._averaged, self._current = _floating(self.module), _floating(model)

    def decay_at(self, updates: int) -> float:
        return self.decay * (1 - math.exp(-updates / self.tau))

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the model by one step."""
        self.updates += 1
        decay = self.decay_at(self.updates)
        # Product and sum are rounded apart, as published; a fused lerp differs in the last digit.
        torch._foreach_mul_(self._averaged, decay)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        step = torch._foreach_mul(self._current, 1 - decay)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        torch._foreach_add_(self._averaged, step)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]


def _floating(model: nn.Module) -> list[Tensor]:
    return [value for value in model.state_dict().values() if value.dtype.is_floating_point]
