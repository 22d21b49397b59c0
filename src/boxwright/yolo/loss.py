"""The published YOLOv5 detection loss: box overlap, objectness and class BCE, summed over levels.

Source: YOLOv5 as published (spec B4); what its releases do differently is in published.py. Shapes are static and
nothing waits for the device, so the step can be compiled.

Every term is a mean: over the positives of a level, or over the cells of all images. Where several processes share a
batch, each adds up its own part and divides by the count of all, so that the parts of all processes add up to what one
process would have found; that is also true of their gradients.

Legend: B images, A anchors a level, C classes, K candidates of a level (losses/assign_anchor.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from boxwright.data.structures import Targets
from boxwright.ops.boxes import elementwise_iou
from boxwright.yolo.assign_anchor import Assignment, assign
from boxwright.yolo.box_coding import BoxCoding, decode_boxes
from boxwright.yolo.focal import binary_cross_entropy
from boxwright.yolo.pick import pick
from boxwright.yolo.published import LossRules
from boxwright.yolo.settings import LossConfig

_AUTOBALANCE_RATE = 0.0001
_MANY_LEVELS = 4
REFERENCE_STRIDE = 16  # autobalance keeps this level's weight at 1

SumOverRanks = Callable[[Tensor], Tensor]  # gives the sum of a tensor of counts or values over all processes


def alone(values: Tensor) -> Tensor:
    """The sum over one process."""
    return values


@dataclass(frozen=True, slots=True)
class LossOutput:
    """Args:
    total: scalar with gradient, sum of the terms times the batch size, as published; this process's part of it.
    items: (3,) detached box, objectness and class terms, each with its gain; of all processes.
    """

    total: Tensor
    items: Tensor


def scale_gains(
    config: LossConfig, *, num_layers: int, num_classes: int, imgsz: int, rules: LossRules = LossRules()
) -> LossConfig:
    """Gains for this number of levels, classes and this image size; they are published for 3, 80 and 640."""
    gains = _by_level(config, rules.per_level_outside, num_layers)
    gains["cls"] *= num_classes / 80
    if rules.objectness_by_area:
        gains["obj"] *= (imgsz / 640) ** 2
    return config.model_copy(update=gains)


def _by_level(config: LossConfig, which: Sequence[str], num_layers: int) -> dict[str, float]:
    """The three gains, some of them for a network of this many levels."""
    gains = {"box": config.box, "cls": config.cls, "obj": config.obj}
    return {name: gain * (3 / num_layers if name in which else 1.0) for name, gain in gains.items()}


class YoloLoss(nn.Module):
    """Criterion over raw maps.

    Args:
        anchors: (L, A, 2) anchor sizes in cells of each level.
        strides: pixels a cell of each level, in any order.
        num_classes: C; with one class there is no class term.
        config: gains and options.
        imgsz: network input side for which the gains are scaled; None takes them as they are.
        coding: how the network's raw boxes are meant.
        rules: of a release.
    over_ranks: sums over the processes that share a batch.
    """

    balance: Tensor
    anchors: Tensor

    def __init__(
        self,
        anchors: Tensor,
        strides: Sequence[int],
        num_classes: int,
        config: LossConfig,
        imgsz: int | None = None,
        coding: BoxCoding = "v5",
        rules: LossRules = LossRules(),
        over_ranks: SumOverRanks = alone,
    ) -> None:
        super().__init__()
        num_layers = len(strides)
        if imgsz is not None:
            config = scale_gains(config, num_layers=num_layers, num_classes=num_classes, imgsz=imgsz, rules=rules)
        gains = _by_level(config, rules.per_level_inside, num_layers)
        gains["obj"] *= rules.objectness_of_more if num_layers >= _MANY_LEVELS else 1.0
        self.config = config.model_copy(update=gains)
        self.rules = rules
        self.over_ranks = over_ranks
        self.coding: BoxCoding = coding
        self.num_classes = num_classes
        published = rules.balance_3 if num_layers == 3 else rules.balance_more[:num_layers]
        by_stride = [published[sorted(strides).index(stride)] for stride in strides]
        self.register_buffer("balance", torch.tensor(by_stride))
        self.register_buffer("anchors", anchors.detach().clone().float(), persistent=False)
        strides = list(strides)
        self.reference_level = strides.index(REFERENCE_STRIDE) if config.autobalance else 0

    def forward(self, raw: Sequence[Tensor], targets: Targets) -> LossOutput:
        """Loss of raw maps (B, A, ny, nx, 5 + C), one a level, against padded targets."""
        with torch.autocast(device_type=raw[0].device.type, enabled=False):
            found = [self._assign(level, maps, targets) for level, maps in enumerate(raw)]
            sizes = count_over_ranks(found, raw[0].shape[0], self.over_ranks)
            terms = [
                self._level(maps, one, total, sizes.images)
                for maps, one, total in zip(raw, found, sizes.positives, strict=True)
            ]
            part = torch.stack([torch.stack(term) for term in terms], dim=1)  # (3, L)
            whole = self.over_ranks(part.detach())
            balance = self.balance.clone()  # a copy: autobalance writes in place
            if self.config.autobalance and self.training:
                self._rebalance(whole[1])
        return LossOutput(self._items(part, balance).sum() * sizes.images, self._items(whole, balance))

    def _items(self, terms: Tensor, balance: Tensor) -> Tensor:
        """Terms (3, L) to (3,) with their gains."""
        config, (box, objectness, cls) = self.config, terms
        return torch.stack((box.sum() * config.box, (objectness * balance).sum() * config.obj, cls.sum() * config.cls))

    def _assign(self, level: int, maps: Tensor, targets: Targets) -> Assignment:
        return assign(
            targets,
            self.anchors[level],
            (maps.shape[2], maps.shape[3]),
            self.config.anchor_t,
            border_counts_twice=self.rules.border_counts_twice,
        )

    def _level(self, maps: Tensor, found: Assignment, total: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Box, objectness and class term of one level, before gains; `total` positives in all `images`."""
        config = self.config
        boxes, class_logits, objectness_logits = pick(maps, found)

        decoded = decode_boxes(boxes, found.anchor_sizes, self.coding)
        kind = config.iou_kind or self.rules.iou_kind
        iou = elementwise_iou(decoded.T, found.boxes, kind, eps=self.rules.iou_eps)
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

    def _rebalance(self, level_objectness: Tensor) -> None:
        """Let each level's weight follow the inverse of its loss."""
        balance = self.balance * (1 - _AUTOBALANCE_RATE) + _AUTOBALANCE_RATE / level_objectness
        self.balance.copy_(balance / balance[self.reference_level])


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """Args:
    positives: one scalar a level, at least 1.
    images: scalar.
    """

    positives: tuple[Tensor, ...]
    images: Tensor


def count_over_ranks(found: Sequence[Assignment], num_images: int, over_ranks: SumOverRanks) -> BatchCounts:
    """What the means of a batch are taken over, in all processes that share it: one sum of a few numbers."""
    counts = [one.counts.sum() for one in found]
    everywhere = over_ranks(torch.stack((*counts, torch.full_like(counts[0], num_images))))
    return BatchCounts(everywhere[:-1].clamp(min=1).unbind(), everywhere[-1])


def objectness_targets(shape: torch.Size, found: Assignment, iou: Tensor, gr: float, best_wins: bool) -> Tensor:
    """Objectness target (B, A, ny, nx): the overlap at assigned cells, 0 elsewhere.

    Of several candidates in one cell the last of the published list wins, or the best overlap with best_wins: the cell
    keeps the largest rank, which is the same on every device and in every order of execution.
    """
    _, num_anchors, height, width = shape
    cell = ((found.images * num_anchors + found.anchors) * height + found.rows) * width + found.columns
    rank = found.order
    if best_wins:
        place = torch.arange(1, iou.shape[0] + 1, device=iou.device)
        rank = torch.empty_like(place).scatter_(0, iou.argsort(stable=True), place)
    rank = torch.where(found.counts > 0, rank, 0)
    highest = torch.zeros(shape.numel(), dtype=torch.int64, device=iou.device)
    highest = highest.scatter_reduce(0, cell, rank, reduce="amax")
    wins = (rank > 0) & (rank == highest[cell])
    scores = torch.where(wins, (1.0 - gr) + gr * iou, 0.0)
    return torch.zeros(shape.numel(), device=iou.device).scatter_add(0, cell, scores).view(shape)  # one winner a cell
