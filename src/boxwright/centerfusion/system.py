"""CenterFusion as one system of `boxwright.systems`: its verbs, and what is surely its own. Imports no torch."""

import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from boxwright.centerfusion.settings import (
    FAMILY,
    MODEL,
    FusionCheckConfig,
    FusionConfig,
    FusionDemoConfig,
    FusionExportConfig,
    FusionInfoConfig,
    FusionPredictConfig,
    FusionValConfig,
    NuscenesConfig,
    SyntheticConfig,
    find_preset,
    model_of,
)
from boxwright.errors import UserError
from boxwright.settings.base import Files, TrainingFiles, Verb

HINT = "Camera and radar: `boxwright {call} --help` lists the flags."
CHOSEN_BY = {"model": MODEL, "task": "fusion3d"}
ANSWERS: dict[str, str] = {}
_FIRST_LAYER = b"base.base_layer.0.weight"  # of DLA; no YOLO has an entry of this name
_HEAD_OF_OLD_FILE = 1 << 22  # bytes in which a checkpoint of before PyTorch 1.6 names its entries


def claims(what: str, value: str) -> bool:
    """Say whether a value is surely of CenterFusion, see `boxwright.systems.System`."""
    if what == "model":
        return value.startswith(FAMILY)
    if what == "config":
        return model_of(value).startswith(FAMILY)
    if what == "data":
        return any(Path(value).expanduser().glob("*/sample.json"))  # the table of key frames
    return value == CHOSEN_BY["task"] if what == "task" else _is_checkpoint(Path(value).expanduser())


def _is_checkpoint(path: Path) -> bool:
    """Look for the name of the first layer in a file of torch.save; nothing is unpickled."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
                return any(_FIRST_LAYER in archive.read(name) for name in pickles)
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return _FIRST_LAYER in file.read(_HEAD_OF_OLD_FILE)
    except (zipfile.BadZipFile, OSError):  # told when it is opened
        return False


find_config = find_preset


def training() -> Any:
    """Return the class of training runs."""
    from boxwright.centerfusion.verbs.train import FusionRun

    return FusionRun


def _train(config: FusionConfig, files: TrainingFiles, callbacks: Sequence[Any] = ()) -> Path:
    from boxwright.centerfusion.verbs.train import train

    return train(config, callbacks)


def _val(config: FusionValConfig, files: Files) -> Any:
    from boxwright.centerfusion.verbs.use import fusion_val

    return fusion_val(config)


def _predict(config: FusionPredictConfig, files: Files) -> Path:
    from boxwright.centerfusion.verbs.use import fusion_predict

    return fusion_predict(config)


def _export(config: FusionExportConfig, files: Files) -> Any:
    from boxwright.centerfusion.export import fusion_export

    return fusion_export(config)


def _info(config: FusionInfoConfig, files: None) -> str:
    from boxwright.centerfusion.verbs.use import describe_fusion

    text = describe_fusion(config.model, config.imgsz)
    print(text)
    return text


def _check(config: FusionCheckConfig, files: None) -> int:
    if not config.data:
        raise UserError("name one data set: DATA or --data DATA")
    from boxwright.nuscenes.check import check_nuscenes

    return check_nuscenes(config.data, config.version, allow_missing=config.allow_missing)


def _demo(config: FusionDemoConfig, files: None) -> Path:
    from boxwright.centerfusion.verbs.demo import fusion_demo

    return fusion_demo(
        config.project, epochs=config.epochs, seed=config.seed, device=config.device, no_radar=config.no_radar
    )


def _nuscenes(config: NuscenesConfig, files: None) -> list[Path]:
    for value, name in ((config.source, "IN"), (config.target, "OUT")):
        if not value:
            raise UserError(f"the following arguments are required: {name}")
    from boxwright.nuscenes.convert import convert_nuscenes

    written: list[Path] = []
    for file, images, boxes in convert_nuscenes(
        config.source, config.target, config.version, sweeps=config.sweeps, allow_missing=config.allow_missing
    ):
        print(f"{file}: {images} images, {boxes} annotations")
        written.append(file)
    return written


def _synthetic(config: SyntheticConfig, files: None) -> Path:
    for value, flag in ((config.format, "format nuscenes"), (config.out, "out FOLDER")):
        if not value:
            raise UserError(f"convert synthetic needs --{flag}")
    from boxwright.synthetic.nuscenes_root import write_nuscenes
    from boxwright.synthetic.world import WorldSettings

    def show(done: int, total: int) -> None:
        print(f"\r{done}/{total} scenes", end="\n" if done == total else "", file=sys.stderr, flush=True)

    # Images are 9/16 as high as wide, as those of nuScenes are.
    made = WorldSettings(height=round(config.width * 9 / 16), **config.model_dump(exclude={"format", "out"}))
    write_nuscenes(Path(config.out), made, on_progress=show)
    train = made.scenes - made.num_val
    print(f"{made.scenes} scenes (train {train}, val {made.num_val}) of {made.key_frames} key frames, six cameras each")
    print(f"written to {config.out}")
    return Path(config.out)


VERBS = {
    "demo": Verb(
        FusionDemoConfig, _demo, "Make drives with cameras and radars, train CenterFusion, draw a drive.", None
    ),
    "train": Verb(
        FusionConfig,
        _train,
        "Train CenterFusion on a nuScenes root. Settings are merged: --config < flags.",
        TrainingFiles,
    ),
    "val": Verb(FusionValConfig, _val, "Measure CenterFusion, or a submission, on a nuScenes root by its metric."),
    "predict": Verb(FusionPredictConfig, _predict, "Draw what CenterFusion finds in a scene of a nuScenes root."),
    "export": Verb(FusionExportConfig, _export, "Write CenterFusion as ONNX, checked against PyTorch."),
    "info": Verb(FusionInfoConfig, _info, "Show the parts, parameters and outputs of CenterFusion.", None),
    "check": Verb(FusionCheckConfig, _check, "List every problem of a nuScenes root.", None),
    "convert nuscenes": Verb(
        NuscenesConfig, _nuscenes, "Write the COCO style of the published CenterFusion from a nuScenes root.", None
    ),
    "convert synthetic": Verb(SyntheticConfig, _synthetic, "Write a made world of cameras and radars.", None),
}
