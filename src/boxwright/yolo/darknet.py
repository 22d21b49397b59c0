"""From a Darknet cfg to a network. State-dict keys are the published ones (`module_list.0.Conv2d.weight`).

Source: the published cfg layers and the YOLOv3-SPP system for PyTorch (docs/spec/yolov3-spp.md, A1 to
A3); Redmon and Farhadi, "YOLOv3", 2018 (arXiv:1804.02767); Bochkovskiy et al., "YOLOv4", 2020 (arXiv:2004.10934);
Darknet (public domain) for the order of a weight file, weighted shortcuts, the border of maxpool and new_coords.
Legend: B images, L levels, A anchors a level, H W height and width of a level's grid.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from boxwright.data.files import file_errors, write_atomically
from boxwright.errors import UserError
from boxwright.reading import open_file
from boxwright.yolo.darknet_cfg import DarknetSpec, Section
from boxwright.yolo.detection import DRY_RUN_SIDE, BoxCoding, Budget, DetectionModel, LayerInfo, Weights
from boxwright.yolo.head import add_prior, decode_level
from boxwright.yolo.layers import Concat, join_channels
from boxwright.yolo.published import RELEASES, V3

LEAKY_SLOPE = 0.1
OBJECTNESS_PRIOR = -4.5  # logit added to the bias of objectness
_RULES = RELEASES[V3].layers

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky": lambda: nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": nn.ReLU6,
    "swish": nn.SiLU,
    "mish": nn.Mish,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "selu": nn.SELU,
}
_TINY_SUM = 1e-4  # what Darknet adds to the sum that weights of a shortcut are divided by


def _share(weights: Tensor) -> Tensor:
    return weights / (weights.sum(dim=0) + _TINY_SUM)


# From learned weights of a shortcut, (inputs, ...), to the factors of its inputs.
_NORMALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda w: w,
    "relu": lambda w: _share(w.relu()),
    "softmax": lambda w: _share((w - w.amax(dim=0)).exp()),
}


class WeightedSum(nn.Module):
    """Add earlier outputs to the present one, each with its learned weight where the cfg asks for it.

    Where the channels differ, those that both have are added. With `weights_type` alone the weights are those of the
    published YOLOv3-SPP for PyTorch, `w`; with `weights_normalization` they are Darknet's, `weights`, and stand in its
    files.
    """

    def __init__(self, section: Section, channels: int) -> None:
        super().__init__()
        num_inputs, kind = 1 + len(section.get("from")), section.get("weights_type") or "none"
        self.normalise: Callable[[Tensor], Tensor] | None = None
        if kind != "none" and (how := section.get("weights_normalization")):
            shape = (num_inputs, channels if kind == "per_channel" else 1, 1, 1)
            self.weights = nn.Parameter(torch.ones(shape))
            self.normalise = _NORMALISATIONS[how.removeprefix("avg_")]
        elif kind == "per_channel":
            raise UserError(f"{section.place}: weights_type=per_channel needs weights_normalization=relu or softmax")
        elif kind != "none":
            # At the start w is 0 and the sigmoid one half: two inputs count once each, as in a plain sum.
            self.w = nn.Parameter(torch.zeros(num_inputs))
            self.normalise = lambda w: w.sigmoid() * (2 / num_inputs)
        self.activation = activation(section)

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        factors: Sequence[Tensor] | None = None
        if self.normalise is not None:
            learned = self.normalise(next(self.parameters(recurse=False)))
            # Numbers alone leave the precision of a map as it is, vectors would raise it to theirs.
            factors = (learned if learned.dim() == 1 else learned.to(x.dtype)).unbind()
            x = x * factors[0]
        for i, other in enumerate(others, 1):
            common = min(x.shape[1], other.shape[1])
            part = other if common == other.shape[1] else other[:, :common]
            if factors is not None:
                part = part * (factors[i][:common] if factors[i].dim() else factors[i])
            x = x + part if common == x.shape[1] else torch.cat((x[:, :common] + part, x[:, common:]), dim=1)
        return x if self.activation is None else self.activation(x)


class Group(nn.Module):
    """Take one of several equal groups of channels of each input, and join them."""

    def __init__(self, groups: int, number: int) -> None:
        super().__init__()
        self.groups, self.number = groups, number

    def forward(self, *inputs: Tensor) -> Tensor:
        return join_channels([x.chunk(self.groups, dim=1)[self.number] for x in inputs])


class YoloLayer(nn.Module):
    """Reads a predictor's output as a raw map."""

    anchors: Tensor  # (A, 2) width, height in input pixels

    def __init__(self, anchors: Sequence[tuple[float, float]], num_classes: int, coding: BoxCoding) -> None:
        super().__init__()
        self.coding = coding
        self.num_anchors = len(anchors)
        self.num_outputs = num_classes + 5
        self.register_buffer("anchors", torch.tensor(anchors), persistent=False)  # not in published files

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        return x.view(batch, self.num_anchors, self.num_outputs, height, width).permute(0, 1, 3, 4, 2)


class DarknetModel(DetectionModel):
    """A network of the sections of a Darknet cfg."""

    spec: DarknetSpec  # pyright: ignore[reportIncompatibleVariableOverride], it is set once
    release = V3
    layer_prefix = "module_list"

    def __init__(self, spec: DarknetSpec, names: Sequence[str] | None = None) -> None:
        super().__init__(spec, names)
        modules, self.layers, sources = assemble(spec)
        self.module_list = nn.ModuleList(modules)
        outputs = [i for i, section in enumerate(spec.sections) if section.kind == "yolo"]
        self.wire(sources, outputs)
        self.predictor_prefixes = tuple(f"module_list.{i - 1}." for i in outputs)
        # 75 where the network begins with Darknet-53: up to the last shortcut before an output.
        shortcuts = [i for i, section in enumerate(spec.sections[: outputs[0]]) if section.kind == "shortcut"]
        self.num_backbone_layers = shortcuts[-1] + 1 if shortcuts else 0
        raw = self.dry_run(spec.sections[0].place.rpartition(":")[0])
        if not raw:  # on the meta device: there are no numbers to set
            return
        for i, maps in zip(outputs, raw, strict=True):
            height, width = maps.shape[2:4]
            if height != width or DRY_RUN_SIDE % height:
                raise UserError(
                    f"{spec.sections[i].place}: {DRY_RUN_SIDE}x{DRY_RUN_SIDE} pixels come out as {width}x{height} "
                    "cells here, but a cell must be a whole number of pixels, the same in width and height"
                )
        self.strides = tuple(DRY_RUN_SIDE // maps.shape[2] for maps in raw)
        class_prior = math.log(0.6 / (self.num_classes - _RULES.class_margin))
        for i, layer in zip(outputs, self._yolo_layers(), strict=True):
            conv = self.module_list[i - 1].get_submodule("Conv2d")
            assert isinstance(conv, nn.Conv2d)
            if conv.bias is not None:
                add_prior(conv, layer.num_anchors, OBJECTNESS_PRIOR, class_prior)

    @property
    def anchors(self) -> Tensor:
        pixels = torch.stack([layer.anchors for layer in self._yolo_layers()])
        return pixels / torch.tensor(self.strides, device=pixels.device).view(-1, 1, 1)

    @property
    def box_codings(self) -> tuple[BoxCoding, ...]:
        return tuple(layer.coding for layer in self._yolo_layers())

    @torch.no_grad()
    def decode(self, raw: list[Tensor]) -> Tensor:
        levels = zip(raw, self._yolo_layers(), self.strides, strict=True)
        rows = [decode_level(maps, layer.anchors, stride, layer.coding) for maps, layer, stride in levels]
        return torch.cat(rows, dim=1)

    def _yolo_layers(self) -> list[YoloLayer]:
        return [module for module in self.module_list if isinstance(module, YoloLayer)]


def assemble(spec: DarknetSpec) -> tuple[list[nn.Module], tuple[LayerInfo, ...], list[tuple[int, ...]]]:
    """Build the modules of all sections in their order, on which the random numbers of the weights depend.

    Returns:
        the layers, what the summary shows of them, and the numbers of those that feed each, -1 for the one before.
    """
    modules: list[nn.Module] = []
    infos: list[LayerInfo] = []
    wiring: list[tuple[int, ...]] = []
    channels: list[int] = []
    levels = iter(spec.anchors)
    budget = Budget()
    for i, section in enumerate(spec.sections):
        out = channels[-1] if i else spec.input_channels
        named: tuple[int, ...] = section.get("layers") or section.get("from") or ()
        earlier = tuple(source if source >= 0 else i + source for source in named)
        sources = earlier if section.kind == "route" else (-1, *earlier)
        args: tuple[Any, ...] = ()
        if section.kind == "convolutional":
            module, args = convolutional(section, out)
            out = section.number("filters")
            # With new_coords the sigmoid of a predictor belongs to the decoding: the loss takes logits.
            if i + 1 < len(spec.sections) and spec.sections[i + 1].number("new_coords"):
                del module.activation
        elif section.kind == "maxpool":
            module, args = max_pool(section), (section.number("size"), section.number("stride"))
        elif section.kind == "upsample":
            args = (section.number("stride"),)
            module = nn.Upsample(scale_factor=float(args[0]), mode="nearest")
        elif section.kind == "route":
            groups, number = section.number("groups", 1), section.number("group_id")
            module = Concat() if len(sources) > 1 else nn.Identity()
            if groups > 1:
                module, args = Group(groups, number), (groups, number)
            if any(channels[source] % groups for source in earlier):
                counts = ", ".join(str(channels[source]) for source in earlier)
                raise UserError(f"{section.place}: {counts} channels cannot be divided into groups={groups}")
            out = sum(channels[source] for source in earlier) // groups
        elif section.kind == "shortcut":
            module = WeightedSum(section, out)
        else:
            anchors, scale = next(levels), section.get("scale_x_y")
            coding = BoxCoding(1.0 if scale is None else scale, bool(section.number("new_coords")))
            module, args = YoloLayer(anchors, spec.num_classes, coding), (spec.num_classes, anchors)
        modules.append(module)
        wiring.append(sources)
        channels.append(out)
        budget.add_layers(1, section.place)
        num_parameters = budget.add(module, section.place)
        infos.append(LayerInfo(i, named or (-1,), 1, section.kind, num_parameters, args))
    return modules, tuple(infos), wiring


def activation(section: Section) -> nn.Module | None:
    """Make the activation of a section; None where it is linear.

    Raises:
        UserError: it is not known.
    """
    name = str(section.get("activation") or "linear")
    if name != "linear" and name not in _ACTIVATIONS:
        raise UserError(f"{section.place}: unknown activation {name} (known are linear, {', '.join(_ACTIVATIONS)})")
    return None if name == "linear" else _ACTIVATIONS[name]()


def max_pool(section: Section) -> nn.Module:
    """Build a [maxpool]. Its border, size - 1 in all and the larger half behind, is never the largest."""
    size, stride = section.number("size"), section.number("stride")
    border = section.number("padding", size - 1)
    if (size, stride, border) == (2, 1, 1):
        # Of yolov3-tiny. Published PyTorch systems put zeros there, and so do our checkpoints of it.
        return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(size, stride))
    if (size, stride, border) == (2, 2, 1):  # sides are even, so that no window reaches the border
        border = 0
    before, behind = border // 2, border - border // 2
    if before == behind and before <= size // 2:
        return nn.MaxPool2d(size, stride, padding=before)
    return nn.Sequential(nn.ConstantPad2d((before, behind, before, behind), -math.inf), nn.MaxPool2d(size, stride))


def convolutional(section: Section, in_channels: int) -> tuple[nn.Sequential, tuple[Any, ...]]:
    """Build a [convolutional] with its batch norm and activation, and what the summary shows of it."""
    out = section.number("filters")
    sizes = section.get("size")
    kernel = (sizes[0], sizes[-1])
    stride = section.number("stride", 1)
    strides = (section.number("stride_y", stride), section.number("stride_x", stride))
    padding = (kernel[0] // 2, kernel[1] // 2) if section.number("pad") else section.number("padding")
    groups = section.number("groups", 1)
    normalised = bool(section.number("batch_normalize"))
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    try:
        parts["Conv2d"] = nn.Conv2d(in_channels, out, kernel, strides, padding, groups=groups, bias=not normalised)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{section.place}: {error}") from error
    if normalised:
        parts["BatchNorm2d"] = nn.BatchNorm2d(out, eps=_RULES.batch_norm_eps)
    if (act := activation(section)) is not None:
        parts["activation"] = act
    return nn.Sequential(parts), (in_channels, out, kernel[0], strides[0])


_FLOAT = np.dtype("<f4")
_VERSION = (0, 2, 5)  # of the Darknet whose files are written
_LARGEST_VERSION = 1000  # a number from here on is no version but text, or the marks of other formats
# The numbers of a layer in the order of the file: a convolution has a batch norm or a bias, a shortcut its weights.
_ORDER = (
    *("Conv2d.bias", "BatchNorm2d.bias", "BatchNorm2d.weight"),
    *("BatchNorm2d.running_mean", "BatchNorm2d.running_var", "Conv2d.weight", "weights"),
)


def is_darknet(path: Path) -> bool:
    """Tell whether a file begins as Darknet's do: three small version numbers."""
    try:
        with open_file(path) as file:
            start = file.read(12)
    except (OSError, UserError):
        return False
    versions = np.frombuffer(start, "<i4") if len(start) == 12 else np.array([-1])
    return bool(((versions >= 0) & (versions < _LARGEST_VERSION)).all())


def read_darknet(path: Path, spec: DarknetSpec, *, strict: bool = True) -> Weights:
    """Read a `.weights` file; the class names are their numbers.

    Args:
        path: the file.
        spec: the network that it belongs to.
        strict: the file must hold exactly this network. Otherwise it may have been written for another number of
            classes, or be cut off after any convolution, as files of a backbone are (`darknet53.conv.74`): what it does
            not reach is left out.

    Raises:
        UserError: unreadable, no Darknet file, too short or too long; says by how many values and at which layer.
    """
    values = _read_values(path)
    model, layout = _layout(spec)
    if not strict and len(values) != _num_values(layout):
        # Every class adds the same count, so that the number of values tells the number of classes.
        one, two = (_num_values(_layout(spec.with_classes(n))[1]) for n in (1, 2))
        more, rest = divmod(len(values) - one, two - one)
        if rest == 0 and more >= 0:
            spec = spec.with_classes(1 + more)
            model, layout = _layout(spec)
    total = _num_values(layout)
    if len(values) > total:
        raise UserError(
            f"{path} is too long: after the last convolution (layer {max(layout)}) there are {len(values) - total:,} "
            f"values more than the {total:,} of the network with {spec.num_classes} classes; is it of another cfg?"
        )
    state_dict: dict[str, Tensor] = {}
    place = 0
    for index, entries in layout.items():
        count, left = _num_values({index: entries}), len(values) - place
        if left < count and (left or strict):
            raise UserError(
                f"{path} is too short: layer {index} ({spec.sections[index].place}) needs {count:,} values and "
                f"{left:,} are left; in all {total - len(values):,} of {total:,} are missing"
            )
        if not left:
            break
        for key, like in entries.items():
            piece = values[place : place + like.numel()]
            state_dict[key] = torch.from_numpy(piece.astype(np.float32)).view(like.shape)
            place += like.numel()
            if key.endswith("running_var"):  # batches are not counted in such files
                state_dict[key.replace("running_var", "num_batches_tracked")] = torch.zeros((), dtype=torch.int64)
    width, height = spec.input_size or (0, 0)
    trained_size = (height, width) if spec.input_size else None
    return Weights(state_dict, spec, model.names, None, None, "darknet", path, trained_size)


def write_darknet(path: Path, model: DarknetModel) -> None:
    """Write a `.weights` file; either the whole new file is there, or what was there before.

    Args:
        path: where to.
        model: not folded: the format has a place for batch norm only.

    Raises:
        UserError: it cannot be written, or has shortcut weights that the format has no place for.
    """
    # Left out silently they would come back as 0, and the network would compute something else.
    learned = [name for name, _ in model.named_parameters() if name.endswith(".w")]
    if learned:
        raise UserError(
            f"{path}: {learned[0]} is a shortcut weight without weights_normalization, which a .weights file has no "
            "place for"
        )
    pieces = [np.array(_VERSION, "<i4").tobytes(), bytes(8)]  # no images seen
    for entries in _by_layer(model.state_dict()).values():
        pieces += [value.detach().cpu().float().numpy().astype(_FLOAT).tobytes() for value in entries.values()]
    write_atomically(path, b"".join(pieces))


def _read_values(path: Path) -> NDArray[np.float32]:
    """Read the numbers that follow after the header."""
    with file_errors("read", path):
        content = path.read_bytes()
    if not is_darknet(path):
        raise UserError(f"{path} is no Darknet .weights file: it does not begin with a version")
    major, minor, _ = np.frombuffer(content[:12], "<i4").tolist()
    # Three versions of 4 bytes, then the number of images seen in training: 8 bytes since version 0.2, before 4.
    begin = 20 if major * 10 + minor >= 2 else 16
    if len(content) < begin or (len(content) - begin) % _FLOAT.itemsize:
        raise UserError(f"{path} is damaged: after a header of {begin} bytes come numbers of 4 bytes, it has a rest")
    return np.frombuffer(content, _FLOAT, offset=begin)


Layout = dict[int, dict[str, Tensor]]  # entries of each layer that has weights, in the order of the file


def _by_layer(state_dict: Mapping[str, Tensor]) -> Layout:
    layers = [int(key.split(".")[1]) for key in state_dict if key.endswith((".Conv2d.weight", ".weights"))]
    named = {i: [f"module_list.{i}.{part}" for part in _ORDER] for i in layers}
    return {i: {name: state_dict[name] for name in names if name in state_dict} for i, names in named.items()}


def _layout(spec: DarknetSpec) -> tuple[DarknetModel, Layout]:
    """Return the network without memory for its numbers, only names and shapes, and its entries as in the file."""
    with torch.device("meta"):
        model = DarknetModel(spec)
    return model, _by_layer(model.state_dict())


def _num_values(layout: Layout) -> int:
    return sum(like.numel() for entries in layout.values() for like in entries.values())
