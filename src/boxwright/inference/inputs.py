"""What Python users hand to a detector, as frames: files, arrays, Pillow images, tensors, lists, generators."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor

from boxwright.data.files import is_url
from boxwright.data.images import IMAGE_SUFFIXES, read_image
from boxwright.errors import UserError
from boxwright.inference.sources import Frame, open_source, streams_of
from boxwright.inference.streams import DEFAULT_FPS
from boxwright.ops.arrays import Image
from boxwright.settings.flags import did_you_mean

TAKEN = (
    "a path, a Pillow image, an (H, W, 3) uint8 RGB array, a (B, 3, H, W) RGB tensor, or a list or generator of these"
)
_SAVED_BY = "open an encoded image with PIL.Image.open(io.BytesIO(...))"
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # of Pillow images with one channel of 16 bits

# What settings are called in other tools, and were called here before.
OTHER_NAMES = {
    "conf": "conf_thres",
    "score_threshold": "conf_thres",
    "iou": "iou_thres",
    "iou_threshold": "iou_thres",
    "max_detections": "max_det",
    "size": "imgsz",
    "agnostic": "agnostic_nms",
}

Source = Any  # what `TAKEN` says; whatever else a caller gives is answered by a UserError


def own_name(name: str, known: Sequence[str], elsewhere: Mapping[str, str] | None = None) -> str:
    """Return what a setting of `predict` is called here, with a warning where it was called otherwise.

    Args:
        name: as the caller's caller wrote it.
        known: the settings that there are.
        elsewhere: other names -> what to use for them.

    Raises:
        UserError: there is no such setting.
    """
    if name in known:
        return name
    own = OTHER_NAMES.get(name, "")
    if own not in known:
        hint = f": use {elsewhere[name]}" if elsewhere and name in elsewhere else did_you_mean(name, known)
        raise UserError(f"predict has no setting {name}{hint}")
    warnings.warn(f"{name} is called {own} here", FutureWarning, stacklevel=3)
    return own


def is_one(item: Source) -> bool:
    """Return whether this stands for exactly one image."""
    if isinstance(item, str | os.PathLike):
        path = Path(cast("str | os.PathLike[str]", item))
        return path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES
    return isinstance(item, np.ndarray | PIL.Image.Image) or (isinstance(item, Tensor) and item.ndim == 3)


def frames_of(source: Source, *, bgr: bool = False, video_stride: int = 1, live: bool = False) -> Iterator[Frame]:
    """Yield the frames of whatever a user gives; an image that was asked for by itself must be readable.

    Args:
        source: see `TAKEN`.
        bgr: channels of arrays and tensors are blue, green, red, as OpenCV has them.
        video_stride: take every n-th frame of a video.
        live: cameras and streams may be opened, which have no end.

    Raises:
        UserError: it is something else, or cannot be read.
    """
    if isinstance(source, list | tuple | Iterator) and not hasattr(source, "read"):  # an open file yields lines
        for item in cast(Iterable[Source], source):
            yield from frames_of(item, bgr=bgr, video_stride=video_stride, live=live)
    elif isinstance(source, np.ndarray):
        yield _frame(_from_array(source, bgr))
    elif isinstance(source, PIL.Image.Image):
        yield _frame(_from_pillow(source))
    elif isinstance(source, Tensor):
        yield from map(_frame, _from_tensor(source, bgr))
    elif isinstance(source, int | np.integer) and not isinstance(source, bool):
        yield from _opened(str(source), video_stride, live)
    elif isinstance(source, str | os.PathLike):
        yield from _opened(str(cast("str | os.PathLike[str]", source)), video_stride, live)
    else:
        hint = f"; {_SAVED_BY}" if isinstance(source, bytes | bytearray | memoryview) or hasattr(source, "read") else ""
        raise UserError(f"cannot predict on {_named(source)}: give {TAKEN}{hint}")


def _opened(text: str, video_stride: int, live: bool) -> Iterator[Frame]:
    """Yield the frames of a path, or of a stream where that is allowed."""
    path = Path(text)
    if not text:
        raise UserError(f"cannot predict on an empty path: give {TAKEN}")
    if text.startswith("-") and text[1:].isdecimal():
        raise UserError(f"cannot predict on {text}: cameras are counted from 0")
    if is_url(text) and not live:
        fetch = "nothing is downloaded here: fetch the image yourself and give its path"
        raise UserError(f"{text} is an address, and {fetch} (stream=True reads it as a stream, frame by frame)")
    if not live and streams_of(text):
        what = f"camera {text}" if text.isdecimal() else text
        raise UserError(f"{what} has no end: iterate over predict(..., stream=True)")
    if is_one(text):
        yield Frame(read_image(path), path, None, DEFAULT_FPS, "image")
    else:
        yield from open_source(text, video_stride=video_stride)


def _frame(image: Image) -> Frame:
    """Make a frame of an image in memory, BGR."""
    return Frame(image, None, None, DEFAULT_FPS, "array")


def _from_array(image: np.ndarray, bgr: bool) -> Image:
    """Check an array and return it as BGR."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        batch = "; give a batch as a list" if image.ndim == 4 else ""
        raise UserError(f"an image must be an (H, W, 3) uint8 RGB array, not {image.shape} {image.dtype}{batch}")
    return image if bgr else image[..., ::-1]


def _from_pillow(image: PIL.Image.Image) -> Image:
    """Return a Pillow image as BGR, upright, as `read_image` reads the file."""
    if not image.width or not image.height:
        raise UserError("the Pillow image has no pixels")
    try:
        upright = PIL.ImageOps.exif_transpose(image)
        if upright.mode in _DEEP_MODES:  # Pillow would cut off what is above 255
            grey = np.asarray(upright).astype(np.int64) >> 8
            return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
        if upright.mode == "F":
            raise UserError("a Pillow image of mode F has no fixed white: convert it to RGB first")
        if upright.mode in ("P", "PA"):
            upright = upright.convert("RGBA")  # a palette may hold transparency
        return np.asarray(upright.convert("RGB"))[..., ::-1]
    except (OSError, SyntaxError, ValueError) as error:  # Pillow reads the pixels only now
        raise UserError(f"the Pillow image cannot be read: {error}") from error


def _from_tensor(images: Tensor, bgr: bool) -> Iterator[Image]:
    """Yield the images of a tensor (B, 3, H, W) or (3, H, W) as BGR bytes."""
    batch = images.detach().cpu()
    batch = batch[None] if batch.ndim == 3 else batch
    if batch.ndim != 4 or batch.shape[1] != 3 or not batch.numel():
        raise UserError(f"a tensor must be (B, 3, H, W) or (3, H, W) RGB, not {tuple(images.shape)}")
    if batch.is_floating_point():
        low, high = batch.aminmax()
        if not (low >= 0 and high <= 1):
            raise UserError(f"a tensor of floats must be RGB in 0..1, not in {low:.3g}..{high:.3g}")
        batch = (batch.float() * 255).round().to(torch.uint8)
    elif batch.dtype != torch.uint8:
        raise UserError(f"a tensor must be uint8, or floats in 0..1, not {batch.dtype}")
    for image in batch.permute(0, 2, 3, 1).numpy():
        yield image if bgr else image[..., ::-1]


def _named(value: object) -> str:
    """Name a value by its type, in a few words."""
    if value is None or isinstance(value, bool | float):
        return repr(value)
    return f"an object of type {type(value).__name__}"
