"""Batches of camera + radar: of training, a function of (seed, epoch, step); of validation, in the order of the split.

Workers, order and resuming are those of 2-D (loader.py, pool.py, sampler.py one room up). Legend: B images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from boxwright.centerfusion.sample_settings import SampleSettings
from boxwright.centerfusion.samples import SampleArrays, SampleMaker, room_for_images
from boxwright.centerfusion.structures import FusionBatch, FusionTargets
from boxwright.centerfusion.targets import TargetArrays, room_for_targets
from boxwright.data.loader import TrainKey, TrainLoader, ValKey, ValLoader, batch_block
from boxwright.data.sampler import BatchPlan, Share, sample_generator
from boxwright.nuscenes.structures import FusionSource

FusionTrainLoader = TrainLoader[FusionBatch]
FusionValLoader = ValLoader[FusionBatch]


@dataclass(frozen=True, slots=True)
class _TrainBatches:
    """Makes training batches from keys."""

    maker: SampleMaker
    seed: int

    def __call__(self, key: TrainKey) -> FusionBatch:
        epoch, _, share = key
        return _batch(self.maker, share, (self.seed, epoch))


@dataclass(frozen=True, slots=True)
class _ValBatches:
    """Makes validation batches from keys."""

    maker: SampleMaker

    def __call__(self, key: ValKey) -> FusionBatch:
        _, images = key
        return _batch(self.maker, Share(images, np.zeros_like(images)), None)


def make_train_loader(
    source: FusionSource,
    settings: SampleSettings,
    *,
    batch_size: int,
    seed: int,
    workers: int,
    shuffle: bool = True,
    rank: int = 0,
    num_ranks: int = 1,
    pin_memory: bool = False,
) -> FusionTrainLoader:
    """Open the training batches of a split; a last batch that is not full is left out, as published.

    Args:
        source: images, annotations, radar.
        settings: what shapes the samples.
        batch_size: images a step over all ranks.
        seed: seed of order and of augmentation.
        workers: processes, at most the number of cores.
        shuffle: a new order each epoch; else that of the source.
        rank, num_ranks: share of this process in a distributed run.
        pin_memory: see `pool.BatchPool`.

    Raises:
        UserError: fewer images than a batch takes.
    """
    order = np.arange(len(source), dtype=np.int64)
    plan = BatchPlan(order, batch_size, seed if shuffle else None, rank, num_ranks, drop_last=True)
    return TrainLoader(_TrainBatches(SampleMaker(source, settings), seed), plan, workers, pin_memory=pin_memory)


def make_val_loader(
    source: FusionSource,
    settings: SampleSettings,
    *,
    batch_size: int,
    workers: int,
    rank: int = 0,
    num_ranks: int = 1,
    pin_memory: bool = False,
) -> FusionValLoader:
    """Open the validation batches of a split: nothing random, every image once, decoded at full scale.

    Args: see `make_train_loader`. A last batch may be smaller, and have no image for a rank.

    Raises:
        UserError: no images.
    """
    plan = BatchPlan(np.arange(len(source), dtype=np.int64), batch_size, None, rank, num_ranks)
    return ValLoader(_ValBatches(SampleMaker(source, settings)), plan, workers, pin_memory=pin_memory)


def _batch(maker: SampleMaker, share: Share, seed_and_epoch: tuple[int, int] | None) -> FusionBatch:
    """Make the samples of a batch side by side in one block; without a seed, as validation sees them."""
    settings, count = maker.settings, len(share)
    rooms = room_for_images(settings) | room_for_targets(settings.max_objects, settings.grid_hw)
    block = batch_block({name: ((count, *shape), kind) for name, (shape, kind) in rooms.items()})
    images = {name: block.pop(name) for name in room_for_images(settings)}
    for name, tensor in {**images, **block}.items():
        if name != "image":  # which is written to the last pixel
            tensor.zero_()
    arrays = SampleArrays(
        **{name: tensor.numpy() for name, tensor in images.items()},
        targets=TargetArrays(**{name: tensor.numpy() for name, tensor in block.items()}),
    )
    records = [
        maker.write(
            image,
            sample_generator(*seed_and_epoch, image, repeat=repeat) if seed_and_epoch else None,
            arrays.row(row),
        )
        for row, (image, repeat) in enumerate(zip(share.images.tolist(), share.repeats.tolist(), strict=True))
    ]
    return FusionBatch(
        images=images["image"].permute(0, 3, 1, 2),
        radar=images["radar"],
        calibs=images["calib"],
        image_from_grid=images["image_from_grid"],
        targets=FusionTargets(**block),
        indices=torch.from_numpy(share.images),
        paths=tuple(record.path for record in records),
    )
