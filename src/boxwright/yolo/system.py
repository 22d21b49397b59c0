"""YOLOv3-SPP and YOLOv5 as a system of `boxwright.systems`: verbs, and what is surely theirs. Imports no torch."""

from pathlib import Path

from boxwright.checkpoints.names import names_in_checkpoint
from boxwright.settings.base import Files, Frozen, Verb
from boxwright.settings.load import read_yaml_settings
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
_OWN_SUFFIXES = (".yaml", ".yml", ".data", ".json", ".cfg", ".weights", ".onnx", ".torchscript")


def claims(what: str, value: str) -> bool:
    """Say whether a value is surely of a YOLO, see `boxwright.systems.System`."""
    path = Path(value).expanduser()
    if what == "config":
        file = path / "config.yaml" if path.is_dir() else path
        model = read_yaml_settings(file).get("model") if file.is_file() else None
        return model is not None and claims("model", str(model.value))
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


def _verb(kind: type[Frozen], function: str, about: str, files: type[Files] | None = None, load: str = "") -> Verb:
    """Make an entry of the table; functions are named below the folder `verbs`, loaders are those of hyp.py."""
    return Verb(kind, f"boxwright.yolo.verbs.{function}", about, files, load and f"boxwright.yolo.hyp:{load}")


VERBS = {
    "demo": _verb(
        settings.YoloDemoConfig,
        "demo:demo",
        "Make a small data set of drives, train on it, validate, predict and draw plots.",
    ),
    "train": _verb(
        settings.RunConfig,
        "train:train",
        "Train a detector. Settings are merged: --hyp < --config < flags.",
        settings.RunFiles,
        "load_training",
    ),
    "val": _verb(
        settings.ValConfig,
        "val:val_or_results",
        "Measure a detector: the published YOLOv5 metric and the COCO metric.",
        Files,
    ),
    "predict": _verb(
        settings.PredictConfig,
        "predict:predict",
        "Find objects in images, videos or a camera.",
        settings.PredictFiles,
        "load_prediction",
    ),
    "export": _verb(
        settings.ExportConfig,
        "export:export",
        "Write a checkpoint for ONNX Runtime, TorchScript or OpenVINO, checked against PyTorch.",
        Files,
    ),
    "evolve": _verb(
        settings.EvolveConfig,
        "evolve:evolve",
        "Search hyper-parameters by many short trainings. Stop it at any time; --study goes on, also from several "
        "processes and machines at once.",
        settings.EvolveFiles,
        "load_search",
    ),
    "check": _verb(
        settings.CheckConfig,
        "check:check_data",
        "List every problem of a data set, with file and line. Exit code 1 if training would drop something.",
    ),
    "anchors": _verb(
        settings.AnchorsConfig,
        "anchors:anchors",
        "Say how well anchors fit the labels of a data set, and find better ones.",
    ),
    "info": _verb(
        settings.InfoConfig,
        "info:info",
        "Show the layers, parameters, strides and cost of a model, or with --schedule the learning rates of a run.",
    ),
    "bench op": _verb(
        settings.BenchConfig,
        "bench:bench_op",
        "Measure what a module or a model costs: parameters, GFLOPs, memory, forward and backward time.",
    ),
    "convert weights": _verb(
        settings.WeightsConfig, "convert:weights", "Write a network as another kind of weight file."
    ),
    "convert data": _verb(settings.ConvertDataConfig, "convert:data", "Write a data set in another format."),
    "convert split": _verb(settings.SplitConfig, "convert:split", "Divide the images of a data set into new lists."),
}
