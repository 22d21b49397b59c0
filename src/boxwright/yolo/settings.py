"""Settings of the verbs for YOLO models. Imports no torch.

Defaults are those of the published 6.x system (hyp.scratch-low).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field

from boxwright.settings.base import (
    Compat,
    Fraction,
    Frozen,
    NotNegative,
    Numbers,
    Paths,
    Positive,
    Release,
    TrainingConfig,
    as_numbers,
)

ExportKind = Literal["onnx", "torchscript", "openvino"]


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
    release: Release = ""  # release whose warp is taken, and its rule for the boxes that are kept; empty: v7.0


class LossConfig(Frozen):
    """Gains and options of the detection loss."""

    recipe: Release = ""  # release whose loss is taken; empty: as --release says, else that of the model
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


class RunConfig(TrainingConfig):
    """Settings of a YOLO training run.

    model: yolov5n ... yolov5x6, or a model yaml; empty: what the weights were trained as.
    data: data yaml, VOC root, or COCO json.
    """

    # Without it schedule and warp are those of v7.0 (of YOLOv3-SPP with its loss), so that a command keeps its results.
    release: Release = ""  # take loss, schedule, warp, NMS and metric of this release; empty: loss and NMS of the model
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
    release: Release = ""  # take NMS, thresholds and metric of this release; empty: NMS and thresholds of the model's
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
    release: Release = ""  # take letterbox and NMS of this release; empty: of the model's
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
