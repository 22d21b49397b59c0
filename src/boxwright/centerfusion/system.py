"""CenterFusion as one system of `boxwright.systems`: its verbs, and what is surely its own. Imports no torch."""

from pathlib import Path

from boxwright.centerfusion import settings
from boxwright.centerfusion.settings import FAMILY, MODEL, find_preset, model_of
from boxwright.checkpoints.names import names_in_checkpoint
from boxwright.errors import UserError
from boxwright.settings.base import TrainingFiles, Verb

HINT = "Camera and radar: `boxwright {call} --help` lists the flags."
CHOSEN_BY = {"model": MODEL, "task": "fusion3d"}
RUN = "boxwright.centerfusion.verbs.train:FusionRun"
ANSWERS: dict[str, str] = {}
_DATA = "boxwright.centerfusion.system:missing_data"
_FIRST_LAYER = b"base.base_layer.0.weight"  # of DLA; no YOLO has an entry of this name


def claims(what: str, value: str) -> bool:
    """Return whether a value is surely of CenterFusion, see `boxwright.systems.System`."""
    if what == "config":
        return model_of(value).startswith(FAMILY)
    if what == "data":
        return any(Path(value).expanduser().glob("*/sample.json"))  # the table of key frames
    if what == "task":
        return value == CHOSEN_BY["task"]
    return value.startswith(FAMILY) or names_in_checkpoint(Path(value).expanduser(), _FIRST_LAYER)


find_config = find_preset


def missing_data(config: settings.FusionConfig | settings.FusionValConfig | settings.FusionPredictConfig) -> list[str]:
    """Look for the tables of the data set, if it was named; return what is wrong."""
    from boxwright.nuscenes.tables import version_folder, version_of

    try:
        if config.data:
            root = Path(config.data).expanduser()
            version_folder(root, version_of(root, config.version, settings.USUAL_VERSION))
    except UserError as error:
        return [str(error)]
    return []


VERBS = {
    "demo": Verb(settings.FusionDemoConfig, "boxwright.centerfusion.verbs.demo:fusion_demo", None),
    "train": Verb(settings.FusionConfig, "boxwright.centerfusion.verbs.train:train", TrainingFiles, check=_DATA),
    "val": Verb(settings.FusionValConfig, "boxwright.centerfusion.verbs.use:fusion_val", check=_DATA),
    "predict": Verb(settings.FusionPredictConfig, "boxwright.centerfusion.verbs.use:fusion_predict", check=_DATA),
    "export": Verb(settings.FusionExportConfig, "boxwright.centerfusion.export:fusion_export"),
    "info": Verb(settings.FusionInfoConfig, "boxwright.centerfusion.verbs.use:info", None),
    "check": Verb(settings.FusionCheckConfig, "boxwright.centerfusion.verbs.data:check", None),
    "convert nuscenes": Verb(settings.NuscenesConfig, "boxwright.centerfusion.verbs.data:convert", None),
    "convert synthetic": Verb(settings.SyntheticConfig, "boxwright.centerfusion.verbs.data:make", None),
}
