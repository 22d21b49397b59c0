"""Weights that depend on nothing but the name and shape of a state-dict entry: the recipe of the golden vectors.

A wrong name or shape gives other numbers, so a vector checks both, and no weights need to be stored. Each entry has a
generator of its own, numpy's PCG64, whose seed is the first 8 bytes, little endian, of sha256(name); draws are float64
normals n. By the last part of the name:

* "anchors", "anchor_grid": left alone; "num_batches_tracked": 0
* two or more axes: n * sqrt(gain / fan_in), fan_in the product of all axes but the first
* one axis: "running_var" 0.5 + 0.5 |n|; "weight" 1 + 0.1 n; all else 0.1 n
"""

from __future__ import annotations

import hashlib
import math
from typing import TypeVar

import numpy as np
import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def normals(name: str, shape: tuple[int, ...]) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def fill_array(name: str, shape: tuple[int, ...], gain: float = 1.0) -> np.ndarray:
    drawn, kind = normals(name, shape), name.rsplit(".", 1)[-1]
    if len(shape) >= 2:
        return (drawn * np.sqrt(gain / math.prod(shape[1:]))).astype(np.float32)
    if kind == "running_var":
        return (0.5 + 0.5 * np.abs(drawn)).astype(np.float32)
    return (0.1 * drawn + (kind == "weight")).astype(np.float32)


@torch.no_grad()
def fill_torch(module: Module, gain: float = 1.0) -> Module:
    """Overwrite parameters and buffers in place."""
    for name, value in module.state_dict().items():
        kind = name.rsplit(".", 1)[-1]
        if kind == "num_batches_tracked":
            value.zero_()
        elif kind not in ("anchors", "anchor_grid"):
            value.copy_(torch.from_numpy(fill_array(name, tuple(value.shape), gain)))
    return module
