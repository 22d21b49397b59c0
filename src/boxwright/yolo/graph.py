"""From the rows of a model yaml to a network, by one plain dict of blocks.

A block is a function (Site, *arguments of the row) -> Built. To add one, write the function and name it in `BLOCKS`.
Source: the published YOLOv5 model yaml grammar.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from boxwright.errors import UserError
from boxwright.yolo.detection import DetectionModel, LayerInfo
from boxwright.yolo.head import DetectHead
from boxwright.yolo.layers import C3, SPP, SPPF, Bottleneck, BottleneckCSP, Concat, Conv, Focus
from boxwright.yolo.spec import ModelSpec, Row

DRY_RUN_SIDE = 256  # pixels: the image on which strides are measured, a multiple of every stride in use


@dataclass(frozen=True)
class Site:
    """What a block may know of the place where it is built.

    Args:
        in_channels: channels of each layer that feeds it.
        repeats: after the depth multiple.
        spec: the whole network.
        activation: one module shared by all convolutions, as it has no state.
        feeds_predictions: every layer that feeds it is a plain convolution, as the predictors of v1.0.
    """

    in_channels: tuple[int, ...]
    repeats: int
    spec: ModelSpec
    activation: nn.Module
    feeds_predictions: bool

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


def _conv(
    site: Site, channels: int, kernel: int = 1, stride: int = 1, padding: int | None = None, groups: int = 1
) -> Built:
    out = site.widen(channels)
    module = site.chain(lambda c: Conv(c, out, kernel, stride, padding, groups, activation=site.activation), out)
    return Built(module, out, (site.in_channels[0], out, kernel, stride, padding, groups))


def _bottleneck(site: Site, channels: int, shortcut: bool = True, groups: int = 1, expansion: float = 0.5) -> Built:
    out = site.widen(channels)
    module = site.chain(lambda c: Bottleneck(c, out, shortcut, groups, expansion, activation=site.activation), out)
    return Built(module, out, (site.in_channels[0], out, shortcut, groups, expansion))


def _c3(site: Site, channels: int, shortcut: bool = True, groups: int = 1, expansion: float = 0.5) -> Built:
    out, c_in = site.widen(channels), site.in_channels[0]
    module = C3(c_in, out, site.repeats, shortcut, groups, expansion, activation=site.activation)
    return Built(module, out, (c_in, out, site.repeats, shortcut, groups, expansion))


def _csp(site: Site, channels: int, shortcut: bool = True, groups: int = 1, expansion: float = 0.5) -> Built:
    out, c_in = site.widen(channels), site.in_channels[0]
    joint = _activation(site.spec.layer_rules.csp_activation)
    module = BottleneckCSP(
        c_in, out, site.repeats, shortcut, groups, expansion, activation=site.activation, joint_activation=joint
    )
    return Built(module, out, (c_in, out, site.repeats, shortcut, groups, expansion))


def _focus(site: Site, channels: int, kernel: int = 1) -> Built:
    out = site.widen(channels)
    module = site.chain(lambda c: Focus(c, out, kernel, activation=site.activation), out)
    return Built(module, out, (site.in_channels[0], out, kernel))


def _conv2d(site: Site, channels: int, kernel: int = 1, stride: int = 1, padding: int = 0) -> Built:
    out = site.widen(channels)
    module = site.chain(lambda c: nn.Conv2d(c, out, kernel, stride, padding), out)
    return Built(module, out, (site.in_channels[0], out, kernel, stride, padding))


def _max_pool(site: Site, kernel: int, stride: int | None = None, padding: int = 0) -> Built:
    c_in = site.in_channels[0]
    module = site.chain(lambda _: nn.MaxPool2d(kernel, stride, padding), c_in)
    return Built(module, c_in, (kernel, stride, padding))


def _zero_pad(site: Site, padding: Sequence[int]) -> Built:
    left, right, top, bottom = padding
    c_in = site.in_channels[0]
    return Built(site.chain(lambda _: nn.ZeroPad2d((left, right, top, bottom)), c_in), c_in, (tuple(padding),))


def _spp(site: Site, channels: int, kernels: Sequence[int] = (5, 9, 13)) -> Built:
    out = site.widen(channels)
    module = site.chain(lambda c: SPP(c, out, tuple(kernels), activation=site.activation), out)
    return Built(module, out, (site.in_channels[0], out, tuple(kernels)))


def _sppf(site: Site, channels: int, kernel: int = 5) -> Built:
    out = site.widen(channels)
    module = site.chain(lambda c: SPPF(c, out, kernel, activation=site.activation), out)
    return Built(module, out, (site.in_channels[0], out, kernel))


def _upsample(site: Site, size: int | None = None, scale: float | None = None, mode: str = "nearest") -> Built:
    c_in = site.in_channels[0]
    return Built(site.chain(lambda _: nn.Upsample(size, scale, mode), c_in), c_in, (size, scale, mode))


def _concat(site: Site, dim: int = 1) -> Built:
    return Built(Concat(dim), sum(site.in_channels), (dim,))


def _detect(site: Site, num_classes: int, anchors: Sequence[Sequence[Sequence[float]]]) -> Built:
    outputs = len(anchors[0]) * (num_classes + 5)
    if site.feeds_predictions:  # v1.0: the predictors are rows of their own
        return Built(DetectHead(num_classes, anchors, ()), outputs, (num_classes, anchors))
    head = DetectHead(num_classes, anchors, site.in_channels)
    return Built(head, outputs, (num_classes, anchors, site.in_channels))


BLOCKS: dict[str, Callable[..., Built]] = {
    "Conv": _conv,
    "Bottleneck": _bottleneck,
    "C3": _c3,
    "BottleneckCSP": _csp,
    "Focus": _focus,
    "nn.Conv2d": _conv2d,
    "nn.MaxPool2d": _max_pool,
    "nn.ZeroPad2d": _zero_pad,
    "SPP": _spp,
    "SPPF": _sppf,
    "nn.Upsample": _upsample,
    "Concat": _concat,
    "Detect": _detect,
}
REPEAT_INSIDE = ("C3", "BottleneckCSP")  # blocks whose repeats are their own matter
JOINS = ("Concat", "Detect")  # blocks that take several feature maps
# In place only where the backward reads the output: the others would have to copy their input first.
ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "SiLU": lambda: nn.SiLU(),
    "ReLU": lambda: nn.ReLU(inplace=True),
    "LeakyReLU": lambda slope=0.01: nn.LeakyReLU(slope, inplace=True),
    "Hardswish": lambda: nn.Hardswish(),
    "Mish": lambda: nn.Mish(),
}


class GraphModel(DetectionModel):
    """A network of the rows of a model yaml. State-dict keys are the published ones (`model.0.conv.weight`).

    Args:
        spec: what to build.
        names: one name a class; by default the class numbers.
    """

    def __init__(self, spec: ModelSpec, names: Sequence[str] | None = None) -> None:
        super().__init__()
        self._spec = spec
        self.names = tuple(names) if names is not None else tuple(str(i) for i in range(spec.num_classes))
        if len(self.names) != spec.num_classes:
            raise UserError(f"the model has {spec.num_classes} classes but {len(self.names)} names are given")
        layers, self.layers = _assemble(spec)
        self.model = nn.Sequential(*layers)
        self._sources = tuple(row.sources for row in spec.rows)
        # Outputs of these layers are used again later.
        self._kept = frozenset(
            s if s >= 0 else i + s for i, row in enumerate(spec.rows) for s in row.sources if i and s != -1
        )
        facts = spec.layer_rules
        self.release = spec.generation
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = facts.batch_norm_eps
        self.head.calibrate(self._measure_strides(), self._predictors(), class_margin=facts.class_margin)
        if facts.early:
            self.head.keep_anchor_grid()

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @property
    def head(self) -> DetectHead:
        head = self.model[-1]
        assert isinstance(head, DetectHead)
        return head

    @property
    def strides(self) -> tuple[int, ...]:
        return self.head.strides

    @property
    def num_backbone_layers(self) -> int:
        return len(self._spec.backbone)

    @property
    def anchors(self) -> Tensor:
        return self.head.anchors

    def forward(self, images: Tensor) -> list[Tensor]:
        x: Any = images
        kept: dict[int, Tensor] = {}
        for i, (layer, sources) in enumerate(zip(self.model, self._sources, strict=True)):
            if i and sources != (-1,):
                inputs = [x if s == -1 else kept[s if s >= 0 else i + s] for s in sources]
                x = inputs if isinstance(layer, Concat | DetectHead) else inputs[0]
            x = layer(x)
            if i in self._kept:
                kept[i] = x
        return x

    def decode(self, raw: list[Tensor]) -> Tensor:
        return self.head.decode(raw)

    def _predictors(self) -> list[nn.Conv2d]:
        """Return the convolutions whose outputs are the raw maps, one a level."""
        last = len(self.model) - 1
        rows = [self.model[s if s >= 0 else last + s] for s in self._sources[last]]
        return [m for m in (self.head.m if len(self.head.m) else rows) if isinstance(m, nn.Conv2d)]

    def _measure_strides(self) -> tuple[int, ...]:
        """Run one black image through the network in evaluation mode, which leaves batch-norm statistics alone."""
        device = self.head.anchors.device
        self.eval()
        try:
            with torch.no_grad():
                image = torch.zeros(1, self.spec.input_channels, DRY_RUN_SIDE, DRY_RUN_SIDE, device=device)
                raw = self(image)
        except RuntimeError as error:
            where = self.spec.rows[0].place.split(",")[0]
            raise UserError(f"{where}: the layers do not fit together: {str(error).splitlines()[0]}") from error
        self.train()
        return tuple(DRY_RUN_SIDE // x.shape[2] for x in raw)


def _assemble(spec: ModelSpec) -> tuple[list[nn.Module], tuple[LayerInfo, ...]]:
    activation = _activation(spec.activation or spec.layer_rules.activation)
    modules: list[nn.Module] = []
    infos: list[LayerInfo] = []
    channels: list[int] = []
    for i, row in enumerate(spec.rows):
        in_channels = tuple(channels[s] for s in row.sources) if i else (spec.input_channels,)
        repeats = max(round(row.repeats * spec.depth_multiple), 1) if row.repeats > 1 else 1
        feeding = [spec.rows[s if s >= 0 else i + s].block for s in row.sources] if i else []
        site = Site(in_channels, repeats, spec, activation, all(block == "nn.Conv2d" for block in feeding))
        built = _build_row(row, site)
        modules.append(built.module)
        channels.append(built.out_channels)
        num_parameters = sum(p.numel() for p in built.module.parameters())
        shown = 1 if spec.layer_rules.early and row.block in REPEAT_INSIDE else repeats
        infos.append(LayerInfo(i, row.sources, shown, row.block.removeprefix("nn."), num_parameters, built.args))
    return modules, tuple(infos)


def _build_row(row: Row, site: Site) -> Built:
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
    try:
        signature.bind(site, *args)
        return block(site, *args)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        wanted = ", ".join(str(p).replace("'", "") for p in list(signature.parameters.values())[1:])
        raise UserError(f"{row.place}: {row.block} takes [{wanted}], not {list(row.args)} ({error})") from error


def _activation(text: str) -> nn.Module:
    """Make the activation named in a yaml, such as "nn.LeakyReLU(0.1)". Read by pattern: nothing is evaluated."""
    match = re.fullmatch(r"(?:torch\.)?(?:nn\.)?(\w+)(?:\(\s*([\d.]*)\s*(?:,?\s*inplace=\w+)?\))?", text.strip())
    make = ACTIVATIONS.get(match[1]) if match else None
    try:
        if match and make:
            return make(float(match[2])) if match[2] else make()
    except (TypeError, ValueError):
        pass
    raise UserError(f"unknown activation {text!r} (known are {', '.join(f'nn.{name}()' for name in ACTIVATIONS)})")
