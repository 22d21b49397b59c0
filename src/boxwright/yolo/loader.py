"""Loaders: training batches as a function of (seed, epoch, step) and the weights of an epoch; validation batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from boxwright.data.collate import image_buffer, pad_labels
from boxwright.data.images import loaded_size, read_indexed_image, resize_for_validation
from boxwright.data.index import DataIndex
from boxwright.data.letterbox import FILL, fit_letterbox, place
from boxwright.data.pool import BatchPool
from boxwright.data.sampler import BatchPlan, Share, plan_rect
from boxwright.data.source_images import open_source_images
from boxwright.data.structures import Batch
from boxwright.yolo.quad import QUAD_SIZE, draw_enlarged, write_quad
from boxwright.yolo.samples import TrainingSamples
from boxwright.yolo.settings import AugmentConfig
from boxwright.yolo.shapes import Labels, shapes_of

TrainKey = tuple[int, int, Share]  # epoch, step, and what is loaded for it
ValKey = tuple[int, NDArray[np.int64]]  # step, and the images of it
B = TypeVar("B")  # a batch


@dataclass(frozen=True, slots=True)
class _TrainBatches:
    """Makes training batches from keys. An image of four samples goes by the name of the first."""

    samples: TrainingSamples
    shapes_hw: NDArray[np.int64]  # (1, 2) or (batches, 2)
    quad: bool

    def __call__(self, key: TrainKey) -> Batch:
        epoch, step, share = key
        index = self.samples.source.index
        height, width = self.shapes_hw[step % len(self.shapes_hw)].tolist()
        if self.quad:
            tensor, pixels = image_buffer(len(share) // QUAD_SIZE, (2 * height, 2 * width))
            labels = [self._write_quad(epoch, share, row, out) for row, out in enumerate(pixels)]
        else:
            tensor, pixels = image_buffer(len(share), (height, width))
            labels = [self._write(epoch, share, row, out) for row, out in enumerate(pixels)]
        named = share.images[:: QUAD_SIZE if self.quad else 1]
        return Batch(
            images=tensor,
            targets=pad_labels(labels),
            indices=torch.from_numpy(named),
            original_sizes=torch.from_numpy(index.sizes[named].astype(np.int64)),
            scales=torch.ones((len(named), 2)),
            pads=torch.zeros((len(named), 2)),
            paths=tuple(index.path(image) for image in named.tolist()),
        )

    def _write(self, epoch: int, share: Share, row: int, out: NDArray[np.uint8]) -> Labels:
        return self.samples.write(epoch, int(share.images[row]), out, int(share.repeats[row]))

    def _write_quad(self, epoch: int, share: Share, row: int, out: NDArray[np.uint8]) -> Labels:
        first = row * QUAD_SIZE
        enlarged = draw_enlarged(self.samples.seed, epoch, int(share.images[first]), int(share.repeats[first]))
        return write_quad(lambda k, sample: self._write(epoch, share, first + k, sample), out, enlarged=enlarged)


class TrainLoader(Generic[B]):
    """Training batches of any kind; the same ones for any number of workers, in any order of asking.

    `len(loader)` is the number of batches in an epoch. Workers are told which images a batch has: the plan is here.
    """

    def __init__(
        self, make: Callable[[TrainKey], B], plan: BatchPlan, workers: int, *, pin_memory: bool = False
    ) -> None:
        self._plan = plan
        self._pool = BatchPool(make, workers, pin_memory=pin_memory)
        self._stream: Iterator[B] = iter(())
        self._next: tuple[int, int] | None = None  # epoch and step of what the stream gives next

    def __len__(self) -> int:
        return len(self._plan)

    def batches(self, epoch: int, start_step: int = 0, weights: NDArray[np.float64] | None = None) -> Iterator[B]:
        """The batches of an epoch, from `start_step` on.

        While one epoch after the other is asked for, workers go on into the next without a pause; with weights they
        cannot, because those of the next epoch are not known.

        Args:
            epoch: epoch, from 0.
            start_step: first batch.
            weights: how likely each image is drawn; None: every image comes once.

        Raises:
            UserError: an image file cannot be read.
        """
        if weights is not None:
            self._next = None
            yield from self._pool.batches(self._keys_of(epoch, start_step, weights))
            return
        for step in range(start_step, len(self)):
            if self._next != (epoch, step):
                self._stream = self._pool.batches(self._keys_from(epoch, step))
            self._next = None  # stays so if the batch fails
            batch = next(self._stream)
            self._next = (epoch, step + 1) if step + 1 < len(self) else (epoch + 1, 0)
            yield batch

    def close(self) -> None:
        """End the workers."""
        self._stream, self._next = iter(()), None
        self._pool.close()

    def _keys_from(self, epoch: int, step: int) -> Iterator[TrainKey]:
        while True:
            yield from self._keys_of(epoch, step)
            epoch, step = epoch + 1, 0

    def _keys_of(self, epoch: int, start_step: int, weights: NDArray[np.float64] | None = None) -> Iterator[TrainKey]:
        share = self._plan.epoch(epoch, weights)
        return ((epoch, step, share(step)) for step in range(start_step, len(self)))


@dataclass(frozen=True, slots=True)
class _ValBatches:
    """Makes letterboxed batches from keys."""

    index: DataIndex
    imgsz: int
    stride: int
    shapes_hw: NDArray[np.int64]  # (1, 2) or (batches, 2)

    def __call__(self, key: ValKey) -> Batch:
        step, images = key
        height, width = self.shapes_hw[step % len(self.shapes_hw)].tolist()
        tensor, pixels = image_buffer(len(images), (height, width))
        pixels[:] = FILL
        labels: list[Labels] = []
        scales, pads = np.zeros((len(images), 2), np.float32), np.zeros((len(images), 2), np.float32)
        for row, image in enumerate(images.tolist()):
            scale, pad, boxes = self._write(image, pixels[row])
            scales[row], pads[row] = scale, pad
            labels.append(boxes)
        return Batch(
            images=tensor,
            targets=pad_labels(labels),
            indices=torch.from_numpy(images),
            original_sizes=torch.from_numpy(self.index.sizes[images].astype(np.int64)),
            scales=torch.from_numpy(scales),
            pads=torch.from_numpy(pads),
            paths=tuple(self.index.path(image) for image in images.tolist()),
        )

    def _write(self, image: int, out: NDArray[np.uint8]) -> tuple[tuple[float, float], tuple[float, float], Labels]:
        """Put one image into its place, RGB; gives its scale and pad (y, x) and its normalised labels."""
        height, width = self.index.sizes[image].tolist()
        original = read_indexed_image(self.index.path(image), (height, width))
        loaded_hw = loaded_size((height, width), self.imgsz)
        out_hw = (out.shape[0], out.shape[1])
        fit = fit_letterbox(loaded_hw, out_hw, auto=False, stride=self.stride, scale_up=False)
        place(out, resize_for_validation(original, self.imgsz)[:, :, ::-1], fit)
        size = (fit.scale_yx[0] * loaded_hw[0], fit.scale_yx[1] * loaded_hw[1])
        shapes = shapes_of(self.index, image, size, fit.pad_yx)
        scale = (size[0] / height, size[1] / width)
        return scale, fit.pad_yx, Labels(shapes.classes, shapes.boxes).normalised(out_hw)


class ValLoader(Generic[B]):
    """Validation batches of any kind in a fixed order; `len(loader)` is their number."""

    def __init__(self, make: Callable[[ValKey], B], plan: BatchPlan, workers: int, *, pin_memory: bool = False) -> None:
        self._plan = plan
        self._pool = BatchPool(make, workers, pin_memory=pin_memory)

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[B]:
        share = self._plan.epoch(0)
        return self._pool.batches((step, share(step).images) for step in range(len(self)))

    def close(self) -> None:
        """End the workers."""
        self._pool.close()


def make_train_loader(
    index: DataIndex,
    *,
    imgsz: int,
    batch_size: int,
    augment: AugmentConfig,
    seed: int,
    stride: int,
    workers: int,
    rect: bool = False,
    quad: bool = False,
    cache: str = "",
    cache_folder: Path | None = None,
    reduce: bool = True,
    rank: int = 0,
    num_ranks: int = 1,
    local_ranks: int = 1,
    pin_memory: bool = False,
) -> TrainLoader[Batch]:
    """Open the training batches of a data set.

    Args:
        index: the data set.
        imgsz: side of the network input, a multiple of `stride`.
        batch_size: images a step over all ranks; the last batch of an epoch may be smaller.
        augment: random changes.
        seed: seed of order and of changes.
        stride: largest stride of the network.
        workers: processes, at most the number of cores.
        rect: batches of like proportions: no mosaic, no shuffling.
        quad: four samples become one image of twice the side, so that a batch has a quarter of its images; batch_size
            is a multiple of four times the ranks.
        cache: keep decoded images: "" (no), "ram" or "disk".
        cache_folder: folder of the disk cache; by default in the user's cache folder.
        reduce: decode JPEG files at reduced scale where the input is at most half their size.
        rank, num_ranks: share of this process in a distributed run; a last batch may have no image for it.
        local_ranks: how many of those are on this machine.
        pin_memory: see `BatchPool`.

    Raises:
        UserError: no images, or the cache does not fit.
    """
    source = open_source_images(index, imgsz, cache, cache_folder=cache_folder, reduce=reduce, copies=local_ranks)
    samples = TrainingSamples(source, imgsz, stride, augment, seed, mosaic=not rect)
    order, shapes = _order_and_shapes(index, imgsz, batch_size, stride, rect=rect, pad=0.0)
    group = QUAD_SIZE if quad else 1
    plan = BatchPlan(order, batch_size, None if rect else seed, rank, num_ranks, group)
    return TrainLoader(_TrainBatches(samples, shapes, quad), plan, workers, pin_memory=pin_memory)


def make_val_loader(
    index: DataIndex,
    *,
    imgsz: int,
    batch_size: int,
    stride: int,
    workers: int,
    rect: bool = True,
    pad: float = 0.5,
    rank: int = 0,
    num_ranks: int = 1,
    pin_memory: bool = False,
) -> ValLoader[Batch]:
    """Open the validation batches of a data set; nothing random, every image once.

    Args:
        index: the data set.
        imgsz: longer side of an image in the network input.
        batch_size: images a batch over all ranks.
        stride: largest stride of the network; shapes are multiples of it.
        workers: processes, at most the number of cores.
        rect: sort by proportion and give each batch its own shape; else squares.
        pad: border of rectangular batches, in strides.
        rank, num_ranks: share of this process in a distributed run.
        pin_memory: see `BatchPool`.

    Raises:
        UserError: no images.
    """
    order, shapes = _order_and_shapes(index, imgsz, batch_size, stride, rect=rect, pad=pad)
    plan = BatchPlan(order, batch_size, None, rank, num_ranks)
    return ValLoader(_ValBatches(index, imgsz, stride, shapes), plan, workers, pin_memory=pin_memory)


def _order_and_shapes(
    index: DataIndex, imgsz: int, batch_size: int, stride: int, *, rect: bool, pad: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if not rect:
        return np.arange(len(index), dtype=np.int64), np.array([[imgsz, imgsz]], dtype=np.int64)
    plan = plan_rect(index.sizes, imgsz=imgsz, batch_size=batch_size, stride=stride, pad=pad)
    return plan.order, plan.shapes_hw
