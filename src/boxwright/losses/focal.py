"""Binary cross entropy on logits, plain or focal.

Source: Lin et al. 2017, Focal Loss (arXiv 1708.02002), with alpha 0.25 as in the published YOLOv5 system.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

FOCAL_ALPHA = 0.25


def binary_cross_entropy(logits: Tensor, targets: Tensor, positive_weight: Tensor, gamma: float) -> Tensor:
    """Element-wise BCE.

    Args:
        logits: any shape.
        targets: same shape, in 0..1.
        positive_weight: weight of the positive part, broadcastable.
        gamma: focal exponent; 0 gives plain BCE without the alpha weights.
    """
    loss = binary_cross_entropy_with_logits(logits, targets, pos_weight=positive_weight, reduction="none")
    if gamma == 0:
        return loss
    probability = torch.sigmoid(logits)
    agreement = targets * probability + (1 - targets) * (1 - probability)
    alpha = targets * FOCAL_ALPHA + (1 - targets) * (1 - FOCAL_ALPHA)
    return loss * alpha * (1.0 - agreement) ** gamma
