"""What a network finds besides the labels: the detections that remain when the labels take part in NMS.

Source: published 6.x, whose validation hands the labels to NMS to write hybrid label files. Deviations: the files keep
labels that suppress each other, and the metrics are those of the network alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from boxwright.data.structures import Batch, Detections
from boxwright.ops.boxes import xyxy_from_cxcywh
from boxwright.yolo.postprocess import YoloPostprocess

_SAME = 0.01  # pixels: a label comes back from NMS with rounded corners


def besides_labels(postprocess: YoloPostprocess, decoded: Tensor, batch: Batch) -> list[Detections]:
    """Detections of each image that no label suppresses, in pixels of the network input.

    Args:
        postprocess: the NMS.
        decoded: (B, R, 5 + C), see `YoloPostprocess`.
        batch: images and labels, on the same device.
    """
    side = decoded.new_tensor((batch.images.shape[3], batch.images.shape[2])).repeat(2)
    known: list[Tensor] = []
    targets = batch.targets
    for boxes, labels, valid in zip(targets.boxes_cxcywh, targets.labels, targets.valid, strict=True):
        known.append(torch.cat((labels[valid, None].to(boxes.dtype), boxes[valid] * side), dim=1))
    return [_without(found, own) for found, own in zip(postprocess(decoded, known), known, strict=True)]


def _without(found: Detections, known: Tensor) -> Detections:
    """Detections less those that are the known boxes themselves: (n, 5) class, cxcywh."""
    apart = (found.boxes[:, None] - xyxy_from_cxcywh(known[:, 1:])).abs().amax(dim=2)
    is_known = ((apart < _SAME) & (found.labels[:, None] == known[:, 0])).any(dim=1)
    return Detections(found.boxes[~is_known], found.scores[~is_known], found.labels[~is_known])
