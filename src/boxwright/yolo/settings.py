"""Settings of the verbs for YOLO models. Imports no torch.

Defaults are those of the published 6.x system (hyp.scratch-low).
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, StrictInt, StrictStr

from boxwright.settings.base import (
    DEVICE,
    Compat,
    Count,
    CountOrNone,
    DemoConfig,
    Files,
    Fraction,
    Frozen,
    InferenceConfig,
    NotNegative,
    OptimConfig,
    Paths,
    Pixels,
    Positive,
    RunFolder,
    Seconds,
    Shapes,
    Sides,
    TrainBatch,
    TrainingConfig,
    TrainingFiles,
    as_list,
    folder_of_runs,
    loader_limit,
    of_file,
    output,
    pixel_limit,
    setting,
)

_RELEASE_SPELLINGS = {"v5": "v7.0", "yolov3-spp": "v3"}  # of older settings and checkpoints
ReleaseName = Literal["", "v7.0", "v6.2", "v6.1", "v6.0", "v5.0", "v4.0", "v3.1", "v3.0", "v2.0", "v1.0", "v3"]
# A published YOLOv5, or v3: YOLOv3-SPP; empty: none is set.
Release = Annotated[ReleaseName, BeforeValidator(lambda name: _RELEASE_SPELLINGS.get(str(name), name))]


def _export_kinds(value: Any) -> Any:
    """Read kinds of files; answer those of published exports that are not written here."""
    kinds = as_list(value)
    for kind in cast(Sequence[Any], kinds) if isinstance(kinds, list | tuple) else ():
        if kind in _NOT_EXPORTED:
            raise ValueError(f"{kind} is not written here: {_NOT_EXPORTED[kind]}")
    return kinds


_NOT_EXPORTED = {
    "engine": "write onnx, and make the engine where it will run: trtexec --onnx=FILE.onnx --saveEngine=FILE.engine",
    "coreml": "write torchscript, which coremltools.convert reads",
    **dict.fromkeys(("saved_model", "pb", "tflite", "edgetpu", "tfjs"), "write onnx, which onnx2tf reads"),
    "paddle": "write onnx, which x2paddle reads",
}
ExportKinds = Annotated[tuple[Literal["onnx", "torchscript", "openvino", "ncnn"], ...], BeforeValidator(_export_kinds)]

_CFG = "Darknet cfg, or a name as yolov4, that .weights without a cfg beside them belong to"
_DATA = "data yaml, Darknet .data, COCO json, csv, or folder (VOC, YOLO, COCO)"
of_data = partial(setting, group="data")
FREEZE_WORDS = ("backbone", "all-but-predictors")


def _freeze(value: Any) -> Any:
    """Read a word of FREEZE_WORDS, `none`, or numbers of layers."""
    words = cast(Sequence[Any], value) if isinstance(value, list | tuple) else (value,)
    word = words[0] if len(words) == 1 else None
    if not isinstance(word, str) or word[:1].isdigit():
        return as_list(value)
    if word not in ("none", *FREEZE_WORDS):
        raise ValueError(f"it is none, {', '.join(FREEZE_WORDS)}, or numbers of layers")
    return (0,) if word == "none" else word


Freeze = Annotated[tuple[int, ...] | Literal["backbone", "all-but-predictors"], BeforeValidator(_freeze)]


def _anchors(value: Any) -> Any:
    """Read a number of anchors a level (old files have 3.4), or one list of sides a level as in a model yaml."""
    # By hand: a union of both would answer a mistake with what one of its members misses.
    if isinstance(value, list | tuple):
        levels = cast(Sequence[Any], value)
        sides = [side for level in levels for side in (level if isinstance(level, list | tuple) else [None])]
        if levels and all(isinstance(side, int | float) for side in sides):
            return tuple(levels)
    elif not isinstance(value, bool):
        with suppress(TypeError, ValueError):
            if 0 <= float(value) < 100:
                return round(float(value))
    raise ValueError("it is a number of anchors a level, or one list of width, height, width, height ... a level")


Anchors = Annotated[int | tuple[tuple[float, ...], ...], BeforeValidator(_anchors)]


class AugmentConfig(Frozen):
    """Random changes of training images."""

    hsv_h: Fraction = setting(0.015, "hue gain: the hue is multiplied by 1 +- this")
    hsv_s: Fraction = setting(0.7, "saturation gain")
    hsv_v: Fraction = setting(0.4, "value gain")
    degrees: Annotated[float, Field(ge=0.0, le=180.0)] = setting(0.0, "rotation in +- degrees")
    translate: Fraction = setting(0.1, "shift in +- fraction of the image side")
    scale: Annotated[float, Field(ge=0.0, lt=1.0)] = setting(0.5, "zoom in 1 +- scale")
    shear: Annotated[float, Field(ge=0.0, lt=90.0)] = setting(0.0, "shear in +- degrees")
    perspective: Annotated[float, Field(ge=0.0, le=0.001)] = setting(0.0, "perspective in +- this, per pixel")
    flipud: Fraction = setting(0.0, "probability of an up-down flip")
    fliplr: Fraction = setting(0.5, "probability of a left-right flip")
    mosaic: Fraction = setting(1.0, "probability of a mosaic")
    mosaic9: Fraction = setting(0.0, "share of the mosaics that are made of nine images, not four")
    mixup: Fraction = setting(0.0, "probability that a mosaic is blended with another")
    copy_paste: Fraction = setting(0.0, "share of polygon objects pasted mirrored")
    release: Release = setting("", "release whose warp and box filter are taken; empty: v7.0")


class LossConfig(Frozen):
    """Gains and options of the detection loss."""

    recipe: Release = setting("", "release whose loss is taken; empty: as --release, else that of the model")
    box: NotNegative = setting(0.05, "gain of the box term")
    cls: NotNegative = setting(0.5, "gain of the class term, before scaling by classes and layers")
    cls_pw: Positive = setting(1.0, "weight of positives in the class term")
    obj: NotNegative = setting(1.0, "gain of the objectness term, before scaling by size and layers")
    obj_pw: Positive = setting(1.0, "weight of positives in the objectness term")
    anchor_t: Annotated[float, Field(gt=1.0)] = setting(4.0, "largest side ratio of label and anchor that matches")
    assign: Literal["rect4", "rect2"] = setting(
        "rect4",
        "cells besides a label's own; rect4: the nearest in x and y, within half a cell; rect2: left and upper, within "
        "a fifth, as v1.0 could",
    )
    # iou_t stands in every published file; only YOLOv3-SPP reads it.
    iou_t: Fraction = setting(0.2, "recipe v3: overlap of label and anchor sides above which they match")
    iou_kind: Literal["", "iou", "giou", "diou", "ciou"] = setting("", "overlap in the box term; empty: as published")
    fl_gamma: NotNegative = setting(0.0, "focal loss gamma; 0: plain cross-entropy")
    reduction: Literal["mean", "sum"] = setting(
        "mean", "terms are means over their cells and positives, or sums, for which smaller gains are needed"
    )
    label_smoothing: Fraction = setting(
        0.0, "class targets become 1 - this / 2 and this / 2", flags="--label-smoothing --loss.label_smoothing"
    )
    autobalance: bool = setting(False, "let the weights of the levels follow their losses")
    gr: Fraction = setting(1.0, "share of the overlap in the objectness target")
    sort_obj_iou: bool = setting(False, "in one cell the label with the best overlap wins, not the last label")


class YoloOptimConfig(OptimConfig):
    """Optimizer, learning rate, averaging, by the rules of a release."""

    warmup_epochs: NotNegative = setting(3.0, "epochs of warm-up; release v3: 0 is none, anything else the first epoch")
    release: Release = setting("", "release whose schedule is used; empty: v7.0")


def _train_size(value: Any) -> Any:
    """Read one side, or two; answer the three of the published scripts for YOLOv3."""
    sides = as_list(value)
    if isinstance(sides, list | tuple) and len(cast(Sequence[Any], sides)) > 2:
        raise ValueError(
            "it is the size of training, or those of training and of validation; for a smallest and a largest size "
            "write one between them, and --multi-scale, which varies it"
        )
    return sides


TrainSize = Annotated[tuple[Count, ...], Field(min_length=1, max_length=2), BeforeValidator(_train_size)]


class RunConfig(TrainingConfig):
    """Train a detector. Settings are merged: --hyp < --config < flags."""

    model: str = setting(
        "", "published name (yolov5n, yolov5s@v3.0, yolov3-spp, ...), model yaml or Darknet cfg; empty: as the weights"
    )
    # Without it schedule and warp are those of v7.0 (of YOLOv3-SPP with its loss), so that a command keeps its results.
    release: Release = setting(
        "", "take loss, schedule, warp, NMS and metric of this release; empty: loss and NMS of the model"
    )
    data: str = setting("", _DATA, on_resume=True)
    imgsz: TrainSize = setting(
        (640,), "network input side, or those of training and of validation; rounded up to multiples of the stride"
    )
    fine_tune: bool = setting(
        False,
        "go on from the training of --weights: optimizer, average, best fitness and epochs come along, and no more "
        "--epochs than it has done come on top of them",
    )
    compile: bool = setting(False, "compile the training step with torch.compile")
    freeze: Freeze = setting(
        (0,), "backbone, all-but-predictors, none; one number N: the first N layers; several: just these"
    )
    cache: Literal["", "ram", "disk"] = of_data(
        "", "keep images of training and validation in memory or on disk", bare="ram"
    )
    anchors: Anchors = of_data(
        0, "find this many anchors per level before training; 0: those of the model, if they fit"
    )
    noautoanchor: bool = of_data(False, "keep the anchors even if they do not fit")
    rect: bool = of_data(False, "rectangular batches: no mosaic, no shuffle")
    quad: bool = of_data(False, "four images become one of twice the side")
    image_weights: bool = of_data(False, "draw images of classes with a low mAP more often")
    single_cls: bool = of_data(False, "train all classes as one")
    strict: bool = of_data(False, "refuse labels whose class is none of the names, instead of leaving them out")
    class_frequency: bool = of_data(False, "start the class biases of a new head from how often each class occurs")
    multi_scale: bool = of_data(False, "vary the input side by +-50 % (release v3: from 1/1.5 to 1/0.667)")
    conf_thres: Fraction = output(0.001, "validation: lowest score")
    iou_thres: Fraction = output(0.6, "validation: NMS overlap")
    max_det: Count = output(300, "validation: most boxes per image")
    summary: bool = output(False, "print the layers, parameters and cost of the network before training")
    result_name: str = output(
        "",
        "release v3: write the COCO numbers of each epoch as text into this file of the run folder, too",
        metavar="TXT",
        bare="results.txt",
    )
    augment: AugmentConfig = setting(AugmentConfig, "augmentation")
    loss: LossConfig = setting(LossConfig, "loss")
    optim: YoloOptimConfig = setting(  # pyright: ignore[reportIncompatibleVariableOverride]  # is frozen
        YoloOptimConfig, "optimizer"
    )

    @property
    def train_side(self) -> int:
        """Side of the images that are trained on."""
        return self.imgsz[0]

    @property
    def val_side(self) -> int:
        """Side of the images of validation: that of training, unless another was given."""
        return self.imgsz[-1]


class RunFiles(TrainingFiles):
    """Files that hold settings of a YOLO training run, weakest first: hyp, config or run."""

    hyp: str = of_file("", "preset (scratch-low, VOC, ...) or hyper-parameter yaml")
    run: str = of_file("", "run yaml: data, model and folders in one file")


class EvolveFiles(Files):
    """Files that hold settings of a search, weakest first."""

    hyp: str = of_file("", "preset or hyper-parameter yaml to begin with")
    config: str = of_file("", "yaml of settings, or a run folder")


class PredictFiles(Files):
    """Files that hold settings of a prediction."""

    run: str = of_file("", "run yaml: weights, source and output in one file")


# None, as Python's way to say so, is empty, too.
InputSize = Annotated[Sides, Field(max_length=2), BeforeValidator(lambda size: () if size is None else size)]
_INPUT_SIZE = "network input side, or height and width, in pixels; empty: as the weights were trained, else 640"
_AUGMENT = "test-time augmentation: three sizes, one of them mirrored"
of_results = partial(setting, group="a file of results")


class ValConfig(InferenceConfig):
    """Measure a detector: the published YOLOv5 metric and the COCO metric."""

    weights: Paths = setting((), "checkpoint or exported file to measure; several run as one network")
    model: str = setting("", _CFG, flags="--cfg --model", metavar="CFG")
    release: Release = setting(
        "", "take NMS, thresholds and metric of this release; empty: NMS and thresholds of the model's"
    )
    data: str = setting("", _DATA)
    task: Literal["train", "val", "test", "speed", "study"] = setting(
        "val", "split to measure on; speed: time only; study: metric and time at sizes from 256 to 1536"
    )
    batch_size: Count = setting(32, "images per batch")
    imgsz: InputSize = setting((), f"{_INPUT_SIZE}; two: every image is fitted into just that shape")
    no_rect: bool = setting(
        False, "fit every image into the full square, not each batch into a shape of its own: numbers to be compared"
    )
    conf_thres: Fraction = setting(0.001, "lowest score")
    iou_thres: Fraction = setting(0.6, "NMS overlap")
    max_det: Count = setting(300, "most boxes per image")
    single_cls: bool = setting(False, "treat all classes as one")
    workers: CountOrNone = setting(8, "loader processes, at most one per core")
    loader_timeout: Seconds = loader_limit()
    augment: bool = setting(False, _AUGMENT)
    compat: Compat = setting("faithful", "keep (faithful) or mend (fixed) known defects of the published metric")
    verbose: bool = output(False, "print one line per class")
    save_txt: bool = output(False, "write boxes as label files, and classes.txt")
    save_hybrid: bool = output(False, "write label files with the labels and the boxes that match none of them")
    save_conf: bool = output(False, "write scores into label files")
    save_json: bool = output(False, "write boxes as COCO json")
    noplots: bool = output(False, "draw nothing")
    project: str = folder_of_runs("runs/val")
    json_file: str = of_results("", "COCO results to measure, without a network", flags="--json")
    annotations: str = of_results("", "COCO ground truth of these results")
    iou_type: Literal["bbox", "segm", "keypoints"] = of_results("bbox", "kind of overlap that is measured")

    def needs(self) -> tuple[str, ...]:
        return () if self.json_file or self.annotations else ("weights", "data")


def _as_classes(value: Any) -> Any:
    """Read `2`, `"0,2"`, `"person, traffic light"` and `["person", "2"]` as lists: a name may have spaces."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list | tuple):
        return value
    parts: list[Any] = []
    for word in cast("Sequence[Any]", words):
        if not isinstance(word, str):
            parts.append(word)
        elif word.replace(",", " ").replace(" ", "").isdecimal():
            parts += map(int, word.replace(",", " ").split())
        else:
            parts += [part.strip() for part in word.split(",") if part.strip()]
    return tuple(parts)


# A name that is a number, as in a set of digits, is the number of a class: as published.
Classes = Annotated[tuple[StrictInt | StrictStr, ...], BeforeValidator(_as_classes)]


class PredictConfig(InferenceConfig):
    """Find objects in images, videos, cameras or streams."""

    weights: Paths = setting((), "checkpoint or exported file to run; several run as one network", required=True)
    model: str = setting("", _CFG, flags="--cfg --model", metavar="CFG")
    source: str = setting(
        "",
        "image, folder, glob, list file, video, camera number, address of a stream (rtsp, http) or .streams list",
        required=True,
    )
    release: Release = setting("", "take letterbox and NMS of this release; empty: of the model's")
    imgsz: InputSize = setting((), _INPUT_SIZE)
    conf_thres: Fraction = setting(0.25, "lowest score")
    iou_thres: Fraction = setting(0.45, "NMS overlap")
    max_det: Count = setting(1000, "most boxes per image")
    classes: Classes | None = setting(None, "keep only these classes, by name or number; empty: all", metavar="CLASS")
    agnostic_nms: bool = setting(False, "let boxes of different classes suppress each other")
    augment: bool = setting(False, _AUGMENT)
    classifier: str = setting("", "second stage: drop boxes that this torchvision classifier takes for another class")
    classifier_weights: str = setting("", "state dict of the classifier, of the same classes")
    vid_stride: Count = setting(1, "take every N-th frame of a video")
    batch_size: Count = setting(1, "images of one shape that go through the network together; of live streams 1")
    nosave: bool = output(False, "write no annotated images")
    save_txt: bool = output(False, "write boxes as label files, and classes.txt")
    save_conf: bool = output(False, "write scores into label files")
    save_crop: bool = output(False, "write each box as an image")
    save_json: bool = output(False, "write boxes as json")
    label_studio: str = output(
        "",
        "write label_studio.json, tasks with boxes as pre-annotations; the value stands before each image's file name",
        metavar="PREFIX",
        bare="/data/local-files/?d=",
    )
    save_log: bool = output(False, "write what is printed into log.log as well")
    line_thickness: Count = output(3, "line width of drawn boxes in pixels")
    hide_labels: bool = output(False, "draw boxes without names")
    hide_conf: bool = output(False, "draw names without scores")
    project: str = folder_of_runs("runs/predict")


class ExportConfig(Frozen):
    """Write a checkpoint for ONNX Runtime, TorchScript, OpenVINO or NCNN, checked against PyTorch."""

    weights: str = setting("", "checkpoint to export", required=True)
    model: str = setting("", _CFG, flags="--cfg --model", metavar="CFG")
    include: ExportKinds = setting(("onnx",), "kinds of files to write: onnx, torchscript, openvino, ncnn")
    imgsz: InputSize = setting((), _INPUT_SIZE)
    batch_size: Count | None = setting(None, "images per call of the file; empty: any number")
    dynamic: bool = setting(True, "take any image size, and any batch where --batch-size is not given")
    static: bool = setting(False, "take images of that size only, as OpenCV 4 needs it; the same as --dynamic false")
    opset: Annotated[int, Field(ge=11, le=23)] = setting(17, "version of the operators of ONNX files")
    simplify: bool = setting(True, "ONNX: fold constants and remove what nothing needs")
    half: bool = setting(False, "half precision")
    int8: bool = setting(False, "8-bit convolutions, calibrated on --source or --data (ONNX, OpenVINO)")
    source: str = setting("", "images to check the files with and to calibrate --int8 on; empty: those of --data")
    data: str = setting("", "data set whose validation images are taken; empty: that of the run, else synthetic images")
    device: str = setting("", "where PyTorch and TorchScript are checked: cpu, or a GPU as 0; empty: the CPU")
    nms: bool = setting(False, "put NMS into the file (ONNX, OpenVINO)")
    agnostic_nms: bool = setting(False, "in that NMS boxes of different classes suppress each other")
    conf_thres: Fraction = setting(0.25, "lowest score of that NMS")
    iou_thres: Fraction = setting(0.45, "overlap of that NMS")
    max_det: Count = setting(1000, "most boxes of a class in an image", flags="--max-det --topk-per-class")
    project: str = output("", "folder of runs to write into; empty: beside the checkpoint, or with --name runs/export")
    name: str = output("", "folder of this run; counts up where it exists")
    exist_ok: bool = output(False, "write into an existing run folder")


of_search = partial(setting, group="the search")
# Workers of one study may differ in these: where files lie and what computes. All others are the study's own.
OF_A_WORKER = (
    *("project", "name", "exist_ok", "study", "generations"),
    *("data", "weights", "workers", "loader_timeout", "device", "nproc", "cache"),
)
OF_THE_SEARCH = ("generations", "study", "sampler", "parents", "space", "prune")  # a trial has no such settings


class EvolveConfig(RunConfig):
    """Search hyper-parameters by many short trainings. Stop it at any time; --study goes on, also from several
    processes and machines at once."""

    # As published, a trial is validated at its end and draws nothing.
    generations: Count = of_search(300, "finished trials at which the search ends")
    study: str = of_search(
        "", "join, continue or begin this study: NAME below --project, or a database URL; empty: a new one"
    )
    sampler: Literal["published", "tpe", "cmaes"] = of_search(
        "published", "how the next hyper-parameters are chosen; published: mutated children of the best"
    )
    parents: Literal["single", "weighted"] = of_search(
        "single", "published sampler: one of the best by weight, or their weighted mean"
    )
    space: str = of_search("", "yaml: settings path to [gain, low, high]; empty: as published")
    prune: Literal["", "median", "percentile"] = of_search(
        "", "end hopeless trials early: below the median, or the best quarter", bare="median"
    )
    noval: bool = output(True, "validate trials only after their last epoch")
    noplots: bool = output(True, "draw nothing in the folders of trials")
    nosave: bool = output(True, "keep the weights of the best trial only")
    project: str = folder_of_runs("runs/evolve")

    def needs(self) -> tuple[str, ...]:
        return ("data or study",)  # a study has the rest of its own

    @property
    def validates(self) -> bool:
        """Return whether trials are validated after every epoch: as asked for, or as something reads the result."""
        asked = "noval" in self.model_fields_set
        needed = bool(self.prune) or self.image_weights or self.optim.schedule == "plateau"
        return not self.noval or (needed and not asked)


class AnchorsConfig(RunFolder):
    """Say how well anchors fit the labels of a data set, and find better ones."""

    data: str = setting("", _DATA, position=True, required=True)
    num_anchors: Annotated[int, Field(ge=1, le=100)] | None = setting(
        None, "anchors of all levels together; empty: as the model has, or 9", flags="--n"
    )
    # Above these limits there are no images and no boxes.
    imgsz: Annotated[int, Field(ge=1, le=65536)] = setting(640, "training size in pixels")
    anchor_t: Annotated[float, Field(gt=1.0, le=1000.0)] = setting(
        4.0, "largest side ratio of box and anchor that matches", flags="--thr"
    )
    generations: CountOrNone = setting(1000, "genetic steps after k-means", flags="--gen")
    seed: int = setting(0, "seed of the search")
    model: str = setting(
        "",
        "compare with the anchors of this name, yaml, cfg or checkpoint; empty: the published ones",
        flags="--model --cfg --weights",
    )
    project: str = folder_of_runs("runs/anchors")
    verbose: bool = setting(False, "print each generation that finds better anchors")
    noplots: bool = setting(False, "draw nothing")
    max_pixels: Pixels = pixel_limit()


class BenchConfig(Frozen):
    """Measure what a module or a model costs: parameters, GFLOPs, memory, forward and backward time."""

    op: tuple[str, ...] = setting(
        (), 'module of torch.nn or of ours, as "Conv2d(64, 128, 3)"; may be repeated', metavar="MODULE", repeats=True
    )
    model: str = setting("", "model or checkpoint to measure", flags="--model --cfg --weights")
    shape: Shapes = setting(((1, 3, 640, 640),), "sides of an input; may be repeated", repeats=True)
    half: bool = setting(False, "half precision: bf16 on the CPU, fp16 on a GPU")
    repeats: Count = setting(10, "timed passes")
    device: str = setting("", DEVICE)

    def needs(self) -> tuple[str, ...]:
        return ("op or model",)


class FormatsConfig(RunFolder):
    """Export a checkpoint to every form that can run here; verify, measure and time each: one table, one plot."""

    weights: str = setting("", "checkpoint to measure", required=True)
    data: str = setting("", _DATA, required=True)
    imgsz: InputSize = setting((), _INPUT_SIZE)
    batch_size: Count = setting(32, "images per batch of the measurement; times are of one image")
    workers: CountOrNone = setting(8, "loader processes, at most one per core")
    images: Count = setting(8, "validation images that each form is timed on")
    repeats: Count = setting(5, "times that it runs on each")
    device: str = setting("", DEVICE)
    noplots: bool = output(False, "draw nothing")
    project: str = folder_of_runs("runs/formats")


class CheckConfig(Frozen):
    """List every problem of a data set, with file and line. Exit code 1 if training would lose something or not run."""

    data: str = setting("", _DATA, position=True, required=True)
    plots: str = setting("", "draw classes, positions and sizes of the boxes into this folder", metavar="DIR")
    max_pixels: Pixels = pixel_limit()


class YoloDemoConfig(DemoConfig):
    """Make a small data set of drives, train on it, validate, predict and draw plots."""

    task: Literal["detect2d"] = setting("detect2d", "detect2d: yolov5n on images of drives")


of_schedule = partial(setting, group="the schedule of a run")
of_run = partial(setting, group="settings of that run, as of train")


class InfoConfig(Frozen):
    """Show the layers, parameters, strides and cost of a model, or with --schedule the learning rates of a run."""

    model: str = setting("", "published name, model yaml, Darknet cfg, or a checkpoint", position=True)
    weights: str = setting("", "checkpoint; with a model: put into that model")
    num_classes: Count | None = setting(None, "number of classes of a model that is built", flags="--nc")
    imgsz: Annotated[Sides, Field(min_length=1, max_length=2)] = setting(
        (640,), "side, or height and width, of the image whose cost is counted"
    )
    verbose: bool = setting(False, "print one line per parameter, with mean and standard deviation")
    env: bool = setting(False, "list versions, devices and memory")
    find: str = setting("", "list the modules of this class or name, as *Conv*", metavar="PATTERN")
    schedule: str = of_schedule(
        "", "draw rates and momentum of a training run into this file", metavar="PNG", bare="schedule.png"
    )
    images: Count | None = of_schedule(None, "training images; empty: as --data has")
    hyp: str = of_schedule("", "preset or hyper-parameter yaml, as of train")
    config: str = of_schedule("", "yaml of settings, or a run folder, as of train")
    data: str = of_run("", _DATA)
    epochs: Count = of_run(100, "passes over the training images")
    batch_size: TrainBatch = of_run(16, "images per step")
    optim: YoloOptimConfig = setting(YoloOptimConfig, "settings of that run, as of train")

    def needs(self) -> tuple[str, ...]:
        return () if self.env or self.schedule else ("model or weights",)


class WeightsConfig(Frozen):
    """Write a network as another kind of weight file."""

    source: str = setting(
        "", "published .pt, Boxwright .pt, .safetensors or Darknet .weights", metavar="IN", position=True, required=True
    )
    target: str = setting(
        "", "file to write: .pt, .safetensors or .weights (Darknet); empty, with --strip: IN", position=True
    )
    strip: bool = setting(False, "drop what only --resume needs, and store kernels in half precision")
    model: str = setting("", _CFG, flags="--cfg --model", metavar="CFG")
    stem: Literal["", "conv6"] = setting("", "conv6: the Focus of early releases as a 6x6 convolution")


class ConvertDataConfig(Frozen):
    """Write a data set in another format."""

    source: str = setting("", _DATA, metavar="IN", position=True, required=True)
    target: str = setting("", "a new folder", position=True, required=True)
    to: Literal["", "yolo", "coco", "voc", "shards"] = setting(
        "", "format to write; shards: tar files that are read without unpacking", required=True
    )
    shard_mb: Annotated[int, Field(ge=1)] = setting(1000, "MB after which a tar shard ends")
    copy_images: bool = setting(False, "copy images; otherwise they are linked", flags="--copy")
    compat: Compat = setting("faithful", "keep or mend known defects of reading labels")
    max_pixels: Pixels = pixel_limit()


class SplitConfig(Frozen):
    """Divide the images of a data set into new lists."""

    source: str = setting("", _DATA, metavar="IN", position=True, required=True)
    target: str = setting("", "a new folder; empty: IN_split", position=True)
    shares: Annotated[tuple[float, ...], BeforeValidator(as_list)] = setting(
        (0.9, 0.1, 0.0), "shares of train, val and perhaps test; each class is divided by them", metavar="SHARE"
    )
    seed: int = setting(0, "seed of the draw")
    compat: Compat = setting("faithful", "keep or mend known defects of reading labels")
    max_pixels: Pixels = pixel_limit()
