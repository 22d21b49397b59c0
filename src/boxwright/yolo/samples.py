"""One training sample: a pure function of (seed, epoch, index) and the repeat count in this epoch.

Order, as published for YOLOv5 6.x (spec B7): mosaic or letterbox, random perspective, mixup with a second mosaic, HSV,
flips. Positions and labels of a mosaic come first, from sizes alone; then each image that is seen is sampled once.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from boxwright.data.images import loaded_size
from boxwright.data.letterbox import fit_letterbox
from boxwright.data.sampler import sample_generator
from boxwright.data.source_images import SourceImages
from boxwright.ops.arrays import Image
from boxwright.yolo.augmentation import (
    CANVAS,
    Tile,
    choose_pastes,
    draw_four,
    draw_hsv_multipliers,
    draw_mixup_ratio,
    draw_nine,
    draw_paste_order,
    finish_colors,
    hsv_table,
    mixup,
    paste_mirrored,
    place_four,
    place_nine,
    render,
    resize_matrix,
    warp_image,
)
from boxwright.yolo.geometry import (
    Labels,
    Shapes,
    concatenate,
    draw_perspective,
    perspective_matrix,
    shapes_of,
    translation,
    warp_shapes,
)
from boxwright.yolo.published import CURRENT, RELEASES
from boxwright.yolo.settings import AugmentConfig


@dataclass(frozen=True, slots=True)
class TrainingSamples:
    """Makes training samples, one at a time (threads would share its buffers)."""

    source: SourceImages  # where pixels come from
    imgsz: int  # side of a mosaic sample
    stride: int  # largest stride of the network
    config: AugmentConfig  # the random changes
    seed: int  # seed of the run
    mosaic: bool = True  # allow mosaics; rectangular batches do not
    _buffers: dict[tuple[int, int, int], Image] = field(default_factory=dict[Any, Image], repr=False, compare=False)

    def write(self, epoch: int, image: int, out: Image, repeat: int = 0) -> Labels:
        """Make one sample.

        Args:
            epoch: epoch, from 0.
            image: position in the data index.
            out: (H, W, 3) uint8 contiguous; gets RGB pixels.
            repeat: how often the image came before in this epoch.

        Returns:
            Normalised labels in the frame of `out`.

        Raises:
            UserError: an image file cannot be read.
        """
        rng = sample_generator(self.seed, epoch, image, repeat=repeat)
        out_hw = (out.shape[0], out.shape[1])
        if self.mosaic and rng.random() < self.config.mosaic:
            pixels, labels = self._mosaic(image, rng)
            if rng.random() < self.config.mixup:
                other = int(rng.integers(len(self.source.index)))
                second, more = self._mosaic(other, rng, role=1)
                pixels = mixup(pixels, second, draw_mixup_ratio(rng))
                labels = Labels(
                    np.concatenate([labels.classes, more.classes]), np.concatenate([labels.boxes, more.boxes])
                )
        else:
            pixels, labels = self._letterboxed(image, out_hw, rng)
        gains = (self.config.hsv_h, self.config.hsv_s, self.config.hsv_v)
        multipliers = draw_hsv_multipliers(rng, gains)  # drawn in any case: a gain must not change the flips
        table = hsv_table(multipliers) if any(gains) else None
        flip_y, flip_x = (rng.random(2) < (self.config.flipud, self.config.fliplr)).tolist()
        finish_colors(pixels, table, out, flip_x=flip_x, flip_y=flip_y)
        return labels.normalised(out_hw, flip_x=flip_x, flip_y=flip_y)

    def _mosaic(self, image: int, rng: np.random.Generator, role: int = 0) -> tuple[Image, Labels]:
        """Render four or nine images, warped to the square of the input size; BGR. `role` names the buffer to use."""
        side = self.imgsz
        out_hw, canvas_hw = (side, side), (CANVAS * side, CANVAS * side)
        nine = self.config.mosaic9 > 0 and rng.random() < self.config.mosaic9
        draw, place = (draw_nine, place_nine) if nine else (draw_four, place_four)
        images, point = draw(rng, image, len(self.source.index), side)
        members: list[int] = images.tolist()
        sizes = [loaded_size(self._original_size(member), side) for member in members]
        tiles: list[Tile] = []
        parts: list[Shapes] = []
        for member, tile_hw, placement in zip(members, sizes, place(point, sizes, side), strict=True):
            if placement.is_empty:
                continue
            source_hw, (left, top) = self.source.extent(member), placement.offset_xy
            canvas_from_source = translation(left, top) @ resize_matrix(source_hw, tile_hw)
            per_x, per_y = source_hw[1] / tile_hw[1], source_hw[0] / tile_hw[0]
            x1, y1, x2, y2 = placement.small
            tiles.append(Tile(member, canvas_from_source, (x1 * per_x, y1 * per_y, x2 * per_x, y2 * per_y)))
            parts.append(shapes_of(self.source.index, member, tile_hw, (top, left)))
        shapes = concatenate(parts).clipped(*canvas_hw)
        order = draw_paste_order(rng, shapes, self.config.copy_paste)
        pasted, shapes_after = choose_pastes(shapes, order, canvas_hw[1])
        warp = draw_perspective(rng, self.config)
        rules = RELEASES[self.config.release or CURRENT].warp
        matrix = perspective_matrix(warp, canvas_hw, out_hw, rules)
        labels = warp_shapes(shapes_after, matrix, warp.scale, out_hw, rules)
        if not len(pasted):
            out = self._buffer(out_hw, role)
            return render([tile.then(matrix) for tile in tiles], out, self.source.load), labels
        # A pasted object is cut out of the mirrored canvas, which therefore has to exist.
        canvas = render(tiles, self._buffer(canvas_hw, role), self.source.load)
        paste_mirrored(canvas, shapes, pasted)
        return warp_image(canvas, matrix, out_hw), labels

    def _letterboxed(self, image: int, out_hw: tuple[int, int], rng: np.random.Generator) -> tuple[Image, Labels]:
        """Render one image, letterboxed and warped; BGR."""
        source_hw = self.source.extent(image)
        loaded_hw = loaded_size(self._original_size(image), self.imgsz)
        fit = fit_letterbox(loaded_hw, out_hw, auto=False, stride=self.stride)
        warp = draw_perspective(rng, self.config)
        rules = RELEASES[self.config.release or CURRENT].warp
        matrix = perspective_matrix(warp, out_hw, out_hw, rules)
        place = translation(fit.left, fit.top) @ resize_matrix(source_hw, fit.resized_hw)
        tile = Tile(image, matrix @ place, (0.0, 0.0, source_hw[1], source_hw[0]))
        size = (fit.scale_yx[0] * loaded_hw[0], fit.scale_yx[1] * loaded_hw[1])
        shapes = shapes_of(self.source.index, image, size, fit.pad_yx)
        labels = warp_shapes(shapes, matrix, warp.scale, out_hw, rules)
        return render([tile], self._buffer(out_hw), self.source.load), labels

    def _original_size(self, image: int) -> tuple[int, int]:
        height, width = self.source.index.sizes[image].tolist()
        return height, width

    def _buffer(self, hw: tuple[int, int], role: int = 0) -> Image:
        """Return an array for pixels, which the next sample uses again."""
        key = (*hw, role)
        if key not in self._buffers:
            self._buffers[key] = np.empty((*hw, 3), np.uint8)
        return self._buffers[key]
