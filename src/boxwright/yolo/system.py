"""YOLOv3-SPP and YOLOv5 as a system of `boxwright.systems`: verbs, and what is surely theirs. Imports no torch."""

from pathlib import Path

from boxwright.checkpoints.names import names_in_checkpoint
from boxwright.settings.base import Verb
from boxwright.settings.load import model_in
from boxwright.yolo import settings

HINT = ""
CHOSEN_BY = {"task": "detect2d"}
RUN = "boxwright.yolo.verbs.train:YoloRun"
_LOGGED = "runs are logged to files, to TensorBoard and, with --callbacks mlflow, to MLflow"
ANSWERS = {  # flags of published YOLOv5 releases that are spelled differently here, or are not here
    "--adam": "write --optimizer Adam",
    "--cache-images": "write --cache ram",
    "--linear-lr": "linear is the default, --cos-lr chooses the other",
    "--notest": "write --noval",
    "--evolve": "write boxwright evolve --generations N",
    "--local_rank": "leave it out",
    "--bucket": "runs are written to --project only",
    "--entity": _LOGGED,
    "--upload_dataset": _LOGGED,
    "--bbox_interval": _LOGGED,
    "--artifact_alias": _LOGGED,
    "--view-img": "results are written to --project",
    "--visualize": "this version does not have it",
    "--update": "nothing is downloaded here",
    "--dnn": "this version does not have it",
}
# Of files that no other system reads; those that several read are looked into.
_OWN_SUFFIXES = (".yaml", ".yml", ".data", ".json", ".cfg", ".weights", ".onnx", ".torchscript")


def claims(what: str, value: str) -> bool:
    """Return whether a value is surely of a YOLO, see `boxwright.systems.System`."""
    path = Path(value).expanduser()
    if what == "config":
        model = model_in(value)
        return bool(model) and claims("model", model)
    if what == "task":
        return value in (CHOSEN_BY["task"], "train", "val", "test", "speed")
    if path.suffix in _OWN_SUFFIXES or value.startswith("yolo"):
        return True
    if what == "data":
        return (path / "JPEGImages").is_dir() or (path / "images").is_dir()
    return names_in_checkpoint(path, b"model.0.")  # its first layer


def find_config(name: str) -> str:
    """Find a settings file; there are no presets by name but those of --hyp."""
    return name


_FILES = "boxwright.yolo.hyp:load_with_files"
_EARLY = "boxwright.yolo.verbs.early"
VERBS = {
    "demo": Verb(settings.YoloDemoConfig, "boxwright.yolo.verbs.demo:demo", None),
    "train": Verb(
        settings.RunConfig, "boxwright.yolo.verbs.train:train", settings.RunFiles, _FILES, f"{_EARLY}:training"
    ),
    "val": Verb(settings.ValConfig, "boxwright.yolo.verbs.val:val_or_results", check=f"{_EARLY}:data"),
    "predict": Verb(settings.PredictConfig, "boxwright.yolo.verbs.predict:predict", settings.PredictFiles, _FILES),
    "export": Verb(settings.ExportConfig, "boxwright.yolo.verbs.export:export"),
    "evolve": Verb(settings.EvolveConfig, "boxwright.yolo.verbs.evolve:evolve", settings.EvolveFiles, _FILES),
    "check": Verb(settings.CheckConfig, "boxwright.yolo.verbs.check:check", None),
    "anchors": Verb(settings.AnchorsConfig, "boxwright.yolo.verbs.anchors:anchors", None),
    "info": Verb(settings.InfoConfig, "boxwright.yolo.verbs.info:info", None),
    "bench op": Verb(settings.BenchConfig, "boxwright.yolo.verbs.bench:bench_op", None),
    "convert weights": Verb(settings.WeightsConfig, "boxwright.yolo.verbs.convert:weights", None),
    "convert data": Verb(settings.ConvertDataConfig, "boxwright.yolo.verbs.convert:data", None),
    "convert split": Verb(settings.SplitConfig, "boxwright.yolo.verbs.convert:split", None),
}
