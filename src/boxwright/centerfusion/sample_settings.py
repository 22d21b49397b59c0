"""What shapes the samples of a camera + radar run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from boxwright.centerfusion.settings import COARSEST_STRIDE, STRIDE
from boxwright.errors import UserError


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """Settings of samples; the defaults are those of the published training run.

    Args:
        input_hw: height, width of the network's input, multiples of 32.
        radar: paint radar maps; without, the maps are 0 and no radar is read.
        max_depth: metres; radar points farther away are left out (published max_pc_dist).
        pillar_dims: height, width (forward), length (right) of a radar point's pillar in metres. The published run
            asked for 1.0, 0.2, 0.2 but got these.
        pc_z_offset: metres by which radar points are raised.
        max_objects: slots for objects of an image; the first ones are taken.
        crop: "shift" moves and scales the whole image about its place, "random" takes one of eight sizes at a random
            place.
        shift: standard deviation of the move as a part of the image's longer side, cut at twice that.
        scale: the same of the size about 1, cut at once that.
        rotate: the same of the rotation in degrees, cut at twice that.
        aug_rot: how often a training image is rotated.
        flip: how often it is mirrored.
        max_crop: the longer side of the image fills the input's width; False: its width does.
        color_aug: change the colours of training images.
        reduce: decode training images at reduced scale where the input is at most half their size.
        fixed: mirror the velocity targets of mirrored images (`compat: fixed`).
    """

    input_hw: tuple[int, int] = (448, 800)
    radar: bool = True
    max_depth: float = 60.0
    pillar_dims: tuple[float, float, float] = (1.5, 0.2, 0.2)
    pc_z_offset: float = 0.0
    max_objects: int = 128
    crop: Literal["shift", "random"] = "shift"
    shift: float = 0.1
    scale: float = 0.0
    rotate: float = 0.0
    aug_rot: float = 0.0
    flip: float = 0.5
    max_crop: bool = True
    color_aug: bool = True
    reduce: bool = True
    fixed: bool = False

    def __post_init__(self) -> None:
        if any(side < COARSEST_STRIDE or side % COARSEST_STRIDE for side in self.input_hw):
            height, width = self.input_hw
            raise UserError(
                f"the network input is {height} x {width} pixels, but both must be multiples of {COARSEST_STRIDE}"
            )

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Height, width of the output grid."""
        return self.input_hw[0] // STRIDE, self.input_hw[1] // STRIDE
