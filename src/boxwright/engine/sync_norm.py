"""Batch norm over the batches of all ranks: torch's own on a GPU, and one for the CPU, where torch has none.

Source: Ioffe and Szegedy, 2015 (arXiv:1502.03167), whose gradient is written out with sums over all ranks; the idea as
in torch.nn.SyncBatchNorm (BSD-3-Clause).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from boxwright.engine.distributed import World

_PIXELS = (0, 2, 3)  # all dimensions of (B, C, H, W) but the channels


def synchronise_norms(model: nn.Module, world: World, device: torch.device) -> None:
    """Replace every batch norm below a module by one over all ranks, with the same parameters and statistics."""
    if world.size == 1:
        return
    for name, module in list(model.named_children()):
        if not isinstance(module, nn.BatchNorm2d):
            synchronise_norms(module, world, device)
        elif device.type == "cpu":
            setattr(model, name, _CpuSyncNorm(module, world))
        else:
            setattr(model, name, nn.SyncBatchNorm.convert_sync_batchnorm(module))


class _CpuSyncNorm(nn.BatchNorm2d):
    """A batch norm that takes mean and variance of the pixels of all ranks; a rank may have no image."""

    def __init__(self, norm: nn.BatchNorm2d, world: World) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.train(norm.training)
        self.world = world

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        y, mean, variance, count = _Normalise.apply(input, self.weight, self.bias, self.eps, self.world)
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked.add_(1)
            unbiased = variance * count / (count - 1).clamp(min=1)  # of a single pixel nothing is known
            self.running_mean.mul_(1 - self.momentum).add_(self.momentum * mean)
            self.running_var.mul_(1 - self.momentum).add_(self.momentum * unbiased)
        return y


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, in float32 with sums in float64, as torch's own on the CPU.

    The gradient is that of the sum of the losses of all ranks.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, world: World
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x.float()
        pixels = wide.new_tensor([x.numel() // x.shape[1]], dtype=torch.float64)
        total = world.sum(torch.cat((_per_channel(wide), pixels)))
        count = total[-1]
        mean = total[:-1] / count
        centred = wide - _spread(mean)
        variance = world.sum(_per_channel(centred.square())) / count
        inverse = (variance + eps).rsqrt()
        normal = centred.mul_(_spread(inverse))
        ctx.save_for_backward(normal, weight, inverse, count)
        ctx.world = world
        ctx.mark_non_differentiable(mean, variance, count)
        y = normal * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)
        return y.to(x.dtype), mean.float(), variance.float(), count

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        normal, weight, inverse, count = ctx.saved_tensors
        grad = grad_outputs[0].float()
        of_bias, of_weight = _per_channel(grad), _per_channel(grad * normal)
        along_mean, along_spread = (ctx.world.sum(torch.cat((of_bias, of_weight))) / count).chunk(2)
        of_x = (grad - _spread(along_mean) - normal * _spread(along_spread)) * _spread(inverse * weight)
        return of_x.to(grad_outputs[0].dtype), of_weight.to(weight.dtype), of_bias.to(weight.dtype), None, None


def _per_channel(x: Tensor) -> Tensor:
    return x.sum(dim=_PIXELS, dtype=torch.float64)


def _spread(of_channels: Tensor) -> Tensor:
    return of_channels.float().view(1, -1, 1, 1)
