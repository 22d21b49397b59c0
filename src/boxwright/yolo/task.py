"""The Task of 2-D detection: a YOLO model, its loss, its loaders and the published metric."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from boxwright.data.identity import describe_data
from boxwright.data.index import DataIndex
from boxwright.data.sampler import sample_generator
from boxwright.data.structures import Batch, Detections, Targets
from boxwright.engine.distributed import World, distribute, synchronise_norms
from boxwright.engine.task import LoaderTask, Score, StepLoss, ValWatch
from boxwright.errors import UserError
from boxwright.metrics.coco import STAT_NAMES, truth_for
from boxwright.yolo.detection import DetectionModel
from boxwright.yolo.evaluation import evaluate
from boxwright.yolo.loader import QUAD_SIZE, make_train_loader, make_val_loader, weights_of_images
from boxwright.yolo.loss import LossOutput, make_criterion
from boxwright.yolo.metric import fitness
from boxwright.yolo.published import V3, loss_release, schedule_rules
from boxwright.yolo.settings import RunConfig

COCO_COLUMNS = tuple(f"COCO_{name}" for name in STAT_NAMES)
MULTI_SCALE_STREAM = 101  # apart from the streams that samples draw from


def v3_sides(imgsz: int, stride: int) -> tuple[int, int]:
    """Compute the smallest and largest side of the multi-scale training of YOLOv3-SPP: 320, 736 for 512.

    Source: docs/spec/yolov3-spp.md, A6.
    """
    return int(imgsz // 1.5 // stride) * stride, int(imgsz // 0.667 // stride) * stride


def loaded_side(config: RunConfig, stride: int) -> int:
    """Return the side of the images that training loads; YOLOv3-SPP loads for the largest side that it draws."""
    if config.multi_scale and config.optim.release == V3:
        return v3_sides(config.train_side, stride)[1]
    return config.train_side


def largest_side(config: RunConfig, stride: int) -> int:
    """Return the largest side of the images that the network is given."""
    if not config.multi_scale or config.optim.release == V3:
        return loaded_side(config, stride)
    return (int(config.train_side * 1.5) + stride - 1) // stride * stride


def multi_scale_sides(config: RunConfig, stride: int) -> tuple[int, int]:
    """Return the smallest and largest side of multi-scale training."""
    side = config.train_side
    low = v3_sides(side, stride)[0] if config.optim.release == V3 else side // 2 // stride * stride
    return low, largest_side(config, stride)


def batch_unit(config: RunConfig, num_ranks: int) -> int:
    """Return what a batch size is a multiple of."""
    return num_ranks * (QUAD_SIZE if config.quad else 1)


class Detect2d(LoaderTask):
    """The task of a YOLO.

    Args:
        model: on its device, with the class names of the data set.
        train, val: the data; val may be None when nothing is validated.
        config: settings of the run; sides are already multiples of the largest stride.
        world: the processes that share every batch; the first one's weights are copied to all.
    """

    loss_names: Sequence[str] = ("box_loss", "obj_loss", "cls_loss")
    metric_names: Sequence[str] = ("precision", "recall", "mAP_0.5", "mAP_0.5:0.95")

    def __init__(
        self,
        model: DetectionModel,
        train: DataIndex,
        val: DataIndex | None,
        config: RunConfig,
        device: torch.device,
        world: World = World(),  # noqa: B008  # immutable
    ) -> None:
        self.world = world
        self._shares_norms = config.sync_bn and world.size > 1
        if config.sync_bn:
            synchronise_norms(model, world, device)
        self.model: nn.Module = model
        self.config = config
        self.device = device
        self.names = model.names
        self.stride = max(model.strides)
        # YOLOv3-SPP scales its gains by the size of validation.
        scaled_by = config.val_side if loss_release(config, model.release) == V3 else config.train_side
        self.criterion: nn.Module = make_criterion(model, config.loss, scaled_by, world.sum).to(device)
        network, together = distribute(model, world, device), world.size == 1 and device.type == "cuda"
        # On a GPU network and criterion are one graph, where no gradients are exchanged in between; on a CPU the
        # code of the criterion alone would take minutes to compile.
        compiled = torch.compile(network) if config.compile and not together else network
        self._network = cast("Callable[[Tensor], list[Tensor]]", compiled)
        self._losses = torch.compile(self._losses_of) if config.compile and together else self._losses_of
        # YOLOv3-SPP validates with the 12 COCO numbers.
        self._is_v3 = config.optim.release == V3
        self.schedule_rules = schedule_rules(config.optim.release)
        self._coco_truth = truth_for(val) if val is not None and self._is_v3 else None
        if self._is_v3:
            self.metric_names = (*self.metric_names, *COCO_COLUMNS)
        self.train, self.val, self.val_loader = train, val, None
        pin, side = device.type == "cuda", loaded_side(config, self.stride)
        self.train_loader = make_train_loader(
            train, config, imgsz=side, stride=self.stride, world=world, pin_memory=pin
        )
        if val is not None:
            self.val_loader = make_val_loader(
                val,
                imgsz=config.val_side,
                batch_size=config.batch_size * 2,  # as published: no gradients, half the memory
                stride=self.stride,
                workers=config.workers,
                cache="" if config.noval else config.cache,  # of a single pass there is nothing to keep
                world=world,
                pin_memory=pin,
            )

    def train_batches(self, epoch: int, start_step: int, class_maps: Sequence[float] = ()) -> Iterator[Batch]:
        weights = weights_of_images(self.train, class_maps) if self.config.image_weights else None
        return self.train_loader.batches(epoch, start_step, weights)

    def loss(self, batch: Batch, epoch: int, step: int) -> StepLoss:
        images = batch.images.float().div_(255)
        if self.config.multi_scale:
            images = self._rescaled(images, epoch, step)
        if len(images) == 1 and max(images.shape[2:]) == self.stride and not self._shares_norms:
            raise UserError(
                f"a batch of one image of {self.stride} pixels is one cell, of which batch norm has no variance: take "
                "a larger --imgsz, or a --batch-size that does not leave a batch of one image"
            )
        output = self._losses(images, batch.targets)
        # DistributedDataParallel takes the mean over ranks of gradients; of losses that are parts the sum is wanted.
        # The criterion counts images; published, four samples in one image count as four.
        samples = QUAD_SIZE if self.config.quad else 1
        return StepLoss(output.total * (self.world.size * samples), output.items)

    def _losses_of(self, images: Tensor, targets: Targets) -> LossOutput:
        """Run network and criterion."""
        return self.criterion(self._network(images), targets)

    def evaluate(
        self,
        model: nn.Module,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        watch: ValWatch[Batch, Detections] | None = None,
    ) -> Score:
        assert isinstance(model, DetectionModel)
        assert self.val is not None
        assert self.val_loader is not None
        self.criterion.eval()
        found = evaluate(
            model,
            self.val_loader,
            self.val,
            self.config,
            device=self.device,
            autocast=autocast,
            coco_truth=self._coco_truth,
            criterion=self.criterion,
            gather=(lambda found: self.world.at_first(found, Detections)) if self.world.size > 1 else None,
            watch=watch,
        )
        self.criterion.train()
        values = (found.precision, found.recall, found.map50, found.map)
        metrics = dict(zip(self.metric_names, values, strict=False))
        losses = found.losses or (0.0,) * len(self.loss_names)
        maps = found.yolo.class_maps(len(self.names))
        if found.coco is None:
            return Score(fitness(found.map50, found.map), metrics, losses, found, class_maps=maps)
        coco = dict(zip(COCO_COLUMNS, found.coco.tolist(), strict=True))
        return Score(max(float(found.coco[0]), 0.0), metrics, losses, found, coco, maps)

    def describe_model(self) -> dict[str, Any]:
        assert isinstance(self.model, DetectionModel)
        return self.model.describe()

    def describe_data(self) -> dict[str, dict[str, Any]]:
        return describe_data(self.train, self.val)

    def _rescaled(self, images: Tensor, epoch: int, step: int) -> Tensor:
        """Resize images as published multi-scale does, by a draw from (seed, epoch, step).

        A side of 0.5 to 1.5 times imgsz for each step, or the range of YOLOv3-SPP for the steps of a nominal batch.
        """
        imgsz, stride = self.config.train_side, self.stride
        if self._is_v3:
            block = max(round(self.config.optim.nominal_batch_size / self.config.batch_size), 1)
            generator = sample_generator(self.config.seed, epoch, step // block, MULTI_SCALE_STREAM)
            low, high = v3_sides(imgsz, stride)
            side = int(generator.integers(low // stride, high // stride + 1)) * stride
        else:
            generator = sample_generator(self.config.seed, epoch, step, MULTI_SCALE_STREAM)
            side = int(generator.integers(imgsz // 2, int(imgsz * 1.5) + stride)) // stride * stride
        factor = side / max(images.shape[2:])
        if factor == 1:
            return images
        size = [math.ceil(s * factor / stride) * stride for s in images.shape[2:]]
        return interpolate(images, size=size, mode="bilinear", align_corners=False)
