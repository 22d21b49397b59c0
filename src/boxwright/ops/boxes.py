"""Pure functions on 2-D boxes: conversions, overlaps, mapping between images.

Boxes are xyxy pixels (left, top, right, bottom) unless a name says cxcywh (centre x, centre y, width, height).
Sources: GIoU, Rezatofighi et al. 2019 (arXiv 1902.09630); DIoU and CIoU, Zheng et al. 2020 (arXiv 1911.08287).
"""

import math
from typing import Literal

import torch
from torch import Tensor

IouKind = Literal["iou", "giou", "diou", "ciou"]


def xyxy_from_cxcywh(boxes_cxcywh: Tensor) -> Tensor:
    """Return the corners of boxes given by centre and size; shape (..., 4) in and out."""
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:4] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def cxcywh_from_xyxy(boxes: Tensor) -> Tensor:
    """Return centre and size of boxes given by corners; shape (..., 4) in and out."""
    top_left, bottom_right = boxes[..., :2], boxes[..., 2:4]
    return torch.cat(((top_left + bottom_right) / 2, bottom_right - top_left), dim=-1)


def clip_boxes(boxes: Tensor, height: float | Tensor, width: float | Tensor) -> Tensor:
    """Clip boxes (..., 4) at the borders of an image of the given size; the input is left alone."""
    limits = torch.as_tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
    return torch.minimum(boxes.clamp(min=0), limits)


def scale_back(
    boxes: Tensor, scale_yx: tuple[float, float], pad_yx: tuple[float, float], original_hw: tuple[int, int]
) -> Tensor:
    """Map boxes of a letterboxed image to the original one and clip them there.

    Args:
        boxes: (N, 4) in pixels of the padded network input.
        scale_yx: network pixels per original pixel, vertical and horizontal.
        pad_yx: top and left border in network pixels.
        original_hw: height and width of the original image.
    """
    scale = boxes.new_tensor([scale_yx[1], scale_yx[0]] * 2)
    pad = boxes.new_tensor([pad_yx[1], pad_yx[0]] * 2)
    return clip_boxes((boxes - pad) / scale, original_hw[0], original_hw[1])


def box_area(boxes: Tensor) -> Tensor:
    """Return the areas (...) of boxes (..., 4)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    """Return the overlap area of broadcastable xyxy boxes."""
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    return sides.clamp(min=0).prod(dim=-1)


def pairwise_iou(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    """Return the intersection over union (N, M) of every box of a (N, 4) with every box of b (M, 4)."""
    overlap = _intersection(a[:, None], b[None])
    return overlap / (box_area(a)[:, None] + box_area(b)[None] - overlap + eps)


def intersection_over_area(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    """Share (N, M) of each box of b (M, 4) that a box of a (N, 4) covers."""
    return _intersection(a[:, None], b[None]) / (box_area(b)[None] + eps)


def elementwise_iou(a_cxcywh: Tensor, b_cxcywh: Tensor, kind: IouKind = "iou", eps: float = 1e-7) -> Tensor:
    """Return the overlap measure of boxes taken pair by pair.

    Args:
        a_cxcywh: (..., 4).
        b_cxcywh: (..., 4).
        kind: plain IoU, or GIoU, DIoU, CIoU. The weight of CIoU's aspect term carries no gradient, as published.
        eps: keeps denominators from zero: 1e-7 in the published 6.x system, smaller in earlier ones.

    Returns:
        (...) values, finite for identical and for zero-size boxes (the published form gives NaN there).
    """
    # Each coordinate is a vector of its own: slices of two columns cost several times as much on the CPU.
    ax, ay, aw, ah = a_cxcywh.unbind(-1)
    bx, by, bw, bh = b_cxcywh.unbind(-1)
    a_left, a_right, a_top, a_bottom = ax - aw / 2, ax + aw / 2, ay - ah / 2, ay + ah / 2
    b_left, b_right, b_top, b_bottom = bx - bw / 2, bx + bw / 2, by - bh / 2, by + bh / 2
    overlap_width = (torch.minimum(a_right, b_right) - torch.maximum(a_left, b_left)).clamp(min=0)
    overlap_height = (torch.minimum(a_bottom, b_bottom) - torch.maximum(a_top, b_top)).clamp(min=0)
    overlap = overlap_width * overlap_height
    union = aw * ah + bw * bh - overlap + eps
    iou = overlap / union
    if kind == "iou":
        return iou
    hull_width = torch.maximum(a_right, b_right) - torch.minimum(a_left, b_left)
    hull_height = torch.maximum(a_bottom, b_bottom) - torch.minimum(a_top, b_top)
    if kind == "giou":
        hull_area = hull_width * hull_height + eps
        return iou - (hull_area - union) / hull_area
    distance = (ax - bx).square() + (ay - by).square()
    diou = iou - distance / (hull_width.square() + hull_height.square() + eps)
    if kind == "diou":
        return diou
    # Half pi is the largest difference of two angles: the square is scaled to 0..1.
    aspect = (4 / math.pi**2) * (_aspect_angle(bw, bh, eps) - _aspect_angle(aw, ah, eps)).square()
    with torch.no_grad():
        weight = aspect / (aspect - iou + (1 + eps)).clamp(min=torch.finfo(iou.dtype).tiny)  # identical boxes: 0 / 0
    return diou - weight * aspect


def _aspect_angle(width: Tensor, height: Tensor, eps: float) -> Tensor:
    """Return the angle of the diagonal; a height of zero is moved off, not clamped, which keeps its gradient."""
    return torch.atan(width / torch.where(height > eps, height, height + eps))
