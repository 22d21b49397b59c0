"""One pass of a camera and radar network over a split: heads, detections, boxes in the global frame, metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from boxwright.centerfusion.losses import CenterLoss
from boxwright.centerfusion.postprocess import decode, merge_flipped, to_detections, with_mirror
from boxwright.centerfusion.structures import FusionBatch, RawHeads
from boxwright.nuscenes.metric import NuscenesMetrics
from boxwright.nuscenes.metric import evaluate as measure
from boxwright.nuscenes.split import NuscenesSplit
from boxwright.nuscenes.structures import Detections3d, GlobalBoxes
from boxwright.nuscenes.submission import to_global
from boxwright.yolo.evaluation import Speeds, Stopwatch, eval_mode

Found = tuple[int, Detections3d]  # position of an image in its split, and what it shows
Gather = Callable[[list[Found]], list[list[Found]]]
OnBatch = Callable[[FusionBatch, list[Detections3d]], None]


@dataclass(frozen=True, slots=True)
class DecodeSettings:
    """From raw heads to what is submitted.

    Args:
        num_peaks: peaks of an image.
        score_threshold: scores are higher.
        flip_test: look at each image and its mirror image.
        radar: the network has a radar input.
        iou_threshold: bird's-eye suppression; 0: none.
        fixed: submit the true height (`compat: fixed`).
    """

    num_peaks: int = 100
    score_threshold: float = -1.0
    flip_test: bool = False
    radar: bool = True
    iou_threshold: float = 0.0
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class FusionEvaluation:
    """What one pass gave.

    Args:
        metrics: None for a split without annotations.
        predictions: at most 500 boxes a key frame, global frame.
        losses: mean over batches, if a criterion was given.
        speeds: time of each stage.
    """

    metrics: NuscenesMetrics | None
    predictions: GlobalBoxes
    losses: tuple[float, ...] | None
    speeds: Speeds


def run_network(model: nn.Module, batch: FusionBatch, settings: DecodeSettings) -> RawHeads:
    """Raw heads of a batch on its device; with the flip test, merged."""
    radar = batch.radar if settings.radar else None
    if not settings.flip_test:
        return model(batch.images, radar, batch.calibs)
    both = None if radar is None else with_mirror(radar, radar=True)
    return merge_flipped(model(with_mirror(batch.images), both, batch.calibs.repeat(2, 1, 1)))


def detect(heads: RawHeads, batch: FusionBatch, settings: DecodeSettings) -> list[Detections3d]:
    """Detections of each image of a batch, on the host."""
    found = to_detections(
        decode(heads, settings.num_peaks),
        batch.image_from_grid,
        batch.calibs,
        score_threshold=settings.score_threshold,
        radar=settings.radar,
    )
    return [one.cpu() for one in found]


def predict_split(
    model: nn.Module,
    loader: Iterable[FusionBatch],
    split: NuscenesSplit,
    *,
    device: torch.device,
    settings: DecodeSettings,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> tuple[GlobalBoxes, Speeds]:
    """Objects of a split in the global frame, at most 500 a key frame, and the time of each stage.

    Args: as of `evaluate_fusion`.
    """
    watch = Stopwatch(device)
    found, _ = _detect_all(model, loader, device, settings, autocast, watch)
    return _in_global_frame(found, split, settings), watch.speeds(len(found))


def evaluate_fusion(
    model: nn.Module,
    loader: Iterable[FusionBatch],
    split: NuscenesSplit,
    *,
    device: torch.device,
    settings: DecodeSettings,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    criterion: CenterLoss | None = None,
    gather: Gather | None = None,
    on_batch: OnBatch | None = None,
) -> FusionEvaluation:
    """Detect on a split and measure it.

    Args:
        model: on `device`; in eval mode during the pass and left as it was.
        loader: batches of the split, every image at most once.
        split: what the images show.
        device: where the network runs. The metric runs on the host.
        settings: of decoding.
        autocast: makes the context of the forward pass; float32 without.
        criterion: gives losses.
        gather: where several processes share the images: hands what each found to one, which measures.
        on_batch: called after each batch with its detections, on the host.
    """
    watch = Stopwatch(device)
    found, losses = _detect_all(model, loader, device, settings, autocast, watch, criterion, on_batch)
    num_images = len(found)
    if gather is not None:
        found = sorted((one for share in gather(found) for one in share), key=lambda one: one[0])
    predictions = _in_global_frame(found, split, settings)
    metrics = None
    if split.has_annotations and (found or gather is None):  # else it is measured by another process
        metrics = measure(split.ground_truth(), predictions, split.ego_positions(), split.bike_racks())
    watch.lap("metrics")
    return FusionEvaluation(metrics, predictions, losses, watch.speeds(num_images))


@torch.no_grad()
def _detect_all(
    model: nn.Module,
    loader: Iterable[FusionBatch],
    device: torch.device,
    settings: DecodeSettings,
    autocast: Callable[[], AbstractContextManager[object]],
    watch: Stopwatch,
    criterion: CenterLoss | None = None,
    on_batch: OnBatch | None = None,
) -> tuple[list[Found], tuple[float, ...] | None]:
    """What every image shows, and the mean losses of the batches."""
    found: list[Found] = []
    items: list[Tensor] = []
    with eval_mode(model):
        for batch in loader:
            if not len(batch):  # other processes have the images of this step
                continue
            watch.lap("load")
            on_device = batch.to(device)
            watch.lap("preprocess")
            with autocast():
                heads = run_network(model, on_device, settings)
            watch.lap("inference")
            detections = detect(heads, on_device, settings)
            watch.lap("nms")
            found += zip(batch.indices.tolist(), detections, strict=True)
            if criterion is not None:
                items.append(criterion(heads, on_device.targets)[1])
            if on_batch is not None:
                on_batch(batch, detections)
            watch.lap("other")
    return found, tuple(torch.stack(items).mean(dim=0).tolist()) if items else None


def _in_global_frame(found: Sequence[Found], split: NuscenesSplit, settings: DecodeSettings) -> GlobalBoxes:
    records = [split.record(position) for position, _ in found]
    detections = [one for _, one in found]
    return to_global(detections, records, fixed=settings.fixed, iou_thresh=settings.iou_threshold)
