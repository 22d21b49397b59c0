"""The one door to a network that is ready to run: a checkpoint, or a file that was exported from one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from boxwright.errors import UserError
from boxwright.inference.exported import is_exported, open_exported
from boxwright.yolo.detection import DetectionModel, Network
from boxwright.yolo.ensemble import Ensemble
from boxwright.yolo.fuse import fuse
from boxwright.yolo.tta import AugmentedNetwork
from boxwright.yolo.weights import load_model


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


def open_networks(
    paths: Sequence[str | Path], device: torch.device, *, half: bool = False, augment: bool = False
) -> Network:
    """Open one file, or several as one network whose rows go through one NMS.

    Args:
        paths: at least one, each as `open_network` takes it; all of the same classes.
        device: where they will run.
        half: whether they will be asked to compute in half precision.
        augment: look at each image at three sizes, one of them mirrored.

    Raises:
        UserError: as `open_network`; the classes differ; or augment is asked of an exported file.
    """
    sources = [str(path) for path in paths]
    if not sources:
        raise UserError("no weights are given")
    networks = [open_network(path, device, half=half) for path in paths]
    if augment:
        networks = [_augmented(network, source) for network, source in zip(networks, sources, strict=True)]
    return networks[0] if len(networks) == 1 else Ensemble(networks, sources)


def _augmented(network: Network, source: str) -> Network:
    if not isinstance(network, DetectionModel):
        raise UserError(
            f"--augment needs the levels of a network, which exported files do not give: leave out {source}"
        )
    return AugmentedNetwork(network)


def ready(model: DetectionModel, device: torch.device) -> DetectionModel:
    """A copy of the network with its batch norms folded, on the device, in channels_last."""
    return fuse(model).to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
