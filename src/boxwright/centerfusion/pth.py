"""Published `.pth` files of CenterFusion, CenterTrack and DLA-34, and how their entries get into a network.

Nothing is executed: archive.py reads them. Source: published CenterFusion behaviour (what does not fit keeps its own
start, so that a camera-only file can start a network with radar).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from boxwright.checkpoints.archive import read_archive
from boxwright.errors import UserError

_PARALLEL = "module."  # that data-parallel training puts before each name
_BACKBONE_START = "base_layer."  # an entry of a file of the backbone alone begins so
_NUM_NAMED = 3


@dataclass(frozen=True, slots=True)
class PublishedCheckpoint:
    """What a file holds.

    Args:
        state_dict: entries by published name, without data-parallel prefix; float32 where they are numbers.
        epoch: after which it was written, where the file says.
        optimizer: state of the optimizer as `torch.optim.Optimizer.state_dict` gives it, where the file has one.
    """

    state_dict: Mapping[str, Tensor]
    epoch: int | None
    optimizer: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What became of a file's entries and of a network's.

    Args:
        loaded: entries that were copied.
        missing: entries of the network that keep their own values: not in the file, or of another shape there.
        skipped: entries of the file that were not used, and why.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} of {len(self.loaded) + len(self.missing)} entries loaded"]
        if self.missing:
            parts.append(f"{len(self.missing)} keep their own start ({_some(self.missing)})")
        if self.skipped:
            skipped = _some([f"{name}: {reason}" for name, reason in self.skipped])
            parts.append(f"{len(self.skipped)} of the file not used ({skipped})")
        return ", ".join(parts)


def read_center_pth(path: str | Path) -> PublishedCheckpoint:
    """Read a published checkpoint {epoch, state_dict, optimizer}, or the bare entries of a DLA-34 backbone.

    Raises:
        UserError: missing, damaged, refused, or without entries.
    """
    path = Path(path)
    content = read_archive(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a checkpoint of a centre network: it holds a {type(content).__name__}")
    content = cast(dict[Any, Any], content)
    entries = content.get("state_dict", content)
    state = {
        str(name): value.float() if value.is_floating_point() else value
        for name, value in (cast(dict[Any, Any], entries).items() if isinstance(entries, dict) else ())
        if isinstance(value, Tensor)
    }
    if not state:
        raise UserError(f"{path} is not a checkpoint of a centre network: it has no state_dict with weights")
    state = {name.removeprefix(_PARALLEL): value for name, value in state.items()}
    if any(name.startswith(_BACKBONE_START) for name in state):
        state = {f"base.{name}": value for name, value in state.items()}
    epoch, optimizer = content.get("epoch"), content.get("optimizer")
    return PublishedCheckpoint(
        state,
        epoch if type(epoch) is int else None,
        cast(dict[str, Any], optimizer) if isinstance(optimizer, dict) else None,
    )


def load_published(model: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Copy the entries of equal name and shape; all others of the network keep their values.

    Args:
        model: receives the entries.
        state: entries by published name.
    """
    own = model.state_dict()
    skipped: list[tuple[str, str]] = []
    for name, value in state.items():
        if name not in own:
            skipped.append((name, "not in the network"))
        elif value.shape != own[name].shape:
            skipped.append((name, f"{_shape(value)} instead of {_shape(own[name])}"))
    unused = {name for name, _ in skipped}
    fitting = {name: value for name, value in state.items() if name not in unused}
    with torch.no_grad():
        model.load_state_dict(fitting, strict=False)
    return LoadReport(tuple(fitting), tuple(name for name in own if name not in fitting), tuple(skipped))


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


def _some(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:_NUM_NAMED]) + (", ..." if len(names) > _NUM_NAMED else "")
