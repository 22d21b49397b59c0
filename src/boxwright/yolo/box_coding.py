"""What the four raw numbers of a box mean: the one thing about a network that its loss must share.

Source: YOLOv3, Redmon and Farhadi 2018 (arXiv 1804.02767), and YOLOv5 6.x as published (spec A3, A5, B4).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from boxwright.yolo.detection import BoxCoding

# Of side to anchor, up to 1000, in v3's loss. The logarithm is limited, not the side: the gradient stays finite.
_LARGEST_LOG_RATIO = math.log(1e3)


def decode_boxes(raw_boxes: Tensor, anchor_sizes: Tensor, coding: BoxCoding) -> Tensor:
    """Boxes (4, K) in cells, centre relative to the candidate's cell, from raw (4, K) and anchors (2, K).

    Args:
        coding: "v3": sigmoid and exponential; "v5": both from a sigmoid, within -0.5..1.5 cells and 0..4 anchors.
    """
    if coding == "v3":
        sizes = raw_boxes[2:].clamp(max=_LARGEST_LOG_RATIO).exp() * anchor_sizes
        return torch.cat((raw_boxes[:2].sigmoid(), sizes))
    sigmoid = raw_boxes.sigmoid()
    return torch.cat((sigmoid[:2] * 2 - 0.5, (sigmoid[2:] * 2).square() * anchor_sizes))
