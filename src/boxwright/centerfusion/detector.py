"""Camera and radar to 3-D boxes from Python: images with their intrinsics and radar in, detections out.

    detector = boxwright.load_fusion("best.pt")
    found = detector.predict("front.jpg", intrinsics, radar)
    found.locations, found.dims, found.rotation_y, found.scores

What is not here: data sets, and the frames beyond the camera's (`nuscenes.submission`).
Legend: N points or boxes; h w the network's input, H W its grid. Camera frame: x right, y down, z forward.
"""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from boxwright.centerfusion.augment import affine_map, base_scale, centered, finish_colors, inverse
from boxwright.centerfusion.postprocess import detect, run_network
from boxwright.centerfusion.radar_map import paint_radar
from boxwright.centerfusion.settings import FusionConfig
from boxwright.data.images import read_image
from boxwright.engine.device import resolve
from boxwright.errors import UserError
from boxwright.inference.inputs import Source, frames_of, is_one, own_name
from boxwright.nuscenes.geometry import doubt_intrinsics
from boxwright.nuscenes.structures import RADAR_FIELDS, Detections3d
from boxwright.ops.arrays import Array, Floats, Image

_USED_ROWS = [RADAR_FIELDS.index(name) for name in ("x", "y", "z", "vx_comp", "vy_comp")]


class CenterFusionDetector:
    """A CenterFusion network on a device, ready to predict.

    Args:
        model: in any mode and on any device, it is copied. Called as model(images, radar, calibs).
        config: settings that it was trained with, which shape its input; None: the published ones.
        device: where to run; None: the CPU.
        half: compute in fp16 (GPU) or bf16 (CPU). Boxes are decoded in float32 all the same.
    """

    __slots__ = ("__weakref__", "_precision", "config", "device", "model")  # a setting is no attribute: refuse it

    def __init__(
        self,
        model: nn.Module,
        config: FusionConfig | None = None,
        *,
        device: torch.device | None = None,
        half: bool = False,
    ) -> None:
        self.config = config or FusionConfig()
        self.device = device or torch.device("cpu")
        self.model = copy.deepcopy(model).to(self.device).eval()
        self._precision = resolve(("bf16" if self.device.type == "cpu" else "fp16") if half else "fp32", self.device)

    def predict(
        self,
        image: Source,
        intrinsics: Array,
        radar: Array | None = None,
        *,
        conf_thres: float = 0.3,
        max_det: int = 100,
        flip_test: bool = False,
        **other_names: Any,
    ) -> Detections3d:
        """Find objects in one image.

        Args:
            image: a file, a Pillow image, an (H, W, 3) uint8 RGB array or a (3, H, W) tensor.
            intrinsics: (3, 3) or (3, 4) camera matrix in pixels of this image.
            radar: (18, N) points in the frame of the camera, see `RADAR_FIELDS`; rows 8 and 9 hold the
                velocity along camera x and z, compensated for the own motion. None: no returns.
            conf_thres: scores are higher.
            max_det: most boxes an image.
            flip_test: look at the image and at its mirror image, and take the mean.
            other_names: `score_threshold`, `max_detections` and `conf` are taken with a warning.

        Returns:
            detections on the CPU, best first, in the frame of the camera.

        Raises:
            UserError: the image cannot be read, an array has another shape, or the network has no radar input.
        """
        named: dict[str, Any] = {"conf_thres": conf_thres, "max_det": max_det}
        named |= {own_name(name, tuple(named)): value for name, value in other_names.items()}
        return self.predict_many([image], [intrinsics], [radar], flip_test=flip_test, **named)[0]

    __call__ = predict

    @torch.inference_mode()
    def predict_many(
        self,
        images: Sequence[Source],
        intrinsics: Sequence[Array],
        radars: Sequence[Array | None] | None = None,
        *,
        conf_thres: float = 0.3,
        max_det: int = 100,
        flip_test: bool = False,
        **other_names: Any,
    ) -> list[Detections3d]:
        """Find objects in several images, which may differ in size, in one pass of the network; see `predict`."""
        named: dict[str, Any] = {"conf_thres": conf_thres, "max_det": max_det}
        named |= {own_name(name, tuple(named)): value for name, value in other_names.items()}
        if radars is None:
            radars = [None] * len(images)
        if not len(images) == len(intrinsics) == len(radars):
            raise UserError(
                f"each image needs its intrinsics and its radar (or None): there are {len(images)} images, "
                f"{len(intrinsics)} intrinsics and {len(radars)} radars"
            )
        if not images:
            return []
        prepared = [self._prepare(*one) for one in zip(images, intrinsics, radars, strict=True)]
        pixels, maps, calibs, image_from_grid = (
            torch.from_numpy(np.stack(part)) for part in zip(*prepared, strict=True)
        )
        network_input = pixels.to(self.device).permute(0, 3, 1, 2)  # in memory still HWC, which is channels_last
        radar_maps = None if self.config.no_radar else maps.to(self.device)
        calibs = calibs.to(self.device)
        with self._precision.autocast():
            heads = run_network(self.model, network_input, radar_maps, calibs, flip_test=flip_test)
        most, lowest = named["max_det"], named["conf_thres"]
        return detect(heads, image_from_grid.to(self.device), calibs, most, lowest, not self.config.no_radar)

    def _prepare(self, image: Source, intrinsics: Array, radar: Array | None) -> tuple[npt.NDArray[np.float32], ...]:
        """Prepare an image (h, w, 3), radar map (3, H, W), camera matrix (3, 4) and map of cells to pixels (2, 3).

        They are what a sample of validation is, see `samples.SampleMaker.write_placed`.
        """
        config = self.config
        pixels = _read_pixels(image)
        calib = _read_camera_matrix(intrinsics)
        image_hw = (pixels.shape[0], pixels.shape[1])
        if doubt := doubt_intrinsics(calib, image_hw[1], image_hw[0]):
            warnings.warn(f"intrinsics: {doubt}", stacklevel=3)
        center, scale = centered(image_hw).center, base_scale(config.augment, image_hw)
        grid_from_image = affine_map(center, scale, 0.0, config.grid_hw)
        input_from_image = affine_map(center, scale, 0.0, config.input_hw)
        height, width = config.input_hw
        warped = cv2.warpAffine(pixels, input_from_image, (width, height), flags=cv2.INTER_LINEAR)
        normalised = np.empty((height, width, 3), np.float32)
        finish_colors(cast("Image", warped), None, normalised, np.empty_like(normalised))
        radar_map = np.zeros((3, *config.grid_hw), np.float32)
        if radar is not None:
            paint_radar(self._read_radar(radar), calib, image_hw, grid_from_image, config.radar, radar_map)
        return normalised, radar_map, calib.astype(np.float32), inverse(grid_from_image).astype(np.float32)

    def _read_radar(self, radar: Array) -> Floats:
        """Check the radar points of a user; a NaN would be painted as the nearest return of all."""
        if self.config.no_radar:
            raise UserError("this network has no radar input: give no radar")
        points = _numbers(radar, "radar")
        if points.ndim != 2 or len(points) != len(RADAR_FIELDS):
            raise UserError(
                f"radar must be an (18, N) array of points, see boxwright.nuscenes.structures, not {points.shape}"
            )
        if not np.isfinite(points[_USED_ROWS]).all():
            raise UserError("radar holds positions or velocities that are not finite: leave those points out")
        return points


def _read_pixels(image: Source) -> Image:
    """Read a file, or an image that a user has in memory, as BGR."""
    if isinstance(image, str | Path):
        return read_image(Path(image))
    if not is_one(image):
        forms = "a file, a Pillow image, an (H, W, 3) uint8 RGB array or a (3, H, W) tensor"
        raise UserError(f"an image must be {forms}, not {type(image).__name__}")
    return np.ascontiguousarray(next(frames_of(image)).image)


def _numbers(values: object, name: str) -> Floats:
    """Convert an argument to an array of numbers."""
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} must be an array of numbers, not {type(values).__name__}: {error}") from error


def _read_camera_matrix(intrinsics: Array) -> Floats:
    """Check a camera matrix, (3, 4) or its first three columns, and return it as (3, 4)."""
    given = _numbers(intrinsics, "intrinsics")
    if given.shape not in ((3, 3), (3, 4)):
        raise UserError(f"intrinsics must be a (3, 3) or (3, 4) camera matrix in pixels, not {given.shape}")
    if not (np.isfinite(given).all() and given[0, 0] > 0 and given[1, 1] > 0):
        raise UserError("intrinsics need finite numbers and focal lengths above 0 on their diagonal")
    return given if given.shape == (3, 4) else np.pad(given, ((0, 0), (0, 1)))
