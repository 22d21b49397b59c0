"""The detection loss of the published YOLOv3-SPP: GIoU box term, objectness and class BCE, levels weigh alike.

Source: YOLOv3-SPP for PyTorch as published (spec A5). Shapes are static and nothing waits for the device. Means are
taken over the batch of all processes, as in yolo.py.

Legend: B images, A anchors a level, C classes, K candidates of a level (losses/assign_wh_iou.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from boxwright.data.structures import Targets
from boxwright.ops.boxes import elementwise_iou
from boxwright.yolo.assign_anchor import Assignment
from boxwright.yolo.assign_wh_iou import assign_wh_iou
from boxwright.yolo.box_coding import BoxCoding, decode_boxes
from boxwright.yolo.focal import binary_cross_entropy
from boxwright.yolo.loss import LossOutput, SumOverRanks, alone, count_over_ranks, objectness_targets
from boxwright.yolo.pick import pick
from boxwright.yolo.settings import LossConfig

_IOU_EPS = 1e-16


def scale_gains_v3(config: LossConfig, *, num_classes: int, imgsz: int) -> LossConfig:
    """Gains for this number of classes and this image size; they are published for 80 and 320."""
    return config.model_copy(update={"obj": config.obj * imgsz / 320, "cls": config.cls * num_classes / 80})


class YoloV3Loss(nn.Module):
    """Criterion over raw maps; the total is the plain sum of the terms, not times the batch size.

    Args:
        anchors: (L, A, 2) anchor sizes in cells of each level.
        num_classes: C; with one class there is no class term.
        config: gains and options.
        imgsz: network input side for which the gains are scaled; None takes them as they are.
        coding: how the network's raw boxes are meant.
        over_ranks: sums over the processes that share a batch.
    """

    anchors: Tensor

    def __init__(
        self,
        anchors: Tensor,
        num_classes: int,
        config: LossConfig,
        imgsz: int | None = None,
        coding: BoxCoding = "v3",
        over_ranks: SumOverRanks = alone,
    ) -> None:
        super().__init__()
        if imgsz is not None:
            config = scale_gains_v3(config, num_classes=num_classes, imgsz=imgsz)
        self.config = config
        self.over_ranks = over_ranks
        self.coding: BoxCoding = coding
        self.num_classes = num_classes
        self.register_buffer("anchors", anchors.detach().clone().float(), persistent=False)

    def forward(self, raw: Sequence[Tensor], targets: Targets) -> LossOutput:
        """Loss of raw maps (B, A, ny, nx, 5 + C), one a level, against padded targets."""
        config = self.config
        with torch.autocast(device_type=raw[0].device.type, enabled=False):
            found = [
                assign_wh_iou(targets, anchors, (maps.shape[2], maps.shape[3]), config.iou_t)
                for anchors, maps in zip(self.anchors, raw, strict=True)
            ]
            sizes = count_over_ranks(found, raw[0].shape[0], self.over_ranks)
            terms = [
                self._level(maps, one, total, sizes.images)
                for maps, one, total in zip(raw, found, sizes.positives, strict=True)
            ]
            gains = torch.tensor((config.box, config.obj, config.cls), device=raw[0].device)
            part = torch.stack([torch.stack(term) for term in terms]).sum(dim=0) * gains
            return LossOutput(part.sum(), self.over_ranks(part.detach()))

    def _level(self, maps: Tensor, found: Assignment, total: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Box, objectness and class term of one level, before gains; `total` positives in all `images`."""
        config = self.config
        boxes, class_logits, objectness_logits = pick(maps, found)

        decoded = decode_boxes(boxes, found.anchor_sizes, self.coding)
        iou = elementwise_iou(decoded.T, found.boxes, config.iou_kind or "giou", eps=_IOU_EPS)
        box = ((1.0 - iou) * found.counts).sum() / total

        wanted = objectness_targets(maps.shape[:4], found, iou.detach().clamp(min=0), config.gr, config.sort_obj_iou)
        objectness = binary_cross_entropy(objectness_logits, wanted, config.obj_pw, config.fl_gamma).sum()
        objectness = objectness / (images * maps.shape[1:4].numel())
        if self.num_classes == 1:
            return box, objectness, box.new_zeros(())
        smooth = 0.5 * config.label_smoothing
        class_targets = torch.full_like(class_logits, smooth).scatter_(1, found.labels[:, None], 1.0 - smooth)
        bce = binary_cross_entropy(class_logits, class_targets, config.cls_pw, config.fl_gamma).sum(dim=1)
        return box, objectness, (bce * found.counts).sum() / (total * self.num_classes)
