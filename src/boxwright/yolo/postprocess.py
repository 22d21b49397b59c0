"""Decoded YOLO predictions to detections: score filter and NMS (ops/nms.py). Boxes stay in network-input pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from boxwright.data.structures import Detections
from boxwright.ops.nms import CURRENT_RULES, NmsRules, batched_nms


@dataclass(frozen=True, slots=True)
class YoloPostprocess:
    """Settings of the filter; the defaults are those of `boxwright predict`.

    Args:
        score_threshold: lowest objectness times class score.
        iou_threshold: overlap above which the weaker box goes.
        max_detections: most boxes an image.
        multi_label: one row may count for several classes (validation does so).
        agnostic: boxes of different classes suppress each other.
        classes: keep only these class indices; None keeps all.
        merge: kept boxes become the mean of those that they stand for, see `batched_nms`.
        rules: of a release.
    """

    score_threshold: float = 0.25
    iou_threshold: float = 0.45
    max_detections: int = 1000
    multi_label: bool = False
    agnostic: bool = False
    classes: tuple[int, ...] | None = None
    merge: bool = False
    rules: NmsRules = CURRENT_RULES

    def __call__(self, decoded: Tensor, known: Sequence[Tensor] | None = None) -> list[Detections]:
        """Detections of each image, boxes in pixels of the network input, from decoded (B, R, 5 + C).

        Args:
            decoded: cxcywh pixels, objectness and class scores of each row.
            known: for each image boxes (n, 5) that are known beforehand, see `batched_nms`.
        """
        found = batched_nms(
            decoded,
            score_threshold=self.score_threshold,
            iou_threshold=self.iou_threshold,
            max_detections=self.max_detections,
            multi_label=self.multi_label,
            agnostic=self.agnostic,
            classes=self.classes,
            merge=self.merge,
            known=known,
            rules=self.rules,
        )
        return [Detections(rows[:, :4], rows[:, 4], rows[:, 5].long()) for rows in found]
