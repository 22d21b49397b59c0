"""The optimizer with its three parameter groups: biases, weights that decay, normalisation weights.

Source: YOLOv5 6.2 to 7.0 as published (spec B6, 8): group order bias, weight, norm; only weights decay.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from boxwright.engine.schedule import StepSettings
from boxwright.settings.base import OptimConfig

_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm)
_ADAM_BETA2 = 0.999
ROLES = ("bias", "weight", "norm")


def parameter_roles(model: nn.Module) -> dict[str, list[str]]:
    """Names of the parameters of each group, in the order of the model's modules."""
    roles: dict[str, list[str]] = {role: [] for role in ROLES}
    for prefix, module in model.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            role = "bias" if name == "bias" else "norm" if isinstance(module, _NORMS) else "weight"
            roles[role].append(f"{prefix}.{name}" if prefix else name)
    return roles


def make_optimizer(
    model: nn.Module, config: OptimConfig, weight_decay: float, *, decays_everything: bool = False
) -> Optimizer:
    """Optimizer over the parameters that are not frozen; fused kernels.

    Args:
        model: on its device.
        config: kind, rate and momentum.
        weight_decay: of the `weight` group, already scaled to the batch.
        decays_everything: the same for the other groups.
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
        return SGD(groups, lr=config.lr0, momentum=config.momentum, nesterov=config.momentum > 0, fused=True)
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
