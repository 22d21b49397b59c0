"""From a Darknet cfg to a network. State-dict keys are the published ones (`module_list.0.Conv2d.weight`).

Source: the published cfg layers and the YOLOv3-SPP system for PyTorch (spec A1 to A3); Redmon and Farhadi, "YOLOv3",
2018 (arXiv:1804.02767). Legend: B images, L levels, A anchors a level, H W height and width of a level's grid.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from boxwright.errors import UserError
from boxwright.yolo.darknet_cfg import DarknetSpec, Section
from boxwright.yolo.detection import DetectionModel, LayerInfo
from boxwright.yolo.join import join_channels
from boxwright.yolo.published import RELEASES, V3

LEAKY_SLOPE = 0.1
OBJECTNESS_PRIOR = -4.5  # logit added to the bias of objectness
_RULES = RELEASES[V3].layers
DRY_RUN_SIDE = 256  # pixels: the image on which strides are measured

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky": lambda: nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "swish": nn.SiLU,
    "mish": nn.Mish,
    "logistic": nn.Sigmoid,
}


class WeightedSum(nn.Module):
    """Add earlier outputs to the present one, each with its learned weight where the cfg asks for it.

    Where the channels differ, those that both have are added.
    """

    def __init__(self, num_inputs: int, *, learned: bool) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(num_inputs)) if learned else None

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        inputs = [x, *others]
        if self.w is not None:
            weights = self.w.sigmoid() * (2 / len(inputs))
            inputs = [value * weight for value, weight in zip(inputs, weights.unbind(), strict=True)]
        total = inputs[0]
        for other in inputs[1:]:
            total = _add_common(total, other)
        return total


def _add_common(x: Tensor, other: Tensor) -> Tensor:
    mine, theirs = x.shape[1], other.shape[1]
    if mine == theirs:
        return x + other
    common = min(mine, theirs)
    return torch.cat((x[:, :common] + other[:, :common], x[:, common:]), dim=1)


class YoloLayer(nn.Module):
    """Reads a predictor's output as a raw map, and decodes it to boxes.

    Args:
        anchors: (A, 2) width, height in input pixels.
        num_classes: number of classes.
    """

    anchors: Tensor

    def __init__(self, anchors: Sequence[tuple[float, float]], num_classes: int) -> None:
        super().__init__()
        self.num_anchors = len(anchors)
        self.num_outputs = num_classes + 5
        self.register_buffer("anchors", torch.tensor(anchors), persistent=False)  # not in published files

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        return x.view(batch, self.num_anchors, self.num_outputs, height, width).permute(0, 1, 3, 4, 2)

    def decode(self, raw: Tensor, stride: int) -> Tensor:
        """(B, A * H * W, 5 + classes) float32 from a raw map: cxcywh in input pixels, scores in 0..1."""
        raw = raw.float()
        height, width = raw.shape[2:4]
        cell_x = torch.arange(width, device=raw.device, dtype=torch.float32)
        cell_y = torch.arange(height, device=raw.device, dtype=torch.float32)[:, None]
        rows = raw.sigmoid()
        rows[..., 0].add_(cell_x).mul_(stride)
        rows[..., 1].add_(cell_y).mul_(stride)
        rows[..., 2:4] = raw[..., 2:4].exp() * self.anchors.view(1, self.num_anchors, 1, 1, 2)
        return rows.flatten(1, 3)


class DarknetModel(DetectionModel):
    """Args:
    spec: what to build.
    names: one name a class; by default the class numbers.
    """

    box_coding = "v3"
    release = V3
    layer_prefix = "module_list"

    def __init__(self, spec: DarknetSpec, names: Sequence[str] | None = None) -> None:
        super().__init__()
        self._spec = spec
        self.names = tuple(names) if names is not None else tuple(str(i) for i in range(spec.num_classes))
        if len(self.names) != spec.num_classes:
            raise UserError(f"the model has {spec.num_classes} classes but {len(self.names)} names are given")
        modules, self.layers = _assemble(spec)
        self.module_list = nn.ModuleList(modules)
        self._sources = tuple(_sources(i, section) for i, section in enumerate(spec.sections))
        self._kept = frozenset(source for sources in self._sources for source in sources)
        self._strides: tuple[int, ...] = self._measure_strides()
        self._set_priors()

    @property
    def spec(self) -> DarknetSpec:
        return self._spec

    @property
    def strides(self) -> tuple[int, ...]:
        return self._strides

    @property
    def anchors(self) -> Tensor:
        pixels = torch.stack([layer.anchors for layer in self._yolo_layers()])
        return pixels / torch.tensor(self._strides, device=pixels.device).view(-1, 1, 1)

    @property
    def num_backbone_layers(self) -> int:
        """75 where the network begins with Darknet-53: up to the last shortcut before an output."""
        first_output = self.predictors()[0] + 1
        shortcuts = [i for i, s in enumerate(self._spec.sections[:first_output]) if s.kind == "shortcut"]
        return shortcuts[-1] + 1 if shortcuts else 0

    @property
    def predictor_prefixes(self) -> tuple[str, ...]:
        return tuple(f"module_list.{i}." for i in self.predictors())

    def predictors(self) -> tuple[int, ...]:
        """Numbers of the convolutions that feed the yolo layers."""
        return tuple(i - 1 for i, section in enumerate(self._spec.sections) if section.kind == "yolo")

    def forward(self, images: Tensor) -> list[Tensor]:
        x = images
        raw: list[Tensor] = []
        kept: dict[int, Tensor] = {}
        for i, (module, sources) in enumerate(zip(self.module_list, self._sources, strict=True)):
            if isinstance(module, YoloLayer):
                raw.append(module(x))
            elif isinstance(module, WeightedSum):
                x = module(x, *(kept[source] for source in sources))
            elif sources:
                maps = [kept[source] for source in sources]
                x = maps[0] if len(maps) == 1 else join_channels(maps)
            else:
                x = module(x)
            if i in self._kept:
                kept[i] = x
        return raw

    @torch.no_grad()
    def decode(self, raw: list[Tensor]) -> Tensor:
        layers = zip(self._yolo_layers(), raw, self._strides, strict=True)
        return torch.cat([layer.decode(maps, stride) for layer, maps, stride in layers], dim=1)

    def _yolo_layers(self) -> list[YoloLayer]:
        return [module for module in self.module_list if isinstance(module, YoloLayer)]

    def _measure_strides(self) -> tuple[int, ...]:
        """Run one black image through the network in evaluation mode, which leaves batch-norm statistics alone."""
        self.eval()
        try:
            with torch.no_grad():
                raw = self(torch.zeros(1, self._spec.input_channels, DRY_RUN_SIDE, DRY_RUN_SIDE))
        except RuntimeError as error:
            where = self._spec.sections[0].place.rpartition(":")[0]
            raise UserError(f"{where}: the layers do not fit together: {str(error).splitlines()[0]}") from error
        self.train()
        yolo = [section for section in self._spec.sections if section.kind == "yolo"]
        for section, maps in zip(yolo, raw, strict=True):
            height, width = maps.shape[2:4]
            if height != width or DRY_RUN_SIDE % height:
                raise UserError(
                    f"{section.place}: {DRY_RUN_SIDE}x{DRY_RUN_SIDE} pixels come out as {width}x{height} cells here, "
                    "but a cell must be a whole number of pixels, the same in width and height"
                )
        return tuple(DRY_RUN_SIDE // maps.shape[2] for maps in raw)

    @torch.no_grad()
    def _set_priors(self) -> None:
        """Add the published priors to the biases of the predictors."""
        for i, layer in zip(self.predictors(), self._yolo_layers(), strict=True):
            conv = self.module_list[i].get_submodule("Conv2d")
            assert isinstance(conv, nn.Conv2d)
            if conv.bias is not None:
                bias = conv.bias.view(layer.num_anchors, layer.num_outputs)
                bias[:, 4] += OBJECTNESS_PRIOR
                bias[:, 5:] += math.log(0.6 / (self.num_classes - _RULES.class_margin))


def _sources(index: int, section: Section) -> tuple[int, ...]:
    """Earlier layers that a route or shortcut reads, counted from the start."""
    named = section.get("layers") or section.get("from") or ()
    return tuple(source if source >= 0 else index + source for source in named)


def _assemble(spec: DarknetSpec) -> tuple[list[nn.Module], tuple[LayerInfo, ...]]:
    modules: list[nn.Module] = []
    infos: list[LayerInfo] = []
    channels: list[int] = []
    levels = iter(spec.anchors)
    for i, section in enumerate(spec.sections):
        before = channels[-1] if channels else spec.input_channels
        sources = _sources(i, section)
        out = before
        args: tuple[Any, ...] = ()
        if section.kind == "convolutional":
            module, args = _convolutional(section, before)
            out = section.number("filters")
        elif section.kind == "maxpool":
            module, args = _maxpool(section)
        elif section.kind == "upsample":
            args = (section.number("stride"),)
            module = nn.Upsample(scale_factor=float(args[0]), mode="nearest")
        elif section.kind == "route":
            module, out = nn.Identity(), sum(channels[source] for source in sources)
        elif section.kind == "shortcut":
            learned = str(section.get("weights_type") or "none") != "none"
            module = WeightedSum(len(sources) + 1, learned=learned)
        else:
            anchors = next(levels)
            module, args = YoloLayer(anchors, spec.num_classes), (spec.num_classes, anchors)
        modules.append(module)
        channels.append(out)
        num_parameters = sum(p.numel() for p in module.parameters())
        read = tuple(section.get("layers") or section.get("from") or (-1,))
        infos.append(LayerInfo(i, read, 1, section.kind, num_parameters, args))
    return modules, tuple(infos)


def _convolutional(section: Section, in_channels: int) -> tuple[nn.Module, tuple[Any, ...]]:
    out = section.number("filters")
    sizes = section.get("size")
    kernel = (sizes[0], sizes[-1])
    stride = section.number("stride", 1)
    strides = (section.number("stride_y", stride), section.number("stride_x", stride))
    padding = (kernel[0] // 2, kernel[1] // 2) if section.number("pad") else (0, 0)
    groups = section.number("groups", 1)
    normalised = bool(section.number("batch_normalize"))
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    try:
        parts["Conv2d"] = nn.Conv2d(in_channels, out, kernel, strides, padding, groups=groups, bias=not normalised)
    except ValueError as error:
        raise UserError(f"{section.place}: {error}") from error
    if normalised:
        parts["BatchNorm2d"] = nn.BatchNorm2d(out, eps=_RULES.batch_norm_eps)
    name = str(section.get("activation") or "linear")
    if name != "linear":
        if name not in _ACTIVATIONS:
            raise UserError(f"{section.place}: unknown activation {name} (known are linear, {', '.join(_ACTIVATIONS)})")
        parts["activation"] = _ACTIVATIONS[name]()
    return nn.Sequential(parts), (in_channels, out, kernel[0], strides[0])


def _maxpool(section: Section) -> tuple[nn.Module, tuple[Any, ...]]:
    size, stride = section.number("size"), section.number("stride")
    pool = nn.MaxPool2d(size, stride, padding=(size - 1) // 2)
    if (size, stride) == (2, 1):  # of yolov3-tiny: one column and one row of zeros keep the size
        return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), pool), (size, stride)
    return pool, (size, stride)
