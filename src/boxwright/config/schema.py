"""The typed settings of every verb: one frozen tree each, unknown keys refused. Imports no torch.

Defaults are those of the published 6.x system (hyp.scratch-low). What is not here: reading files and merging (load.py),
the flat hyper-parameter files (hyp.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]

Compat = Literal["faithful", "fixed"]  # faithful: defects that published weights were trained with are kept
# v5 is the loss of YOLOv5 v5.0 to v7.0, v1.0 to v4.0 those of its early releases, v3 that of YOLOv3-SPP.
Recipe = Literal["", "v5", "v4.0", "v3.1", "v3.0", "v2.0", "v1.0", "v3"]
# Releases that other parts of a run differ in; empty is v7.0, or v3 where the loss is that of YOLOv3-SPP.
Release = Literal["", "v7.0", "v6.1", "v6.0", "v5.0", "v4.0", "v3.1", "v3.0", "v2.0", "v1.0", "v3"]
ExportKind = Literal["onnx", "torchscript", "openvino"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Schedule = Literal["", "linear", "cosine", "step", "multi-step", "exponential", "plateau", "one-cycle"]


def as_numbers(value: Any) -> Any:
    """Read `10`, `"0,1,2"` and `["0", "1,2"]` as lists, as flags and yaml files write them."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return (value,)
    words = [value] if isinstance(value, str) else value
    if isinstance(words, list | tuple) and any(isinstance(word, str) for word in words):
        return tuple(part for word in words for part in str(word).replace(",", " ").split())
    return words


Numbers = Annotated[tuple[int, ...], BeforeValidator(as_numbers)]
Milestones = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(as_numbers)]


FREEZE_WORDS = ("backbone", "all-but-predictors")


def _freeze(value: Any) -> Any:
    """Read a word of FREEZE_WORDS, `none`, or numbers of layers."""
    words = cast(Sequence[Any], value) if isinstance(value, list | tuple) else (value,)
    if len(words) == 1 and isinstance(words[0], str) and not words[0][:1].isdigit():
        if words[0] not in ("none", *FREEZE_WORDS):
            raise ValueError(f"it is none, {', '.join(FREEZE_WORDS)}, or numbers of layers")
        return (0,) if words[0] == "none" else words[0]
    return as_numbers(value)


Freeze = Annotated[tuple[int, ...] | Literal["backbone", "all-but-predictors"], BeforeValidator(_freeze)]


def _paths(value: Any) -> Any:
    """Read one path as a list of one; an empty one is none at all."""
    paths = cast(Sequence[Any], value) if isinstance(value, list | tuple) else (value,)
    return tuple(str(path) if isinstance(path, PurePath) else path for path in paths if path != "")


Paths = Annotated[tuple[str, ...], BeforeValidator(_paths)]


def _train_batch(value: int) -> int:
    if not value:
        raise ValueError("it is a number of images from 1, or -1 for as many as fit in memory")
    return value


TrainBatch = Annotated[int, Field(ge=-1), AfterValidator(_train_batch)]


def _anchors(value: Any) -> Any:
    """Read a number of anchors a level (old files have 3.4), or one list of sides a level as in a model yaml."""
    if isinstance(value, list | tuple) and value and all(_is_sides(level) for level in cast(Sequence[Any], value)):
        return tuple(cast(Sequence[Any], value))
    try:
        number = float(cast(Any, value)) if isinstance(value, int | float | str) else -1.0
    except ValueError:
        number = -1.0
    if isinstance(value, bool) or not 0 <= number < 100:
        raise ValueError("it is a number of anchors a level, or one list of width, height, width, height ... a level")
    return round(number)


def _is_sides(level: object) -> bool:
    return isinstance(level, list | tuple) and all(isinstance(s, int | float) for s in cast(Sequence[Any], level))


Anchors = Annotated[int | tuple[tuple[float, ...], ...], BeforeValidator(_anchors)]


class Frozen(BaseModel):
    """A group of settings: immutable, and a key that is not here is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )


CHANGED_ON_RESUME = ("workers", "device", "nproc", "epochs")  # all that may differ from the settings of a stopped run


class AugmentConfig(Frozen):
    """Random changes of training images."""

    hsv_h: Fraction = 0.015  # hue gain: multiplier in 1 +- hsv_h
    hsv_s: Fraction = 0.7  # saturation gain
    hsv_v: Fraction = 0.4  # value gain
    degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0  # rotation in +- degrees
    translate: Fraction = 0.1  # shift in +- this fraction of the image side
    scale: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5  # zoom in 1 +- scale
    shear: Annotated[float, Field(ge=0.0, lt=90.0)] = 0.0  # shear in +- degrees
    perspective: Annotated[float, Field(ge=0.0, le=0.001)] = 0.0  # perspective in +- this, per pixel
    flipud: Fraction = 0.0  # probability of an up-down flip
    fliplr: Fraction = 0.5  # probability of a left-right flip
    mosaic: Fraction = 1.0  # probability that a sample is a mosaic
    mosaic9: Fraction = 0.0  # share of the mosaics that are made of nine images instead of four
    mixup: Fraction = 0.0  # probability that a mosaic is blended with a second one
    copy_paste: Fraction = 0.0  # share of the polygon objects that are pasted mirrored
    release: Release = ""  # whose warp and rule for the boxes that are kept; empty: v7.0


class LossConfig(Frozen):
    """Gains and options of the detection loss."""

    recipe: Recipe = ""  # which published loss; empty: that of the model
    box: NotNegative = 0.05  # gain of the box term
    cls: NotNegative = 0.5  # gain of the class term, before scaling by classes and layers
    obj: NotNegative = 1.0  # gain of the objectness term, before scaling by image size and layers
    cls_pw: Positive = 1.0  # weight of positives in the class BCE
    obj_pw: Positive = 1.0  # weight of positives in the objectness BCE
    anchor_t: Annotated[float, Field(gt=1.0)] = 4.0  # largest side ratio of label to anchor that still matches
    iou_t: Fraction = 0.2  # recipe v3: overlap of sides of label and anchor above which they match
    iou_kind: Literal["", "iou", "giou", "diou", "ciou"] = ""  # overlap measure of the box term; empty: as published
    fl_gamma: NotNegative = 0.0  # focal loss gamma; 0 is plain BCE
    label_smoothing: Fraction = 0.0  # targets become 1 - eps/2 and eps/2
    autobalance: bool = False  # let the weights of the levels follow their losses
    gr: Fraction = 1.0  # objectness target is (1 - gr) + gr * IoU
    sort_obj_iou: bool = False  # of several labels in one cell the best overlap wins instead of the last


class OptimConfig(Frozen):
    """Optimizer, learning rate, averaging."""

    optimizer: Literal["SGD", "Adam", "AdamW"] = "SGD"
    lr0: Positive = 0.01  # initial learning rate
    lrf: Positive = 0.01  # final rate as a fraction of lr0
    cos_lr: bool = False  # cosine instead of linear decay
    schedule: Schedule = ""  # how the rate falls; empty: as cos_lr and the release say
    milestones: Milestones = ()  # multi-step: the rate falls where these epochs begin, counted from 0
    step_epochs: Annotated[int, Field(ge=1)] = 30  # step: the rate falls every so many epochs
    gamma: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0  # factor of a fall; 0: 0.1, exponential: what ends at lrf
    plateau_patience: Annotated[int, Field(ge=0)] = 10  # plateau: validations without a better fitness before a fall
    one_cycle_start: Annotated[float, Field(gt=0.0, le=1.0)] = 0.04  # one-cycle: first rate as a fraction of lr0
    one_cycle_rise: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3  # one-cycle: share of the run in which the rate rises
    momentum: Fraction = 0.937  # SGD momentum, Adam beta1
    weight_decay: NotNegative = 0.0005  # at the nominal batch size; scaled to the real one
    release: Release | Literal["centernet"] = ""  # whose schedule; empty: v7.0
    warmup_epochs: NotNegative = 3.0  # release v3: 0 is no warm-up, anything else the first epoch
    warmup_momentum: Fraction = 0.8  # one-cycle: where the rate is highest
    warmup_bias_lr: NotNegative = 0.1
    nominal_batch_size: Annotated[int, Field(ge=1)] = 64  # gradients are accumulated up to this many images
    clip_norm: NotNegative = 10.0  # largest gradient norm; 0: any
    ema_decay: Fraction = 0.9999  # decay of the averaged weights after their ramp
    ema_tau: Positive = 2000.0  # updates over which the decay ramps up


def _names(value: Any) -> Any:
    """Read `a`, `"a, b"` and `["a", "b"]` as lists of names."""
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


class TrainingConfig(Frozen):
    """What shapes a training run of any system. Written to the run folder and into each checkpoint."""

    model: str = ""
    weights: str = ""  # start from this checkpoint; empty: from scratch
    data: str = ""
    epochs: Annotated[int, Field(ge=1)] = 100
    batch_size: TrainBatch = 16  # images a step, over all ranks; -1: as many as fit in memory
    workers: Annotated[int, Field(ge=0)] = 8  # loader processes, at most the number of cores
    device: str = ""  # cpu, 0, cuda:1; 0,1: a process for each of these GPUs; empty: the first GPU, else the CPU
    nproc: Annotated[int, Field(ge=1)] = 1  # processes of this machine that train together
    sync_bn: bool = False  # batch norms take the images of all processes, not of one alone
    precision: Precision = "auto"  # auto: bf16 where the hardware has it
    patience: Annotated[int, Field(ge=0)] = 100  # epochs without a better fitness before the run stops; 0: never
    nosave: bool = False  # write checkpoints only at the end
    noval: bool = False  # validate only after the last epoch
    noplots: bool = False  # draw nothing
    save_period: Annotated[int, Field(ge=-1)] = -1  # keep epoch<N>.pt every this many epochs; -1: never
    save_epochs: Milestones = ()  # and after these epochs, counted from 1
    save_name: Literal["epoch", "epoch_"] = "epoch"  # what stands before the number in the names of those files
    val_period: Annotated[int, Field(ge=1)] = 1  # validate every this many epochs, and after the last
    project: str = "runs/train"
    name: str = "exp"
    exist_ok: bool = False  # write into an existing run folder instead of counting up
    callbacks: Names = ()  # mlflow, and callbacks of installed packages by the name of their entry point
    seed: int = 0
    compat: Compat = "faithful"
    optim: OptimConfig = OptimConfig()


class RunConfig(TrainingConfig):
    """Settings of a YOLO training run.

    model: yolov5n ... yolov5x6, or a model yaml; empty: what the weights were trained as.
    data: data yaml, VOC root, or COCO json.
    """

    imgsz: Annotated[int, Field(ge=1)] = 640  # network input side; rounded up to a multiple of the largest stride
    anchors: Anchors = 0  # width, height ... in pixels, a list a level; N: so many a level, found first; 0: the model's
    noautoanchor: bool = False  # keep the anchors; else badly fitting ones are replaced before training
    rect: bool = False  # rectangular batches: no mosaic, no shuffle
    quad: bool = False  # four images become one of twice the side: a batch has a quarter as many
    image_weights: bool = False  # draw images with replacement, more often where the last validation found less
    cache: Literal["", "ram", "disk"] = ""  # keep decoded images
    single_cls: bool = False  # train all classes as one
    compile: bool = False  # torch.compile the step
    multi_scale: bool = False  # vary the input side by +-50 %; release v3: from 1 / 1.5 to 1 / 0.667
    freeze: Freeze = (0,)  # backbone, all-but-predictors; one number N: the first N layers; several: just these
    conf_thres: Fraction = 0.001  # validation: lowest score
    iou_thres: Fraction = 0.6  # validation: NMS overlap
    max_det: Annotated[int, Field(ge=1)] = 300  # validation: most boxes an image
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()


class ValConfig(Frozen):
    """Settings of `boxwright val`."""

    weights: Paths = ()  # checkpoint or exported file to measure; several run as one network
    data: str = ""
    batch_size: Annotated[int, Field(ge=1)] = 32
    imgsz: Annotated[int, Field(ge=1)] = 640
    conf_thres: Fraction = 0.001
    iou_thres: Fraction = 0.6
    max_det: Annotated[int, Field(ge=1)] = 300
    task: Literal["train", "val", "test", "speed"] = "val"
    device: str = ""
    workers: Annotated[int, Field(ge=0)] = 8
    single_cls: bool = False
    verbose: bool = False  # one line a class
    save_txt: bool = False
    save_hybrid: bool = False  # label files that hold the labels and what was found besides; metrics stay the same
    save_conf: bool = False
    save_json: bool = False
    half: bool = False  # run the network in bf16 (CPU) or fp16 (GPU)
    augment: bool = False  # test-time augmentation: three sizes, one of them mirrored
    noplots: bool = False
    compat: Compat = "faithful"
    project: str = "runs/val"
    name: str = "exp"
    exist_ok: bool = False


class PredictConfig(Frozen):
    """Settings of `boxwright predict`."""

    weights: Paths = ()  # checkpoint or exported file to run; several run as one network
    source: str = ""  # image, folder, glob, list file, video, or a camera number
    imgsz: Annotated[int, Field(ge=1)] = 640
    conf_thres: Fraction = 0.25
    iou_thres: Fraction = 0.45
    max_det: Annotated[int, Field(ge=1)] = 1000
    device: str = ""
    classes: Numbers | None = None  # keep only these class indices
    agnostic_nms: bool = False
    save_txt: bool = False
    save_conf: bool = False
    save_crop: bool = False
    save_json: bool = False
    nosave: bool = False  # write no annotated images
    line_thickness: Annotated[int, Field(ge=1)] = 3
    hide_labels: bool = False
    hide_conf: bool = False
    half: bool = False
    augment: bool = False  # test-time augmentation: three sizes, one of them mirrored
    classifier: str = ""  # second stage on crops: a torchvision classifier; boxes that it takes for another class go
    classifier_weights: str = ""  # its state dict
    vid_stride: Annotated[int, Field(ge=1)] = 1  # take every n-th frame
    project: str = "runs/predict"
    name: str = "exp"
    exist_ok: bool = False


class ExportConfig(Frozen):
    """Settings of `boxwright export`."""

    weights: str = ""
    include: tuple[ExportKind, ...] = ("onnx",)
    imgsz: Annotated[Numbers, Field(min_length=1)] = (640,)  # one side, or height and width
    static: bool = False  # the file takes images of that size only; else of any size
    half: bool = False
    int8: bool = False
    source: str = ""  # images to check the files with, and to measure for int8
    nms: bool = False  # NMS in the file, at these thresholds
    conf_thres: Fraction = 0.25
    iou_thres: Fraction = 0.45
    max_det: Annotated[int, Field(ge=1)] = 1000
