"""One pass of a model over validation batches: images to detections in original pixels to every metric.

What is not here: drawing and files (jobs/val.py, reporting).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from boxwright.data.index import DataIndex
from boxwright.data.structures import Batch, Detections, Targets
from boxwright.metrics.coco import CocoEvaluator, CocoMetrics, CocoTruth
from boxwright.metrics.confusion import ConfusionEvaluator
from boxwright.metrics.matching import Generation
from boxwright.metrics.protocol import Evaluator
from boxwright.settings.base import Compat
from boxwright.yolo.detection import Network
from boxwright.yolo.hybrid import besides_labels
from boxwright.yolo.loss import LossOutput
from boxwright.yolo.metric import Curves, YoloEvaluator, YoloMetrics
from boxwright.yolo.postprocess import YoloPostprocess
from boxwright.yolo.published import CURRENT, RELEASES, Release

Criterion = Callable[[list[Tensor], Targets], LossOutput]
OnBatch = Callable[[Batch, list[Detections]], None]
Found = tuple[list[int], list[Detections]]  # positions of the images of a batch, and what was found in each
Gather = Callable[[list[Found]], list[list[Found]]]


@dataclass(frozen=True, slots=True)
class Speeds:
    """Milliseconds an image of each stage: waiting for the loader, to the device and 0..1, network and decoding, NMS
    with the way back to original pixels, and the metrics."""

    load: float
    preprocess: float
    inference: float
    nms: float
    metrics: float


@dataclass(frozen=True, slots=True)
class ClassRow:
    """What is known about one class that has labels; `coco_ap` is None where the COCO metric was not taken."""

    name: str
    num_images: int
    num_labels: int
    precision: float
    recall: float
    map50: float
    map: float
    coco_ap: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything measured in one pass. Numbers are finite also when nothing was found or nothing is labelled.

    Args:
        names: class names of the data set.
        num_images: images seen.
        num_labels: labels of those.
        yolo: the published metric, its curves and counts.
        coco_metrics: the COCO metric, if it was asked for.
        confusion: (C + 1, C + 1) counts; row: predicted, column: true, last: background.
        losses: mean box, objectness and class loss of the batches, if a criterion was given.
        per_class: one row for each class that has labels.
        speeds: time of each stage.
    """

    names: tuple[str, ...]
    num_images: int
    num_labels: int
    yolo: YoloMetrics
    coco_metrics: CocoMetrics | None
    confusion: NDArray[np.int64]
    losses: tuple[float, float, float] | None
    per_class: tuple[ClassRow, ...]
    speeds: Speeds

    @property
    def precision(self) -> float:
        return self.yolo.mean_precision

    @property
    def recall(self) -> float:
        return self.yolo.mean_recall

    @property
    def map50(self) -> float:
        return self.yolo.map50

    @property
    def map(self) -> float:
        return self.yolo.map

    @property
    def curves(self) -> Curves:
        return self.yolo.curves

    @property
    def coco(self) -> NDArray[np.float64] | None:
        """The 12 COCO numbers in their usual order."""
        return None if self.coco_metrics is None else self.coco_metrics.stats


@dataclass(slots=True)
class Stopwatch:
    """Adds up seconds by stage; waits for a GPU so that its time is booked where it was spent."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """Book the time since the last lap."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now

    def speeds(self, num_images: int) -> Speeds:
        stages = ("load", "preprocess", "inference", "nms", "metrics")
        return Speeds(*(1000 * self.seconds.get(stage, 0.0) / max(num_images, 1) for stage in stages))


@torch.no_grad()
def evaluate(
    model: Network,
    loader: Iterable[Batch],
    index: DataIndex,
    *,
    device: torch.device,
    score_threshold: float = 0.001,
    iou_threshold: float = 0.6,
    max_detections: int = 300,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    single_cls: bool = False,
    compat: Compat = "faithful",
    coco_truth: CocoTruth | None = None,
    criterion: Criterion | None = None,
    gather: Gather | None = None,
    release: Release = RELEASES[CURRENT],
    generation: Generation | None = None,
    on_batch: OnBatch | None = None,
    on_besides: OnBatch | None = None,
) -> Evaluation:
    """Measure a model.

    Args:
        model: on `device`; it is in eval mode during the pass and left as it was.
        loader: batches of letterboxed images, every image of the index at most once.
        index: the labels, and what the classes are called.
        device: where the network runs. Metrics run on the host.
        score_threshold, iou_threshold, max_detections: of NMS.
        autocast: makes the context of the forward pass (engine/precision.py); float32 without.
        single_cls: every detection and label is of the one class.
        compat: "faithful" takes the published metric as of v6.1; "fixed" takes it as of v7.0 (see `matching`) and
            counts all false positives in the confusion matrix.
        coco_truth: what the COCO metric is measured against; without it that metric is left out.
        criterion: gives losses of the raw maps, which are float32.
        gather: where several processes share the batches (image i of a batch goes to process i % n): hands what each of
            them found to one, which measures it as one process would; the others get an empty evaluation.
        release: whose NMS it is, whether a box may have several classes, and whether boxes are rounded.
        generation: of the published metric, whatever compat says; None: as compat says.
        on_batch: called after each batch with the detections, on the host and in original pixels.
        on_besides: the same with those that remain when the labels take part in NMS, see `hybrid`.
    """
    index = index.as_single_class() if single_cls else index
    metrics = _Metrics(index, compat, coco_truth, generation or ("v6.1" if compat == "faithful" else "v7.0"))
    rules = release.validation
    postprocess = YoloPostprocess(
        score_threshold,
        iou_threshold,
        max_detections,
        multi_label=rules.multi_label,
        agnostic=single_cls,
        rules=release.nms,
    )
    in_pixels = partial(to_original, single_cls=single_cls, rounded=rules.rounded)
    losses: list[Tensor] = []
    kept: list[Found] = []
    watch = Stopwatch(device)
    with eval_mode(model):
        for batch in loader:
            watch.lap("load")
            on_device = batch.to(device)
            images = on_device.images.float().div_(255)
            watch.lap("preprocess")
            with autocast():
                raw = model(images)
            decoded = model.decode(raw := [level.float() for level in raw])
            watch.lap("inference")
            detections = in_pixels(postprocess(decoded), batch) if len(batch) else []
            watch.lap("nms")
            kept.append((batch.indices.tolist(), detections))
            if gather is None:
                metrics.process(*kept.pop())
            watch.lap("metrics")
            if criterion is not None:
                losses.append(criterion(raw, on_device.targets).items)
            if on_batch is not None:
                on_batch(batch, detections)
            if on_besides is not None:
                besides = besides_labels(postprocess, decoded, on_device)
                on_besides(batch, in_pixels(besides, batch))
            watch.lap("other")
    for found in in_order(gather(kept)) if gather is not None else ():
        metrics.process(*found)
    return metrics.evaluate(mean_losses(losses), watch)


def in_order(of_ranks: Sequence[Sequence[Found]]) -> Iterator[Found]:
    """The batches that one process would have found: image i of each lies with process i % n."""
    for shares in zip(*of_ranks, strict=True):
        places = [(row, rank) for rank, (indices, _) in enumerate(shares) for row in range(len(indices))]
        places.sort()
        yield [shares[rank][0][row] for row, rank in places], [shares[rank][1][row] for row, rank in places]


@contextmanager
def eval_mode(model: nn.Module) -> Generator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class _Metrics:
    """All evaluators of a pass as one."""

    def __init__(self, index: DataIndex, compat: Compat, coco_truth: CocoTruth | None, generation: Generation) -> None:
        self.index = index
        self.yolo = YoloEvaluator(index, generation)
        self.confusion = ConfusionEvaluator(index, generation, compat)
        self.coco = None if coco_truth is None else CocoEvaluator(index, coco_truth)
        self.seen: list[int] = []

    def process(self, indices: Sequence[int], detections: Sequence[Detections]) -> None:
        evaluators: tuple[Evaluator[object] | None, ...] = (self.yolo, self.confusion, self.coco)
        for evaluator in evaluators:
            if evaluator is not None:
                evaluator.process(detections, indices)
        self.seen.extend(indices)

    def evaluate(self, losses: tuple[float, float, float] | None, watch: Stopwatch) -> Evaluation:
        yolo, coco = self.yolo.evaluate(), None if self.coco is None else self.coco.evaluate()
        per_class = class_rows(self.index, self.seen, yolo, coco)
        confusion = self.confusion.evaluate()
        watch.lap("metrics")
        return Evaluation(
            names=self.index.names,
            num_images=len(self.seen),
            num_labels=int(yolo.num_labels.sum()),
            yolo=yolo,
            coco_metrics=coco,
            confusion=confusion,
            losses=losses,
            per_class=per_class,
            speeds=watch.speeds(len(self.seen)),
        )


def to_original(
    found: Sequence[Detections], batch: Batch, *, single_cls: bool = False, rounded: bool = False
) -> list[Detections]:
    """Bring detections of a batch to the host and its boxes from network to original pixels, clipped to the image.

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


def class_rows(
    index: DataIndex, images: Sequence[int], metrics: YoloMetrics, coco: CocoMetrics | None
) -> tuple[ClassRow, ...]:
    """The table of classes that have labels in the images seen."""
    owner = np.repeat(np.arange(len(index)), np.diff(index.box_offsets))
    mine = np.isin(owner, images)
    pairs = np.unique(np.stack((index.classes[mine].astype(np.int64), owner[mine])), axis=1)
    num_images = np.bincount(pairs[0], minlength=index.num_classes)
    return tuple(
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


def mean_losses(items: Sequence[Tensor]) -> tuple[float, float, float] | None:
    """Mean of (3,) losses over batches, as published; None without any."""
    if not items:
        return None
    box, objectness, classes = torch.stack(list(items)).float().mean(dim=0).tolist()
    return box, objectness, classes
