"""Evaluation of CenterFusion on a split: heads, detections, boxes in the global frame, metric."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from boxwright.centerfusion.losses import CenterLoss
from boxwright.centerfusion.postprocess import decode, run_network, to_detections
from boxwright.centerfusion.structures import Batch3d, RawHeads
from boxwright.engine.evaluate import NO_SPEEDS, Gather, Speeds, Stages, evaluate
from boxwright.engine.task import Autocast, ValWatch
from boxwright.nuscenes.metric import NuscenesMetrics
from boxwright.nuscenes.metric import evaluate as measure
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


def detect(heads: RawHeads, batch: Batch3d, settings: DecodeSettings) -> list[Detections3d]:
    """Decode the detections of each image of a batch, on the host."""
    found = to_detections(
        decode(heads, settings.num_peaks),
        batch.image_from_grid,
        batch.calibs,
        score_threshold=settings.score_threshold,
        radar=settings.radar,
    )
    return [one.cpu() for one in found]


class NuscenesEvaluator:
    """Gathers detections of a split; `evaluate` gives them in the global frame, and the nuScenes metric.

    `measures`: take the metric, if there are annotations; `shared`: only where detections were handed in.
    """

    def __init__(
        self, split: NuscenesSplit, settings: DecodeSettings, *, measures: bool = True, shared: bool = False
    ) -> None:
        self.split = split
        self.settings = settings
        self.measures = measures and split.has_annotations
        self.shared = shared
        self._indices: list[int] = []
        self._detections: list[Detections3d] = []

    def process(self, detections: Sequence[Detections3d], indices: Sequence[int]) -> None:
        """Take the detections of images."""
        self._indices += indices
        self._detections += detections

    def evaluate(self) -> FusionEvaluation:
        """Merge the cameras of each key frame and measure."""
        split, settings = self.split, self.settings
        records = [split.record(position) for position in self._indices]
        found = to_global(self._detections, records, fixed=settings.fixed, iou_thresh=settings.iou_threshold)
        metrics = None
        if self.measures and (self._indices or not self.shared):
            metrics = measure(split.ground_truth(), found, split.ego_positions(), split.bike_racks())
        return FusionEvaluation(metrics, found)


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
    """Detect on a split and measure it, see `engine.evaluate`.

    Args:
        model: on `device`.
        loader: batches of the split, every image at most once.
        split: what the images show.
        device: where the network runs. The metric runs on the host.
        settings: of decoding.
        autocast: makes the context of the forward pass; float32 without.
        criterion: gives losses.
        gather: where several processes share the images: hands what each found to one, which measures.
        watch: called before and after each batch.
        measures: take the metric; else only detect.
    """

    def forward(batch: Batch3d) -> RawHeads:
        """Compute the raw heads of a batch."""
        radar = batch.radar if settings.radar else None
        with autocast():
            return run_network(model, batch.images, radar, batch.calibs, flip_test=settings.flip_test)

    def losses(heads: RawHeads, batch: Batch3d) -> Tensor:
        """Compute the losses of a batch."""
        assert criterion is not None
        return criterion(heads, batch.targets)[1]

    stages = Stages(
        prepare=lambda batch: batch.to(device),
        forward=forward,
        detect=lambda heads, batch: detect(heads, batch, settings),
        losses=losses if criterion is not None else None,
    )
    evaluator = NuscenesEvaluator(split, settings, measures=measures, shared=gather is not None)
    result, mean_losses, speeds = evaluate(model, loader, stages, evaluator, device=device, gather=gather, watch=watch)
    return replace(result, losses=mean_losses, speeds=speeds)
