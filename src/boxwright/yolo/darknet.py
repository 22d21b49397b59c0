"""From a Darknet cfg to a network. State-dict keys are the published ones (`module_list.0.Conv2d.weight`).

Source: the published cfg layers and the YOLOv3-SPP system for PyTorch (docs/spec/yolov3-spp.md, A1 to
A3); Redmon and Farhadi, "YOLOv3", 2018 (arXiv:1804.02767).
Legend: B images, L levels, A anchors a level, H W height and width of a level's grid.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from boxwright.data.files import file_errors, write_atomically
from boxwright.errors import UserError
from boxwright.yolo.darknet_cfg import DarknetSpec, Section
from boxwright.yolo.detection import DRY_RUN_SIDE, DetectionModel, LayerInfo
from boxwright.yolo.layers import join_channels
from boxwright.yolo.published import RELEASES, V3

LEAKY_SLOPE = 0.1
OBJECTNESS_PRIOR = -4.5  # logit added to the bias of objectness
_RULES = RELEASES[V3].layers

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
            # At the start w is 0 and the sigmoid one half: two inputs count once each, as in a plain sum.
            weights = self.w.sigmoid() * (2 / len(inputs))
            inputs = [value * weight for value, weight in zip(inputs, weights.unbind(), strict=True)]
        total = inputs[0]
        for other in inputs[1:]:
            common = min(total.shape[1], other.shape[1])
            if total.shape[1] == other.shape[1]:
                total = total + other
            else:
                total = torch.cat((total[:, :common] + other[:, :common], total[:, common:]), dim=1)
        return total


class YoloLayer(nn.Module):
    """Reads a predictor's output as a raw map, and decodes it to boxes."""

    anchors: Tensor  # (A, 2) width, height in input pixels

    def __init__(self, anchors: Sequence[tuple[float, float]], num_classes: int) -> None:
        super().__init__()
        self.num_anchors = len(anchors)
        self.num_outputs = num_classes + 5
        self.register_buffer("anchors", torch.tensor(anchors), persistent=False)  # not in published files

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        return x.view(batch, self.num_anchors, self.num_outputs, height, width).permute(0, 1, 3, 4, 2)

    def decode(self, raw: Tensor, stride: int) -> Tensor:
        """Decode to (B, A * H * W, 5 + classes) float32 from a raw map: cxcywh in input pixels, scores in 0..1."""
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
    """A network of the sections of a Darknet cfg."""

    box_coding = "v3"
    release = V3
    layer_prefix = "module_list"

    def __init__(self, spec: DarknetSpec, names: Sequence[str] | None = None) -> None:
        super().__init__(spec, names)
        self._spec = spec
        modules, self.layers = assemble(spec)
        self.module_list = nn.ModuleList(modules)
        self._sources = tuple(_sources(i, section) for i, section in enumerate(spec.sections))
        self._kept = frozenset(source for sources in self._sources for source in sources)
        self._strides = self._measure_strides()
        with torch.no_grad():
            for i, layer in zip(self.predictors(), self._yolo_layers(), strict=True):
                conv = self.module_list[i].get_submodule("Conv2d")
                assert isinstance(conv, nn.Conv2d)
                if conv.bias is not None:
                    bias = conv.bias.view(layer.num_anchors, layer.num_outputs)  # shares the parameter's memory
                    bias[:, 4] += OBJECTNESS_PRIOR
                    bias[:, 5:] += math.log(0.6 / (self.num_classes - _RULES.class_margin))

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
        """Return 75 where the network begins with Darknet-53: up to the last shortcut before an output."""
        first_output = self.predictors()[0] + 1
        shortcuts = [i for i, s in enumerate(self._spec.sections[:first_output]) if s.kind == "shortcut"]
        return shortcuts[-1] + 1 if shortcuts else 0

    @property
    def predictor_prefixes(self) -> tuple[str, ...]:
        return tuple(f"module_list.{i}." for i in self.predictors())

    def predictors(self) -> tuple[int, ...]:
        """Return the numbers of the convolutions that feed the yolo layers."""
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
        """Return the input pixels a cell of each output; refuse cells that are no whole number of pixels."""
        yolo = [section for section in self._spec.sections if section.kind == "yolo"]
        raw = self.dry_run(self._spec.sections[0].place.rpartition(":")[0])
        for section, maps in zip(yolo, raw, strict=True):
            height, width = maps.shape[2:4]
            if height != width or DRY_RUN_SIDE % height:
                raise UserError(
                    f"{section.place}: {DRY_RUN_SIDE}x{DRY_RUN_SIDE} pixels come out as {width}x{height} cells here, "
                    "but a cell must be a whole number of pixels, the same in width and height"
                )
        return tuple(DRY_RUN_SIDE // maps.shape[2] for maps in raw)


def _sources(index: int, section: Section) -> tuple[int, ...]:
    """Return earlier layers that a route or shortcut reads, counted from the start."""
    named = section.get("layers") or section.get("from") or ()
    return tuple(source if source >= 0 else index + source for source in named)


def assemble(spec: DarknetSpec) -> tuple[list[nn.Module], tuple[LayerInfo, ...]]:
    """Build the modules of all sections in their order, on which the random numbers of the weights depend."""
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
            module, args = convolutional(section, before)
            out = section.number("filters")
        elif section.kind == "maxpool":
            size, stride = args = section.number("size"), section.number("stride")
            module = nn.MaxPool2d(size, stride, padding=(size - 1) // 2)
            if args == (2, 1):  # of yolov3-tiny: one column and one row of zeros keep the size
                module = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), module)
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


def convolutional(section: Section, in_channels: int) -> tuple[nn.Module, tuple[Any, ...]]:
    """Build a [convolutional] with its batch norm and activation, and what the summary shows of it."""
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


_FLOAT = np.dtype("<f4")
_LARGEST_VERSION = 1000  # a number from here on is no version but text, or the marks of other formats


@dataclass(frozen=True)
class Header:
    """Version of the Darknet that wrote the file."""

    major: int = 0
    minor: int = 2
    revision: int = 5
    images_seen: int = 0  # in training

    @property
    def long_count(self) -> bool:
        """Tell whether the number of images takes 8 bytes instead of 4."""
        return self.major * 10 + self.minor >= 2

    def to_bytes(self) -> bytes:
        versions = np.array([self.major, self.minor, self.revision], "<i4").tobytes()
        return versions + np.array([self.images_seen], "<i8" if self.long_count else "<i4").tobytes()


@dataclass(frozen=True)
class DarknetWeights:
    """A file as read."""

    header: Header
    spec: DarknetSpec  # with the classes that the file was written for
    state_dict: dict[str, Tensor]  # by published name; without layers that a cut-off file does not reach
    num_layers: int  # that the file covers; all of the cfg unless it is cut off
    strides: tuple[int, ...]  # input pixels a cell of each output


def is_darknet(path: Path) -> bool:
    """Tell whether a file begins as Darknet's do: three small version numbers."""
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError:
        return False
    versions = np.frombuffer(start, "<i4") if len(start) == 12 else np.array([-1])
    return bool(((versions >= 0) & (versions < _LARGEST_VERSION)).all())


def read_darknet(path: Path, spec: DarknetSpec, *, strict: bool = True) -> DarknetWeights:
    """Read a `.weights` file.

    Args:
        path: the file.
        spec: the network that it belongs to.
        strict: the file must hold exactly this network. Otherwise it may have been written for another number of
            classes, or be cut off after any convolution, as files of a backbone are (`darknet53.conv.74`).

    Raises:
        UserError: unreadable, no Darknet file, too short or too long; says by how many values and at which layer.
    """
    header, values = _open(path)
    counts = _counts(spec)
    if not strict and len(values) != sum(counts.values()):
        fitting = _classes_of(len(values), spec)
        if fitting is not None:
            spec = spec.with_classes(fitting)
            counts = _counts(spec)
    covered = _covered(path, spec, counts, len(values), strict=strict)
    model = _skeleton(spec)
    state_dict: dict[str, Tensor] = {}
    place = 0
    for index in counts:
        if index >= covered:
            break
        for key, like in _entries(model, index):
            piece = values[place : place + like.numel()]
            state_dict[key] = torch.from_numpy(piece.astype(np.float32)).view(like.shape)
            place += like.numel()
        counter = f"module_list.{index}.BatchNorm2d.num_batches_tracked"
        if f"module_list.{index}.BatchNorm2d.weight" in state_dict:
            state_dict[counter] = torch.zeros((), dtype=torch.int64)
    return DarknetWeights(header, spec, state_dict, covered, model.strides)


def write_darknet(
    path: Path, model: DarknetModel, *, header: Header | None = None, num_layers: int | None = None
) -> None:
    """Write a `.weights` file; either the whole new file is there, or what was there before.

    Args:
        path: where to.
        model: not folded: the format has a place for batch norm only.
        header: by default that of version 0.2.5 without images.
        num_layers: write only the first so many layers of the cfg.

    Raises:
        UserError: it has learned shortcut weights, which the format has no place for, or cannot be written.
    """
    # Left out silently they would come back as 0, and the network would compute something else.
    learned = [name for name, _ in model.named_parameters() if name.endswith(".w")]
    if learned:
        raise UserError(f"{path}: {learned[0]} is a learned shortcut weight, which a .weights file has no place for")
    state_dict = model.state_dict()
    pieces = [(header or Header()).to_bytes()]
    for index in _counts(model.spec):
        if num_layers is None or index < num_layers:
            names = [key for key, _ in _entries(model, index)]
            pieces += [state_dict[key].detach().cpu().float().numpy().astype(_FLOAT).tobytes() for key in names]
    write_atomically(path, b"".join(pieces))


def _open(path: Path) -> tuple[Header, NDArray[np.float32]]:
    with file_errors("read", path):
        content = path.read_bytes()
    if not is_darknet(path):
        raise UserError(f"{path} is no Darknet .weights file: it does not begin with a version")
    header = Header(*np.frombuffer(content[:12], "<i4").tolist())
    # Three versions of 4 bytes, then the number of images in 8 or 4.
    begin = 20 if header.long_count else 16
    if len(content) < begin or (len(content) - begin) % _FLOAT.itemsize:
        raise UserError(f"{path} is damaged: after a header of {begin} bytes come numbers of 4 bytes, it has a rest")
    (seen,) = np.frombuffer(content[12:begin], "<i8" if header.long_count else "<i4").tolist()
    return Header(header.major, header.minor, header.revision, seen), np.frombuffer(content, _FLOAT, offset=begin)


def _skeleton(spec: DarknetSpec) -> DarknetModel:
    """Return the network without memory for its numbers: only names and shapes are asked for."""
    with torch.device("meta"):
        return DarknetModel(spec)


def _entries(model: DarknetModel, index: int) -> Iterator[tuple[str, Tensor]]:
    """Return names and tensors of a convolution in the order of the file."""
    block, prefix = model.module_list[index], f"module_list.{index}"
    conv = block.get_submodule("Conv2d")
    assert isinstance(conv, nn.Conv2d)
    if conv.bias is not None:
        yield f"{prefix}.Conv2d.bias", conv.bias
    else:
        norm = block.get_submodule("BatchNorm2d")
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        yield f"{prefix}.BatchNorm2d.bias", norm.bias
        yield f"{prefix}.BatchNorm2d.weight", norm.weight
        yield f"{prefix}.BatchNorm2d.running_mean", norm.running_mean
        yield f"{prefix}.BatchNorm2d.running_var", norm.running_var
    yield f"{prefix}.Conv2d.weight", conv.weight


def _counts(spec: DarknetSpec) -> dict[int, int]:
    """Count the numbers that each convolution has in a file, by layer."""
    model = _skeleton(spec)
    convolutions = [i for i, section in enumerate(spec.sections) if section.kind == "convolutional"]
    return {i: sum(tensor.numel() for _, tensor in _entries(model, i)) for i in convolutions}


def _classes_of(num_values: int, spec: DarknetSpec) -> int | None:
    """Return the number of classes for which the network has just so many numbers; every class adds the same count."""
    one, two = (sum(_counts(spec.with_classes(n)).values()) for n in (1, 2))
    more, rest = divmod(num_values - one, two - one)
    return 1 + more if rest == 0 and more >= 0 else None


def _covered(path: Path, spec: DarknetSpec, counts: dict[int, int], num_values: int, *, strict: bool) -> int:
    """Count the layers that so many numbers cover; refuse an end inside a layer or beyond the last one."""
    left, total = num_values, sum(counts.values())
    if num_values > total:
        raise UserError(
            f"{path} is too long: after the last convolution (layer {max(counts)}) there are {num_values - total:,} "
            f"values more than the {total:,} of the network with {spec.num_classes} classes; is it of another cfg?"
        )
    for index, count in counts.items():
        if left < count and (left or strict):
            raise UserError(
                f"{path} is too short: layer {index} ({spec.sections[index].place}) needs {count:,} values and "
                f"{left:,} are left; in all {total - num_values:,} of {total:,} are missing"
            )
        if not left:
            return index
        left -= count
    return len(spec.sections)
