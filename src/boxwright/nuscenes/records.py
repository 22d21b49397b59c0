"""What is known of one camera image of nuScenes: calibration, poses and the annotations that it shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ImageAnnotations:
    """Objects that an image shows, in the order of the published conversion; N of them, camera frame.

    Args:
        labels: (N,) int64 class, 0-based.
        boxes_xywh: (N, 4) left, top, width, height in pixels, cropped to the image.
        dims: (N, 3) height, width, length in metres.
        locations: (N, 3) metres, centre of the bottom face.
        depths: (N,) metres.
        rotation_y: (N,) rad about the camera's y axis.
        alpha: (N,) rad, observation angle.
        amodel_centers: (N, 2) projection of the 3-D centre, pixels.
        attributes: (N,) int64, -1 is none.
        velocity_cam: (N, 3) m/s; NaN where unknown.
        is_crowd: (N,) bool.
    """

    labels: npt.NDArray[np.int64]
    boxes_xywh: Array
    dims: Array
    locations: Array
    depths: Array
    rotation_y: Array
    alpha: Array
    amodel_centers: Array
    attributes: npt.NDArray[np.int64]
    velocity_cam: Array
    is_crowd: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One camera image.

    Args:
        path: its file.
        width, height: pixels.
        sensor: 1..6, see `nuscenes.structures.CAMERAS`.
        sample: position of its key frame in the split's list of sample tokens.
        calib: (3, 4) camera matrix, [K | 0].
        global_from_cam: (4, 4).
        annotations: what it shows; none in a test split.
    """

    path: Path
    width: int
    height: int
    sensor: int
    sample: int
    calib: Array
    global_from_cam: Array
    annotations: ImageAnnotations


class FusionSource(Protocol):
    """The images of a split with their radar, by position."""

    def __len__(self) -> int: ...

    def record(self, position: int) -> ImageRecord:
        """What is known of an image."""
        ...

    def radar(self, position: int) -> Array:
        """(18, N) accumulated radar points in the camera frame, see `RADAR_FIELDS`; rows 8 and 9 are
        the velocity along camera x and z. (18, 0) where there is none."""
        ...
