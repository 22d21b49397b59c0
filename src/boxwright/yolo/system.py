"""YOLOv3-SPP and YOLOv5 as a system of `boxwright.systems`: verbs, and what is surely theirs. Imports no torch."""

from pathlib import Path

from boxwright.checkpoints.names import names_in_checkpoint
from boxwright.settings.base import Verb
from boxwright.settings.load import model_in
from boxwright.yolo import settings

HINT = ""
CHOSEN_BY = {"task": "detect2d"}
RUN = "boxwright.yolo.verbs.train:YoloRun"
LOAD = "boxwright.yolo.detector:load"
_LOGGED = "leave it out: runs are logged to files, to TensorBoard and, with --callbacks wandb, to Weights & Biases"
_PLACE = "write --project FOLDER and --name NAME: results go to FOLDER/NAME"
_NO_TENSORFLOW = "leave it out: TensorFlow files are not written here; onnx2tf reads the ONNX file"
_NAMES = "leave it out: class names stand in the data set (names in a data yaml, classes.txt, categories)"
_AUGMENTED = (
    "leave it out for True; for False write --augment.mosaic 0 --augment.translate 0 --augment.scale 0 "
    "--augment.fliplr 0 --augment.hsv_h 0 --augment.hsv_s 0 --augment.hsv_v 0"
)
# Flags of the releases of YOLOv5, and of the training scripts for YOLOv3-SPP, that are spelled differently here or are
# not here, some behind the only verb that lacks them.
ANSWERS = {
    "--adam": "write --optimizer Adam",
    "--cache-images": "write --cache ram",
    "--img-weights": "write --image-weights",
    "--linear-lr": "leave it out: linear is the default; --cos-lr chooses the other",
    "--notest": "write --noval",
    "--evolve": "write boxwright evolve --generations N",
    "--resume_evolve": "write boxwright evolve --study NAME, which goes on with the search of that name",
    "--evolve_population": "leave it out: boxwright evolve --study NAME goes on with what a search has found",
    "train --names": _NAMES,
    "train --classes": _NAMES,
    "--local_rank": "leave it out: --device 0,1 and torchrun start one process per GPU",
    "--bucket": "leave it out: runs are written to --project only",
    "--logdir": "write --project FOLDER",
    "--ndjson-console": "leave it out: events.jsonl in the run folder holds every epoch",
    "--ndjson-file": "leave it out: events.jsonl in the run folder holds every epoch",
    **dict.fromkeys(("--entity", "--upload_dataset", "--bbox_interval", "--artifact_alias"), _LOGGED),
    **dict.fromkeys(("--log-imgs", "--log-artifacts"), _LOGGED),
    "train --augment": _AUGMENTED,
    "evolve --augment": _AUGMENTED,
    "--savebest": "write --save-best-only for True; False, which keeps every epoch, is --save-period 1",
    "--freeze-layers": "write --freeze all-but-predictors for True; False is --freeze backbone, the default of a cfg",
    "--warmup": "write --optim.warmup_epochs 1 for True, 0 for False",
    "--mosaic": "write --augment.mosaic 1 for True, 0 for False",
    "--merge": "leave it out: boxes are not merged; --release takes NMS of another release",
    "--nms-thres": "write --iou-thres",
    "val --rect": "leave it out: batches are rectangular; --no-rect makes them square",
    "val --hyp": "leave it out: no hyper-parameter changes what is measured",
    "predict --data": "leave it out: weights and exported files know their class names",
    **dict.fromkeys(("predict --names", "val --names"), "leave it out: weights know their class names"),
    "predict --output": _PLACE,
    "--save-dir": _PLACE,
    "predict --fourcc": "leave it out: videos are written as mp4",
    "predict --save-format": "leave it out: --save-txt writes shares of the image, --save-json pixels",
    "predict --save-csv": "write --save-json, which writes predictions.json, or --save-txt",
    "--view-img": "leave it out: no window is opened; results are written to --project",
    "--visualize": "leave it out: feature maps are not drawn here",
    "--update": "leave it out: nothing is downloaded here",
    "--dnn": "leave it out: ONNX files are run by ONNX Runtime",
    "export --optimize": "leave it out: files for mobile are written by --include ncnn",
    "export --keras": _NO_TENSORFLOW,
    "export --topk-all": "write --max-det N, which counts the boxes of each class in an image",
    "export --workspace": "leave it out: engines are made of the ONNX file where they will run, by trtexec",
    "export --inplace": "leave it out: exported graphs never write in place",
    "export --train": "leave it out: files are for inference",
    "export --grid": "leave it out: files give decoded boxes",
    "export --verbose": "leave it out: nothing more is printed",
    "export --opset-version": "write --opset N",
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
        return value in (CHOSEN_BY["task"], "train", "val", "test", "speed", "study")
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
        *(settings.RunConfig, "boxwright.yolo.verbs.train:train", settings.RunFiles, _FILES),
        adopt="boxwright.yolo.published_run:settings_of_run",
        check=f"{_EARLY}:training",
    ),
    "val": Verb(settings.ValConfig, "boxwright.yolo.verbs.val:val_or_results", check=f"{_EARLY}:data"),
    "predict": Verb(settings.PredictConfig, "boxwright.yolo.verbs.predict:predict", settings.PredictFiles, _FILES),
    "export": Verb(settings.ExportConfig, "boxwright.yolo.verbs.export:export"),
    "evolve": Verb(settings.EvolveConfig, "boxwright.yolo.verbs.evolve:evolve", settings.EvolveFiles, _FILES),
    "check": Verb(settings.CheckConfig, "boxwright.yolo.verbs.check:check", None),
    "anchors": Verb(settings.AnchorsConfig, "boxwright.yolo.verbs.anchors:anchors", None),
    "info": Verb(settings.InfoConfig, "boxwright.yolo.verbs.info:info", None),
    "bench op": Verb(settings.BenchConfig, "boxwright.yolo.verbs.bench:bench_op", None),
    "bench formats": Verb(settings.FormatsConfig, "boxwright.yolo.verbs.formats:bench_formats", None),
    "convert weights": Verb(settings.WeightsConfig, "boxwright.yolo.verbs.convert:weights", None),
    "convert data": Verb(settings.ConvertDataConfig, "boxwright.yolo.verbs.convert:data", None),
    "convert split": Verb(settings.SplitConfig, "boxwright.yolo.verbs.convert:split", None),
}
