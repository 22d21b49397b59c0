"""Fold batch norms into the convolutions before them: same outputs in evaluation, fewer operations.

Source: W' = diag(gamma / sqrt(var + eps)) W, b' = beta - gamma mean / sqrt(var + eps); published YOLOv5 behaviour.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from boxwright.yolo.detection import DetectionModel
from boxwright.yolo.layers import Conv, FusedConv


def fuse(model: DetectionModel) -> DetectionModel:
    """Give a copy of the model, in eval mode, whose `Conv` blocks have no batch norm; the model itself is kept."""
    fused = copy.deepcopy(model).eval().requires_grad_(False)
    for parent in list(fused.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv):
                setattr(parent, name, FusedConv(fold(child.conv, child.bn), child.act))
        _fold_named(parent)
    return fused


def _fold_named(block: nn.Module) -> None:
    """The same in a block of a Darknet network, which names its parts."""
    if isinstance(block, nn.Sequential) and any(name == "BatchNorm2d" for name, _ in block.named_children()):
        conv, norm = block.get_submodule("Conv2d"), block.get_submodule("BatchNorm2d")
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        block.Conv2d = fold(conv, norm)
        del block.BatchNorm2d


@torch.no_grad()
def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution with bias that equals `norm(conv(x))` in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    bias = torch.zeros_like(norm.running_mean) if conv.bias is None else conv.bias
    folded = copy.deepcopy(conv)
    folded.weight.copy_(conv.weight * scale.view(-1, 1, 1, 1))
    folded.bias = nn.Parameter(norm.bias + (bias - norm.running_mean) * scale, requires_grad=False)
    return folded
