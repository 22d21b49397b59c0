"""The optimizer with its three parameter groups, and the moving average of the weights.

Source: YOLOv5 6.2 to 7.0 as published (docs/spec/yolov5.md, B6, 8 and 10): group order bias, weight, norm; only weights
decay. The average's decay after u updates is 0.9999 (1 - exp(-u / 2000)), over every floating-point entry of the state
dict.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import unwrap
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim import Optimizer

from boxwright.engine.schedule import StepSettings
from boxwright.errors import UserError
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
    model: nn.Module, config: OptimConfig, weight_decay: float, *, decays_everything: bool = False
) -> Optimizer:
    """Make the optimizer of the parameters that are not frozen, with fused kernels.

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


def describe_groups(optimizer: Optimizer) -> str:
    """Return kind, rate, and how many parameters each group has, with their weight decay."""
    groups = [
        f"{len(group['params'])} {role} (decay {group['weight_decay']:.4g})"
        for role, group in zip(ROLES, optimizer.param_groups, strict=True)
    ]
    rate = optimizer.param_groups[0]["lr"]
    return f"{type(optimizer).__name__} (rate {rate:g}) with parameter groups {', '.join(groups)}"


Moments = Mapping[str, Mapping[str, Any]]  # name of a parameter -> state that an optimizer keeps of it


@dataclass(frozen=True, slots=True)
class EarlierTraining:
    """What a checkpoint keeps of the training that wrote it, for a run that goes on from its weights."""

    epochs: int  # done
    best_fitness: float
    average: Mapping[str, Tensor]  # averaged weights, those that fit the network
    updates: int  # of the average
    moments: Moments


def moments_by_name(state: Mapping[str, Any], roles: Mapping[str, Sequence[str]], shapes: Mapping[str, Any]) -> Moments:
    """Give the states of an optimizer, which counts parameters over its groups, the names of those parameters.

    Args:
        state: state dict of an optimizer with one group for each role, in the order of ROLES or, as releases up to
            v6.1 wrote them, in the reverse order.
        roles: names of the trained parameters by role.
        shapes: of all parameters.

    Raises:
        UserError: it is the optimizer of another network.
    """
    groups = [list(group["params"]) for group in state["param_groups"]]
    for order in (ROLES, ROLES[::-1]):
        if [len(roles[role]) for role in order] != list(map(len, groups)):
            continue
        names = dict(zip(chain(*groups), chain(*(roles[role] for role in order)), strict=True))
        found = {names[number]: kept for number, kept in state["state"].items()}
        if all(_fits(kept, shapes[name]) for name, kept in found.items()):
            return found
    raise UserError("its optimizer does not belong to its network")


def _fits(kept: Mapping[str, Any], shape: Any) -> bool:
    tensors = (value for value in kept.values() if isinstance(value, Tensor) and value.dim())
    return all(tuple(value.shape) == tuple(shape) for value in tensors)


def take_over(optimizer: Optimizer, model: nn.Module, moments: Moments) -> int:
    """Give an optimizer the moments of an earlier one of its kind, where they fit; return of how many parameters."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    needed = {"momentum_buffer"} if isinstance(optimizer, SGD) else {"step", "exp_avg", "exp_avg_sq"}
    state: dict[int, dict[str, Tensor]] = {}
    taken = 0
    for number, parameter in enumerate(parameters):
        kept = moments.get(names[parameter], {})
        if all(kept.get(key) is not None for key in needed) and _fits(kept, parameter.shape):
            # In the layout of the parameter, as the fused kernels read both.
            state[number] = {
                key: torch.empty_like(parameter).copy_(kept[key]) if key != "step" else torch.tensor(float(kept[key]))
                for key in needed
            }
            taken += 1
        elif isinstance(optimizer, SGD):  # its kernel wants a buffer of all or of none; one of zeros is as none
            state[number] = {"momentum_buffer": torch.zeros_like(parameter)}
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return taken


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
