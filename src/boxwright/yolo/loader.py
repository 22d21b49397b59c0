"""Batches of YOLO: training as a function of (seed, epoch, step) and image weights; validation in a fixed order.

Legend: B images, M labels of the image that has most. Source: quad images and image weights as published for YOLOv5
(docs/spec/yolov5.md, B6 and B7).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boxwright.data.index import DataIndex
from boxwright.data.letterbox import FILL, fit_letterbox, place
from boxwright.data.loader import TrainKey, TrainLoader, ValKey, ValLoader, image_buffer
from boxwright.data.sampler import QUAD, BatchPlan, Share, plan_rect, sample_generator
from boxwright.data.source_images import SourceImages, ValidationImages, open_source_images, with_cache
from boxwright.data.structures import Batch, Targets
from boxwright.engine.distributed import World
from boxwright.ops.arrays import Floats, Image, Ints
from boxwright.yolo.geometry import Labels, shapes_of
from boxwright.yolo.samples import TrainingSamples
from boxwright.yolo.settings import RunConfig

QUAD_SIZE: Final = 4  # samples in one image
_SIDE: Final = 2  # of them along each side
_VAL_PAD = 0.5  # strides: the published border of rectangular batches in validation
_COUNT_STEP = 16  # M is rounded up to this, so that a compiled step sees few different shapes


WriteSample = Callable[[int, Image], Labels]


def draw_enlarged(seed: int, epoch: int, first: int, repeat: int) -> bool:
    """Draw whether the first of four samples is enlarged, or all four are put side by side.

    Args:
        seed, epoch: of the run.
        first: position of the first image in the data index.
        repeat: how often this image came before in the epoch.
    """
    return bool(sample_generator(seed, epoch, first, QUAD, repeat).random() < 0.5)


def write_quad(write: WriteSample, out: Image, *, enlarged: bool) -> Labels:
    """Fill one image of twice the side.

    Args:
        write: makes sample 0 to 3 of the four in (H, W, 3) and gives its normalised labels.
        out: (2H, 2W, 3) uint8.
        enlarged: take the first sample alone, at twice its size; the others are not made.

    Returns:
        Normalised labels in the frame of `out`.
    """
    height, width = out.shape[0] // _SIDE, out.shape[1] // _SIDE
    sample = np.empty((height, width, 3), np.uint8)
    if enlarged:
        labels = write(0, sample)
        cv2.resize(sample, (out.shape[1], out.shape[0]), dst=out, interpolation=cv2.INTER_LINEAR)
        return labels
    parts: list[Labels] = []
    for position in range(QUAD_SIZE):
        row, column = divmod(position, _SIDE)
        labels = write(position, sample)
        corner = np.array([column, row, 0, 0], np.float32)  # in sides of a sample; width and height do not move
        parts.append(Labels(labels.classes, (labels.boxes + corner) / np.float32(_SIDE)))
        out[row * height : (row + 1) * height, column * width : (column + 1) * width] = sample
    return Labels(np.concatenate([part.classes for part in parts]), np.concatenate([part.boxes for part in parts]))


def class_weights(classes: NDArray[np.integer], num_classes: int, maps: Floats | float = 0.0) -> Floats:
    """Return (C,) inverse frequencies of classes among labels (N,), times (1 - mAP)^2; a class without labels has one.

    Args:
        classes: (N,) class of each label.
        num_classes: C.
        maps: (C,) mAP of each class in 0..1. Without them the weights sum to 1.
    """
    inverse = 1 / np.maximum(np.bincount(classes, minlength=num_classes), 1)
    return inverse / inverse.sum() * (1 - maps) ** 2


def image_weights(
    classes: NDArray[np.integer], images: NDArray[np.integer], num_images: int, weights: Floats
) -> Floats:
    """Return the (I,) weight of each image: the sum over its labels of the weight of their class.

    Args:
        classes: (N,) class of each label.
        images: (N,) image of each label.
        num_images: images in all; one without labels weighs nothing.
        weights: (C,) weight of each class.
    """
    return np.bincount(images, weights=weights[classes], minlength=num_images).astype(np.float64)


def weights_of_images(index: DataIndex, maps: Sequence[float]) -> Floats:
    """Return the (I,) weight of each image of a data set in an epoch.

    Args:
        index: the data set.
        maps: mAP of each class in the last validation; empty before the first, when every class counts as not found.
    """
    weights = class_weights(index.classes, index.num_classes, np.array(maps) if len(maps) else 0.0)
    images = np.repeat(np.arange(len(index)), np.diff(index.box_offsets))
    return image_weights(index.classes, images, len(index), weights)


def pad_labels(labels: Sequence[Labels]) -> Targets:
    """Stack normalised labels of B images, M = the largest count, rounded up, and at least one step."""
    most = max((len(item.classes) for item in labels), default=0)
    count = max(-(-most // _COUNT_STEP), 1) * _COUNT_STEP
    boxes = np.zeros((len(labels), count, 4), dtype=np.float32)
    classes = np.zeros((len(labels), count), dtype=np.int64)
    valid = np.zeros((len(labels), count), dtype=np.bool_)
    for row, item in enumerate(labels):
        num = len(item.classes)
        boxes[row, :num], classes[row, :num], valid[row, :num] = item.boxes, item.classes, True
    return Targets(torch.from_numpy(boxes), torch.from_numpy(classes), torch.from_numpy(valid))


def make_batch(
    index: DataIndex, images: Ints, pixels: Tensor, labels: Sequence[Labels], scales: Floats, pads: Floats
) -> Batch:
    """Join pixels (B, 3, H, W) and labels of B images of a data set; (B, 2) scales and pads are of y, x."""
    return Batch(
        images=pixels,
        targets=pad_labels(labels),
        indices=torch.from_numpy(images),
        original_sizes=torch.from_numpy(index.sizes[images].astype(np.int64)),
        scales=torch.from_numpy(scales.astype(np.float32)),
        pads=torch.from_numpy(pads.astype(np.float32)),
        paths=tuple(index.path(image) for image in images.tolist()),
    )


@dataclass(frozen=True, slots=True)
class _TrainBatches:
    """Makes training batches from keys. An image of four samples goes by the name of the first."""

    samples: TrainingSamples
    shapes_hw: Ints  # (1, 2) or (batches, 2)
    quad: bool

    def __call__(self, key: TrainKey) -> Batch:
        epoch, step, share = key
        group, times = (QUAD_SIZE, _SIDE) if self.quad else (1, 1)
        height, width = (self.shapes_hw[step % len(self.shapes_hw)] * times).tolist()
        tensor, pixels = image_buffer(len(share) // group, (height, width))
        labels = [self._write(epoch, share, group * row, out) for row, out in enumerate(pixels)]
        named = share.images[::group]
        unscaled = np.ones((len(named), 2))
        return make_batch(self.samples.source.index, named, tensor, labels, unscaled, np.zeros_like(unscaled))

    def _write(self, epoch: int, share: Share, first: int, out: NDArray[np.uint8]) -> Labels:
        """Write the sample at a place of the share, or the four from there on as one image."""

        def write(k: int, out: NDArray[np.uint8]) -> Labels:
            return self.samples.write(epoch, int(share.images[first + k]), out, int(share.repeats[first + k]))

        if not self.quad:
            return write(0, out)
        enlarged = draw_enlarged(self.samples.seed, epoch, int(share.images[first]), int(share.repeats[first]))
        return write_quad(write, out, enlarged=enlarged)


@dataclass(frozen=True, slots=True)
class _ValBatches:
    """Makes letterboxed batches from keys."""

    source: SourceImages  # images of the size that they have in a batch
    stride: int
    shapes_hw: Ints  # (1, 2) or (batches, 2)

    def __call__(self, key: ValKey) -> Batch:
        step, images = key
        height, width = self.shapes_hw[step % len(self.shapes_hw)].tolist()
        tensor, pixels = image_buffer(len(images), (height, width))
        pixels[:] = FILL
        labels: list[Labels] = []
        scales, pads = np.zeros((2, len(images), 2))
        for row, image in enumerate(images.tolist()):
            scales[row], pads[row], boxes = self._write(image, pixels[row])
            labels.append(boxes)
        return make_batch(self.source.index, images, tensor, labels, scales, pads)

    def _write(self, image: int, out: NDArray[np.uint8]) -> tuple[tuple[float, float], tuple[float, float], Labels]:
        """Write one image into its place, RGB; return its scale and pad (y, x) and its normalised labels."""
        height, width = self.source.index.sizes[image].tolist()
        loaded_hw = self.source.size(image)
        out_hw = (out.shape[0], out.shape[1])
        fit = fit_letterbox(loaded_hw, out_hw, auto=False, stride=self.stride, scale_up=False)
        place(out, self.source.load(image)[:, :, ::-1], fit)
        size = (fit.scale_yx[0] * loaded_hw[0], fit.scale_yx[1] * loaded_hw[1])
        shapes = shapes_of(self.source.index, image, size, fit.pad_yx)
        scale = (size[0] / height, size[1] / width)
        return scale, fit.pad_yx, Labels(shapes.classes, shapes.boxes).normalised(out_hw)


def make_train_loader(
    index: DataIndex,
    config: RunConfig,
    *,
    imgsz: int,
    stride: int,
    world: World = World(),  # noqa: B008  # immutable
    pin_memory: bool = False,
) -> TrainLoader[Batch]:
    """Open the training batches of a data set.

    Args:
        index: the data set.
        config: the run; its batch size counts the images of a step over all ranks. `rect` gives batches of like
            proportions, without mosaic and shuffling. `quad` makes four samples one image of twice the side, so that a
            batch has a quarter of its images; the batch size is then a multiple of four times the ranks.
        imgsz: side of a sample, a multiple of `stride`.
        stride: largest stride of the network.
        world: the ranks that share each batch; a last batch may be smaller and have no image for one of them.
        pin_memory: see `BatchPool`.

    Raises:
        UserError: no images, or the cache does not fit.
    """
    source = open_source_images(index, imgsz, config.cache, copies=world.local_size)
    samples = TrainingSamples(source, imgsz, stride, config.augment, config.seed, mosaic=not config.rect)
    order, shapes = _order_and_shapes(index, (imgsz, imgsz), config.batch_size, stride, rect=config.rect, pad=0.0)
    group, seed = QUAD_SIZE if config.quad else 1, None if config.rect else config.seed
    plan = BatchPlan(order, config.batch_size, seed, world.rank, world.size, group)
    workers = world.loader_workers(config.workers)
    return TrainLoader(_TrainBatches(samples, shapes, config.quad), plan, workers, pin_memory=pin_memory)


def make_val_loader(
    index: DataIndex,
    *,
    imgsz: int | tuple[int, int],
    batch_size: int,
    stride: int,
    workers: int,
    cache: str = "",
    world: World = World(),  # noqa: B008  # immutable
    pin_memory: bool = False,
) -> ValLoader[Batch]:
    """Open the validation batches of a data set; nothing random, every image once.

    Args:
        index: the data set.
        imgsz: longer side of an image in the network input; images are sorted by proportion, and each batch has its
            own shape. Or height and width of every batch.
        batch_size: images a batch over all ranks.
        stride: largest stride of the network; shapes are multiples of it.
        workers: processes, at most the number of cores.
        cache: keep what is read in memory ("ram") or on disk ("disk"); empty: read it again in each pass.
        world: the ranks that share each batch.
        pin_memory: see `BatchPool`.

    Raises:
        UserError: no images, or the cache does not fit.
    """
    rect, shape = (True, (imgsz, imgsz)) if isinstance(imgsz, int) else (False, imgsz)
    order, shapes = _order_and_shapes(index, shape, batch_size, stride, rect=rect, pad=_VAL_PAD)
    plan = BatchPlan(order, batch_size, None, world.rank, world.size)
    source = with_cache(ValidationImages(index, shape), cache, copies=world.local_size)
    make = _ValBatches(source, stride, shapes)
    return ValLoader(make, plan, world.loader_workers(workers), pin_memory=pin_memory)


def _order_and_shapes(
    index: DataIndex, shape: tuple[int, int], batch_size: int, stride: int, *, rect: bool, pad: float
) -> tuple[Ints, Ints]:
    if not rect:
        return np.arange(len(index), dtype=np.int64), np.array([shape], dtype=np.int64)
    return plan_rect(index.sizes, imgsz=max(shape), batch_size=batch_size, stride=stride, pad=pad)
