"""Weights of CenterFusion from any file: a checkpoint of this tool with its settings, or a published one.

Published are the `.pth` files of CenterFusion, CenterTrack and DLA-34. Nothing of a file is executed:
`checkpoints.archive` reads it. Source: published CenterFusion behaviour (what does not fit keeps its own start, so that
a camera-only file can start a network with radar).
"""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from boxwright.centerfusion.detector import CenterFusionDetector
from boxwright.centerfusion.dla import CHANNELS
from boxwright.centerfusion.frustum import FrustumOptions
from boxwright.centerfusion.network import BACKBONE, FIRST_HEADS, CenterFusion, CenterFusionSpec
from boxwright.centerfusion.settings import FAMILY, MODEL, FusionConfig
from boxwright.checkpoints.archive import read_archive
from boxwright.checkpoints.native import is_native, load_checkpoint, warn_not_finite
from boxwright.engine.device import select_device
from boxwright.errors import UserError
from boxwright.nuscenes.structures import CLASS_NAMES
from boxwright.reading import parsing, reads
from boxwright.settings.load import load

_log = logging.getLogger("boxwright.weights")
_WIDEST = "base.level5.root.conv.weight"  # an entry with as many rows as the deepest level has channels
_PARALLEL = "module."  # that data-parallel training puts before each name
_BACKBONE_START = "base_layer."  # an entry of a file of the backbone alone begins so


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What became of a file's entries and of a network's."""

    loaded: tuple[str, ...]  # entries that were copied
    missing: tuple[str, ...]  # of the network, which keep their values: not in the file, or of another shape there
    skipped: tuple[tuple[str, str], ...]  # of the file, which were not used, and why

    def __str__(self) -> str:
        all_parts = Counter(map(_part_of, (*self.loaded, *self.missing)))
        taken = Counter(map(_part_of, self.loaded))
        whole = [part for part, count in all_parts.items() if taken[part] == count]
        partly = [f"part of {part}" for part, count in all_parts.items() if 0 < taken[part] < count]
        own = [part for part in all_parts if not taken[part]]
        said = f"{len(self.loaded)} of {sum(all_parts.values())} entries taken ({', '.join(whole + partly)})"
        if own:
            said += f"; own start: {', '.join(own)}"
        unused: dict[str, str] = {}
        for name, reason in self.skipped:  # of a part, its first entry says why
            unused.setdefault(_part_of(name, 2 if name.startswith(BACKBONE) else 1), reason)
        for reason in dict.fromkeys(unused.values()):
            said += f"; not used: {', '.join(part for part, why in unused.items() if why == reason)} ({reason})"
        return said


@reads("checkpoint file")
def open_trained(
    weights: str, *, no_radar: bool = False, compat: str = "", num_peaks: int | None = None
) -> tuple[CenterFusion, FusionConfig]:
    """Open a network to use, with the settings that shape its input.

    Args:
        weights: a checkpoint of this tool, or a published one.
        no_radar: the file has to be of the camera-only network.
        compat: how radar is associated and boxes are placed; empty: as it was trained, or as published.
        num_peaks: objects of an image that radar is associated with; None: as it was trained, or as published.

    Returns:
        the network in eval mode on the CPU, and the settings it was trained with, the published ones for a published
        file.

    Raises:
        UserError: missing, damaged, of another model, or incomplete.
    """
    path = Path(weights).expanduser()
    chosen = {"compat": compat} if compat else {}
    content = _read_native(path)
    if content is not None:
        config = load(FusionConfig, {**_part(content, "config", path), **chosen})
        if no_radar and not config.no_radar:
            raise UserError(f"{path} is a camera and radar network: leave out --no-radar")
        try:
            model = CenterFusion(CenterFusionSpec.from_mapping(content["model"]["spec"]))
            model.load_state_dict(_state(content))
        except (KeyError, TypeError, RuntimeError) as error:  # a RuntimeError names hundreds of entries
            raise UserError(f"{path} is damaged: its weights are not those of the network that it describes") from error
    else:
        state = read_published(path)
        spec = _described_by(state, path)
        if no_radar and spec.radar:
            raise UserError(f"{path} is a camera and radar network: leave out --no-radar")
        config = load(FusionConfig, {"no_radar": not spec.radar, **chosen})
        model = CenterFusion(spec)
        report = load_published(model, state)
        if report.missing:
            # A checkpoint to use has to be whole; one to start a training from need not, see `load_into`.
            raise UserError(
                f"{path} is not whole: it lacks {len(report.missing)} entries of the network that the others are of, "
                f"such as {report.missing[0]}"
            )
        without = {"velocity": "velocities are 0", "nuscenes_att": "boxes have no attribute"}
        said = [f"without {name}: {without[name]}, as published" for name in spec.lacking]
        sensors = "camera and radar" if spec.radar else "camera only"
        _log.info("%s", "; ".join([f"{path}: {sensors}, {report}", *said]))
    warn_not_finite(model.state_dict(), path)
    model.frustum, model.num_peaks = FrustumOptions.of(config), num_peaks or config.max_det
    return model.eval(), config


def load_detector(
    weights: str | Path, *, device: str = "", half: bool = False, no_radar: bool = False, compat: str = ""
) -> CenterFusionDetector:
    """Load a camera and radar checkpoint, ready to predict on images with their intrinsics and radar points.

    Args:
        device: "cpu", "0", "cuda:1"; empty: the first GPU, else the CPU.
        half: compute in fp16 (GPU) or bf16 (CPU).

    The other arguments and the errors are those of `open_trained`.
    """
    if not isinstance(weights, str | Path):  # pyright: ignore[reportUnnecessaryIsInstance]  # of users without types
        raise UserError("CenterFusion runs one network at a time: name one file of weights")
    where = select_device(device)
    return CenterFusionDetector(*open_trained(str(weights), no_radar=no_radar, compat=compat), device=where, half=half)


def load_into(model: CenterFusion, weights: str) -> str:
    """Copy what fits of a file into a network to be trained (docs/spec/centerfusion.md, C13).

    Returns:
        what was done, to be printed.
    """
    path = Path(weights).expanduser()
    with parsing(path, "checkpoint file"):
        content = _read_native(path)
        state = read_published(path) if content is None else _state(content)
        warn_not_finite(state, path)
        report = load_published(model, state)
    if not report.loaded:
        raise UserError(f"nothing of {path} fits {MODEL}")
    return f"{path}: {report}"


def _part(content: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    """Return a part of a checkpoint; raise a UserError where it is not there."""
    part = content.get(name)
    if not isinstance(part, dict):
        raise UserError(f"{path} is damaged: it has no {name}")
    return cast("Mapping[str, Any]", part)


def _read_native(path: Path) -> Mapping[str, Any] | None:
    """Read a checkpoint of this tool; None for another file. Raise a UserError for a checkpoint of another model."""
    if not is_native(read_archive(path)):
        return None
    content = load_checkpoint(path)
    if _part(content, "model", path).get("family") != FAMILY:
        raise UserError(f"{path} is not a checkpoint of {MODEL}")
    return content


def _state(content: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Return the weights to use: the averaged ones where there are any."""
    return content["ema"] if "ema" in content else content["state_dict"]


@reads("checkpoint file")
def read_published(path: str | Path) -> Mapping[str, Tensor]:
    """Read the weights of a published checkpoint, or the bare entries of a DLA-34 backbone.

    Returns:
        entries by published name, without data-parallel prefix; float32 where they are numbers.

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
        str(name).removeprefix(_PARALLEL): value.float() if value.is_floating_point() else value
        for name, value in (cast(dict[Any, Any], entries).items() if isinstance(entries, dict) else ())
        if isinstance(value, Tensor)
    }
    if not state:
        raise UserError(f"{path} is not a checkpoint of a centre network: it has no state_dict with weights")
    # A file of the backbone alone has names that begin where the backbone does.
    if any(name.startswith(_BACKBONE_START) for name in state):
        state = {f"base.{name}": value for name, value in state.items()}
    return state


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
    """Format the shape of an entry."""
    return "x".join(map(str, tensor.shape)) or "one number"


def _part_of(entry: str, depth: int = 1) -> str:
    """Return the part of a network that an entry belongs to: a head or a stage, and with more depth what is in it."""
    return ".".join(entry.split(".")[:depth])


def _described_by(state: Mapping[str, Tensor], path: Path) -> CenterFusionSpec:
    """Describe the network that published entries are of, by their names and shapes.

    Raises:
        UserError: they are of no network of 3-D boxes of the classes of nuScenes; the sentence says what is lacking.
    """
    heads = {_part_of(name) for name in state}
    lacking = [name for name in FIRST_HEADS if name not in heads]
    last = state.get("hm.2.bias", torch.zeros(0))
    problems = [f"it lacks the heads {', '.join(lacking)}"] if lacking else []
    if len(last) not in (0, len(CLASS_NAMES)):
        problems.append(f"it has {len(last)} classes where nuScenes has {len(CLASS_NAMES)}")
    if problems:
        raise UserError(f"{path} can only start a training (`train --weights {path}`): {', and '.join(problems)}")
    try:
        width = len(state[_WIDEST]) / CHANNELS[-1]
        return CenterFusionSpec(
            width=width,
            radar="dep_sec" in heads,
            dla_node="dcn" if any("conv_offset_mask" in name for name in state) else "conv",
            head_conv=round(len(state["hm.0.weight"]) / width),
            nuscenes_att="nuscenes_att" in heads,
            velocity="velocity" in heads,
        )
    except (KeyError, TypeError, ZeroDivisionError, ValidationError) as error:
        raise UserError(f"{path} is not whole: it lacks entries of {MODEL} or they have other shapes") from error
