"""The settings of camera and radar detection: training, validation and prediction of CenterFusion. Imports no torch.

Defaults are those of the published training run (paper arXiv 2011.04841; spec C2, the numbers in brackets), with the
pillar size that it really had.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from boxwright.settings.base import (
    Compat,
    Fraction,
    Frozen,
    Milestones,
    NotNegative,
    Numbers,
    OptimConfig,
    Positive,
    Schedule,
    TrainingConfig,
    as_numbers,
)
from boxwright.settings.yaml_file import read_yaml_settings

FAMILY = "centerfusion"
MODEL = f"{FAMILY}-dla34"
STRIDE = 4  # of the output grid
COARSEST_STRIDE = 32  # of the network's deepest level; the input is a multiple of it

Sizes = Annotated[tuple[Positive, Positive, Positive], BeforeValidator(as_numbers)]
InputSize = Annotated[Numbers, Field(min_length=2, max_length=2)]


class NetworkConfig(Frozen):
    """The network; a published checkpoint fits the defaults only."""

    width: Annotated[float, Field(gt=0.0, le=2.0)] = 1.0  # factor of all channel counts
    dla_node: Literal["dcn", "conv"] = "dcn"  # deformable or plain convolutions where levels meet
    head_conv: Annotated[int, Field(ge=1)] = 256  # hidden channels of a head, before the factor
    first_depth: Positive = 1.0  # metres that the depth heads say before training; published 1


class RadarConfig(Frozen):
    """From radar sweeps to the map that the network sees."""

    sweeps: Annotated[int, Field(ge=1)] = 3  # sweeps of each radar that are gathered
    max_depth: Positive = 60.0  # metres; farther points are dropped, depths are divided by it
    pillar_dims: Sizes = (1.5, 0.2, 0.2)  # height, width, length in metres of what a point is raised to
    z_offset: float = 0.0  # metres that points are lifted by


class FrustumConfig(Frozen):
    """Which radar return belongs to which object."""

    enabled: bool = True  # false: the radar map is used as it is
    expansion_ratio: NotNegative = 0.0  # widens the range of depths, as a share of it
    window_ratio: Positive = 0.3  # side of the painted window, as a share of the box
    normalize_depth: bool = True  # divide depths by radar.max_depth
    by_depth: bool = False  # near boxes paint first, not good ones


class FusionAugmentConfig(Frozen):
    """Random changes of training images, their radar and their targets."""

    flip: Fraction = 0.5  # probability of a left-right flip
    shift: Fraction = 0.1  # spread of the shift, as a share of the larger side
    scale: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0  # spread of the zoom
    rotate: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0  # spread of the rotation in degrees
    rotate_prob: Fraction = 0.0  # probability of a rotation
    random_crop: bool = False  # published alternative: zoom of 0.6 to 1.3 about a random place instead of shift, scale
    max_crop: bool = True  # the longer side of an image fills the width of the input; false: its width does
    color: bool = True  # brightness, contrast, saturation and lighting


class FusionLossConfig(Frozen):
    """Weights of the losses; dep and rot also weigh the refined depth and rotation."""

    hm: NotNegative = 1.0
    reg: NotNegative = 1.0
    wh: NotNegative = 0.1
    dep: NotNegative = 1.0
    dim: NotNegative = 1.0
    rot: NotNegative = 1.0
    amodel_offset: NotNegative = 1.0
    nuscenes_att: NotNegative = 1.0
    velocity: NotNegative = 1.0


class FusionOptimConfig(OptimConfig):
    """Adam, whose rate falls once; no warm-up, no clipping, no averaging, as published."""

    optimizer: Literal["SGD", "Adam", "AdamW"] = "Adam"
    lr0: Positive = 2.5e-4
    schedule: Schedule = "multi-step"
    milestones: Milestones = ()  # empty: after five sixths of the run, as published
    momentum: Fraction = 0.9
    weight_decay: NotNegative = 0.0
    release: Literal["", "v7.0", "centernet"] = "centernet"  # pyright: ignore[reportIncompatibleVariableOverride]  # whose schedule; v7.0, or empty: the current YOLOv5's
    warmup_epochs: NotNegative = 0.0
    nominal_batch_size: Annotated[int, Field(ge=1)] = 1  # gradients are not gathered over batches
    clip_norm: NotNegative = 0.0
    ema_decay: Fraction = 0.0  # 0: no average


class FusionConfig(TrainingConfig):
    """Everything that shapes a CenterFusion training run.

    weights: a checkpoint of this tool, or a published one; what does not fit (as the second heads of a camera-only
        one) keeps its own start.
    data: nuScenes root.
    """

    model: Annotated[str, Field(pattern=f"^{MODEL}$")] = MODEL
    version: str = "v1.0-trainval"  # folder of tables
    train_split: str = ""  # empty: mini_train or train, as the version has it
    val_split: str = ""
    allow_missing: bool = False  # leave out images and sweeps that are not there
    epochs: Annotated[int, Field(ge=1)] = 60
    batch_size: Annotated[int, Field(ge=1)] = 32
    imgsz: InputSize = (448, 800)  # height and width of the network input
    no_radar: bool = False  # camera only: no radar is read, no second heads
    freeze_backbone: bool = False  # train the heads alone; batch-norm statistics go on moving, as published
    patience: Annotated[int, Field(ge=0)] = 0
    save_epochs: Milestones = (20, 40, 50)
    max_det: Annotated[int, Field(ge=1)] = 100  # validation: peaks an image
    network: NetworkConfig = NetworkConfig()
    radar: RadarConfig = RadarConfig()
    frustum: FrustumConfig = FrustumConfig()
    augment: FusionAugmentConfig = FusionAugmentConfig()
    loss: FusionLossConfig = FusionLossConfig()
    optim: FusionOptimConfig = FusionOptimConfig()  # pyright: ignore[reportIncompatibleVariableOverride]  # is frozen


class FusionValConfig(Frozen):
    """Settings of `boxwright val --model centerfusion-dla34`."""

    model: Annotated[str, Field(pattern=f"^{MODEL}$")] = MODEL
    weights: str = ""  # of this tool, or published
    data: str = ""  # nuScenes root
    version: str = "v1.0-trainval"
    split: str = ""  # empty: mini_val or val, as the version has it; of a test version, test
    allow_missing: bool = False
    json_file: str = ""  # measure this submission, run no network
    batch_size: Annotated[int, Field(ge=1)] = 16
    max_det: Annotated[int, Field(ge=1)] = 100  # peaks an image
    conf_thres: Annotated[float, Field(ge=-1.0, le=1.0)] = -1.0  # lowest score
    iou_thres: Fraction = 0.0  # bird's-eye suppression above this overlap; 0: none, as published
    flip_test: bool = False  # look at each image and its mirror image
    no_radar: bool = False  # published weights: they are of the camera-only network
    device: str = ""
    workers: Annotated[int, Field(ge=0)] = 8
    half: bool = False  # run the network in bf16 (CPU) or fp16 (GPU)
    plots: Annotated[int, Field(ge=0)] = 0  # key frames that are drawn
    noplots: bool = False  # no curves
    compat: Compat | Literal[""] = ""  # empty: as it was trained; published weights: faithful
    project: str = "runs/val"
    name: str = "exp"
    exist_ok: bool = False


class FusionPredictConfig(Frozen):
    """Settings of `boxwright predict --model centerfusion-dla34`."""

    model: Annotated[str, Field(pattern=f"^{MODEL}$")] = MODEL
    weights: str = ""
    data: str = ""
    version: str = "v1.0-trainval"
    scene: str = ""  # its name; empty: the first one
    allow_missing: bool = False
    batch_size: Annotated[int, Field(ge=1)] = 6
    max_det: Annotated[int, Field(ge=1)] = 100
    conf_thres: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.3  # lowest score that is drawn
    flip_test: bool = False
    no_radar: bool = False
    device: str = ""
    half: bool = False
    save_json: bool = False  # write a submission of the scene
    fps: Annotated[float, Field(ge=0.1, le=60.0)] = 2.0  # of the video; key frames are half a second apart
    compat: Compat | Literal[""] = ""  # empty: as it was trained; published weights: faithful
    project: str = "runs/predict"
    name: str = "exp"
    exist_ok: bool = False


def names_fusion(model: str, config: str = "") -> bool:
    """Whether a run is one of camera and radar detection.

    Args:
        model: the model that was asked for; empty: the file says it.
        config: yaml of settings, run folder, or preset.
    """
    if model or not config:
        return model.startswith(FAMILY)
    path = Path(find_preset(config)).expanduser()
    file = path / "config.yaml" if path.is_dir() else path
    if find_preset(config) != config:
        return True
    named = read_yaml_settings(file).get("model") if file.is_file() else None
    return named is not None and str(named.value).startswith(FAMILY)


def find_preset(name: str) -> str:
    """The file of a preset by its name; a path as it is.

    Presets are recipes that were published: `centerfusion`, `centernet-baseline`.
    """
    file = resources.files("boxwright.centerfusion") / "presets" / f"{name.removesuffix('.yaml')}.yaml"
    return str(file) if name and not Path(name).expanduser().exists() and file.is_file() else name
