"""The one door to a network that is ready to run: a checkpoint, or a file that was exported from one."""

from __future__ import annotations

from pathlib import Path

import torch

from boxwright.checkpoints.reader import load_model
from boxwright.errors import UserError
from boxwright.inference.exported import is_exported, open_exported
from boxwright.models.detection import DetectionModel, Network
from boxwright.models.fuse import fuse


def open_network(path: str | Path, device: torch.device, *, half: bool = False) -> Network:
    """Open weights of any kind for inference.

    Args:
        path: a checkpoint that `checkpoints.reader` reads, or an exported file.
        device: where it will run.
        half: whether it will be asked to compute in half precision.

    Returns:
        in eval mode on the device; a checkpoint's network with its batch norms folded, in channels_last.

    Raises:
        UserError: missing, unreadable, its library is not installed, or half is asked of an exported file.
    """
    if not is_exported(path):
        return ready(load_model(path), device)
    if half:
        raise UserError(f"the precision of {path} is fixed: leave out --half, or export with --half")
    return open_exported(path, device)


def ready(model: DetectionModel, device: torch.device) -> DetectionModel:
    """A copy of the network with its batch norms folded, on the device, in channels_last."""
    return fuse(model).to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
