"""The published detection losses of YOLOv5 and YOLOv3-SPP: box overlap, objectness and class BCE, summed over levels.

`make_criterion` takes the loss of a release. What the releases of YOLOv5 do differently is in published.py; the loss of
YOLOv3-SPP is a formula of its own, `YoloV3Loss`. Shapes are static and nothing waits for the device, so the step can be
compiled; only on the CPU, not compiled, candidates that do not count are left out.

Every term is a mean: over the positives of a level, or over the cells of all images; with `reduction` sum it is the
sum. Where several processes share a
batch, each adds up its own part and divides by the count of all, so that the parts of all processes add up to what one
process would have found; that is also true of their gradients.

Source: YOLOv5 as published (docs/spec/yolov5.md, B4); YOLOv3-SPP as published (docs/spec/yolov3-spp.md, A5); YOLOv3:
Redmon and Farhadi, 2018 (arXiv:1804.02767); focal loss: Lin et al., 2017 (arXiv:1708.02002).

Legend: B images, A anchors a level, C classes, K candidates of a level (assignment.py).
"""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from boxwright.data.structures import Targets
from boxwright.errors import UserError
from boxwright.ops.boxes import IouKind, elementwise_iou
from boxwright.yolo.assignment import Assignment, assign, assign_wh_iou
from boxwright.yolo.detection import YOLOV3_BOXES, YOLOV5_BOXES, BoxCoding, DetectionModel
from boxwright.yolo.published import RELEASES, V3, LossRules
from boxwright.yolo.settings import LossConfig

# Of side to anchor, up to 1000, in v3's loss. The logarithm is limited, not the side: the gradient stays finite.
_LARGEST_LOG_RATIO = math.log(1e3)


def decode_boxes(raw_boxes: Tensor, anchor_sizes: Tensor, coding: BoxCoding) -> Tensor:
    """Decode boxes (4, K) in cells, centre relative to the candidate's cell, from raw (4, K) and anchors (2, K).

    Args:
        coding: how the raw boxes of this level are meant.
    """
    sigmoid = (raw_boxes if coding.squared else raw_boxes[:2]).sigmoid()
    centres = sigmoid[:2] * coding.scale_xy - (coding.scale_xy - 1) / 2
    ratios = (sigmoid[2:] * 2).square() if coding.squared else raw_boxes[2:].clamp(max=_LARGEST_LOG_RATIO).exp()
    return torch.cat((centres, ratios * anchor_sizes))


FOCAL_ALPHA = 0.25


def binary_cross_entropy(logits: Tensor, targets: Tensor, positive_weight: float = 1.0, gamma: float = 0.0) -> Tensor:
    """Compute element-wise BCE of float32 logits against targets in 0..1, which get no gradient.

    Args:
        positive_weight: weight of the positive part.
        gamma: focal exponent; 0 gives plain BCE without the alpha weights.
    """
    if gamma == 0:
        return _BinaryCrossEntropy.apply(logits, targets, positive_weight)
    return focal_loss(logits, targets, gamma, positive_weight=positive_weight, reduction="none")


def focal_loss(
    logits: Tensor,
    targets: Tensor,
    gamma: float = 1.5,
    alpha: float = FOCAL_ALPHA,
    *,
    positive_weight: float = 1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Tensor:
    """Compute the focal loss of float32 logits against targets in 0..1, which get no gradient.

    Args:
        gamma: exponent that weighs down what is known well.
        alpha: weight of targets of 1; those of 0 have 1 - alpha.
        positive_weight: weight of the positive part of the cross-entropy.
        reduction: mean or sum of all elements, or each of them.

    Source: Lin et al., 2017 (arXiv:1708.02002), equation 5, for targets between 0 and 1 as published for YOLO.
    """
    if reduction not in ("mean", "sum", "none"):
        raise UserError(f"focal_loss: the reduction is mean, sum or none, not {reduction!r}")
    loss: Tensor = _BinaryCrossEntropy.apply(logits, targets, positive_weight)
    probability = torch.sigmoid(logits)
    agreement = targets * probability + (1 - targets) * (1 - probability)
    weights = targets * alpha + (1 - targets) * (1 - alpha)
    loss = loss * weights * (1.0 - agreement) ** gamma
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


class _BinaryCrossEntropy(torch.autograd.Function):
    """PyTorch's own calls log1p, which has no vector form on the CPU and took 15 % of a training step.

    With softplus(-x) = softplus(x) - x: w t softplus(-x) + (1 - t) softplus(x) = (1 + (w - 1) t) softplus(x) - w t x.
    The value is off by up to half an ulp of 1 (6e-8); the gradient is exact.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, targets: Tensor, weight: float) -> Tensor:
        ctx.save_for_backward(x, targets)
        ctx.weight = weight
        softplus = x.abs().neg_().exp_().add_(1).log_().add_(x.clamp(min=0))
        if weight != 1:
            softplus.mul_(1 + (weight - 1) * targets)
        return softplus.addcmul_(targets, x, value=-weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        x, targets = ctx.saved_tensors
        gradient = x.sigmoid()
        if ctx.weight != 1:
            gradient.mul_(1 + (ctx.weight - 1) * targets)
        return gradient.sub_(targets, alpha=ctx.weight).mul_(grad_outputs[0]), None, None


def pick(maps: Tensor, found: Assignment) -> tuple[Tensor, Tensor, Tensor]:
    """Pick what the loss reads of a raw map (B, A, ny, nx, 5 + C), in float32 whatever the network ran in.

    Returns:
        (4, K) box and (K, C) class predictions of the candidates, and (B, A, ny, nx) objectness of every cell; all raw.
    """
    return _Pick.apply(maps, found.images, found.anchors, found.rows, found.columns)


class _Pick(torch.autograd.Function):
    """Indexing whose backward fills one gradient in the memory layout of the map.

    Plain indexing and slicing makes a full map for the rows and another for the objectness, adds them, and hands the
    head a gradient that is not channels_last: 8 % of a bf16 step.
    """

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, images: Tensor, anchors: Tensor, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(maps, images, anchors, rows, columns)
        candidates = maps[images, anchors, rows, columns]
        boxes, classes, objectness = candidates[:, :4].T, candidates[:, 5:], maps[..., 4]
        return _float32(boxes), _float32(classes), _float32(objectness)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None]:
        maps, *place = ctx.saved_tensors
        of_boxes, of_classes, of_objectness = grad_outputs
        of_candidates = maps.new_zeros((of_boxes.shape[1], maps.shape[-1]))
        of_candidates[:, :4] = of_boxes.T
        of_candidates[:, 5:] = of_classes
        gradient = torch.zeros_like(maps)  # keeps the strides
        # index_put_ adds in a fixed order, on the GPU too, where scatter_add_ would not.
        with _fixed_order(gradient):
            gradient.index_put_(place, of_candidates, accumulate=True)
        gradient[..., 4] += of_objectness
        return gradient, None, None, None, None


@contextmanager
def _fixed_order(sums: Tensor) -> Generator[None]:
    """Let index_put_ add with one thread: several threads of a CPU add float32 in whatever order they come."""
    if sums.device.type != "cpu" or torch.compiler.is_compiling():
        yield
        return
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(1)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


def _float32(x: Tensor) -> Tensor:
    """Make a contiguous float32 copy in any case: what a Function returns must not be a view of its input."""
    return x.to(torch.float32, memory_format=torch.contiguous_format, copy=True)


_AUTOBALANCE_RATE = 0.0001
_MANY_LEVELS = 4
REFERENCE_STRIDE = 16  # autobalance keeps this level's weight at 1

SumOverRanks = Callable[[Tensor], Tensor]  # gives the sum of a tensor of counts or values over all processes


def alone(values: Tensor) -> Tensor:
    """Return the sum over one process."""
    return values


@dataclass(frozen=True, slots=True)
class LossOutput:
    total: Tensor  # scalar with gradient, sum of the terms, of means times the batch size; this process's part
    items: Tensor  # (3,) detached box, objectness and class terms, each with its gain; of all processes


def scale_gains(
    config: LossConfig, *, num_layers: int, num_classes: int, imgsz: int, rules: LossRules = LossRules()
) -> LossConfig:
    """Scale gains for this number of levels, classes and this image size; they are published for 3, 80 and 640."""
    gains = _by_level(config, rules.per_level_in_run, num_layers)
    gains["cls"] *= num_classes / 80
    if rules.objectness_by_area:
        gains["obj"] *= (imgsz / 640) ** 2
    return config.model_copy(update=gains)


def _by_level(config: LossConfig, which: Sequence[str], num_layers: int) -> dict[str, float]:
    """Return the three gains, some of them for a network of this many levels."""
    gains = {"box": config.box, "cls": config.cls, "obj": config.obj}
    return {name: gain * (3 / num_layers if name in which else 1.0) for name, gain in gains.items()}


class LevelTerms(nn.Module):
    """What the losses of all releases share: the box, objectness and class term of a level, before gains."""

    anchors: Tensor  # (L, A, 2) sizes in cells of each level
    iou_kind: IouKind  # overlap measure of the box term where the settings name none
    iou_eps: float

    def __init__(
        self,
        anchors: Tensor,
        num_classes: int,
        config: LossConfig,
        codings: Sequence[BoxCoding],
        over_ranks: SumOverRanks,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes  # with one class there is no class term
        self.config = config
        self.codings = tuple(codings)  # how the network's raw boxes of each level are meant
        self.over_ranks = over_ranks  # sums over the processes that share a batch
        self.register_buffer("anchors", anchors.detach().clone().float(), persistent=False)

    def terms(self, raw: Sequence[Tensor], found: Sequence[Assignment]) -> tuple[list[Tensor], Tensor]:
        """Compute the three terms (3,) of each level, and the number of images in all processes."""
        counts = [one.counts.sum() for one in found]
        # What the means are taken over, in all processes that share the batch: one sum of a few numbers.
        everywhere = self.over_ranks(torch.stack((*counts, torch.full_like(counts[0], raw[0].shape[0]))))
        images, totals = everywhere[-1], everywhere[:-1].clamp(min=1).unbind()
        if self.config.reduction == "sum":
            totals = [torch.ones_like(total) for total in totals]
        if counts[0].device.type == "cpu" and not torch.compiler.is_compiling():
            # The CPU need not wait to know how many count: a quarter of them at 20 labels an image. The gradient keeps
            # its bits; the loss with its gradient takes 0.6 of the time, which was 6 % of a bf16 step at 320 px.
            found = [one.compacted() for one in found]
        levels = zip(raw, found, self.codings, totals, strict=True)
        return [torch.stack(self.level_terms(*level, images)) for level in levels], images

    def level_terms(
        self, maps: Tensor, found: Assignment, coding: BoxCoding, total: Tensor, images: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute box, objectness and class term of one level with `total` positives in all `images`."""
        config = self.config
        boxes, class_logits, objectness_logits = pick(maps, found)

        decoded = decode_boxes(boxes, found.anchor_sizes, coding)
        iou = elementwise_iou(decoded.T, found.boxes, config.iou_kind or self.iou_kind, eps=self.iou_eps)
        box = ((1.0 - iou) * found.counts).sum() / total

        wanted = objectness_targets(maps.shape[:4], found, iou.detach().clamp(min=0), config.gr, config.sort_obj_iou)
        objectness = binary_cross_entropy(objectness_logits, wanted, config.obj_pw, config.fl_gamma).sum()
        if config.reduction == "mean":
            # Over all cells of the whole batch, not of this process's images: the parts then add up.
            objectness = objectness / (images * maps.shape[1:4].numel())
        if self.num_classes == 1:
            return box, objectness, box.new_zeros(())
        smooth = 0.5 * config.label_smoothing
        class_targets = torch.full_like(class_logits, smooth).scatter_(1, found.labels[:, None], 1.0 - smooth)
        bce = binary_cross_entropy(class_logits, class_targets, config.cls_pw, config.fl_gamma).sum(dim=1)
        cls = (bce * found.counts).sum()
        return box, objectness, cls if config.reduction == "sum" else cls / (total * self.num_classes)


class YoloLoss(LevelTerms):
    """Criterion over raw maps, after the rules of a release.

    Args:
        strides: pixels a cell of each level, in any order.
        imgsz: network input side for which the gains are scaled; None takes them as they are.
    """

    balance: Tensor  # (L,) weights of objectness

    def __init__(
        self,
        anchors: Tensor,
        strides: Sequence[int],
        num_classes: int,
        config: LossConfig,
        imgsz: int | None = None,
        codings: Sequence[BoxCoding] = (),
        rules: LossRules = LossRules(),
        over_ranks: SumOverRanks = alone,
    ) -> None:
        num_layers = len(strides)
        if imgsz is not None:
            config = scale_gains(config, num_layers=num_layers, num_classes=num_classes, imgsz=imgsz, rules=rules)
        gains = _by_level(config, rules.per_level_in_loss, num_layers)
        gains["obj"] *= rules.objectness_of_more if num_layers >= _MANY_LEVELS else 1.0
        codings = codings or (YOLOV5_BOXES,) * num_layers
        super().__init__(anchors, num_classes, config.model_copy(update=gains), codings, over_ranks)
        self.rules, self.iou_kind, self.iou_eps = rules, rules.iou_kind, rules.iou_eps
        # The weights are listed finest level first, while a yaml may list its levels in either order.
        published = rules.balance_3 if num_layers == 3 else rules.balance_more[:num_layers]
        by_stride = [published[sorted(strides).index(stride)] for stride in strides]
        self.register_buffer("balance", torch.tensor(by_stride))
        strides = list(strides)
        self.reference_level = strides.index(REFERENCE_STRIDE) if config.autobalance else 0

    def forward(self, raw: Sequence[Tensor], targets: Targets) -> LossOutput:
        """Compute the loss of raw maps (B, A, ny, nx, 5 + C), one a level, against padded targets."""
        with torch.autocast(device_type=raw[0].device.type, enabled=False):
            found = [
                assign(
                    *(targets, anchors, maps.shape[2:4], self.config.anchor_t),
                    twice=self.rules.border_counts_twice,
                    style=self.config.assign,
                )
                for anchors, maps in zip(self.anchors, raw, strict=True)
            ]
            terms, images = self.terms(raw, found)
            part = torch.stack(terms, dim=1)  # (3, L)
            # The gradient needs this process's part alone; autobalance and the log need the terms of the whole batch.
            whole = self.over_ranks(part.detach())
            balance = self.balance.clone()  # a copy: autobalance writes in place
            if self.config.autobalance and self.training:
                # Each level's weight follows the inverse of its loss, slowly; that of the reference level stays 1.
                moved = self.balance * (1 - _AUTOBALANCE_RATE) + _AUTOBALANCE_RATE / whole[1]
                self.balance.copy_(moved / moved[self.reference_level])
        total = self._items(part, balance).sum()
        return LossOutput(total if self.config.reduction == "sum" else total * images, self._items(whole, balance))

    def _items(self, terms: Tensor, balance: Tensor) -> Tensor:
        """Sum terms (3, L) to (3,) with their gains."""
        config, (box, objectness, cls) = self.config, terms
        return torch.stack((box.sum() * config.box, (objectness * balance).sum() * config.obj, cls.sum() * config.cls))


def objectness_targets(shape: torch.Size, found: Assignment, iou: Tensor, gr: float, best_wins: bool) -> Tensor:
    """Make the objectness target (B, A, ny, nx): the overlap at assigned cells, 0 elsewhere.

    Of several candidates in one cell the last of the published list wins, or the best overlap with best_wins: the cell
    keeps the largest rank, which is the same on every device and in every order of execution.
    """
    _, num_anchors, height, width = shape
    cell = ((found.images * num_anchors + found.anchors) * height + found.rows) * width + found.columns
    rank = found.order
    if best_wins:
        place = torch.arange(1, iou.shape[0] + 1, device=iou.device)
        rank = torch.empty_like(place).scatter_(0, iou.argsort(stable=True), place)
    # Padded candidates get rank 0, below every real one, so that shapes stay static without a boolean index.
    rank = torch.where(found.counts > 0, rank, 0)
    highest = torch.zeros(shape.numel(), dtype=torch.int64, device=iou.device)
    highest = highest.scatter_reduce(0, cell, rank, reduce="amax")
    wins = (rank > 0) & (rank == highest[cell])
    scores = torch.where(wins, (1.0 - gr) + gr * iou, 0.0)
    return torch.zeros(shape.numel(), device=iou.device).scatter_add(0, cell, scores).view(shape)  # one winner a cell


def scale_gains_v3(config: LossConfig, *, num_classes: int, imgsz: int) -> LossConfig:
    """Scale gains for this number of classes and this image size; they are published for 80 and 320."""
    return config.model_copy(update={"obj": config.obj * imgsz / 320, "cls": config.cls * num_classes / 80})


class YoloV3Loss(LevelTerms):
    """Criterion over raw maps; the total is the plain sum of the terms, not times the batch size.

    Args:
        imgsz: network input side for which the gains are scaled; None takes them as they are.
    """

    gains: Tensor  # (3,) of box, objectness and class term
    iou_kind = "giou"
    iou_eps = 1e-16  # as published; the overlap of float32 boxes of some cells does not feel it

    def __init__(
        self,
        anchors: Tensor,
        num_classes: int,
        config: LossConfig,
        imgsz: int | None = None,
        codings: Sequence[BoxCoding] = (),
        over_ranks: SumOverRanks = alone,
    ) -> None:
        if imgsz is not None:
            config = scale_gains_v3(config, num_classes=num_classes, imgsz=imgsz)
        super().__init__(anchors, num_classes, config, codings or (YOLOV3_BOXES,) * len(anchors), over_ranks)
        # A buffer: made in each step, it would be copied from the host, which a GPU waits for.
        self.register_buffer("gains", torch.tensor((config.box, config.obj, config.cls)), persistent=False)

    def forward(self, raw: Sequence[Tensor], targets: Targets) -> LossOutput:
        """Compute the loss of raw maps (B, A, ny, nx, 5 + C), one a level, against padded targets."""
        with torch.autocast(device_type=raw[0].device.type, enabled=False):
            found = [
                assign_wh_iou(targets, anchors, maps.shape[2:4], self.config.iou_t)
                for anchors, maps in zip(self.anchors, raw, strict=True)
            ]
            terms, _ = self.terms(raw, found)
            part = torch.stack(terms).sum(dim=0) * self.gains
            return LossOutput(part.sum(), self.over_ranks(part.detach()))


def check_criterion(model: DetectionModel, config: LossConfig) -> None:
    """Refuse options that the loss of this network does not have, before anything is done.

    Raises:
        UserError: there is nothing that autobalance could move, or no neighbour cell that `assign` could choose.
    """
    is_v3 = (config.recipe or model.release) == V3
    if is_v3 and config.assign != "rect4":
        raise UserError(f"--loss.assign {config.assign}: the loss of YOLOv3-SPP assigns a label to its own cell alone")
    if not config.autobalance:
        return
    if is_v3:
        raise UserError("--loss.autobalance: the loss of YOLOv3-SPP has no weights of levels that could be balanced")
    if REFERENCE_STRIDE not in model.strides:
        raise UserError(
            f"--loss.autobalance holds the level of stride {REFERENCE_STRIDE} fixed; this model has only the strides "
            + ", ".join(map(str, model.strides))
        )


def make_criterion(
    model: DetectionModel, config: LossConfig, imgsz: int | None = None, over_ranks: SumOverRanks = alone
) -> YoloLoss | YoloV3Loss:
    """Make the loss of a release, that of the network where the settings name none.

    Args:
        imgsz: network input side for which the gains are scaled; None takes them as they are.
    """
    # Boxes are read as the network means them, whatever the release.
    rules = RELEASES[config.recipe or model.release].loss
    if rules is None:
        return YoloV3Loss(model.anchors, model.num_classes, config, imgsz, model.box_codings, over_ranks)
    return YoloLoss(
        model.anchors, model.strides, model.num_classes, config, imgsz, model.box_codings, rules, over_ranks
    )
