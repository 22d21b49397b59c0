"""Evaluation of CenterFusion on a split: heads, detections, boxes in the global frame, metric."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from boxwright.centerfusion.losses import CenterLoss
from boxwright.centerfusion.postprocess import detect, run_network
from boxwright.centerfusion.structures import Batch3d, RawHeads
from boxwright.engine.evaluate import NO_SPEEDS, Gather, Speeds, Stages, evaluate
from boxwright.engine.task import Autocast, ValWatch
from boxwright.nuscenes.metric import NuscenesMetrics
from boxwright.nuscenes.metric import evaluate as evaluate_boxes
from boxwright.nuscenes.split import NuscenesSplit
from boxwright.nuscenes.structures import Detections3d, GlobalBoxes
from boxwright.nuscenes.submission import to_global


@dataclass(frozen=True, slots=True)
class DecodeSettings:
    """From raw heads to what is submitted."""

    num_peaks: int = 100  # per image
    score_threshold: float = -1.0  # scores are higher
    flip_test: bool = False  # look at each image and its mirror image
    radar: bool = True  # the network has a radar input
    iou_threshold: float = 0.0  # of bird's-eye suppression; 0: none
    fixed: bool = False  # submit the true height (`compat: fixed`)


@dataclass(frozen=True, slots=True)
class FusionEvaluation:
    """What one pass gave."""

    metrics: NuscenesMetrics | None  # None for a split without annotations
    predictions: GlobalBoxes  # at most 500 boxes per key frame, global frame
    losses: tuple[float, ...] | None = None  # mean over batches, if a criterion was given
    speeds: Speeds = NO_SPEEDS


def measure(split: NuscenesSplit, found: GlobalBoxes) -> NuscenesMetrics:
    """Measure boxes by the annotations of a split."""
    return evaluate_boxes(split.ground_truth(), found, split.ego_positions(), split.bike_racks())


@dataclass(slots=True)
class NuscenesEvaluator:
    """Gathers detections of a split; `evaluate` gives them in the global frame, and the nuScenes metric."""

    split: NuscenesSplit
    settings: DecodeSettings
    measures: bool = True  # take the metric, if there are annotations
    shared: bool = False  # only where detections were handed in
    indices: list[int] = field(default_factory=list[int])
    detections: list[Detections3d] = field(default_factory=list[Detections3d])

    def process(self, detections: Sequence[Detections3d], indices: Sequence[int]) -> None:
        """Take the detections of images."""
        self.indices += indices
        self.detections += detections

    def evaluate(self) -> FusionEvaluation:
        """Merge the cameras of each key frame and measure."""
        records = [self.split.record(position) for position in self.indices]
        fixed, iou_threshold = self.settings.fixed, self.settings.iou_threshold
        found = to_global(self.detections, records, fixed=fixed, iou_thresh=iou_threshold)
        measures = self.measures and self.split.has_annotations and (self.indices or not self.shared)
        return FusionEvaluation(measure(self.split, found) if measures else None, found)


def evaluate_fusion(
    model: nn.Module,
    loader: Iterable[Batch3d],
    split: NuscenesSplit,
    *,
    device: torch.device,
    settings: DecodeSettings,
    autocast: Autocast = nullcontext,
    criterion: CenterLoss | None = None,
    gather: Gather | None = None,
    watch: ValWatch[Batch3d, Detections3d] | None = None,
    measures: bool = True,
) -> FusionEvaluation:
    """Detect on a split and measure it, see `engine.evaluate` for what is not named here.

    Args:
        settings: of decoding.
        autocast: makes the context of the forward pass; float32 without.
        criterion: gives losses.
        measures: take the metric; else only detect.
    """

    def forward(batch: Batch3d) -> RawHeads:
        """Compute the raw heads of a batch."""
        radar = batch.radar if settings.radar else None
        with autocast():
            return run_network(model, batch.images, radar, batch.calibs, flip_test=settings.flip_test)

    stages = Stages(
        prepare=lambda batch: batch.to(device),
        forward=forward,
        detect=lambda heads, batch: detect(
            heads, batch.image_from_grid, batch.calibs, settings.num_peaks, settings.score_threshold, settings.radar
        ),
        losses=None if criterion is None else lambda heads, batch: criterion(heads, batch.targets)[1],
    )
    evaluator = NuscenesEvaluator(split, settings, measures=measures, shared=gather is not None)
    result, mean_losses, speeds = evaluate(model, loader, stages, evaluator, device=device, gather=gather, watch=watch)
    return replace(result, losses=mean_losses, speeds=speeds)
