"""One sample of camera + radar: draws, warp and colours of the image, radar map, targets.

A training sample is a function of (seed, epoch, index) alone, as in 2-D. What is not here: batches (loader.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from boxwright.centerfusion.color import ColorChange, draw_color_change, finish_colors
from boxwright.centerfusion.draws import Draws, Placement, centered, draw_placement
from boxwright.centerfusion.radar_map import paint_pillars, visible_points
from boxwright.centerfusion.sample_settings import SampleSettings
from boxwright.centerfusion.targets import TargetArrays, mirror_annotations, room_for_targets, write_targets
from boxwright.centerfusion.warp import Pixels, affine_map, inverse, mirrored, read_warped
from boxwright.nuscenes.structures import FusionSource, ImageRecord
from boxwright.ops.arrays import Floats as Array


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is drawn for one training image; None leaves the colours alone."""

    placement: Placement
    color: ColorChange | None = None


@dataclass(frozen=True, slots=True)
class SampleArrays:
    """One image's share of `centerfusion.structures.FusionBatch`, or a whole batch's with one more dimension in front.

    Args:
        image: (h, w, 3) float32 BGR, normalised.
        radar: (3, H, W) float32.
        calib: (3, 4) float32.
        image_from_grid: (2, 3) float32 map of cells to pixels of the image, mirrored back where it was mirrored.
        targets: what the heads shall say.
    """

    image: npt.NDArray[np.float32]
    radar: npt.NDArray[np.float32]
    calib: npt.NDArray[np.float32]
    image_from_grid: npt.NDArray[np.float32]
    targets: TargetArrays

    def row(self, index: int) -> SampleArrays:
        """The arrays of one image of a batch, to be written to."""
        return SampleArrays(
            self.image[index],
            self.radar[index],
            self.calib[index],
            self.image_from_grid[index],
            self.targets.row(index),
        )


class SampleMaker:
    """Makes samples of one source, one after the other; keeps the pixels between decoding and colours as its room.

    Args:
        source: images, annotations, radar.
        settings: what shapes the samples.
    """

    def __init__(self, source: FusionSource, settings: SampleSettings) -> None:
        self.source = source
        self.settings = settings
        self._warped: Pixels | None = None
        self._unscaled: npt.NDArray[np.float32] | None = None

    def __getstate__(self) -> tuple[FusionSource, SampleSettings]:
        return self.source, self.settings

    def __setstate__(self, state: tuple[FusionSource, SampleSettings]) -> None:
        self.__init__(*state)

    def draw(self, record: ImageRecord, rng: Draws) -> Augmentation:
        """Draw what becomes of a training image: first its place, then its colours."""
        base = _base_scale(record, self.settings)
        placement = draw_placement(rng, (record.height, record.width), base, self.settings)
        return Augmentation(placement, draw_color_change(rng) if self.settings.color_aug else None)

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
        augmentation = None if rng is None else self.draw(record, rng)
        self.write_augmented(position, record, augmentation, out)
        return record

    def write_augmented(
        self, position: int, record: ImageRecord, augmentation: Augmentation | None, out: SampleArrays
    ) -> None:
        """Make one sample with a given augmentation; see `write`."""
        settings, image_hw = self.settings, (record.height, record.width)
        placement = centered(image_hw) if augmentation is None else augmentation.placement
        scale = _base_scale(record, settings) * placement.factor
        input_from_image = affine_map(placement.center, scale, placement.rotation, settings.input_hw)
        grid_from_image = affine_map(placement.center, scale, placement.rotation, settings.grid_hw)
        annotations = record.annotations
        from_original = grid_from_image
        if placement.flip:
            input_from_image = mirrored(input_from_image, record.width)
            from_original = mirrored(grid_from_image, record.width)
            annotations = mirror_annotations(annotations, record.width, fixed=settings.fixed)
        self._write_image(record, input_from_image, augmentation, out.image)
        out.calib[:] = record.calib
        out.image_from_grid[:] = inverse(from_original)
        write_targets(annotations, grid_from_image, placement.factor, out.targets)
        if settings.radar:
            points = visible_points(
                self.source.radar(position),
                record.calib,
                image_hw,
                grid_from_image,
                settings.grid_hw,
                max_depth=settings.max_depth,
                z_offset=settings.pc_z_offset,
                flip=placement.flip,
            )
            paint_pillars(points, record.calib, grid_from_image, settings.pillar_dims, out.radar)

    def _write_image(
        self,
        record: ImageRecord,
        input_from_image: Array,
        augmentation: Augmentation | None,
        out: npt.NDArray[np.float32],
    ) -> None:
        if self._warped is None or self._unscaled is None:
            self._warped, self._unscaled = np.empty(out.shape, np.uint8), np.empty(out.shape, np.float32)
        reduce = self.settings.reduce and augmentation is not None
        read_warped(record, input_from_image, self._warped, reduce=reduce)
        finish_colors(self._warped, augmentation.color if augmentation else None, out, self._unscaled)


def room_for_images(settings: SampleSettings) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of each array of one sample but its targets, by name."""
    return {
        "image": ((*settings.input_hw, 3), torch.float32),
        "radar": ((3, *settings.grid_hw), torch.float32),
        "calib": ((3, 4), torch.float32),
        "image_from_grid": ((2, 3), torch.float32),
    }


def empty_sample(settings: SampleSettings) -> SampleArrays:
    """Zeroed arrays for one sample."""
    images, targets = room_for_images(settings), room_for_targets(settings.max_objects, settings.grid_hw)
    return SampleArrays(
        **{name: torch.zeros(shape, dtype=kind).numpy() for name, (shape, kind) in images.items()},
        targets=TargetArrays(**{n: torch.zeros(shape, dtype=kind).numpy() for n, (shape, kind) in targets.items()}),
    )


def make_sample(source: FusionSource, position: int, settings: SampleSettings, rng: Draws | None) -> SampleArrays:
    """Make one sample by itself; see `SampleMaker.write`."""
    sample = empty_sample(settings)
    SampleMaker(source, settings).write(position, rng, sample)
    return sample


def _base_scale(record: ImageRecord, settings: SampleSettings) -> float:
    """Pixels of the image that fill the input's width without augmentation."""
    return float(max(record.width, record.height) if settings.max_crop else record.width)
