"""Boxwright trains, evaluates and ships published object detectors from one readable code base.

import boxwright as bw

    detector = bw.load("best.pt")
    result = detector("photo.jpg")
    result.boxes, result.scores, result.labels

The other functions are the verbs of the command line and take the same settings (docs/settings.md), nested groups as
mappings: `bw.train("coco128.yaml", model="yolov5n", epochs=10, optim={"lr0": 0.02})`. A `config` is a yaml of
settings of the verb, `**settings` are any others. Importing this module loads no torch.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boxwright.centerfusion.evaluation import FusionEvaluation
    from boxwright.centerfusion.export import CenterAgreement
    from boxwright.centerfusion.weights import load_detector as load_fusion
    from boxwright.engine.callbacks import Callback
    from boxwright.engine.coco_evaluator import CocoEvaluator as CocoEvaluator
    from boxwright.engine.coco_evaluator import coco_of as coco_of
    from boxwright.engine.meters import Meters as Meters
    from boxwright.engine.meters import Smoothed as Smoothed
    from boxwright.metrics.coco import measure_results as measure_results
    from boxwright.yolo.detector import Detector
    from boxwright.yolo.evaluation import Evaluation
    from boxwright.yolo.export import YoloAgreement
    from boxwright.yolo.loss import focal_loss as focal_loss
    from boxwright.yolo.postprocess import scale_images as scale_images
    from boxwright.yolo.verbs.anchors import AnchorReport
    from boxwright.yolo.verbs.bench import profile as profile
    from boxwright.yolo.verbs.info import find_modules as find_modules

__version__ = "0.2.0"
__all__ = [
    "CocoEvaluator",
    "Meters",
    "Smoothed",
    "__version__",
    "anchors",
    "bench",
    "check",
    "coco_of",
    "convert",
    "demo",
    "evolve",
    "export",
    "find_modules",
    "focal_loss",
    "info",
    "load",
    "load_fusion",
    "measure_results",
    "predict",
    "profile",
    "scale_images",
    "train",
    "val",
]


_LAZY = {
    "Meters": "boxwright.engine.meters:Meters",
    "Smoothed": "boxwright.engine.meters:Smoothed",
    "CocoEvaluator": "boxwright.engine.coco_evaluator:CocoEvaluator",
    "coco_of": "boxwright.engine.coco_evaluator:coco_of",
    "find_modules": "boxwright.yolo.verbs.info:find_modules",
    "focal_loss": "boxwright.yolo.loss:focal_loss",
    "load_fusion": "boxwright.centerfusion.weights:load_detector",
    "measure_results": "boxwright.metrics.coco:measure_results",
    "profile": "boxwright.yolo.verbs.bench:profile",
    "scale_images": "boxwright.yolo.postprocess:scale_images",
}


def __getattr__(name: str) -> Any:
    """Import what brings torch along where it is asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from boxwright.systems import find_object

    return find_object(_LAZY[name])


def __dir__() -> list[str]:
    """List what there is to use, without what this file imports."""
    return __all__


def load(weights: str | Path | Sequence[str | Path], **settings: Any) -> "Detector | Any":
    """Load a Boxwright or published checkpoint, or an exported file, of the system that the file is of.

    Args:
        weights: the file; several of a YOLO run as one network.
        settings: `device` ("cpu", "0", "cuda:1") and `half`; of a YOLO also `model`, `augment`, `classifier`,
            `classifier_weights` and `release`, see `boxwright.yolo.detector.load`; of CenterFusion also `no_radar` and
            `compat`, see `load_fusion`.

    Returns:
        the `Detector` of a YOLO, or the `CenterFusionDetector` that `load_fusion` returns, which has that type.

    Raises:
        UserError: no readable checkpoint, or a setting that its system does not have.
    """
    from boxwright.systems import load_detector

    return load_detector(weights, settings)


def train(
    data: str | Path = "",
    *,
    model: str = "",
    weights: str | Path = "",
    hyp: str = "",
    config: str = "",
    resume: str | Path | bool = False,
    callbacks: "Sequence[Callback | str]" = (),
    **settings: Any,
) -> Path:
    """Train a detector, of the system that the model, the settings file, the weights or the data name.

    Args:
        data: data yaml, VOC root or COCO json; nuScenes root.
        model: published name or model yaml; empty: what the weights were trained as. `centerfusion-dla34` trains on
            camera and radar.
        weights: checkpoint to start from; empty: from scratch.
        hyp: preset (`scratch-low`, `VOC`, ...) or hyper-parameter file of a YOLO.
        config: yaml of settings, a run folder, or the name of a preset.
        resume: checkpoint or folder of a stopped run to go on with; True: the newest run.
        callbacks: objects of subclasses of `engine.callbacks.Callback`, and names of those that installed packages
            offer. A resumed run has kept the names, not the objects.

    Returns:
        the run folder.

    Raises:
        UserError: lists every setting that is unknown or wrong, or says what else the user can mend.
    """
    named = [callback for callback in callbacks if isinstance(callback, str)]
    objects = [callback for callback in callbacks if not isinstance(callback, str)]
    if resume:
        settings["resume"] = "" if resume is True else resume
    of_train = {"data": data, "model": model, "weights": weights, "hyp": hyp, "config": config, "callbacks": named}
    return _call("train", settings, **of_train, objects={"callbacks": objects})


def val(
    weights: str | Path | Sequence[str | Path] = "", data: str | Path = "", *, config: str = "", **settings: Any
) -> "Evaluation | FusionEvaluation":
    """Measure a detector on labelled images.

    Args:
        weights: checkpoint or exported file to measure; several run as one network.
        data: data yaml, VOC root or COCO json; nuScenes root, which is measured by the nuScenes metric.
    """
    return _call("val", settings, weights=weights, data=data, config=config)


def predict(
    weights: str | Path | Sequence[str | Path] = "", source: str | Path | int = "", *, config: str = "", **settings: Any
) -> Path:
    """Find objects and write annotated images, labels, crops or json to a run folder.

    Args:
        weights: checkpoint or exported file to run; several run as one network.
        source: image, folder, glob, list file, video, camera number or address of a stream; of camera and radar with
            `calib`, or a scene of `data` instead. For images in memory see `load` and `load_fusion`.

    Returns:
        the run folder.
    """
    if isinstance(source, int) and not isinstance(source, bool):
        source = str(source)
    if not isinstance(source, str | PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]  # of users without types
        from boxwright.errors import UserError

        raise UserError(
            f"bw.predict writes the results of a path to a run folder and takes no {type(source).__name__}: "
            "write bw.load(weights).predict(...) for images in memory"
        )
    return _call("predict", settings, weights=weights, source=source, config=config)


def export(
    weights: str | Path = "", *, config: str = "", **settings: Any
) -> "Mapping[Path, YoloAgreement] | Mapping[Path, CenterAgreement]":
    """Write a checkpoint for ONNX Runtime, TorchScript, OpenVINO or NCNN, checked against PyTorch.

    Args:
        weights: checkpoint to export.
        settings: such as `include=["onnx", "openvino"]`.

    Returns:
        each file with how well it agrees with PyTorch.
    """
    return _call("export", settings, weights=weights, config=config)


def evolve(data: str | Path = "", *, hyp: str = "", config: str = "", **settings: Any) -> Path:
    """Search hyper-parameters by many short trainings, alone or with other workers of the same study.

    Args:
        data: data yaml, VOC root or COCO json; empty: that of the study that is gone on with.
        hyp: preset or hyper-parameter file to begin with.
        config: yaml of settings, or a run folder.
        settings: such as `generations=300, study="search", epochs=10`.

    Returns:
        the folder with evolve.csv, hyp_evolve.yaml, evolve.png and the trials.
    """
    return _call("evolve", settings, data=data, hyp=hyp, config=config)


def anchors(data: str | Path, **settings: Any) -> "AnchorReport":
    """Compare the anchors of a model with those that a search finds for the labels of a data set.

    Returns:
        the anchors found, how well they and those of the model fit, and the folder with `anchors.yaml` and a plot.
    """
    return _call("anchors", settings, data=data)


def info(model: str = "", **settings: Any) -> Any:
    """Print and return the layers, parameters, strides and cost of a model, or the schedule of a run."""
    return _call("info", settings, model=model)


def check(data: str | Path, **settings: Any) -> int:
    """List every problem of a data set; return 1 if training would leave something out, else 0."""
    return _call("check", settings, data=data)


def demo(**settings: Any) -> Path:
    """Make a small data set, train, validate and predict on it; return the run folder."""
    return _call("demo", settings)


def convert(kind: str, source: str | Path = "", target: str | Path = "", **settings: Any) -> Any:
    """Convert weights or data sets: kind is weights, data, split, nuscenes or synthetic."""
    return _call(f"convert {kind}", settings, source=source, target=target)


def bench(*ops: str, **settings: Any) -> int:
    """Measure what modules or a model cost; return 1 if one of them does not run, else 0."""
    return _call("bench op", settings, op=ops)


def _call(verb: str, settings: dict[str, Any], *, objects: Mapping[str, Any] | None = None, **named: Any) -> Any:
    """Run a verb with the named settings that were given and with all others."""
    from boxwright.systems import call

    return call(verb, {name: value for name, value in named.items() if value} | settings, **(objects or {}))
