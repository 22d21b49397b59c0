"""Batches of images at another size, as test-time augmentation takes them."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import interpolate, pad

MEAN_GREY = 0.447  # of ImageNet: 0.485, 0.456, 0.406 averaged; the published border


def scale_images(images: Tensor, factor: float, *, multiple: int = 32) -> Tensor:
    """Resize a batch by a factor and pad it at the right and bottom with grey, so that a network takes it.

    Args:
        images: (B, C, H, W) in 0..1.
        factor: new size over old size; 1 gives the images themselves.
        multiple: sides of the result are multiples of this (the largest stride).

    Returns:
        (B, C, ceil(H * factor / multiple) * multiple, the same of W); the picture is the top left part of it.

    Source: published YOLOv5 test-time augmentation.
    """
    if factor == 1.0:
        return images
    height, width = images.shape[2:]
    resized = interpolate(
        images, size=(int(height * factor), int(width * factor)), mode="bilinear", align_corners=False
    )
    bottom, right = (math.ceil(side * factor / multiple) * multiple for side in (height, width))
    return pad(resized, (0, right - resized.shape[3], 0, bottom - resized.shape[2]), value=MEAN_GREY)
