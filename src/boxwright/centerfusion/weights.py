"""Weights of CenterFusion from any file: a checkpoint of this tool with its settings, or a published one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from boxwright.centerfusion.detector import FusionDetector
from boxwright.centerfusion.network import CenterFusion, CenterFusionSpec, build_centerfusion
from boxwright.centerfusion.pth import load_published, read_center_pth
from boxwright.centerfusion.settings import FAMILY, MODEL, FusionConfig
from boxwright.centerfusion.task import frustum_options, sample_settings
from boxwright.checkpoints.archive import read_archive
from boxwright.checkpoints.native import is_native, load_checkpoint
from boxwright.engine.device import select_device
from boxwright.errors import UserError
from boxwright.settings.load import load


@dataclass(frozen=True, slots=True)
class TrainedFusion:
    """Args:
    model: in eval mode, on the CPU.
    config: settings it was trained with; the published ones for a published file.
    """

    model: CenterFusion
    config: FusionConfig


def open_trained(
    weights: str, *, no_radar: bool = False, compat: str = "", num_peaks: int | None = None
) -> TrainedFusion:
    """A network to use, with the settings that shape its input.

    Args:
        weights: a checkpoint of this tool, or a published one.
        no_radar: a published file is of the camera-only network.
        compat: how radar is associated and boxes are placed; empty: as it was trained, or as published.
        num_peaks: objects of an image that radar is associated with; None: as it was trained, or as published.

    Raises:
        UserError: missing, damaged, of another model, or incomplete.
    """
    path = Path(weights).expanduser()
    chosen = {"compat": compat} if compat else {}
    if is_native(read_archive(path)):
        content = load_checkpoint(path)
        _check_family(content, path)
        config = load(FusionConfig, {**_part(content, "config", path), **chosen})
        if no_radar and not config.no_radar:
            raise UserError(f"{path} is a camera and radar network: leave out --no-radar")
        model = _restored(content, path)
    else:
        config = load(FusionConfig, {"no_radar": no_radar, **chosen})
        model = build_centerfusion(CenterFusionSpec(radar=not no_radar))
        report = load_published(model, read_center_pth(path).state_dict)
        if report.missing:
            raise UserError(
                f"{path} lacks {len(report.missing)} entries of {MODEL}, such as {report.missing[0]}; a camera-only "
                "checkpoint goes with --no-radar"
            )
    model.frustum, model.num_peaks = frustum_options(config), num_peaks or config.max_det
    return TrainedFusion(model.eval(), config)


def load_detector(
    weights: str | Path, *, device: str = "", half: bool = False, no_radar: bool = False, compat: str = ""
) -> FusionDetector:
    """A network to use from Python, with the settings that shape its input; see `open_trained`.

    Args:
        device: "cpu", "0", "cuda:1"; empty: the first GPU, else the CPU.
        half: compute in fp16 (GPU) or bf16 (CPU).
    """
    where = select_device(device)
    trained = open_trained(str(weights), no_radar=no_radar, compat=compat)
    return FusionDetector(trained.model, sample_settings(trained.config), device=where, half=half)


def load_into(model: CenterFusion, weights: str) -> str:
    """Copy what fits of a file into a network to be trained; what does not fit keeps its own start (spec C13).

    Returns:
        what was done, to be printed.
    """
    path = Path(weights).expanduser()
    if is_native(read_archive(path)):
        content = load_checkpoint(path)
        _check_family(content, path)
        state = content["ema"] if "ema" in content else content["state_dict"]
    else:
        state = read_center_pth(path).state_dict
    report = load_published(model, cast("Mapping[str, Tensor]", state))
    if not report.loaded:
        raise UserError(f"nothing of {path} fits {MODEL}")
    return f"{path}: {report}"


def _restored(content: Mapping[str, Any], path: Path) -> CenterFusion:
    """The network of a checkpoint of this tool; averaged weights where it has them."""
    try:
        model = build_centerfusion(CenterFusionSpec.from_mapping(content["model"]["spec"]))
        model.load_state_dict(content["ema"] if "ema" in content else content["state_dict"])
    except (KeyError, TypeError, RuntimeError) as error:  # a RuntimeError names hundreds of entries
        raise UserError(f"{path} is damaged: its weights are not those of the network that it describes") from error
    return model


def _part(content: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    part = content.get(name)
    if not isinstance(part, dict):
        raise UserError(f"{path} is damaged: it has no {name}")
    return cast("Mapping[str, Any]", part)


def _check_family(content: Mapping[str, Any], path: Path) -> None:
    if _part(content, "model", path).get("family") != FAMILY:
        raise UserError(f"{path} is not a checkpoint of {MODEL}")
