"""The Task of camera and radar detection: CenterFusion, its losses, its loaders and the nuScenes metric."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from boxwright.centerfusion.evaluation import DecodeSettings, evaluate_fusion
from boxwright.centerfusion.frustum import FrustumOptions, associate_targets
from boxwright.centerfusion.losses import CenterLoss
from boxwright.centerfusion.network import CenterFusion
from boxwright.centerfusion.samples import balanced_weights, make_train_loader, make_val_loader
from boxwright.centerfusion.settings import FAMILY, FusionConfig
from boxwright.centerfusion.structures import Batch3d, RawHeads
from boxwright.data.identity import describe_data
from boxwright.engine.distributed import World, distribute, synchronise_norms
from boxwright.engine.schedule import ScheduleRules
from boxwright.engine.task import LoaderTask, Score, StepLoss, ValWatch
from boxwright.nuscenes.metric import SHORT_ERRORS
from boxwright.nuscenes.metric_report import absent_classes
from boxwright.nuscenes.split import NuscenesSplit
from boxwright.nuscenes.structures import CLASS_NAMES, Detections3d
from boxwright.terminal import say_once

_SHORT_NAMES = {name: f"m{short}" for name, short in SHORT_ERRORS.items()}


class CenterFusionTask(LoaderTask):
    """CenterFusion as the trainer sees it.

    Args:
        model: on its device.
        train, val: the data.
        config: settings of the run.
        world: the processes that share every batch; the first one's weights are copied to all.
    """

    metric_names: Sequence[str] = ("mAP", "NDS", *_SHORT_NAMES.values())

    def __init__(
        self,
        model: CenterFusion,
        train: NuscenesSplit,
        val: NuscenesSplit,
        config: FusionConfig,
        device: torch.device,
        world: World = World(),  # noqa: B008  # immutable
    ) -> None:
        self.world = world
        self.config = config
        self.device = device
        self.train, self.val = train, val
        if config.sync_bn:
            synchronise_norms(model, world, device)
        self.model: nn.Module = model
        self._radar = not config.no_radar
        self._losses = CenterLoss(config.loss, radar=self._radar)
        self.criterion: nn.Module = self._losses
        self.loss_names: Sequence[str] = self._losses.loss_names
        self.schedule_rules = ScheduleRules("plain" if config.optim.release == "centernet" else "grouped")
        self._frustum = FrustumOptions.of(config)
        self._network = distribute(model, world, device)
        shared: dict[str, Any] = {
            "workers": world.loader_workers(config.workers),
            "rank": world.rank,
            "num_ranks": world.size,
            "pin_memory": device.type == "cuda",
        }
        self.train_loader = make_train_loader(train, config, **shared)
        self._weights = balanced_weights(*train.labels_of_images(), len(train)) if config.balance_classes else None
        self.val_loader = make_val_loader(val, config, batch_size=config.batch_size, **shared)

    def train_batches(self, epoch: int, start_step: int, class_maps: Sequence[float] = ()) -> Iterator[Batch3d]:
        return self.train_loader.batches(epoch, start_step, self._weights)

    def loss(self, batch: Batch3d, epoch: int, step: int) -> StepLoss:
        if self._radar:  # the second heads are given the radar at the annotated objects
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                association = associate_targets(batch, self._frustum)
            heads: RawHeads = self._network(batch.images, association=association)
        else:
            heads = self._network(batch.images)
        total, items = self._losses(heads, batch.targets)
        # Published: each GPU has its own total, and gradients are their mean.
        return StepLoss(total, self.world.sum(items) / self.world.size)

    def evaluate(
        self,
        model: nn.Module,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        watch: ValWatch[Batch3d, Detections3d] | None = None,
    ) -> Score:
        found = evaluate_fusion(
            model,
            self.val_loader,
            self.val,
            device=self.device,
            settings=DecodeSettings(num_peaks=self.config.max_det, radar=self._radar, fixed=self.config.fixed),
            autocast=autocast,
            criterion=self._losses,
            gather=(lambda found: self.world.at_first(found, Detections3d)) if self.world.size > 1 else None,
            watch=watch,
        )
        # Each process has the losses of its share; one that had no images has none.
        shares = [share for share in self.world.all(found.losses) if share is not None]
        losses = [sum(parts) / len(shares) for parts in zip(*shares, strict=True)] or [0.0] * len(self.loss_names)
        if found.metrics is None:  # of another process
            return Score(0.0, dict.fromkeys(self.metric_names, 0.0), losses, found)
        metrics = found.metrics
        if note := absent_classes(metrics):
            say_once(note, logging.WARNING)
        errors = {_SHORT_NAMES[name]: error for name, error in metrics.tp_errors.items()}
        columns = {"mAP": metrics.mean_ap, "NDS": metrics.nd_score} | errors
        maps = metrics.class_aps.tolist()
        return Score(metrics.nd_score, columns, losses, found, metrics.scalars(), maps)

    def describe_model(self) -> dict[str, Any]:
        assert isinstance(self.model, CenterFusion)
        return {"family": FAMILY, "spec": dict(self.model.spec), "names": list(CLASS_NAMES)}

    def describe_data(self) -> dict[str, dict[str, Any]]:
        return describe_data(self.train, self.val)
