"""The one table of published releases: what YOLOv5 v1.0 to v7.0 and YOLOv3-SPP ("v3") do differently.

Each reader takes the part that it needs: the network its layers, the criterion its loss, the trainer its schedule.
A setting that a release does not differ in stands in settings.py alone.

Source: facts recorded from the published releases (docs/spec/yolov5.md, B1, B3, B4, B6, B8, B9, B14;
docs/spec/yolov3-spp.md, A5 to A8), held by the vectors that tests/parity reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, get_args

from boxwright.engine.schedule import ScheduleRules
from boxwright.errors import UserError
from boxwright.metrics.matching import Generation
from boxwright.ops.boxes import IouKind
from boxwright.ops.nms import NmsRules
from boxwright.settings.base import Frozen
from boxwright.yolo.hyp import read_hyp
from boxwright.yolo.settings import ReleaseName, RunConfig

CURRENT = "v7.0"
V3 = "v3"  # YOLOv3-SPP
G = TypeVar("G", bound=Frozen)


@dataclass(frozen=True, slots=True)
class LayerRules:
    """What the same rows of a model yaml are built from; the defaults are those of v7.0."""

    activation: str = "nn.SiLU()"  # of every convolution, as a model yaml writes it; a yaml's own goes before it
    csp_activation: str = "nn.SiLU()"  # after the joint batch norm of BottleneckCSP
    class_margin: float = 0.99999  # keeps the prior of the class bias finite for a single class
    batch_norm_eps: float = 1e-3  # of every batch norm
    # Up to v5.0: files repeat the anchors in pixels, the table shows 1 for blocks that repeat inside.
    early: bool = False
    model_yamls: tuple[str, str] = ("yolov5.yaml", "yolov5_p6.yaml")  # rows of three and of four levels; "": none


@dataclass(frozen=True, slots=True)
class LossRules:
    """The constants of one loss; the defaults are those of v5.0 to v7.0.

    The assignment of v1.0 to v3.1 did not clamp cells to the grid and failed for a centre at exactly 1.0; here every
    release takes the last cell for it, as v4.0 on.
    """

    iou_kind: IouKind = "ciou"  # overlap measure of the box term
    iou_eps: float = 1e-7  # keeps its denominators from zero
    balance_3: tuple[float, ...] = (4.0, 1.0, 0.4)  # objectness weight of each of three levels, finest first
    balance_more: tuple[float, ...] = (4.0, 1.0, 0.25, 0.06, 0.02)  # the same of networks of other depths
    border_counts_twice: bool = True  # a centre exactly between two cells gets neighbours on both sides
    per_level_in_run: tuple[str, ...] = ("box", "cls", "obj")  # gains times 3 / levels where a run scales its gains
    per_level_in_loss: tuple[str, ...] = ()  # gains times 3 / levels in the loss itself, with a run or without
    objectness_of_more: float = 1.0  # extra factor of the objectness gain with four levels or more
    objectness_by_area: bool = True  # the objectness gain grows with the area of the network input


@dataclass(frozen=True, slots=True)
class WarpRules:
    """The random warp of a training image, and the boxes it keeps; the defaults are those of v6.1 to v7.0."""

    min_side: float = 2.0  # pixels; the sides of a kept box exceed this
    max_aspect: float = 100.0  # longer over shorter side of a kept box is below this
    min_area_ratio: float = 0.10  # more than this share of the area of a kept box is left
    area_grows_with: int = 2  # which power of the magnification the area before is multiplied by
    shear_last: bool = False  # the image moves before it is sheared, by shares of its own sides, not of the result's
    swapped_shift: bool = False  # the shift in x is a share of the height, and the one in y of the width


@dataclass(frozen=True, slots=True)
class LetterboxRules:
    """How `predict` fits an image and brings its boxes back; the defaults are those of v3.1 to v7.0."""

    multiple: int = 32  # pixels; sides are padded to a multiple of this, or of a larger stride
    by_longer_side: bool = False  # the way back takes its scale from the longer sides alone, half a border from it

    def multiple_for(self, stride: int) -> int:
        """Return the multiple that a network of this largest stride is padded to."""
        return max(self.multiple, stride)

    def scale_between(self, image_hw: tuple[int, int], net_hw: tuple[int, int]) -> float:
        """Return network pixels per image pixel, worked out from the two sizes alone, for the way back.

        By the longer sides it is not the scale of the letterbox where the image was fitted by its shorter one.
        """
        if self.by_longer_side:
            return max(net_hw) / max(image_hw)
        return min(net_hw[0] / image_hw[0], net_hw[1] / image_hw[1])


@dataclass(frozen=True, slots=True)
class ValidationRules:
    """How detections are validated where the user sets nothing; the defaults are those of v6.2 and v7.0."""

    score_threshold: float = 0.001
    iou_threshold: float = 0.6  # of NMS
    max_detections: int = 300  # per image
    multi_label: bool = True  # a row may count for several classes
    rounded: bool = False  # boxes are rounded to whole pixels of the original image
    metric: Generation = "v7.0"  # which generation of the published metric

    @property
    def settings(self) -> dict[str, Any]:
        """Return the thresholds by the names of their settings."""
        return {
            "conf_thres": self.score_threshold,
            "iou_thres": self.iou_threshold,
            "max_det": self.max_detections,
        }


@dataclass(frozen=True, slots=True)
class Release:
    """One published release."""

    layers: LayerRules
    loss: LossRules | None  # None: the loss of YOLOv3-SPP, which is a formula of its own (loss.py)
    schedule: ScheduleRules
    warp: WarpRules
    letterbox: LetterboxRules
    nms: NmsRules
    validation: ValidationRules
    # A new run rounds weights and anchors to half precision once. Recorded of v6.0 to v7.0 alone (docs/spec/yolov5.md,
    # B6, 14); earlier releases, of which nothing is recorded, do not here.
    starts_in_half: bool = False


_V70 = Release(
    *(LayerRules(), LossRules(), ScheduleRules(), WarpRules(), LetterboxRules(), NmsRules(), ValidationRules()),
    starts_in_half=True,
)
_V62 = replace(_V70, layers=LayerRules(class_margin=0.999999))
_V61 = replace(
    _V62,
    schedule=ScheduleRules(min_warmup_steps=1000),
    nms=NmsRules(side_limits=(2.0, 7680.0)),
    validation=ValidationRules(metric="v6.1"),
)
_LEAKY = "nn.LeakyReLU(0.1)"
_V60 = replace(
    _V61,
    layers=LayerRules(csp_activation=_LEAKY, class_margin=0.99),
    schedule=replace(_V61.schedule, linear_to_last=True),
    warp=WarpRules(max_aspect=20.0),
    nms=NmsRules(class_offset=4096.0),
)
# From here back, releases are early: their files hold the anchors once more, in pixels.
_V50 = replace(
    _V60,
    layers=replace(_V60.layers, early=True, model_yamls=("yolov5_focus.yaml", "yolov5_focus_p6.yaml")),
    schedule=replace(_V60.schedule, updates_on_multiples=True),
    starts_in_half=False,
)
_BOTH = LossRules(per_level_in_run=("obj",), per_level_in_loss=("box", "cls"))
_V40 = replace(
    _V50,
    layers=replace(_V50.layers, model_yamls=("yolov5_focus.yaml", "")),
    loss=replace(_BOTH, iou_eps=1e-9, balance_3=(4.0, 1.0, 0.3), balance_more=(4.0, 1.0, 0.3, 0.1, 0.03)),
    schedule=ScheduleRules(min_warmup_steps=1000, always_cosine=True, updates_on_multiples=True),
)
_INSIDE = LossRules(per_level_in_run=(), per_level_in_loss=("box", "cls", "obj"))  # v2.0 to v3.1
_LOSS_V31 = replace(
    _INSIDE, iou_eps=1e-9, balance_more=(4.0, 1.0, 0.4, 0.1), objectness_of_more=1.4, objectness_by_area=False
)
_V31 = replace(
    _V40,
    layers=replace(_V40.layers, activation="nn.Hardswish()", model_yamls=("yolov5_csp.yaml", "")),
    loss=_LOSS_V31,
    nms=NmsRules(class_offset=4096.0, always_multi_label=True, empty_means_all=True),
)
_V30 = replace(
    _V31,
    # As tagged; the weights published with this release have the Hardswish of v3.1.
    layers=replace(_V31.layers, activation=_LEAKY),
    loss=replace(_LOSS_V31, iou_eps=1e-16),
    schedule=replace(_V31.schedule, fixed_lrf=0.2, fixed_warmup=True),
    warp=replace(_V31.warp, min_area_ratio=0.20),
    letterbox=LetterboxRules(multiple=64),
)
_LOSS_V20 = replace(_LOSS_V31, iou_kind="giou", iou_eps=1e-16, border_counts_twice=False)
_V20 = replace(
    _V30,
    loss=_LOSS_V20,
    warp=replace(_V30.warp, area_grows_with=1, shear_last=True),
)
_V10 = replace(
    _V20,
    layers=replace(_V20.layers, batch_norm_eps=1e-4, model_yamls=("yolov5_v1.yaml", "")),
    loss=replace(
        _LOSS_V20, balance_3=(1.0,) * 3, balance_more=(1.0,) * 5, per_level_in_loss=(), objectness_of_more=1.0
    ),
    schedule=replace(_V20.schedule, fixed_lrf=0.1),
    warp=WarpRules(4.0, 10.0, 0.20, area_grows_with=1, shear_last=True, swapped_shift=True),
    letterbox=LetterboxRules(multiple=64, by_longer_side=True),
)
_V3 = Release(
    # The cfg names the activation of each layer; its networks are built by darknet.py.
    layers=LayerRules(_LEAKY, _LEAKY, class_margin=0.99, batch_norm_eps=1e-5, early=True, model_yamls=("", "")),
    loss=None,
    schedule=ScheduleRules(form="uniform", updates_on_multiples=True),
    # The recorded warp and letterbox are those of v1.0.
    warp=_V10.warp,
    letterbox=_V10.letterbox,
    nms=NmsRules(class_offset=4096.0, side_limits=(2.0, 4096.0), limits_count=False),
    validation=ValidationRules(0.01, 0.6, max_detections=100, multi_label=False, rounded=True, metric="v6.1"),
)
# The names stand in settings.py, from which flags are made without importing torch or these tables.
_NEWEST_FIRST = (_V70, _V62, _V61, _V60, _V50, _V40, _V31, _V30, _V20, _V10, _V3)
RELEASES: dict[str, Release] = dict(zip(filter(None, get_args(ReleaseName)), _NEWEST_FIRST, strict=True))
YOLOV5_RELEASES = tuple(name for name in reversed(RELEASES) if name != V3)  # oldest first


def layer_rules(name: str) -> LayerRules:
    """Look up how a release of YOLOv5 builds the rows of a model yaml.

    Raises:
        UserError: it is not known; lists those that are.
    """
    if name not in YOLOV5_RELEASES:
        raise UserError(f"no release {name!r} of YOLOv5 is known here; there are {', '.join(YOLOV5_RELEASES)}")
    return RELEASES[name].layers


def schedule_rules(name: str) -> ScheduleRules:
    """Look up the schedule that the setting optim.release names."""
    return RELEASES[name or CURRENT].schedule


def starts_in_half(config: RunConfig) -> bool:
    """Whether a new run rounds its weights to half precision, as the release of its schedule does."""
    return config.compat == "faithful" and RELEASES[config.optim.release or CURRENT].starts_in_half


def with_release(config: RunConfig, model_release: str, *, has_backbone: bool) -> RunConfig:
    """Fill in what a run takes from its release where the settings are silent.

    `--release` moves every part. Without it, loss and validation are those of the model, while schedule and warp are
    current ones, but those of YOLOv3-SPP where its loss is taken (docs/decisions/0011-one-release.md).

    Args:
        config: as the user gave it; what is set there stays.
        model_release: the release that the network is of.
        has_backbone: it is known which layers are its backbone.
    """
    defaults = RELEASES[config.release or model_release].validation.settings
    if loss_release(config, model_release) == V3:
        # The numbers published with YOLOv3-SPP (docs/spec/yolov3-spp.md, A6).
        defaults |= {name: setting.value for name, setting in read_hyp("yolov3-spp").items()}
        defaults |= {"optim.release": V3, "augment.release": V3, "multi_scale": True}
        if not config.optim.schedule:
            defaults["optim.cos_lr"] = True
        # Gradients were not clipped; with these gains their norm is in the hundreds, where 10 would stop the training.
        defaults["optim.clip_norm"] = 0.0
        # The published default; a backbone of random numbers, though, would stay random.
        if config.weights and has_backbone:
            defaults["freeze"] = "backbone"
    # Last: an explicit release also moves the schedule and warp that the loss of YOLOv3-SPP has brought along.
    if config.release:
        defaults |= dict.fromkeys(("loss.recipe", "optim.release", "augment.release"), config.release)
    groups = {name: fill(getattr(config, name), defaults, f"{name}.") for name in ("loss", "optim", "augment")}
    return fill(config, defaults).model_copy(update=groups)


def loss_release(config: RunConfig, model_release: str) -> str:
    """Return the release whose loss a run takes."""
    return config.loss.recipe or config.release or model_release


def fill(group: G, defaults: Mapping[str, Any], prefix: str = "") -> G:
    """Fill the defaults below `prefix` into a group of settings wherever nothing was set."""
    mine = {name.removeprefix(prefix): value for name, value in defaults.items() if name.startswith(prefix)}
    unset = {name: value for name, value in mine.items() if "." not in name and name not in group.model_fields_set}
    return group.model_copy(update=unset)
