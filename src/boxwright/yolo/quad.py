"""Quad: four samples become one image of twice the side: the first of them enlarged, or all four side by side.

So a batch holds as many pixels as before in a quarter of the images, and objects also come in twice their size.
Source: published YOLOv5 6.x behaviour (spec B7): probability one half for each, loss times four.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import cv2
import numpy as np

from boxwright.data.letterbox import Image
from boxwright.data.rng import QUAD, sample_generator
from boxwright.yolo.shapes import Labels

QUAD_SIZE: Final = 4  # samples in one image
_SIDE: Final = 2  # of them along each side

WriteSample = Callable[[int, Image], Labels]


def draw_enlarged(seed: int, epoch: int, first: int, repeat: int) -> bool:
    """Whether the first of four samples is enlarged, or all four are put side by side.

    Args:
        seed, epoch: of the run.
        first: position of the first image in the data index.
        repeat: how often this image came before in the epoch.
    """
    return bool(sample_generator(seed, epoch, first, QUAD, repeat).random() < 0.5)


def write_quad(write: WriteSample, out: Image, *, enlarged: bool) -> Labels:
    """Fill one image of twice the side.

    Args:
        write: makes sample 0 to 3 of the four in (H, W, 3) and gives its normalised labels.
        out: (2H, 2W, 3) uint8.
        enlarged: take the first sample alone, at twice its size; the others are not made.

    Returns:
        Normalised labels in the frame of `out`.
    """
    height, width = out.shape[0] // _SIDE, out.shape[1] // _SIDE
    sample = np.empty((height, width, 3), np.uint8)
    if enlarged:
        labels = write(0, sample)
        cv2.resize(sample, (out.shape[1], out.shape[0]), dst=out, interpolation=cv2.INTER_LINEAR)
        return labels
    parts: list[Labels] = []
    for position in range(QUAD_SIZE):
        row, column = divmod(position, _SIDE)
        parts.append(_in_quarter(write(position, sample), row, column))
        out[row * height : (row + 1) * height, column * width : (column + 1) * width] = sample
    return Labels(np.concatenate([part.classes for part in parts]), np.concatenate([part.boxes for part in parts]))


def _in_quarter(labels: Labels, row: int, column: int) -> Labels:
    corner = np.array([column, row, 0, 0], np.float32)
    return Labels(labels.classes, (labels.boxes + corner) / np.float32(_SIDE))
