"""Samples and batches of camera and radar: draws, warp and colours of the image, radar map, targets.

A training sample is a function of (seed, epoch, index) alone; a training batch one of (seed, epoch, step), a batch of
validation comes in the order of the split. Workers, order and resuming are those of `data.loader`. Legend: B images.
"""

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from boxwright.centerfusion.augment import (
    ColorChange,
    Draws,
    Placement,
    affine_map,
    centered,
    draw_color_change,
    draw_placement,
    finish_colors,
    inverse,
    mirrored,
    read_warped,
)
from boxwright.centerfusion.radar_map import paint_pillars, visible_points
from boxwright.centerfusion.settings import COARSEST_STRIDE, STRIDE, FusionAugmentConfig, RadarConfig
from boxwright.centerfusion.structures import Batch3d, Targets3d
from boxwright.centerfusion.targets import mirror_annotations, room_for_targets, write_targets
from boxwright.data.loader import TrainKey, TrainLoader, ValKey, ValLoader, batch_block
from boxwright.data.sampler import BatchPlan, Share, sample_generator
from boxwright.errors import UserError
from boxwright.nuscenes.split import NuscenesSplit
from boxwright.nuscenes.structures import ImageRecord
from boxwright.ops.arrays import Array, Image


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """What shapes samples: two groups of settings as they are, and what the rest of a run says of them."""

    input_hw: tuple[int, int] = (448, 800)  # height, width of the network's input, multiples of 32
    radar: RadarConfig = field(default_factory=RadarConfig)
    augment: FusionAugmentConfig = field(default_factory=FusionAugmentConfig)
    use_radar: bool = True  # False: radar maps are 0 and no radar is read
    max_objects: int = 128  # slots for objects of an image; the first ones are taken
    reduce: bool = True  # decode training images at reduced scale where the input is at most half their size
    fixed: bool = False  # mirror the velocity targets of mirrored images (`compat: fixed`)

    def __post_init__(self) -> None:
        if any(side < COARSEST_STRIDE or side % COARSEST_STRIDE for side in self.input_hw):
            height, width = self.input_hw
            raise UserError(
                f"the network input is {height} x {width} pixels, but both must be multiples of {COARSEST_STRIDE}"
            )

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Return height, width of the output grid."""
        return self.input_hw[0] // STRIDE, self.input_hw[1] // STRIDE

    def base_scale(self, image_hw: tuple[int, int]) -> float:
        """Return how many pixels of an image fill the input's width without augmentation."""
        return float(max(image_hw) if self.augment.max_crop else image_hw[1])


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is drawn for one training image."""

    placement: Placement
    color: ColorChange | None = None  # None leaves the colours alone


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
        settings: what shapes the samples.
    """

    def __init__(self, source: NuscenesSplit, settings: SampleSettings) -> None:
        self.source = source
        self.settings = settings
        # Made for the first image and kept: fresh memory of this size costs more in page faults than the colours.
        self._buffers: tuple[Image, npt.NDArray[np.float32]] | None = None

    def __getstate__(self) -> tuple[NuscenesSplit, SampleSettings]:
        return self.source, self.settings

    def __setstate__(self, state: tuple[NuscenesSplit, SampleSettings]) -> None:
        self.__init__(*state)

    def draw(self, record: ImageRecord, rng: Draws) -> Augmentation:
        """Draw what becomes of a training image: first its place, then its colours."""
        image_hw, augment = (record.height, record.width), self.settings.augment
        placement = draw_placement(rng, image_hw, self.settings.base_scale(image_hw), augment)
        return Augmentation(placement, draw_color_change(rng) if augment.color else None)

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
        self.write_augmented(position, record, None if rng is None else self.draw(record, rng), out)
        return record

    def write_augmented(
        self, position: int, record: ImageRecord, augmentation: Augmentation | None, out: SampleArrays
    ) -> None:
        """Make one sample with a given augmentation, see `write`."""
        settings, image_hw = self.settings, (record.height, record.width)
        placement = centered(image_hw) if augmentation is None else augmentation.placement
        scale = settings.base_scale(image_hw) * placement.factor
        input_from_image = affine_map(placement.center, scale, placement.rotation, settings.input_hw)
        grid_from_image = affine_map(placement.center, scale, placement.rotation, settings.grid_hw)
        annotations = record.annotations
        from_original = grid_from_image
        if placement.flip:
            # Annotations and radar are mirrored themselves, so their map stays that of the mirrored image.
            input_from_image = mirrored(input_from_image, record.width)
            from_original = mirrored(grid_from_image, record.width)
            annotations = mirror_annotations(annotations, record.width, fixed=settings.fixed)
        if self._buffers is None:
            self._buffers = np.empty(out.image.shape, np.uint8), np.empty(out.image.shape, np.float32)
        warped, unscaled = self._buffers
        # Validation samples at full scale, as published.
        read_warped(record, input_from_image, warped, reduce=settings.reduce and augmentation is not None)
        finish_colors(warped, augmentation.color if augmentation else None, out.image, unscaled)
        out.calib[:] = record.calib
        out.image_from_grid[:] = inverse(from_original)
        write_targets(annotations, grid_from_image, placement.factor, out.targets)
        if settings.use_radar:
            points = visible_points(
                self.source.radar(position),
                record.calib,
                image_hw,
                grid_from_image,
                settings.grid_hw,
                max_depth=settings.radar.max_depth,
                z_offset=settings.radar.z_offset,
                flip=placement.flip,
            )
            paint_pillars(points, record.calib, grid_from_image, settings.radar.pillar_dims, out.radar)


def make_train_loader(
    source: NuscenesSplit,
    settings: SampleSettings,
    *,
    batch_size: int,
    seed: int,
    workers: int,
    shuffle: bool = True,
    rank: int = 0,
    num_ranks: int = 1,
    pin_memory: bool = False,
) -> TrainLoader[Batch3d]:
    """Open the training batches of a split; a last batch that is not full is left out, as published.

    Args:
        source: images, annotations, radar.
        settings: what shapes the samples.
        batch_size: images per step over all ranks.
        seed: seed of order and of augmentation.
        workers: processes, at most the number of cores.
        shuffle: a new order per epoch; else that of the source.
        rank, num_ranks: share of this process in a distributed run.
        pin_memory: see `data.loader.BatchPool`.

    Raises:
        UserError: fewer images than a batch takes.
    """
    order = np.arange(len(source), dtype=np.int64)
    plan = BatchPlan(order, batch_size, seed if shuffle else None, rank, num_ranks, drop_last=True)
    make = partial(make_train_batch, SampleMaker(source, settings), seed)
    return TrainLoader(make, plan, workers, pin_memory=pin_memory)


def make_val_loader(
    source: NuscenesSplit,
    settings: SampleSettings,
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
    return ValLoader(partial(make_val_batch, SampleMaker(source, settings)), plan, workers, pin_memory=pin_memory)


def make_train_batch(maker: SampleMaker, seed: int, key: TrainKey) -> Batch3d:
    """Make a training batch from its key."""
    epoch, _, share = key
    return _make_batch(maker, share, (seed, epoch))


def make_val_batch(maker: SampleMaker, key: ValKey) -> Batch3d:
    """Make a validation batch from its key."""
    _, images = key
    return _make_batch(maker, Share(images, np.zeros_like(images)), None)


def _make_batch(maker: SampleMaker, share: Share, seed_and_epoch: tuple[int, int] | None) -> Batch3d:
    """Make the samples of a batch side by side in one block; without a seed, as validation sees them."""
    block, arrays = allocate(maker.settings, len(share))
    records: list[ImageRecord] = []
    for row, (image, repeat) in enumerate(zip(share.images.tolist(), share.repeats.tolist(), strict=True)):
        rng = sample_generator(*seed_and_epoch, image, repeat=repeat) if seed_and_epoch else None
        records.append(maker.write(image, rng, arrays.row(row)))
    return Batch3d(
        images=block.pop("image").permute(0, 3, 1, 2),
        radar=block.pop("radar"),
        calibs=block.pop("calib"),
        image_from_grid=block.pop("image_from_grid"),
        targets=Targets3d(**block),
        indices=torch.from_numpy(share.images),
        paths=tuple(record.path for record in records),
    )


def allocate(settings: SampleSettings, count: int) -> tuple[dict[str, torch.Tensor], SampleArrays]:
    """Allocate a batch in one block of memory: its tensors by name, and the same memory as arrays to be written to.

    Its images are not set to anything, all else is 0.
    """
    images = {
        "image": ((*settings.input_hw, 3), torch.float32),
        "radar": ((3, *settings.grid_hw), torch.float32),
        "calib": ((3, 4), torch.float32),
        "image_from_grid": ((2, 3), torch.float32),
    }
    rooms = images | room_for_targets(settings.max_objects, settings.grid_hw)
    block = batch_block({name: ((count, *shape), kind) for name, (shape, kind) in rooms.items()})
    for name, tensor in block.items():
        if name != "image":  # of which every pixel is written
            tensor.zero_()
    arrays = {name: tensor.numpy() for name, tensor in block.items()}
    targets = Targets3d(**{name: array for name, array in arrays.items() if name not in images})
    return block, SampleArrays(**{name: arrays[name] for name in images}, targets=targets)
