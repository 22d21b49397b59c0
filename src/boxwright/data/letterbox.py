"""Letterbox: fit an image into a shape without changing its proportions, the rest filled with grey.

Source: published YOLOv5 6.x behaviour (docs/spec/yolov5.md, B7; tests/parity/test_letterbox.py). The border is split in
half; a half pixel is given to the bottom and to the right, while the recorded pad keeps the half, as published.
"""

import logging
from dataclasses import dataclass

import cv2
import numpy as np

from boxwright.ops.arrays import Image

FILL = 114  # grey level of everything that no image covers
_log = logging.getLogger("boxwright.data")


@dataclass(frozen=True, slots=True)
class Fit:
    """Where letterbox puts an image."""

    out_hw: tuple[int, int]  # height, width of the result
    resized_hw: tuple[int, int]  # height, width of the image inside it
    scale_yx: tuple[float, float]  # result pixels per image pixel, as published (not rounded to the resized size)
    pad_yx: tuple[float, float]  # half of the border in y and x, may end in .5
    top: int  # whole rows and columns of border before the image
    left: int


def fit_letterbox(
    image_hw: tuple[int, int],
    new_shape: int | tuple[int, int],
    *,
    auto: bool,
    stride: int,
    scale_up: bool = True,
    scale_fill: bool = False,
) -> Fit:
    """Compute a letterbox from sizes alone.

    Args:
        image_hw: height, width of the image.
        new_shape: side of a square, or height, width.
        auto: pad only up to the next multiple of `stride` instead of to `new_shape`.
        stride: that multiple.
        scale_up: allow enlarging; without it a small image is only padded.
        scale_fill: stretch to `new_shape` (ignored with `auto`).
    """
    height, width = image_hw
    target_h, target_w = (new_shape, new_shape) if isinstance(new_shape, int) else new_shape
    scale = min(target_h / height, target_w / width)
    if not scale_up:
        scale = min(scale, 1.0)
    scale_yx = (scale, scale)
    resized_h, resized_w = max(round(height * scale), 1), max(round(width * scale), 1)
    border_h, border_w = target_h - resized_h, target_w - resized_w
    if auto:
        border_h, border_w = border_h % stride, border_w % stride
    elif scale_fill:
        border_h = border_w = 0
        resized_h, resized_w = target_h, target_w
        scale_yx = (target_h / height, target_w / width)
    pad_y, pad_x = border_h / 2, border_w / 2
    return Fit(
        out_hw=(resized_h + border_h, resized_w + border_w),
        resized_hw=(resized_h, resized_w),
        scale_yx=scale_yx,
        pad_yx=(pad_y, pad_x),
        top=round(pad_y - 0.1),
        left=round(pad_x - 0.1),
    )


def fit_imgsz(imgsz: int, stride: int, *, least: int = 1, warn: bool = True) -> int:
    """Round an input side up to a multiple of the stride, at least `least` of them, and warn if that changes it."""
    fitting = max(-(-imgsz // stride), least) * stride
    if warn and fitting != imgsz:
        _log.warning("imgsz %d is not a multiple of the largest stride %d; using %d", imgsz, stride, fitting)
    return fitting


def letterbox(
    image: Image,
    new_shape: int | tuple[int, int],
    *,
    auto: bool,
    stride: int,
    scale_up: bool = True,
) -> tuple[Image, tuple[float, float], tuple[float, float]]:
    """Resize and pad an image.

    Args:
        image: (H, W, 3) uint8. For the others see `fit_letterbox`.

    Returns:
        The padded image, the scale in y and x, and half of the border in y and x:
        x_out = x_in * scale[1] + pad[1].
    """
    height, width = image.shape[:2]
    fit = fit_letterbox((height, width), new_shape, auto=auto, stride=stride, scale_up=scale_up)
    if fit.out_hw == (height, width):
        return image, fit.scale_yx, fit.pad_yx
    out = np.full((*fit.out_hw, 3), FILL, dtype=np.uint8)
    place(out, image, fit)
    return out, fit.scale_yx, fit.pad_yx


def place(out: Image, image: Image, fit: Fit) -> None:
    """Resize `image` into its place in `out` (fit.out_hw, already filled)."""
    resized_h, resized_w = fit.resized_hw
    room = out[fit.top : fit.top + resized_h, fit.left : fit.left + resized_w]
    if image.shape[:2] == fit.resized_hw:
        room[:] = image
    else:
        room[:] = cv2.resize(image, (resized_w, resized_h), interpolation=cv2.INTER_LINEAR)
