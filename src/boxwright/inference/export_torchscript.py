"""Networks to TorchScript: what `torch.jit.trace` records of any batch and image size."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from boxwright.inference.exported import METADATA_KEY, ExportInfo
from boxwright.yolo.export_rows import ExportRows


def write_torchscript(rows: ExportRows, path: Path, info: ExportInfo, images: Tensor) -> None:
    """Trace a network.

    Args:
        rows: the network.
        path: written to.
        info: travels in the file.
        images: (B, 3, H, W) example.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of branches on shapes, which are the same for every image of a network
        script = torch.jit.trace(rows, (images,), check_trace=False)
        torch.jit.save(script, str(path), _extra_files={METADATA_KEY: info.to_json().encode()})
