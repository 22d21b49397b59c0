"""Evaluation of a YOLO: images to detections in original pixels to every metric. Drawing is elsewhere."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from boxwright.data.index import DataIndex
from boxwright.data.structures import Batch, Detections, Targets
from boxwright.engine import evaluate as loop
from boxwright.engine.evaluate import NO_SPEEDS, Gather, Speeds, Stages
from boxwright.engine.task import Autocast, ValWatch
from boxwright.metrics.coco import BoxEvaluator, CocoMetrics, CocoTruth
from boxwright.metrics.matching import ConfusionEvaluator, Generation
from boxwright.ops.arrays import Floats, Ints
from boxwright.ops.boxes import xyxy_from_cxcywh
from boxwright.settings.base import Compat
from boxwright.yolo.detection import Network
from boxwright.yolo.head import decode_above
from boxwright.yolo.loss import LossOutput
from boxwright.yolo.metric import YoloEvaluator, YoloMetrics
from boxwright.yolo.postprocess import YoloPostprocess
from boxwright.yolo.published import RELEASES
from boxwright.yolo.settings import RunConfig, ValConfig

Criterion = Callable[[list[Tensor], Targets], LossOutput]
Raw = tuple[list[Tensor], Tensor]  # raw maps, and rows of boxes


@dataclass(frozen=True, slots=True)
class ClassRow:
    """What is known about one class that has labels, or about all of them."""

    name: str
    num_images: int
    num_labels: int
    precision: float
    recall: float
    map50: float
    map: float
    coco_ap: float | None  # of one class; None where the COCO metric was not taken


@dataclass(frozen=True, slots=True)
class Evaluation(ClassRow):
    """Everything measured in one pass, as a row the mean of all classes.

    Numbers are finite also when nothing was found or nothing is labelled.
    """

    names: tuple[str, ...]  # class names of the data set
    yolo: YoloMetrics  # the published metric, its curves and counts
    coco_metrics: CocoMetrics | None  # if they were asked for
    confusion: Ints  # (C + 1, C + 1) counts; row: predicted, column: true, last: background
    per_class: tuple[ClassRow, ...]  # of the classes that have labels
    losses: tuple[float, ...] | None = None  # mean box, objectness and class loss, if a criterion was given
    speeds: Speeds = NO_SPEEDS

    @property
    def coco(self) -> Floats | None:
        """Return the 12 COCO numbers in their usual order."""
        return None if self.coco_metrics is None else self.coco_metrics.stats


def evaluate(
    model: Network,
    loader: Iterable[Batch],
    index: DataIndex,
    config: RunConfig | ValConfig,
    *,
    device: torch.device,
    autocast: Autocast = nullcontext,
    coco_truth: CocoTruth | None = None,
    criterion: Criterion | None = None,
    gather: Gather | None = None,
    watch: ValWatch[Batch, Detections] | None = None,
    on_unlabelled: Callable[[Batch, list[Detections]], None] | None = None,
) -> Evaluation:
    """Measure a model.

    Args:
        model: on `device`; it is in eval mode during the pass and left as it was.
        loader: batches of letterboxed images, every image of the index at most once.
        index: the labels, and what the classes are called; with `single_cls` as one class.
        config: thresholds of NMS; `single_cls`, where every detection is of the one class; and the release that the
            rules are of: NMS, whether a box may have several classes, whether boxes are rounded. Without one they are
            the model's, and the published metric is that of v6.1. With compat "fixed" it is that of v7.0 in any case
            (see `matching`), and all false positives count in the confusion matrix.
        device: where the network runs. Metrics run on the host.
        autocast: makes the context of the forward pass; float32 without.
        coco_truth: what the COCO metric is measured against; without it that metric is left out.
        criterion: gives losses of the raw maps, which are float32.
        gather: where several processes share the batches (image i of a batch goes to process i % n): hands what each of
            them found to one, which measures it as one process would; the others get an empty evaluation.
        watch: called before and after each batch.
        on_unlabelled: called with the detections that remain when the labels take part in NMS, see `suppress_labelled`.
    """
    release = RELEASES[config.release or model.release]
    faithful = RELEASES[config.release].validation.metric if config.release else "v6.1"
    metrics = _Metrics(index, config.compat, coco_truth, faithful if config.compat == "faithful" else "v7.0")
    rules, single = release.validation, config.single_cls
    postprocess = YoloPostprocess(
        score_threshold=config.conf_thres,
        iou_threshold=config.iou_thres,
        max_detections=config.max_det,
        multi_label=rules.multi_label,
        agnostic=single,
        rules=release.nms,
    )
    in_pixels = partial(to_original, single_cls=single, rounded=rules.rounded)

    def prepare(batch: Batch) -> Batch:
        ready = batch.to(device)
        return replace(ready, images=ready.images.float().div_(255))

    def forward(batch: Batch) -> Raw:
        with autocast():
            raw = model(batch.images)
        raw = [level.float() for level in raw]  # boxes and losses are float32 in any precision
        # In training all rows are decoded: the last bit of a sigmoid depends on its place in memory.
        return raw, model.decode(raw) if criterion else decode_above(model, raw, config.conf_thres)

    def detect(raw: Raw, batch: Batch) -> list[Detections]:
        if on_unlabelled is not None:
            on_unlabelled(batch, in_pixels(suppress_labelled(postprocess, raw[1], batch), batch))
        return in_pixels(postprocess(raw[1]), batch)

    losses = None if criterion is None else lambda raw, batch: criterion(raw[0], batch.targets).items
    # The loss divides by counts over all ranks, so that each rank computes it in each step, images or not.
    stages = Stages(prepare, forward, detect, losses, takes_empty=True)
    result, means, speeds = loop.evaluate(model, loader, stages, metrics, device=device, gather=gather, watch=watch)
    return replace(result, losses=means, speeds=speeds)


class _Metrics:
    """All evaluators of a pass as one."""

    def __init__(self, index: DataIndex, compat: Compat, coco_truth: CocoTruth | None, generation: Generation) -> None:
        self.index = index
        self.yolo = YoloEvaluator(index, generation)
        self.confusion = ConfusionEvaluator(index, generation, compat)
        self.coco = None if coco_truth is None else BoxEvaluator(index, coco_truth)
        self.seen: list[int] = []

    def process(self, detections: Sequence[Detections], indices: Sequence[int]) -> None:
        for evaluator in (self.yolo, self.confusion, self.coco):
            if evaluator is not None:
                evaluator.process(detections, indices)
        self.seen.extend(indices)

    def evaluate(self) -> Evaluation:
        """Reduce all metrics; losses and speeds are not known here."""
        index, metrics = self.index, self.yolo.evaluate()
        coco = None if self.coco is None else self.coco.evaluate()
        # An image with three cars counts once for cars: unique pairs of class and image.
        owner = np.repeat(np.arange(len(index)), np.diff(index.box_offsets))
        mine = np.isin(owner, self.seen)
        pairs = np.unique(np.stack((index.classes[mine].astype(np.int64), owner[mine])), axis=1)
        num_images = np.bincount(pairs[0], minlength=index.num_classes)
        rows = tuple(
            ClassRow(
                name=index.names[class_id],
                num_images=int(num_images[class_id]),
                num_labels=int(metrics.num_labels[row]),
                precision=float(metrics.precision[row]),
                recall=float(metrics.recall[row]),
                map50=float(metrics.ap[row, 0]),
                map=float(metrics.ap[row].mean()),
                coco_ap=None if coco is None else float(coco.ap_per_class[class_id]),
            )
            for row, class_id in enumerate(metrics.class_ids.tolist())
        )
        return Evaluation(
            name="all",
            num_images=len(self.seen),
            num_labels=int(metrics.num_labels.sum()),
            precision=metrics.mean_precision,
            recall=metrics.mean_recall,
            map50=metrics.map50,
            map=metrics.map,
            coco_ap=None,
            names=index.names,
            yolo=metrics,
            coco_metrics=coco,
            confusion=self.confusion.evaluate(),
            per_class=rows,
        )


def to_original(
    found: Sequence[Detections], batch: Batch, *, single_cls: bool = False, rounded: bool = False
) -> list[Detections]:
    """Move detections of a batch to the host and its boxes from network to original pixels, clipped to the image.

    One transfer and one set of operations for all images. Each axis has its own ratio, because a resized side is a
    whole number of pixels; the published system takes the vertical one for both, which moves x by half a pixel at most.
    """
    counts = torch.tensor([len(one) for one in found])
    rows = [torch.cat((one.boxes, one.scores[:, None], one.labels[:, None].to(one.boxes.dtype)), 1) for one in found]
    values = torch.cat(rows).cpu()
    image = torch.arange(len(found)).repeat_interleave(counts)
    scale, pad = (xy.flip(1).repeat(1, 2)[image] for xy in (batch.scales, batch.pads))
    limit = batch.original_sizes.flip(1).repeat(1, 2)[image].to(values.dtype)
    boxes = torch.minimum(((values[:, :4] - pad) / scale).clamp_(min=0), limit)
    if rounded:
        boxes = boxes.round()
    labels = values[:, 5].long()
    if single_cls:
        labels = torch.zeros_like(labels)
    parts = zip(*(part.split(counts.tolist()) for part in (boxes, values[:, 4], labels)), strict=True)
    return [Detections(*part) for part in parts]


_SAME = 0.01  # pixels: a label comes back from NMS with rounded corners


def suppress_labelled(postprocess: YoloPostprocess, decoded: Tensor, batch: Batch) -> list[Detections]:
    """Find the detections of each image that no label suppresses, in pixels of the network input.

    Source: published 6.x, whose validation hands the labels to NMS to write hybrid label files. Deviations: the files
    keep labels that suppress each other, and the metrics are those of the network alone.

    Args:
        postprocess: the NMS.
        decoded: (B, R, 5 + C), see `YoloPostprocess`.
        batch: images and labels, on the same device.
    """
    side = decoded.new_tensor((batch.images.shape[3], batch.images.shape[2])).repeat(2)
    targets = batch.targets
    known = [  # (n, 5) class, cxcywh in pixels, of each image
        torch.cat((labels[valid, None].to(boxes.dtype), boxes[valid] * side), dim=1)
        for boxes, labels, valid in zip(targets.boxes_cxcywh, targets.labels, targets.valid, strict=True)
    ]
    kept: list[Detections] = []
    for found, own in zip(postprocess(decoded, known), known, strict=True):
        # The labels come back as detections with a score of 1; all that is known of them is where they lie.
        apart = (found.boxes[:, None] - xyxy_from_cxcywh(own[:, 1:])).abs().amax(dim=2)
        is_known = ((apart < _SAME) & (found.labels[:, None] == own[:, 0])).any(dim=1)
        kept.append(Detections(found.boxes[~is_known], found.scores[~is_known], found.labels[~is_known]))
    return kept
