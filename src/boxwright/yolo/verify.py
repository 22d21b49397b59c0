"""Whether an exported file finds what its network finds: the largest differences, and the detections of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from boxwright.data.structures import Detections
from boxwright.ops.boxes import pairwise_iou
from boxwright.yolo.detection import Network
from boxwright.yolo.postprocess import YoloPostprocess

_SAME_IOU = 0.9


@dataclass(frozen=True)
class Agreement:
    """What came out of two networks for the same images.

    Args:
        num_images: so many were compared.
        box_pixels: largest difference of x, y, width or height over all rows that either takes for an object;
            None where only detections could be compared.
        score: largest difference of an objectness or class score of those; None likewise.
        num_detections: of the network.
        num_same: of those, found by the file too: same class, IoU of .9 at least.
        num_extra: found by the file only.
    """

    num_images: int
    box_pixels: float | None
    score: float | None
    num_detections: int
    num_same: int
    num_extra: int

    def __str__(self) -> str:
        detections = f"{self.num_same} of {self.num_detections} detections the same, {self.num_extra} more"
        if self.box_pixels is None:
            return f"{detections}, in {self.num_images} images"
        rows = f"boxes differ by at most {self.box_pixels:.2g} px, scores by {self.score:.2g}"
        return f"{rows}, {detections}, in {self.num_images} images"


@torch.inference_mode()
def compare(
    network: Network, exported: Network, images: Sequence[Tensor], postprocess: YoloPostprocess, *, rows: bool
) -> Agreement:
    """Run both on each image.

    Args:
        network: what was exported.
        exported: the file, opened.
        images: (1, 3, H, W) in 0..1 each.
        postprocess: makes the detections that are compared.
        rows: whether the file gives the same rows; else only detections can be compared.
    """
    differences = torch.zeros(2)
    same = extra = total = 0
    for image in images:
        expected, given = (one.decode(one(image)).float() for one in (network, exported))
        if rows:
            differences = torch.maximum(differences, _largest(expected[0], given[0], postprocess.score_threshold))
        ours, theirs = postprocess(expected)[0], postprocess(given)[0]
        found = _num_matched(ours, theirs)
        same, total, extra = same + found, total + len(ours), extra + len(theirs) - _num_matched(theirs, ours)
    box, score = differences.tolist() if rows else (None, None)
    return Agreement(len(images), box, score, total, same, extra)


def _largest(expected: Tensor, given: Tensor, score_threshold: float) -> Tensor:
    """Largest difference of a box and of a score."""
    seen = torch.maximum(_scores(expected), _scores(given)) >= score_threshold
    if not seen.any():
        return torch.zeros(2)
    gap = (expected[seen] - given[seen]).abs()
    return torch.stack((gap[:, :4].max(), gap[:, 4:].max()))


def _scores(rows: Tensor) -> Tensor:
    return rows[:, 4] * rows[:, 5:].amax(dim=1)


def _num_matched(a: Detections, b: Detections) -> int:
    """How many of a have a partner in b."""
    if not len(a) or not len(b):
        return 0
    close = (pairwise_iou(a.boxes, b.boxes) >= _SAME_IOU) & (a.labels[:, None] == b.labels[None])
    return int(close.any(dim=1).sum())
