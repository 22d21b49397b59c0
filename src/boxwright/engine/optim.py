"""The optimizer with its three parameter groups, and the moving average of the weights.

Source: YOLOv5 6.2 to 7.0 as published (docs/spec/yolov5.md, B6, 8 and 10): group order bias, weight, norm; only weights
decay. The average's decay after u updates is 0.9999 (1 - exp(-u / 2000)), over every floating-point entry of the state
dict.
"""

import copy
import math
from inspect import unwrap

import torch
from torch import Tensor, nn, optim
from torch.optim import Optimizer

from boxwright.engine.schedule import StepSettings
from boxwright.settings.base import OptimConfig

_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm)
_ADAM_BETA2 = 0.999
ROLES = ("bias", "weight", "norm")


class _Plain(Optimizer):
    """The methods of torch as they are written: the wrappers that hide them from its compiler import it, 1.4 s of CPU.

    Only networks are compiled here, never a step of the optimizer.
    """

    add_param_group = unwrap(Optimizer.add_param_group)
    zero_grad = unwrap(Optimizer.zero_grad)
    state_dict = unwrap(Optimizer.state_dict)
    load_state_dict = unwrap(Optimizer.load_state_dict)


class SGD(_Plain, optim.SGD):
    """SGD of torch."""

    step = torch.no_grad()(unwrap(optim.SGD.step))


class Adam(_Plain, optim.Adam):
    """Adam of torch."""

    step = torch.no_grad()(unwrap(optim.Adam.step))


class AdamW(_Plain, optim.AdamW):
    """AdamW of torch."""

    step = torch.no_grad()(unwrap(optim.AdamW.step))


def parameter_roles(model: nn.Module) -> dict[str, list[str]]:
    """List the names of the parameters of each group, in the order of the model's modules."""
    roles: dict[str, list[str]] = {role: [] for role in ROLES}
    for prefix, module in model.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            role = "bias" if name == "bias" else "norm" if isinstance(module, _NORMS) else "weight"
            roles[role].append(f"{prefix}.{name}" if prefix else name)
    return roles


def make_optimizer(
    model: nn.Module,
    config: OptimConfig,
    weight_decay: float,
    *,
    decays_everything: bool = False,
    nesterov: bool = True,
) -> Optimizer:
    """Make the optimizer of the parameters that are not frozen, with fused kernels.

    Args:
        model: on its device.
        config: kind, rate and momentum.
        weight_decay: of the `weight` group, already scaled to the batch.
        decays_everything: the same for the other groups.
        nesterov: of SGD with momentum.
    """
    parameters = dict(model.named_parameters())
    groups = [
        {
            "params": [parameters[name] for name in names if parameters[name].requires_grad],
            "weight_decay": weight_decay if role == "weight" or decays_everything else 0.0,
        }
        for role, names in parameter_roles(model).items()
    ]
    if config.optimizer == "SGD":
        return SGD(
            groups, lr=config.lr0, momentum=config.momentum, nesterov=nesterov and config.momentum > 0, fused=True
        )
    kind = Adam if config.optimizer == "Adam" else AdamW
    return kind(groups, lr=config.lr0, betas=(config.momentum, _ADAM_BETA2), fused=True)


def apply_settings(optimizer: Optimizer, settings: StepSettings) -> None:
    """Set rates and momentum for a step."""
    for role, group in zip(ROLES, optimizer.param_groups, strict=True):
        group["lr"] = settings.lr_bias if role == "bias" else settings.lr_other
        if "momentum" in group:
            group["momentum"] = settings.momentum
        # Adam keeps its betas, as published: only SGD's momentum warms up.


def clip_gradients(model: nn.Module, largest_norm: float) -> Tensor:
    """Scale all gradients down to a common norm (0: leave them as they are); nothing waits for the device.

    Returns:
        scalar, the norm before.
    """
    return torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=largest_norm or math.inf, foreach=True)


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
        """Return the decay after a number of updates: it ramps up, so that early weights are soon forgotten."""
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
    """List the floating-point entries of the state dict: weights and batch-norm statistics."""
    return [value for value in model.state_dict().values() if value.dtype.is_floating_point]
