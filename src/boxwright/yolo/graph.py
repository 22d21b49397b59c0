"""From the rows of a model yaml to a network, by one plain dict of blocks.

A block is called as (Site, *arguments of the row) -> Built. To add one, name it in `BLOCKS`: a class of layers.py as
`Widening(Class)`, anything else as a function.
Source: the published YOLOv5 model yaml grammar.
"""

import ast
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from boxwright.errors import UserError, is_out_of_memory
from boxwright.yolo.detection import DRY_RUN_SIDE, Budget, DetectionModel, LayerInfo
from boxwright.yolo.head import DetectHead
from boxwright.yolo.hub_layers import (
    C3SPP,
    C3TR,
    C3Ghost,
    C3x,
    Contract,
    CrossConv,
    Expand,
    GhostBottleneck,
    GhostConv,
    MixConv2d,
    depthwise_conv,
)
from boxwright.yolo.layers import C3, SPP, SPPF, Bottleneck, BottleneckCSP, Concat, Conv, Focus
from boxwright.yolo.spec import ModelSpec, Row


@dataclass(frozen=True)
class Site:
    """What a block may know of the place where it is built."""

    in_channels: tuple[int, ...]  # of each layer that feeds it
    repeats: int  # after the depth multiple
    spec: ModelSpec
    activation: nn.Module  # one module shared by all convolutions, as it has no state
    feeds_predictions: bool  # every layer that feeds it is a plain convolution, as the predictors of v1.0

    def widen(self, channels: int) -> int:
        """Scale output channels by the width multiple, up to a multiple of 8; those of a head stay as they are."""
        if channels == len(self.spec.anchors[0]) * (self.spec.num_classes + 5):
            return channels
        return math.ceil(channels * self.spec.width_multiple / 8) * 8

    def chain(self, make: Callable[[int], nn.Module], out_channels: int) -> nn.Module:
        """Build one module, or a sequence of `repeats` of them; `make` takes the input channels."""
        if self.repeats == 1:
            return make(self.in_channels[0])
        return nn.Sequential(*(make(c) for c in [self.in_channels[0]] + [out_channels] * (self.repeats - 1)))


@dataclass(frozen=True)
class Built:
    module: nn.Module
    out_channels: int
    args: tuple[Any, ...]  # resolved arguments, to be shown


class Widening:
    """The block of a class of layers.py: its row says the output channels, then what the class takes after them.

    A class with `repeats` has them inside; of any other so many are chained.
    """

    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        own = inspect.signature(kind).parameters
        self.kind = kind
        self.repeats_inside = "repeats" in own
        self.activated = "activation" in own
        self.joint = "joint_activation" in own
        site = inspect.Parameter("site", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        written = [p for name, p in own.items() if p.kind is site.kind and name not in ("in_channels", "repeats")]
        # What `inspect.signature` finds: messages and `boxwright info` show the arguments that a row may have.
        self.__signature__ = inspect.Signature([site, written[0].replace(name="channels"), *written[1:]])

    def __call__(self, *args: Any) -> Built:
        bound = self.__signature__.bind(*args)
        bound.apply_defaults()
        site, channels, *rest = bound.args
        out, c_in = site.widen(channels), site.in_channels[0]
        acts = {"activation": site.activation} if self.activated else {}
        if self.joint:
            acts["joint_activation"] = _activation(site.spec.layer_rules.csp_activation)
        if self.repeats_inside:
            rest = [site.repeats, *rest]
            return Built(self.kind(c_in, out, *rest, **acts), out, (c_in, out, *rest))
        return Built(site.chain(lambda c: self.kind(c, out, *rest, **acts), out), out, (c_in, out, *rest))


def conv2d(site: Site, channels: int, kernel: int = 1, stride: int = 1, padding: int = 0) -> Built:
    """Build a plain convolution with bias: the predictors of v1.0."""
    out = site.widen(channels)
    module = site.chain(lambda c: nn.Conv2d(c, out, kernel, stride, padding), out)
    return Built(module, out, (site.in_channels[0], out, kernel, stride, padding))


def transposed_conv(
    site: Site, channels: int, kernel: int, stride: int = 1, padding: int = 0, output_padding: int = 0, groups: int = 1
) -> Built:
    """Build a transposed convolution with bias."""
    out, rest = site.widen(channels), (kernel, stride, padding, output_padding, groups)
    module = site.chain(lambda c: nn.ConvTranspose2d(c, out, *rest), out)
    return Built(module, out, (site.in_channels[0], out, *rest))


def depthwise_transposed_conv(
    site: Site, channels: int, kernel: int = 1, stride: int = 1, padding: int = 0, output_padding: int = 0
) -> Built:
    """Build a transposed convolution of as many groups as divide both channel counts."""
    out, rest = site.widen(channels), (kernel, stride, padding, output_padding)
    module = site.chain(lambda c: nn.ConvTranspose2d(c, out, *rest, groups=math.gcd(c, out)), out)
    return Built(module, out, (site.in_channels[0], out, *rest))


def contract(site: Site, gain: int = 2) -> Built:
    """Build space to depth."""
    return Built(Contract(gain), site.in_channels[0] * gain**2, (gain,))


def expand(site: Site, gain: int = 2) -> Built:
    """Build depth to space."""
    if site.in_channels[0] % gain**2:
        raise ValueError(f"{site.in_channels[0]} channels cannot be divided by {gain**2}")
    return Built(Expand(gain), site.in_channels[0] // gain**2, (gain,))


def max_pool(site: Site, kernel: int, stride: int | None = None, padding: int = 0) -> Built:
    """Build a pooling layer, of yolov3-tiny."""
    c_in = site.in_channels[0]
    return Built(site.chain(lambda _: nn.MaxPool2d(kernel, stride, padding), c_in), c_in, (kernel, stride, padding))


def zero_pad(site: Site, padding: Sequence[int]) -> Built:
    """Build a border of zeros: left, right, top, bottom."""
    left, right, top, bottom = padding
    c_in = site.in_channels[0]
    return Built(site.chain(lambda _: nn.ZeroPad2d((left, right, top, bottom)), c_in), c_in, (tuple(padding),))


def upsample(site: Site, size: int | None = None, scale: float | None = None, mode: str = "nearest") -> Built:
    """Build an enlargement of the map."""
    c_in = site.in_channels[0]
    return Built(site.chain(lambda _: nn.Upsample(size, scale, mode), c_in), c_in, (size, scale, mode))


def batch_norm(site: Site) -> Built:
    """Build a batch norm of its own."""
    c_in = site.in_channels[0]
    return Built(site.chain(lambda c: nn.BatchNorm2d(c), c_in), c_in, (c_in,))


def activation(name: str, site: Site, *args: float) -> Built:
    """Build an activation of its own."""
    return Built(site.chain(lambda _: ACTIVATIONS[name](*args), site.in_channels[0]), site.in_channels[0], args)


def detect(site: Site, num_classes: int, anchors: Sequence[Sequence[Sequence[float]]]) -> Built:
    """Build the head; in v1.0 the predictors are rows of their own, and it only reads their maps."""
    channels = () if site.feeds_predictions else site.in_channels
    shown = (num_classes, anchors) if site.feeds_predictions else (num_classes, anchors, channels)
    return Built(DetectHead(num_classes, anchors, channels), len(anchors[0]) * (num_classes + 5), shown)


_ACTIVATIONS_AS_THEY_ARE = (
    *("SiLU", "Hardswish", "Mish", "GELU", "ELU", "SELU", "CELU", "ReLU6", "Sigmoid", "LogSigmoid", "Hardsigmoid"),
    *("Tanh", "Hardtanh", "Tanhshrink", "Softplus", "Softsign", "Identity"),
)
# All without state, since one module is shared by all convolutions. In place only where the backward reads the output:
# the others would have to copy their input first.
ACTIVATIONS: Mapping[str, Callable[..., nn.Module]] = {
    "ReLU": lambda: nn.ReLU(inplace=True),
    "LeakyReLU": lambda negative_slope=0.01: nn.LeakyReLU(negative_slope, inplace=True),
} | {name: getattr(nn, name) for name in _ACTIVATIONS_AS_THEY_ARE}
BLOCKS: dict[str, Callable[..., Built]] = {
    "Conv": Widening(Conv),
    "DWConv": Widening(depthwise_conv),
    "GhostConv": Widening(GhostConv),
    "CrossConv": Widening(CrossConv),
    "MixConv2d": Widening(MixConv2d),
    "Focus": Widening(Focus),
    "Bottleneck": Widening(Bottleneck),
    "GhostBottleneck": Widening(GhostBottleneck),
    "BottleneckCSP": Widening(BottleneckCSP),
    "C3": Widening(C3),
    "C3Ghost": Widening(C3Ghost),
    "C3TR": Widening(C3TR),
    "C3SPP": Widening(C3SPP),
    "C3x": Widening(C3x),
    "SPP": Widening(SPP),
    "SPPF": Widening(SPPF),
    "DWConvTranspose2d": depthwise_transposed_conv,
    "Contract": contract,
    "Expand": expand,
    "nn.Conv2d": conv2d,
    "nn.ConvTranspose2d": transposed_conv,
    "nn.BatchNorm2d": batch_norm,
    "nn.MaxPool2d": max_pool,
    "nn.ZeroPad2d": zero_pad,
    "nn.Upsample": upsample,
    **{f"nn.{name}": functools.partial(activation, name) for name in ACTIVATIONS},
    "Concat": lambda site, dim=1: Built(Concat(dim), sum(site.in_channels), (dim,)),
    "Detect": detect,
}
JOINS = ("Concat", "Detect")  # blocks that take several feature maps


class GraphModel(DetectionModel):
    """A network of the rows of a model yaml. State-dict keys are the published ones (`model.0.conv.weight`)."""

    spec: ModelSpec  # pyright: ignore[reportIncompatibleVariableOverride], it is set once
    layer_prefix = "model"

    def __init__(self, spec: ModelSpec, names: Sequence[str] | None = None) -> None:
        super().__init__(spec, names)
        modules, self.layers, sources = assemble(spec)
        last = len(modules) - 1
        self.wire(sources)
        self.model = nn.Sequential(*modules)
        self.num_backbone_layers = len(spec.backbone)
        self.predictor_prefixes = (f"model.{last}.",)
        self.release, rules = spec.generation, spec.layer_rules
        # Only v1.0 differs; the layers take the epsilon of all later releases.
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = rules.batch_norm_eps
        where = spec.rows[0].place.split(",")[0]
        raw = self.dry_run(where)
        self.strides = tuple(DRY_RUN_SIDE // x.shape[2] for x in raw)
        if not all(self.strides):
            raise UserError(f"{where}: a raw map has more cells than the image has pixels: the upsampling is too much")
        if not raw:  # on the meta device: there are no numbers to set
            return
        # The convolutions whose outputs are the raw maps: in the head, or in v1.0 the rows that feed it.
        predictors = self.head.m if len(self.head.m) else [self.model[s if s >= 0 else last - 1] for s in sources[last]]
        convolutions = [m for m in predictors if isinstance(m, nn.Conv2d)]
        self.head.calibrate(self.strides, convolutions, class_margin=rules.class_margin)
        if rules.early:
            self.head.keep_anchor_grid()

    @property
    def head(self) -> DetectHead:
        head = self.model[-1]
        assert isinstance(head, DetectHead)
        return head

    @property
    def anchors(self) -> Tensor:
        return self.head.anchors

    def decode(self, raw: list[Tensor]) -> Tensor:
        return self.head.decode(raw)


def assemble(spec: ModelSpec) -> tuple[list[nn.Module], tuple[LayerInfo, ...], list[tuple[int, ...]]]:
    """Build all rows in their order, on which the random numbers of the weights depend.

    Returns:
        the layers, what the summary shows of them, and the numbers of those that feed each, -1 for the one before.
    """
    activation = _activation(spec.activation or spec.layer_rules.activation)
    modules: list[nn.Module] = []
    infos: list[LayerInfo] = []
    wiring: list[tuple[int, ...]] = []
    channels: list[int] = []
    budget = Budget()
    for i, row in enumerate(spec.rows):
        in_channels = tuple(channels[s] for s in row.sources) if i else (spec.input_channels,)
        # Rounded half to even, as Python does and as published: 9 * .5 gives 4, not 5.
        repeats = max(round(row.repeats * spec.depth_multiple), 1) if row.repeats > 1 else 1
        budget.add_layers(repeats, row.place)
        sources = tuple(s if s >= -1 else i + s for s in row.sources)
        predicted = all(spec.rows[s if s >= 0 else i - 1].block == "nn.Conv2d" for s in sources)
        built = build_row(row, Site(in_channels, repeats, spec, activation, predicted))
        modules.append(built.module)
        wiring.append(sources)
        channels.append(built.out_channels)
        num_parameters = budget.add(built.module, row.place)
        block = BLOCKS[row.block]
        shown = 1 if spec.layer_rules.early and isinstance(block, Widening) and block.repeats_inside else repeats
        infos.append(LayerInfo(i, row.sources, shown, row.block.removeprefix("nn."), num_parameters, built.args))
    return modules, tuple(infos), wiring


def build_row(row: Row, site: Site) -> Built:
    """Build one row.

    Raises:
        UserError: an unknown block, or arguments that it does not take; the message lists what it takes.
    """
    block = BLOCKS.get(row.block)
    if block is None:
        raise UserError(f"{row.place}: unknown block {row.block} (known are {', '.join(sorted(BLOCKS))})")
    if len(row.sources) > 1 and row.block not in JOINS:
        raise UserError(f"{row.place}: {row.block} takes one layer, not {list(row.sources)}")
    spec = site.spec
    words = {"None": None, "nc": spec.num_classes, "anchors": spec.anchors}
    words["na * (nc + 5)"] = len(spec.anchors[0]) * (spec.num_classes + 5)  # so written in yamls of v1.0
    args = [words.get(a, a) if isinstance(a, str) else a for a in row.args]
    signature = inspect.signature(block)
    # Too many or too few arguments are found before the block runs, so that the message can list what it takes.
    try:
        signature.bind(site, *args)
        return block(site, *args)
    except Exception as error:
        if isinstance(error, UserError) or is_out_of_memory(error):
            raise
        wanted = ", ".join(str(p).replace("'", "") for p in list(signature.parameters.values())[1:])
        raise UserError(f"{row.place}: {row.block} takes [{wanted}], not {list(row.args)} ({error})") from error


def _activation(text: str) -> nn.Module:
    """Make the activation named in a yaml, such as "nn.LeakyReLU(0.1)"; nothing is evaluated."""
    try:
        call = ast.parse(text.strip(), mode="eval").body
        name, args, keywords = (call.func, call.args, call.keywords) if isinstance(call, ast.Call) else (call, [], [])
        options = {str(k.arg): ast.literal_eval(k.value) for k in keywords if k.arg != "inplace"}
        return ACTIVATIONS[ast.unparse(name).split(".")[-1]](*map(ast.literal_eval, args), **options)
    except Exception as error:  # of what is no call, no number, or nested without an end
        known = ", ".join(f"nn.{name}()" for name in ACTIVATIONS)
        raise UserError(f"unknown activation {text!r} (known are {known})") from error
