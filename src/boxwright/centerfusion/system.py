"""CenterFusion as one system of `boxwright.systems`: its verbs, and what is surely its own. Imports no torch."""

from pathlib import Path

from boxwright.centerfusion import settings
from boxwright.centerfusion.settings import FAMILY, MODEL, find_preset, model_of
from boxwright.checkpoints.names import names_in_checkpoint
from boxwright.settings.base import Files, Frozen, TrainingFiles, Verb

HINT = "Camera and radar: `boxwright {call} --help` lists the flags."
CHOSEN_BY = {"model": MODEL, "task": "fusion3d"}
RUN = "boxwright.centerfusion.verbs.train:FusionRun"
ANSWERS: dict[str, str] = {}
_FIRST_LAYER = b"base.base_layer.0.weight"  # of DLA; no YOLO has an entry of this name


def claims(what: str, value: str) -> bool:
    """Say whether a value is surely of CenterFusion, see `boxwright.systems.System`."""
    if what == "config":
        return model_of(value).startswith(FAMILY)
    if what == "data":
        return any(Path(value).expanduser().glob("*/sample.json"))  # the table of key frames
    if what == "task":
        return value == CHOSEN_BY["task"]
    return value.startswith(FAMILY) or names_in_checkpoint(Path(value).expanduser(), _FIRST_LAYER)


find_config = find_preset


def _verb(kind: type[Frozen], function: str, about: str, files: type[Files] | None = None) -> Verb:
    """Make an entry of the table; functions are named below this folder."""
    return Verb(kind, f"boxwright.centerfusion.{function}", about, files)


VERBS = {
    "demo": _verb(
        settings.FusionDemoConfig,
        "verbs.demo:fusion_demo",
        "Make drives with cameras and radars, train CenterFusion, draw a drive.",
    ),
    "train": _verb(
        settings.FusionConfig,
        "verbs.train:train",
        "Train CenterFusion on a nuScenes root. Settings are merged: --config < flags.",
        TrainingFiles,
    ),
    "val": _verb(
        settings.FusionValConfig,
        "verbs.use:fusion_val",
        "Measure CenterFusion, or a submission, on a nuScenes root by its metric.",
        Files,
    ),
    "predict": _verb(
        settings.FusionPredictConfig,
        "verbs.use:fusion_predict",
        "Draw what CenterFusion finds in a scene of a nuScenes root.",
        Files,
    ),
    "export": _verb(
        settings.FusionExportConfig,
        "export:fusion_export",
        "Write CenterFusion as ONNX, checked against PyTorch.",
        Files,
    ),
    "info": _verb(
        settings.FusionInfoConfig, "verbs.use:info", "Show the parts, parameters and outputs of CenterFusion."
    ),
    "check": _verb(settings.FusionCheckConfig, "verbs.data:check", "List every problem of a nuScenes root."),
    "convert nuscenes": _verb(
        settings.NuscenesConfig,
        "verbs.data:convert",
        "Write the COCO style of the published CenterFusion from a nuScenes root.",
    ),
    "convert synthetic": _verb(
        settings.SyntheticConfig, "verbs.data:make", "Write a made world of cameras and radars."
    ),
}
