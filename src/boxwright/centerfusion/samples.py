"""Samples and batches of camera and radar: draws, warp and colours of the image, radar map, targets.

A training sample is a function of (seed, epoch, index) alone; a training batch one of (seed, epoch, step), a batch of
validation comes in the order of the split. Workers, order and resuming are those of `data.loader`. Legend: B images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from boxwright.centerfusion.augment import (
    ColorChange,
    Draws,
    Placement,
    affine_map,
    base_scale,
    centered,
    draw_color_change,
    draw_placement,
    finish_colors,
    inverse,
    mirrored,
    read_warped,
)
from boxwright.centerfusion.radar_map import paint_radar
from boxwright.centerfusion.settings import FusionConfig
from boxwright.centerfusion.structures import Batch3d, Targets3d
from boxwright.centerfusion.targets import mirror_annotations, room_for_targets, write_targets
from boxwright.data.loader import TrainKey, TrainLoader, ValKey, ValLoader, batch_block
from boxwright.data.sampler import BatchPlan, sample_generator
from boxwright.nuscenes.split import NuscenesSplit
from boxwright.nuscenes.structures import CLASS_NAMES, ImageRecord
from boxwright.ops.arrays import Array, Floats, Image, Ints


@dataclass(frozen=True, slots=True)
class SampleArrays:
    """One image's share of a `Batch3d` to be written to, or a whole batch's with one more dimension in front."""

    image: npt.NDArray[np.float32]  # (h, w, 3) BGR, normalised
    radar: npt.NDArray[np.float32]  # (3, H, W)
    calib: npt.NDArray[np.float32]  # (3, 4)
    image_from_grid: npt.NDArray[np.float32]  # (2, 3) cells to pixels, mirrored back where the image was mirrored
    targets: Targets3d[Array]

    def row(self, index: int) -> "SampleArrays":
        """Return the arrays of one image of a batch."""
        return SampleArrays(
            self.image[index],
            self.radar[index],
            self.calib[index],
            self.image_from_grid[index],
            self.targets.map(lambda array: array[index]),
        )


class SampleMaker:
    """Makes samples of one source, one after the other; keeps the pixels between decoding and colours as buffers.

    Args:
        source: images, annotations, radar.
        config: settings of the training run that the samples are for.
    """

    def __init__(self, source: NuscenesSplit, config: FusionConfig) -> None:
        self.source = source
        self.config = config
        # Made for the first image and kept: fresh memory of this size costs more in page faults than the colours.
        self._buffers: tuple[Image, npt.NDArray[np.float32]] | None = None

    def __getstate__(self) -> tuple[NuscenesSplit, FusionConfig]:
        return self.source, self.config

    def __setstate__(self, state: tuple[NuscenesSplit, FusionConfig]) -> None:
        self.__init__(*state)

    def draw(self, record: ImageRecord, rng: Draws) -> tuple[Placement, ColorChange | None]:
        """Draw what becomes of a training image: first its place, then its colours."""
        image_hw, augment = (record.height, record.width), self.config.augment
        placement = draw_placement(rng, image_hw, base_scale(augment, image_hw), augment)
        return placement, draw_color_change(rng) if augment.color else None

    def write(self, position: int, rng: Draws | None, out: SampleArrays) -> ImageRecord:
        """Make one sample: augmented by what `rng` draws, or as validation sees it where that is None.

        Args:
            position: of the image in the source.
            rng: random generator of this sample.
            out: zeroed arrays of one image.

        Raises:
            UserError: the image or its radar cannot be read.
        """
        record = self.source.record(position)
        placement, color = self.draw(record, rng) if rng else (centered((record.height, record.width)), None)
        reduce = rng is not None and self.config.augment.reduced_decoding
        self.write_placed(position, record, placement, color, out, reduce=reduce)
        return record

    def write_placed(
        self,
        position: int,
        record: ImageRecord,
        placement: Placement,
        color: ColorChange | None,
        out: SampleArrays,
        *,
        reduce: bool,
    ) -> None:
        """Make one sample of a given part of its image, see `write`.

        Args:
            color: None leaves the colours alone.
            reduce: decode at reduced scale where the input is at most half the size of the image.
        """
        config, image_hw = self.config, (record.height, record.width)
        scale = base_scale(config.augment, image_hw) * placement.factor
        input_from_image = affine_map(placement.center, scale, placement.rotation, config.input_hw)
        grid_from_image = affine_map(placement.center, scale, placement.rotation, config.grid_hw)
        annotations = record.annotations
        from_original = grid_from_image
        if placement.flip:
            # Annotations and radar are mirrored themselves, so their map stays that of the mirrored image.
            input_from_image = mirrored(input_from_image, record.width)
            from_original = mirrored(grid_from_image, record.width)
            annotations = mirror_annotations(annotations, record.width, fixed=config.fixed)
        if self._buffers is None:
            self._buffers = np.empty(out.image.shape, np.uint8), np.empty(out.image.shape, np.float32)
        warped, unscaled = self._buffers
        read_warped(record, input_from_image, warped, reduce=reduce)
        finish_colors(warped, color, out.image, unscaled)
        out.calib[:] = record.calib
        out.image_from_grid[:] = inverse(from_original)
        write_targets(annotations, grid_from_image, placement.factor, out.targets)
        if not config.no_radar:
            radar = self.source.radar(position)
            paint_radar(radar, record.calib, image_hw, grid_from_image, config.radar, out.radar, flip=placement.flip)


def balanced_weights(labels: Ints, images: Ints, num_images: int) -> Floats:
    """Return (I,) how likely each image is drawn, so that each class is shown about as often as any other.

    An image has 1 / (images that show the class) for every class that it shows; those that show nothing keep their
    share of an epoch.
    Source: Zhu et al., "Class-balanced Grouping and Sampling", 2019 (arXiv:1908.09492), section 3.1.

    Args:
        labels: (N,) class of each object.
        images: (N,) position of the image that shows it.
        num_images: I.
    """
    shown, classes = np.divmod(np.unique(images * len(CLASS_NAMES) + labels), len(CLASS_NAMES))
    shares = 1 / np.bincount(classes)[classes]
    weights = np.bincount(shown, weights=shares, minlength=num_images).astype(np.float64)
    empty = weights == 0
    weights[empty] = weights[~empty].mean() if not empty.all() else 1.0
    return weights


def make_train_loader(
    source: NuscenesSplit,
    config: FusionConfig,
    *,
    workers: int,
    rank: int = 0,
    num_ranks: int = 1,
    pin_memory: bool = False,
) -> TrainLoader[Batch3d]:
    """Open the training batches of a split; a last batch that is not full is left out, as published.

    Args:
        source: images, annotations, radar.
        config: settings of the run.
        workers: processes, at most the number of cores.
        rank, num_ranks: share of this process in a distributed run.
        pin_memory: see `data.loader.BatchPool`.

    Raises:
        UserError: fewer images than a batch takes.
    """
    order = np.arange(len(source), dtype=np.int64)
    plan = BatchPlan(order, config.batch_size, config.seed, rank, num_ranks, drop_last=True)
    return TrainLoader(partial(make_train_batch, SampleMaker(source, config)), plan, workers, pin_memory=pin_memory)


def make_val_loader(
    source: NuscenesSplit,
    config: FusionConfig,
    *,
    batch_size: int,
    workers: int,
    rank: int = 0,
    num_ranks: int = 1,
    pin_memory: bool = False,
) -> ValLoader[Batch3d]:
    """Open the validation batches of a split: nothing random, every image once, decoded at full scale.

    Args: see `make_train_loader`. A last batch may be smaller, and have no image for a rank.

    Raises:
        UserError: no images.
    """
    plan = BatchPlan(np.arange(len(source), dtype=np.int64), batch_size, None, rank, num_ranks)
    return ValLoader(partial(make_val_batch, SampleMaker(source, config)), plan, workers, pin_memory=pin_memory)


def make_train_batch(maker: SampleMaker, key: TrainKey) -> Batch3d:
    """Make a training batch from its key."""
    epoch, _, share = key
    images = zip(share.images.tolist(), share.repeats.tolist(), strict=True)
    rngs = [sample_generator(maker.config.seed, epoch, image, repeat=repeat) for image, repeat in images]
    return _make_batch(maker, share.images, rngs)


def make_val_batch(maker: SampleMaker, key: ValKey) -> Batch3d:
    """Make a validation batch from its key."""
    _, images = key
    return _make_batch(maker, images, [None] * len(images))


def _make_batch(maker: SampleMaker, images: Ints, rngs: Sequence[Draws | None]) -> Batch3d:
    """Make the samples of a batch side by side in one block; without a generator, as validation sees them."""
    block, arrays = allocate(maker.config, len(images))
    pairs = zip(images.tolist(), rngs, strict=True)
    records = [maker.write(image, rng, arrays.row(row)) for row, (image, rng) in enumerate(pairs)]
    return Batch3d(
        images=block.pop("image").permute(0, 3, 1, 2),
        radar=block.pop("radar"),
        calibs=block.pop("calib"),
        image_from_grid=block.pop("image_from_grid"),
        targets=Targets3d(**block),
        indices=torch.from_numpy(images),
        paths=tuple(record.path for record in records),
    )


def allocate(config: FusionConfig, count: int) -> tuple[dict[str, torch.Tensor], SampleArrays]:
    """Allocate a batch in one block of memory: its tensors by name, and the same memory as arrays to be written to.

    Its images are not set to anything, all else is 0.
    """
    images = {
        "image": ((*config.input_hw, 3), torch.float32),
        "radar": ((3, *config.grid_hw), torch.float32),
        "calib": ((3, 4), torch.float32),
        "image_from_grid": ((2, 3), torch.float32),
    }
    rooms = images | room_for_targets(config.grid_hw)
    block = batch_block({name: ((count, *shape), kind) for name, (shape, kind) in rooms.items()})
    for name, tensor in block.items():
        if name != "image":  # of which every pixel is written
            tensor.zero_()
    arrays = {name: tensor.numpy() for name, tensor in block.items()}
    targets = Targets3d(**{name: array for name, array in arrays.items() if name not in images})
    return block, SampleArrays(**{name: arrays[name] for name in images}, targets=targets)
