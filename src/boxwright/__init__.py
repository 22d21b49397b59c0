"""Boxwright trains, evaluates and ships published object detectors from one readable code base.

import boxwright as bw

    detector = bw.load("best.pt")
    result = detector.predict("photo.jpg")
    result.boxes, result.scores, result.labels

`bw.train`, `bw.val`, `bw.predict`, `bw.export`, `bw.anchors` and `bw.evolve` are verbs of the command line. Importing
this module loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from boxwright.centerfusion.detector import FusionDetector
    from boxwright.centerfusion.evaluation import FusionEvaluation
    from boxwright.centerfusion.export import CenterAgreement
    from boxwright.engine.callbacks import Callback
    from boxwright.yolo.detector import Detector
    from boxwright.yolo.evaluation import Evaluation
    from boxwright.yolo.export import YoloAgreement
    from boxwright.yolo.verbs.anchors import AnchorReport

__version__ = "0.1.0"
__all__ = ["__version__", "anchors", "evolve", "export", "load", "load_fusion", "predict", "train", "val"]


def load(
    weights: str | Path | Sequence[str | Path],
    *,
    device: str = "",
    half: bool = False,
    augment: bool = False,
    classifier: str = "",
    classifier_weights: str | Path = "",
) -> Detector:
    """Load a checkpoint, ready to predict.

    Args:
        weights: a Boxwright checkpoint, a published YOLOv5 `.pt` or an exported file; several run as one network.
        device: cpu, or a GPU as 0 or cuda:0; empty: the first GPU, else the CPU.
        half: compute in fp16 (GPU) or bf16 (CPU).
        augment: test-time augmentation: look at each image at three sizes, one of them mirrored.
        classifier: name of a torchvision classifier as second stage: boxes that it takes for another class are dropped.
        classifier_weights: its state dict; its classes are those of the detector, in the same order.

    Raises:
        UserError: missing, not a checkpoint, refused because it would run code, or several of different classes.
    """
    from boxwright.yolo.detector import load as load_detector

    return load_detector(
        weights,
        device=device,
        half=half,
        augment=augment,
        classifier=classifier,
        classifier_weights=classifier_weights,
    )


def load_fusion(
    weights: str | Path, *, device: str = "", half: bool = False, no_radar: bool = False, compat: str = ""
) -> FusionDetector:
    """Load a camera and radar checkpoint, ready to predict on images with their intrinsics and radar points.

    Args:
        weights: a Boxwright checkpoint of `centerfusion-dla34`, or a published CenterFusion `.pth`.
        device: cpu, or a GPU as 0 or cuda:0; empty: the first GPU, else the CPU.
        half: compute in fp16 (GPU) or bf16 (CPU).
        no_radar: a published file is of the camera-only network.
        compat: faithful, or fixed: without the known defects of the published system; empty: as it was trained.

    Raises:
        UserError: missing, damaged, of another model, or incomplete.
    """
    from boxwright.centerfusion.weights import load_detector

    return load_detector(weights, device=device, half=half, no_radar=no_radar, compat=compat)


def train(
    data: str | Path = "",
    *,
    model: str = "",
    weights: str | Path = "",
    hyp: str = "",
    config: str = "",
    resume: str | Path | bool = False,
    callbacks: Sequence[Callback | str] = (),
    **settings: Any,
) -> Path:
    """Train a detector.

    Args:
        data: data yaml, VOC root or COCO json; nuScenes root.
        model: published name or model yaml; empty: what the weights were trained as. `centerfusion-dla34` trains on
            camera and radar.
        weights: checkpoint to start from; empty: from scratch.
        hyp: preset (`scratch-low`, `VOC`, ...) or hyper-parameter file.
        config: yaml of settings, or a run folder; of camera and radar also a preset (`centerfusion`).
        resume: checkpoint or folder of a stopped run to go on with; True: the newest run.
        callbacks: objects of subclasses of `engine.callbacks.Callback` that are told of the run, and names of those
            that installed packages offer. A resumed run has kept the names, not the objects.
        settings: any setting of `config.schema.RunConfig` or `config.fusion.FusionConfig`, nested groups as mappings:
            `epochs=10, optim={"lr0": 0.02}`.

    Returns:
        the run folder.

    Raises:
        UserError: lists every setting that is unknown or wrong, or says what else the user can mend.
    """
    from boxwright.centerfusion.settings import MODEL as FUSION_MODEL
    from boxwright.centerfusion.settings import FusionConfig, find_preset, names_fusion
    from boxwright.engine import run as job
    from boxwright.errors import UserError
    from boxwright.settings.base import CHANGED_ON_RESUME
    from boxwright.settings.load import load as load_settings
    from boxwright.systems import run_class
    from boxwright.yolo.settings import RunConfig

    names = [callback for callback in callbacks if isinstance(callback, str)]
    objects = [callback for callback in callbacks if not isinstance(callback, str)]
    given = _given(settings, data=data, model=model, weights=weights, callbacks=names)
    run: RunConfig | FusionConfig
    if names_fusion(model, config):
        if hyp:
            raise UserError(f"hyp={hyp!r} holds settings of YOLO; leave it out with {FUSION_MODEL}")
        run = load_settings(FusionConfig, given, config=find_preset(config))
    else:
        run = load_settings(RunConfig, given, hyp=hyp, config=config)
    if resume is False:
        return job.train(run, run_class({"model": run.model}), objects)
    files = {"hyp": hyp, "config": config}
    others = [name for name in (*given, *(key for key, file in files.items() if file)) if name not in CHANGED_ON_RESUME]
    if others:
        raise UserError(f"resume takes no {others[0]}: a run goes on as it was, but for {', '.join(CHANGED_ON_RESUME)}")
    overrides = {name: getattr(run, name) for name in given}
    return job.resume(None if resume is True else Path(resume), overrides, run_class, objects)


def val(
    weights: str | Path | Sequence[str | Path] = "", data: str | Path = "", *, config: str = "", **settings: Any
) -> Evaluation | FusionEvaluation:
    """Measure a detector on labelled images.

    Args:
        weights: checkpoint or exported file to measure; several run as one network.
        data: data yaml, VOC root or COCO json; nuScenes root.
        config: yaml of settings of this verb.
        settings: any setting of `config.schema.ValConfig`; with `model="centerfusion-dla34"` of
            `config.fusion.FusionValConfig`, which gives the nuScenes metric.
    """
    from boxwright.centerfusion.settings import FusionValConfig, names_fusion
    from boxwright.settings.load import load as load_settings
    from boxwright.yolo.settings import ValConfig

    given = _given(settings, weights=weights, data=data)
    if names_fusion(str(settings.get("model", "")), config):
        from boxwright.centerfusion.verbs.val import fusion_val

        return fusion_val(load_settings(FusionValConfig, given, config=config))
    from boxwright.yolo.verbs.val import val as job

    return job(load_settings(ValConfig, given, config=config))


def predict(
    weights: str | Path | Sequence[str | Path] = "", source: str | Path = "", *, config: str = "", **settings: Any
) -> Path:
    """Find objects and write annotated images, labels, crops or json to a run folder.

    Args:
        weights: checkpoint or exported file to run; several run as one network.
        source: image, folder, glob, list file, video or camera number.
        config: yaml of settings of this verb.
        settings: any setting of `config.schema.PredictConfig`; with `model="centerfusion-dla34"` of
            `config.fusion.FusionPredictConfig`, which draws a scene of a nuScenes root.

    Returns:
        the run folder.
    """
    from boxwright.centerfusion.settings import FusionPredictConfig, names_fusion
    from boxwright.settings.load import load as load_settings
    from boxwright.yolo.settings import PredictConfig

    given = _given(settings, weights=weights, source=source)
    if names_fusion(str(settings.get("model", "")), config):
        from boxwright.centerfusion.verbs.predict import fusion_predict

        return fusion_predict(load_settings(FusionPredictConfig, given, config=config))
    from boxwright.yolo.verbs.predict import predict as job

    return job(load_settings(PredictConfig, given, config=config))


def export(
    weights: str | Path = "", *, config: str = "", **settings: Any
) -> Mapping[Path, YoloAgreement | CenterAgreement]:
    """Write a checkpoint for ONNX Runtime, TorchScript or OpenVINO, checked against PyTorch.

    Args:
        weights: checkpoint to export.
        config: yaml of settings of this verb.
        settings: any setting of `config.schema.ExportConfig`: `include=["onnx", "openvino"]`.

    Returns:
        each file with how well it agrees with PyTorch.
    """
    from boxwright.settings.load import load as load_settings
    from boxwright.yolo.settings import ExportConfig
    from boxwright.yolo.verbs.export import export as job

    return job(load_settings(ExportConfig, _given(settings, weights=weights), config=config))


def anchors(data: str | Path, **settings: Any) -> AnchorReport:
    """Compare the anchors of a model with those that a search finds for the labels of a data set.

    Args:
        data: data yaml, VOC root or COCO json.
        settings: those of `jobs.anchors.anchors`: `num_anchors=9, imgsz=640, anchor_t=4.0, generations=1000, seed=0,
            model="yolov5s"`; the folder by `project`, `name`, `exist_ok`.

    Returns:
        the anchors found, how well they and those of the model fit, and the folder with `anchors.yaml` and a plot.
    """
    from boxwright.yolo.verbs.anchors import anchors as job

    return job(data, **settings)


def evolve(data: str | Path = "", *, hyp: str = "", config: str = "", **settings: Any) -> Path:
    """Search hyper-parameters by many short trainings, alone or with other workers of the same study.

    Args:
        data: data yaml, VOC root or COCO json; empty: that of the study that is gone on with.
        hyp: preset or hyper-parameter file to begin with.
        config: yaml of settings, or a run folder.
        settings: any setting of `config.evolve.EvolveConfig`: `generations=300, study="search", epochs=10`.

    Returns:
        the folder with evolve.csv, hyp_evolve.yaml, evolve.png and the trials.
    """
    from boxwright.settings.load import load as load_settings
    from boxwright.yolo.evolve_settings import EvolveConfig
    from boxwright.yolo.verbs.evolve import evolve as job

    return job(load_settings(EvolveConfig, _given(settings, data=data), hyp=hyp, config=config))


def _given(settings: Mapping[str, Any], **named: str | Path | Sequence[str | Path]) -> dict[str, Any]:
    """The named settings that were given, and the others."""
    given = {name: value for name, value in named.items() if value}
    others = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    return {n: str(v) if isinstance(v, str | Path) else [str(p) for p in v] for n, v in given.items()} | others
