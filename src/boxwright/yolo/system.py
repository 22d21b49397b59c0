"""YOLOv3-SPP and YOLOv5 as a system of `boxwright.systems`: verbs, and what is surely theirs. Imports no torch."""

import sys
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from boxwright.errors import UserError
from boxwright.settings.base import Files, Verb
from boxwright.settings.flags import flags_of
from boxwright.settings.load import Setting, load, read_yaml_settings
from boxwright.yolo.settings import (
    AnchorsConfig,
    BenchConfig,
    CheckConfig,
    ConvertDataConfig,
    DemoConfig,
    EvolveConfig,
    EvolveFiles,
    ExportConfig,
    InfoConfig,
    PredictConfig,
    PredictFiles,
    RunConfig,
    RunFiles,
    SplitConfig,
    ValConfig,
    WeightsConfig,
)

HINT = ""
CHOSEN_BY = {"task": "detect2d"}
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
        return value in ("detect2d", "train", "val", "test", "speed")
    if path.suffix in _OWN_SUFFIXES or value.startswith("yolo"):
        return True
    if what == "data":
        return (path / "JPEGImages").is_dir() or (path / "images").is_dir()
    return _is_yolo_checkpoint(path)


def _is_yolo_checkpoint(path: Path) -> bool:
    """Look for the name of a first layer in a zip file of torch.save; nothing is unpickled."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
            return any(b"model.0." in archive.read(name) for name in pickles)
    except (zipfile.BadZipFile, OSError):  # told when it is opened
        return False


def find_config(name: str) -> str:
    """Find a settings file; there are no presets by name but those of --hyp."""
    return name


def training() -> Any:
    """Return the class of training runs."""
    from boxwright.yolo.verbs.train import YoloRun

    return YoloRun


def _load_run(given: Mapping[str, Setting], files: RunFiles) -> RunConfig:
    from boxwright.yolo.hyp import load_run

    if not files.run:
        return load_run(RunConfig, given, hyp=files.hyp, config=files.config)
    _refuse_both(files.config)
    from boxwright.yolo.verbs.run_yaml import training_settings

    return training_settings(files.run, given, hyp=files.hyp)


def _load_prediction(given: Mapping[str, Setting], files: PredictFiles) -> PredictConfig:
    if not files.run:
        return load(PredictConfig, given, config=files.config)
    _refuse_both(files.config)
    from boxwright.yolo.verbs.run_yaml import prediction_settings

    return prediction_settings(files.run, given)


def _refuse_both(config: str) -> None:
    if config:
        raise UserError("--config does not go with --run: the run yaml and flags hold the settings")


def _load_search(given: Mapping[str, Setting], files: EvolveFiles) -> EvolveConfig:
    from boxwright.yolo.hyp import load_run

    return load_run(EvolveConfig, given, hyp=files.hyp, config=files.config)


def _train(config: RunConfig, files: RunFiles, callbacks: Sequence[Any] = ()) -> Path:
    from boxwright.yolo.verbs.train import train

    return train(config, callbacks)


def _evolve(config: EvolveConfig, files: EvolveFiles) -> Path:
    from boxwright.yolo.verbs.evolve import evolve

    return evolve(config)


def _val(config: ValConfig, files: Files) -> Any:
    of_results = [flag for flag in flags_of(ValConfig) if flag.setting in ("json_file", "annotations", "iou_type")]
    if not config.json_file:
        stray = [flag.names[0] for flag in of_results if flag.setting in config.model_fields_set]
        if stray:
            raise UserError(f"{stray[0]} goes with --json: a file of COCO results")
        from boxwright.yolo.verbs.val import val

        return val(config)
    others = [flag for flag in flags_of(ValConfig) if flag not in of_results]
    refused = [flag.names[0] for flag in others if flag.setting in config.model_fields_set]
    refused += ["--config"] * bool(files.config)
    if refused:
        raise UserError(f"val --json measures a file and runs no network: leave out {', '.join(refused)}")
    from boxwright.metrics.coco_results import val_results

    return val_results(config.json_file, config.annotations, config.iou_type)


def _predict(config: PredictConfig, files: PredictFiles) -> Path:
    from boxwright.yolo.verbs.predict import predict

    if not files.run:
        return predict(config)
    from boxwright.yolo.verbs.run_yaml import TwoStreams

    file = Path(config.project) / config.name / "log.log"
    with file.open("a", encoding="utf-8") as log, redirect_stdout(TwoStreams(sys.stdout, log)):
        return predict(config)


def _export(config: ExportConfig, files: Files) -> Any:
    from boxwright.yolo.verbs.export import export

    return export(config)


def _check(config: CheckConfig, files: None) -> int:
    if not config.data:
        raise UserError("name one data set: DATA or --data DATA")
    from boxwright.yolo.verbs.check import check

    return check(config.data, config.plots)


def _anchors(config: AnchorsConfig, files: None) -> Any:
    from boxwright.yolo.verbs.anchors import anchors

    return anchors(config)


def _info(config: InfoConfig, files: None) -> Any:
    of_run = {
        name: getattr(config, name) for name in ("data", "epochs", "batch_size") if name in config.model_fields_set
    }
    of_run |= {f"optim.{name}": getattr(config.optim, name) for name in config.optim.model_fields_set}
    if config.schedule:
        from boxwright.yolo.hyp import load_run
        from boxwright.yolo.verbs.info import describe_schedule

        network = {name: getattr(config, name) for name in ("model", "weights") if getattr(config, name)}
        run = load_run(RunConfig, network | of_run, hyp=config.hyp, config=config.config)
        report = describe_schedule(run, config.images)
        report.draw(Path(config.schedule))
        print(f"{report.text()}\ndrawn in {config.schedule}")
        return report
    stray = [*of_run, *(name for name in ("images", "hyp", "config") if getattr(config, name))]
    if stray:
        names = {flag.setting: flag.names[0] for flag in flags_of(InfoConfig)}
        raise UserError(f"{names[stray[0]]} is about a training run: it goes with --schedule")
    from boxwright.yolo.verbs import info

    if config.find:
        network = info.open_network(config.model, weights=config.weights, num_classes=config.num_classes)
        print(info.list_modules(network, config.find))
        return network
    summary = info.describe(config.model, weights=config.weights, num_classes=config.num_classes, imgsz=config.imgsz)
    print(summary.text(verbose=config.verbose))
    return summary


def _bench(config: BenchConfig, files: None) -> int:
    from boxwright.yolo.verbs.bench import bench_op

    return bench_op(config)


def _demo(config: DemoConfig, files: None) -> Path:
    from boxwright.yolo.verbs.demo import demo

    return demo(config.project, epochs=config.epochs, seed=config.seed, device=config.device)


def _need_in_and_out(config: WeightsConfig | ConvertDataConfig) -> None:
    for value, name in ((config.source, "IN"), (config.target, "OUT")):
        if not value:
            raise UserError(f"the following arguments are required: {name}")


def _weights(config: WeightsConfig, files: None) -> Any:
    _need_in_and_out(config)
    from boxwright.yolo.verbs.convert_weights import convert_weights

    network = convert_weights(config.source, config.target, model=config.model, conv6_stem=bool(config.stem))
    count = sum(parameter.numel() for parameter in network.parameters())
    print(f"{config.target}: {count:,} parameters, {len(network.names)} classes, from {config.source}")
    return network


def _data(config: ConvertDataConfig, files: None) -> Any:
    _need_in_and_out(config)
    if not config.to:
        raise UserError("convert data needs --to yolo, coco or voc")
    from boxwright.data.convert import convert_data

    splits = convert_data(config.source, config.target, config.to, copy=config.copy_images, compat=config.compat)
    for split, index in splits.items():
        print(f"{split}: {len(index)} images, {len(index.boxes)} boxes, {index.num_classes} classes")
    print(f"written to {config.target}")
    return splits


def _split(config: SplitConfig, files: None) -> Path:
    if not config.source:
        raise UserError("the following arguments are required: IN")
    from boxwright.data.split import split_data

    folder, lists = split_data(
        config.source, config.target, shares=config.shares, seed=config.seed, compat=config.compat
    )
    for split, images in lists.items():
        print(f"{split}: {len(images)} image{'s' * (len(images) != 1)}")
    print(f"written to {folder}; data yaml: {folder / 'data.yaml'}")
    return folder


VERBS = {
    "demo": Verb(
        DemoConfig, _demo, "Make a small data set of a street, train on it, validate, predict and draw plots.", None
    ),
    "train": Verb(
        RunConfig, _train, "Train a detector. Settings are merged: --hyp < --config < flags.", RunFiles, _load_run
    ),
    "val": Verb(ValConfig, _val, "Measure a detector: the published YOLOv5 metric and the COCO metric."),
    "predict": Verb(
        PredictConfig, _predict, "Find objects in images, videos or a camera.", PredictFiles, _load_prediction
    ),
    "export": Verb(
        ExportConfig, _export, "Write a checkpoint for ONNX Runtime, TorchScript or OpenVINO, checked against PyTorch."
    ),
    "evolve": Verb(
        EvolveConfig,
        _evolve,
        "Search hyper-parameters by many short trainings. Stop it at any time; --study goes on, also from several "
        "processes and machines at once.",
        EvolveFiles,
        _load_search,
    ),
    "check": Verb(
        CheckConfig,
        _check,
        "List every problem of a data set, with file and line. Exit code 1 if training would drop something.",
        None,
    ),
    "anchors": Verb(
        AnchorsConfig, _anchors, "Say how well anchors fit the labels of a data set, and find better ones.", None
    ),
    "info": Verb(
        InfoConfig,
        _info,
        "Show the layers, parameters, strides and cost of a model, or with --schedule the learning rates of a run.",
        None,
    ),
    "bench op": Verb(
        BenchConfig,
        _bench,
        "Measure what a module or a model costs: parameters, GFLOPs, memory, forward and backward time.",
        None,
    ),
    "convert weights": Verb(WeightsConfig, _weights, "Write a network as another kind of weight file.", None),
    "convert data": Verb(ConvertDataConfig, _data, "Write a data set in another format.", None),
    "convert split": Verb(SplitConfig, _split, "Divide the images of a data set into new lists.", None),
}
