"""The settings of camera and radar detection: training, validation and prediction of CenterFusion. Imports no torch.

Defaults are those of the published training run (paper arXiv 2011.04841; docs/spec/centerfusion.md, C2), with the
pillar size that it really had.
"""

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, model_validator

from boxwright.nuscenes.settings import RadarReading
from boxwright.settings.base import (
    Compat,
    Count,
    CountOrNone,
    DemoConfig,
    Fraction,
    Frozen,
    InferenceConfig,
    Milestones,
    NotNegative,
    OptimConfig,
    Pixels,
    Positive,
    Schedule,
    Seconds,
    TrainingConfig,
    as_list,
    folder_of_runs,
    loader_limit,
    output,
    pixel_limit,
    setting,
)
from boxwright.settings.load import model_in

FAMILY = "centerfusion"
MODEL = f"{FAMILY}-dla34"
STRIDE = 4  # of the output grid
COARSEST_STRIDE = 32  # of the network's deepest level; the input is a multiple of it

Sizes = Annotated[tuple[Positive, Positive, Positive], BeforeValidator(as_list)]
Side = Annotated[int, Field(gt=0, multiple_of=COARSEST_STRIDE)]
InputSides = Annotated[tuple[Side, ...], BeforeValidator(as_list), Field(max_length=2)]


class NetworkConfig(Frozen):
    """The network; a published checkpoint fits the defaults only."""

    width: Annotated[float, Field(gt=0.0, le=2.0)] = setting(1.0, "factor of all channel counts")
    dla_node: Literal["dcn", "conv"] = setting("dcn", "deformable or plain convolutions where levels meet")
    head_conv: Count = setting(256, "hidden channels of a head, before the factor")
    first_depth: Positive = setting(1.0, "mean depth in metres that the depth heads start with; published 1")


class RadarConfig(RadarReading):
    """From radar sweeps to the map that the network sees."""

    sweeps: Count = setting(3, "sweeps of each radar that are gathered")
    max_depth: Positive = setting(60.0, "metres; farther points are dropped, depths are divided by it")
    pillar_dims: Sizes = setting((1.5, 0.2, 0.2), "height, width, length in metres of the pillar of a radar point")
    z_offset: float = setting(0.0, "metres that points are lifted by")


class FrustumConfig(Frozen):
    """Which radar return belongs to which object."""

    enabled: bool = setting(True, "associate radar with objects; false: the radar map is used as it is")
    expansion_ratio: NotNegative = setting(0.0, "widens the range of depths, as a share of it")
    window_ratio: Positive = setting(
        0.3, "side of the rectangle into which the radar values of an object are written, as a share of its 2-D box"
    )
    normalize_depth: bool = setting(True, "divide depths by radar.max_depth")
    by_depth: bool = setting(False, "paint boxes in order of depth, nearest first, instead of by score")


class FusionAugmentConfig(Frozen):
    """Random changes of training images, their radar and their targets."""

    flip: Fraction = setting(0.5, "probability of a left-right flip")
    shift: Fraction = setting(0.1, "spread of the shift, as a share of the larger side")
    scale: Annotated[float, Field(ge=0.0, lt=1.0)] = setting(0.0, "spread of the zoom")
    rotate: Annotated[float, Field(ge=0.0, le=180.0)] = setting(0.0, "spread of the rotation in degrees")
    rotate_prob: Fraction = setting(0.0, "probability of a rotation")
    random_crop: bool = setting(
        False, "published alternative: zoom of 0.6 to 1.3 about a random point instead of shift and scale"
    )
    max_crop: bool = setting(
        True, "the longer side of an image fills the width of the input; false: the width of the image does"
    )
    color: bool = setting(True, "change brightness, contrast, saturation and lighting")
    # Published: both are warped from the full image. Measured with benchmarks/fusion_loader.py.
    reduced_decoding: bool = setting(
        False,
        "decode training images at half scale where the input is no larger: a sample of nuScenes takes 0.9 of the CPU "
        "time, but is less sharp than a validation image (0.4 of the variance of its Laplacian)",
    )


class FusionLossConfig(Frozen):
    """Weights of the losses, in published order; dep and rot also weigh the refined depth and rotation."""

    hm: NotNegative = setting(1.0, "weight of the heatmap")
    wh: NotNegative = setting(0.1, "weight of the 2-D size")
    reg: NotNegative = setting(1.0, "weight of the centre within its cell")
    dep: NotNegative = setting(1.0, "weight of both depths")
    dim: NotNegative = setting(1.0, "weight of the dimensions")
    rot: NotNegative = setting(1.0, "weight of both rotations")
    amodel_offset: NotNegative = setting(1.0, "weight of the offset to the projected 3-D centre")
    nuscenes_att: NotNegative = setting(1.0, "weight of the attributes")
    velocity: NotNegative = setting(1.0, "weight of the velocity")


_SGD_DECAY = 1e-4  # published


class FusionOptimConfig(OptimConfig):
    """Adam, whose rate falls once; no warm-up, no clipping, no averaging, as published."""

    optimizer: Literal["SGD", "Adam", "AdamW"] = setting("Adam", "optimizer", flags="--optimizer --optim.optimizer")
    lr0: Positive = setting(2.5e-4, "initial learning rate")
    schedule: Schedule = setting("multi-step", "how the rate falls")
    milestones: Milestones = setting(
        (), "multi-step: the rate falls where these epochs begin; empty: after five sixths of the run, as published"
    )
    momentum: Fraction = setting(0.9, "SGD momentum, Adam beta1")
    weight_decay: NotNegative = setting(0.0, "weight decay; if it is not given, SGD has 0.0001, as published")
    release: Literal["", "v7.0", "centernet"] = setting(
        "centernet", "release whose schedule is used; v7.0, or empty: that of the current YOLOv5"
    )
    warmup_epochs: NotNegative = setting(0.0, "epochs of warm-up")
    nominal_batch_size: Count = setting(
        1, "gradients are accumulated over this many images; 1: over no more than a batch"
    )
    clip_norm: NotNegative = setting(0.0, "largest norm of the gradient; 0: no limit")
    ema_decay: Fraction = setting(0.0, "decay of the averaged weights after its ramp; 0: no average")

    @model_validator(mode="before")
    @classmethod
    def _with_decay(cls, given: Any) -> Any:
        """Give SGD its published weight decay where none was named."""
        is_sgd = isinstance(given, dict) and cast("dict[str, Any]", given).get("optimizer") == "SGD"
        return {"weight_decay": _SGD_DECAY, **given} if is_sgd else given


USUAL_VERSION = "v1.0-trainval"
_VERSION = f"folder of tables, such as v1.0-mini; empty: the only one, else {USUAL_VERSION}"
_MISSING = "leave out images and radar sweeps that are not there"
Model = Annotated[str, Field(pattern=f"^{MODEL}$")]


class FusionConfig(TrainingConfig):
    """Train CenterFusion on a nuScenes root. Settings are merged: --config < flags."""

    model: Model = setting(MODEL, "model to train")
    # What does not fit, as the second heads of a camera-only checkpoint, keeps its own start.
    weights: str = setting(
        "", "checkpoint to start from, Boxwright's or published; empty: from scratch", metavar="FILE"
    )
    data: str = setting("", "nuScenes root", metavar="DIR")
    version: str = setting("", _VERSION)
    train_split: str = setting("", "split to train on; empty: mini_train or train")
    val_split: str = setting("", "split to measure on; empty: mini_val or val")
    allow_missing: bool = setting(False, _MISSING)
    epochs: Count = setting(60, "passes over the training images", on_resume=True)
    batch_size: Count = setting(32, "images per step, over all processes")
    imgsz: Annotated[InputSides, Field(min_length=2)] = setting((448, 800), "height and width of the network input")
    no_radar: bool = setting(False, "camera only: no radar is read, no second heads")
    balance_classes: bool = setting(
        False, "draw images with replacement, those with rare classes more often; published: every image once"
    )
    freeze_backbone: bool = setting(False, "train the heads alone; batch-norm statistics are still updated")
    patience: CountOrNone = setting(0, "epochs without a better NDS before the run stops; 0: never")
    max_det: Count = setting(100, "validation: peaks per image")
    save_epochs: Milestones = output((20, 40, 50), "and after these epochs, counted from 1")
    network: NetworkConfig = setting(NetworkConfig, "network")
    radar: RadarConfig = setting(RadarConfig, "radar")
    frustum: FrustumConfig = setting(FrustumConfig, "association of radar and objects")
    augment: FusionAugmentConfig = setting(FusionAugmentConfig, "augmentation")
    loss: FusionLossConfig = setting(FusionLossConfig, "losses")
    optim: FusionOptimConfig = setting(  # pyright: ignore[reportIncompatibleVariableOverride]  # is frozen
        FusionOptimConfig, "optimizer"
    )

    @property
    def fixed(self) -> bool:
        """Tell whether known defects of the published system are mended."""
        return self.compat == "fixed"

    @property
    def num_sweeps(self) -> int:
        """Return how many sweeps of each radar the network is given."""
        return 0 if self.no_radar else self.radar.sweeps

    @property
    def input_hw(self) -> tuple[int, int]:
        """Return height, width of the network's input."""
        return self.imgsz[0], self.imgsz[1]

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Return height, width of the output grid."""
        return self.imgsz[0] // STRIDE, self.imgsz[1] // STRIDE


class FusionInferenceConfig(InferenceConfig):
    """What val and predict share: a checkpoint, a nuScenes root, and how the one is run on the other."""

    model: Model = setting(MODEL, "model that is run")
    weights: str = setting("", "checkpoint to run, Boxwright's or published", metavar="FILE", required=True)
    data: str = setting("", "nuScenes root", metavar="DIR", required=True)
    version: str = setting("", _VERSION)
    allow_missing: bool = setting(False, _MISSING)
    batch_size: Count = setting(16, "images per batch")
    max_det: Count = setting(100, "peaks per image")
    flip_test: bool = setting(False, "run on each image and its mirror image")
    # Peaks of one image hardly overlap: what goes is what two cameras see where they overlap.
    iou_thres: Fraction = setting(
        0.0, "suppress boxes of a key frame, whichever camera sees them, with a larger overlap from above; 0: none"
    )
    no_radar: bool = setting(False, "camera only: weights of a network with radar are refused; else the file says it")
    compat: Compat | Literal[""] = setting(
        "", "keep (faithful) or mend (fixed) known defects; empty: as it was trained, published weights faithful"
    )


class FusionValConfig(FusionInferenceConfig):
    """Measure CenterFusion, or a submission, on a nuScenes root by its metric."""

    json_file: str = setting("", "measure this submission; no network is run", flags="--json")
    split: str = setting("", "split to measure on; empty: mini_val, val or test, as the version has it")
    conf_thres: Annotated[float, Field(ge=-1.0, le=1.0)] = setting(-1.0, "lowest score")
    workers: CountOrNone = setting(8, "loader processes, at most one per core")
    loader_timeout: Seconds = loader_limit()
    project: str = folder_of_runs("runs/val")
    plots: CountOrNone = output(0, "draw this many key frames")
    noplots: bool = output(False, "draw no curves")

    def needs(self) -> tuple[str, ...]:
        return ("weights or json_file", "data")


class FusionPredictConfig(FusionInferenceConfig):
    """Draw what CenterFusion finds in a scene of a nuScenes root, or in images and videos with their calibration."""

    data: str = setting("", "nuScenes root", metavar="DIR")
    source: str = setting("", "in place of --data: image, folder, glob, list file or video; goes with --calib")
    calib: str = setting("", "json with the camera matrix of --source, and where its radar is", metavar="FILE")
    vid_stride: Count = setting(1, "take every N-th frame of a video")
    scene: str = setting("", "name of the scene; empty: the first one")
    batch_size: Count = setting(6, "images per batch")
    conf_thres: Annotated[float, Field(ge=-1.0, le=1.0)] = setting(0.3, "lowest score that is drawn")
    project: str = folder_of_runs("runs/predict")
    nosave: bool = output(False, "draw nothing")
    save_json: bool = output(False, "write a submission of the scene; of --source, detections.json")
    # Key frames are half a second apart.
    fps: Annotated[float, Field(ge=0.1, le=60.0)] = output(2.0, "frames per second of the video of a scene")

    def needs(self) -> tuple[str, ...]:
        return ("weights", "data or source")


class FusionExportConfig(Frozen):
    """Write CenterFusion as ONNX, checked against PyTorch."""

    # The file computes in float32 and gives the heads as they are.
    model: Model = setting(MODEL, "model to export")
    weights: str = setting("", "checkpoint to export, Boxwright's or published", metavar="FILE", required=True)
    include: tuple[Literal["onnx"], ...] = setting(("onnx",), "kinds of files to write")
    imgsz: InputSides = setting((), "side, or height and width, of the network input; empty: as it was trained")
    static: bool = setting(False, "take images of that size only, as the file always does")


class FusionInfoConfig(Frozen):
    """Show the parts, parameters and outputs of CenterFusion."""

    model: str = setting(MODEL, "model or checkpoint to describe", position=True)
    weights: str = setting("", "checkpoint to describe, Boxwright's or published", metavar="FILE")
    imgsz: InputSides = setting((), "side, or height and width, of the image; empty: as it was trained")


class FusionWeightsConfig(Frozen):
    """Write CenterFusion as a published .pth, or a published file as a Boxwright checkpoint."""

    source: str = setting("", "published .pth or Boxwright .pt", metavar="IN", position=True, required=True)
    target: str = setting("", "file to write: .pth (published layout) or .pt; empty, with --strip: IN", position=True)
    strip: bool = setting(False, "drop what only --resume needs, and store kernels in half precision (.pt)")
    model: Model = setting(MODEL, "model of the weights")


class FusionDemoConfig(DemoConfig):
    """Make drives with cameras and radars, train CenterFusion, draw a drive."""

    task: Literal["fusion3d"] = setting("fusion3d", "fusion3d: CenterFusion on cameras and radars of a made world")
    no_radar: bool = setting(False, "cameras only")


class FusionCheckConfig(Frozen):
    """List every problem of a nuScenes root."""

    model: Model = setting(MODEL, "model that the data are for")
    data: str = setting("", "nuScenes root", position=True, required=True)
    version: str = setting("", "folder of tables; empty: the only one")
    allow_missing: bool = setting(False, "files that are not there are no error, only listed")
    max_pixels: Pixels = pixel_limit()


class NuscenesConfig(Frozen):
    """Write the COCO style of the published CenterFusion from a nuScenes root."""

    source: str = setting("", "nuScenes root", metavar="IN", position=True, required=True)
    target: str = setting("", "folder to write, which may be IN", position=True, required=True)
    version: str = setting("", "folder of tables; empty: the only one, else v1.0-mini")
    sweeps: Count = setting(3, "sweeps of each radar that are gathered")
    allow_missing: bool = setting(False, _MISSING)


class SyntheticConfig(Frozen):
    """Write a made world of cameras and radars."""

    format: Literal["", "nuscenes"] = setting("", "layout of the data set", required=True)
    out: str = setting("", "a new or an empty folder", required=True)
    scenes: int = setting(10, "number of scenes")
    key_frames: int = setting(8, "key frames per scene, two per second")
    width: int = setting(1600, "width of images in pixels; the height is 9/16 of it")
    version: str = setting("v1.0-mini", "name of the folder of tables")
    seed: int = setting(0, "seed of the world")


def find_preset(name: str) -> str:
    """Find the file of a preset by its name; a path as it is.

    Presets are recipes that were published: `centerfusion`, `centernet-baseline`.
    """
    file = resources.files("boxwright.centerfusion") / "presets" / f"{name.removesuffix('.yaml')}.yaml"
    return str(file) if name and not Path(name).expanduser().exists() and file.is_file() else name


def model_of(config: str) -> str:
    """Return the model that a preset, a yaml of settings or a run folder names; empty: none, or no such file."""
    return model_in(config) if find_preset(config) == config else MODEL
