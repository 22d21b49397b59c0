"""Golden targets of CenterFusion as Targets3d, for the tests of losses and of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from boxwright.centerfusion.structures import Targets3d


def golden_targets(arrays: Mapping[str, np.ndarray], prefix: str = "") -> Targets3d:
    """What lies below `<prefix>target/`; float tensors stay float32."""

    def read(name: str) -> Tensor:
        return torch.from_numpy(arrays[f"{prefix}target/{name}"])

    pairs = {
        "offset": "reg",
        "size": "wh",
        "depth": "dep",
        "dims": "dim",
        "amodel_offset": "amodel_offset",
        "velocity": "velocity",
        "attributes": "nuscenes_att",
    }
    values: dict[str, Any] = {name: read(key) for name, key in pairs.items()}
    marks = {f"{name}_valid": read(f"{pairs[name]}_mask") > 0 for name in ("depth", "velocity", "attributes")}
    images, most = read("ind").shape
    return Targets3d(
        heatmap=read("hm"),
        cell=read("ind"),
        label=read("cat"),
        valid=read("mask") > 0,
        rot_bins=read("rotbin"),
        rot_residuals=read("rotres"),
        rot_valid=read("rot_mask") > 0,
        boxes=torch.zeros(images, most, 4),
        annotation_depth=torch.zeros(images, most),
        alpha=torch.zeros(images, most),
        **values,
        **marks,
    )
