"""What every 2-D detection network offers, whether a model yaml (graph.py) or a Darknet cfg (darknet.py) describes it.

The anchors of a description stand here too: one list of sides a level, in pixels.
"""

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, cast

import torch
from torch import Tensor, nn

from boxwright.errors import UserError, is_out_of_memory
from boxwright.terminal import one_line
from boxwright.yolo.published import CURRENT

_MOST_ANCHORS = 1000  # a level
Levels = tuple[tuple[tuple[float, float], ...], ...]  # width, height in pixels: [level][anchor]


def read_levels(value: object, num_levels: int, where: str) -> tuple[Levels, bool]:
    """Check anchors: one list of sides a level, or only their number a level, for training to find them.

    Returns:
        the anchors, and whether they stand only for a number.

    Raises:
        UserError: they are of another form, or do not fit the levels.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST_ANCHORS:
        level = tuple((float(2 * i), float(2 * i + 1)) for i in range(value))  # the published placeholder
        return (level,) * num_levels, True
    levels = items(value)
    if levels is None or len(levels) != num_levels:
        found = repr(value) if levels is None else str(len(levels))
        wanted = f"{num_levels} levels, one for each input of the last layer"
        raise UserError(f"{where}: anchors must list {wanted}, not {found}")
    read: list[tuple[tuple[float, float], ...]] = []
    for i, level in enumerate(levels):
        sides = items(level)
        numbers = [
            s for s in sides or [] if isinstance(s, int | float) and not isinstance(s, bool) and 0 < s < math.inf
        ]
        if sides is None or len(numbers) != len(sides) or not sides or len(sides) % 2:
            raise UserError(f"{where}: anchors of level {i} must be pairs of width and height above 0, not {level!r}")
        read.append(tuple(zip(map(float, numbers[0::2]), map(float, numbers[1::2]), strict=True)))
    if len({len(level) for level in read}) > 1:
        raise UserError(f"{where}: every level must have the same number of anchors")
    return tuple(read), False


def write_levels(levels: Levels) -> list[list[float]]:
    """Write levels as `read_levels` takes them: one flat list a level."""
    return [[side for anchor in level for side in anchor] for level in levels]


def growth(levels: Levels) -> float:
    """Return a number above 0 where anchors run from small to large."""
    areas = [sum(width * height for width, height in level) / len(level) for level in levels]
    return areas[-1] - areas[0]


def items(value: object) -> list[Any] | None:
    """Return a list or tuple as a list, anything else as None."""
    return list(cast(Sequence[Any], value)) if isinstance(value, list | tuple) else None


LUMINANCE = (0.299, 0.587, 0.114)  # of R, G and B: ITU-R BT.601, as OpenCV and Pillow make grey images


def check_channels(channels: int, where: str) -> int:
    """Return the input channels of a network: 3 for RGB, 1 for grey.

    Raises:
        UserError: another number, as images are read as RGB; `where` names the place.
    """
    if channels not in (1, 3):
        raise UserError(f"{where}: a network takes images of 3 channels (RGB) or 1 (grey) here, not {channels}")
    return channels


MOST_LAYERS = 2000  # with repeats; the largest published network has 250
MOST_PARAMETERS = 300_000_000  # 1.2 GB of float32, twice the largest published network
MOST_CLASSES = 100_000
LARGEST_SIDE = 16_384  # pixels of an input that a file asks for
LARGEST_STRIDE = 4096
_LARGEST_MAP = 1 << 27  # numbers that one operation of the dry run may give: 0.5 GB of float32


class Budget:
    """Counts the layers and parameters of a network while it is built, and refuses one beyond all reason.

    It is counted on the meta device first (`zoo.build_model`), so that nothing is taken for what is refused.
    """

    def __init__(self) -> None:
        self._layers = self._parameters = 0

    def add_layers(self, count: int, place: str) -> None:
        self._layers += count
        if self._layers > MOST_LAYERS:
            raise UserError(
                f"{place}: with it the network has {self._layers:,} layers; at most {MOST_LAYERS:,} are built"
            )

    def add(self, module: nn.Module, place: str) -> int:
        """Count a module that was built; return its number of parameters."""
        count = sum(parameter.numel() for parameter in module.parameters())
        self._parameters += count
        if self._parameters > MOST_PARAMETERS:
            total = f"{self._parameters:,} parameters, {self._parameters * 4 / 1e9:,.1f} GB"
            raise UserError(f"{place}: with it the network has {total}; at most {MOST_PARAMETERS:,} are built")
        return count


def _refuse_large_map(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Refuse a module of the dry run before it makes a map beyond all reason; a hook before its forward pass."""
    x = inputs[0]
    size = sum(part.numel() for part in inputs)  # of joins
    if isinstance(module, nn.MultiheadAttention):
        size = module.num_heads * len(x) ** 2  # a weight for each pair of cells
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Upsample | nn.ZeroPad2d | nn.MaxPool2d):
        channels = getattr(module, "out_channels", x.shape[1])
        height, width = x.shape[2:]
        if isinstance(module, nn.ConvTranspose2d):
            height, width = height * module.stride[0], width * module.stride[1]
        elif isinstance(module, nn.Upsample):
            factor = cast(float, module.scale_factor or 1.0)
            height, width = cast(tuple[int, int], module.size or (height * factor, width * factor))
        padding = cast(tuple[int, ...] | int, getattr(module, "padding", 0))
        border = 2 * (padding if isinstance(padding, int) else max(padding))
        size = channels * (height + border) * (width + border)
    if size > _LARGEST_MAP:
        raise RuntimeError(f"a map of {int(size):,} numbers is larger than any network needs")


DRY_RUN_SIDE = 256  # pixels: the image on which strides are measured, a multiple of every stride in use


@dataclass(frozen=True, slots=True)
class BoxCoding:
    """How the raw numbers of a box are meant.

    Its centre is (sigmoid(t) - 1/2) scale_xy + 1/2 cells behind the left top corner of its cell.
    """

    scale_xy: float
    squared: bool  # sides are (2 sigmoid(t))^2 anchors; else exp(t) anchors


YOLOV3_BOXES = BoxCoding(1.0, squared=False)
YOLOV5_BOXES = BoxCoding(2.0, squared=True)  # and scaled YOLOv4: centres within -0.5..1.5 cells, sides 0..4 anchors


class DetectionSpec(Protocol):
    """A network before it is built: plain, frozen, comparable. `to_mapping` gives what goes into a checkpoint."""

    @property
    def num_classes(self) -> int: ...

    @property
    def input_channels(self) -> int: ...

    @property
    def anchors(self) -> Levels: ...

    @property
    def anchors_to_find(self) -> bool: ...  # the anchors only say how many there are

    def with_classes(self, num_classes: int) -> Self: ...

    def with_anchors(self, anchors: object, where: str = "model") -> Self:
        """Return the same network with other anchors, in the form of a model yaml; levels may run in either order.

        Raises:
            UserError: they do not fit the levels; `where` names their place.
        """
        ...

    def to_mapping(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class LayerInfo:
    """One line of the model summary."""

    index: int
    sources: tuple[int, ...]
    repeats: int  # after the depth multiple
    block: str
    num_parameters: int
    args: tuple[Any, ...]


class Network(nn.Module):
    """Whatever finds boxes in images: a network of ours, an exported file, several networks as one."""

    names: tuple[str, ...]  # one a class
    input_size: tuple[int, int] | None = None  # height, width where they are fixed; None: multiples of largest stride
    trained_size: tuple[int, int] | None = None  # height, width that it was trained at, or exported for; None: unknown
    size_is: str = "trained at"  # what `trained_size` means
    release: str = CURRENT  # a key of `published.RELEASES`
    strides: tuple[int, ...]  # input pixels a cell of each raw map

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images (B, 3, H, W), RGB in 0..1, to what `decode` takes."""

    @abstractmethod
    def decode(self, raw: list[Tensor]) -> Tensor:
        """Decode to (B, rows, 5 + classes) float32: cxcywh in pixels of the network input, then scores in 0..1."""


class DetectionModel(Network):
    """Images to raw maps, and raw maps to boxes; `names` are the class numbers where none are given."""

    layers: tuple[LayerInfo, ...]
    num_backbone_layers: int = 0  # how many of the first layers are the backbone; 0: it is not known
    predictor_prefixes: tuple[str, ...]  # what the names of the parameters of the last layers begin with
    layer_prefix: ClassVar[str]  # parameters of layer i are named `<layer_prefix>.<i>.`

    def __init__(self, spec: DetectionSpec, names: Sequence[str] | None) -> None:
        super().__init__()
        self.spec = spec  # how to build this network again
        if spec.num_classes > MOST_CLASSES:
            raise UserError(f"a model of {spec.num_classes:,} classes; at most {MOST_CLASSES:,} are possible")
        self.names = tuple(map(str, range(spec.num_classes)) if names is None else map(one_line, names))
        if len(self.names) != spec.num_classes:
            raise UserError(f"the model has {spec.num_classes} classes but {len(self.names)} names are given")

    def describe(self) -> dict[str, Any]:
        """Return plain values from which the network can be built again, as a checkpoint holds them."""
        size = None if self.trained_size is None else list(self.trained_size)
        named = {"names": list(self.names), "strides": list(self.strides), "imgsz": size}
        return {"spec": self.spec.to_mapping(), **named}

    def wire(self, sources: Sequence[tuple[int, ...]], outputs: Sequence[int] = ()) -> None:
        """Say which layers feed each layer, -1 the one before, and which give one raw map each; else the last all."""
        self._sources, self._outputs = tuple(sources), tuple(outputs)
        self._kept = frozenset(s for feeding in sources for s in feeding if s != -1)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute raw maps, training or not: one (B, A, ny, nx, 5 + classes) a level, without activation.

        Args:
            images: (B, 3, H, W) RGB in 0..1, sides a multiple of the largest stride. A network of one channel takes
                their luminance, or (B, 1, H, W).
        """
        x: Any = images
        if self.spec.input_channels == 1 and images.shape[1] == 3:
            x = (images * images.new_tensor(LUMINANCE).view(3, 1, 1)).sum(1, keepdim=True)
        raw: list[Tensor] = []
        kept: dict[int, Tensor] = {}
        layers: Iterable[nn.Module] = getattr(self, self.layer_prefix)
        for i, (layer, sources) in enumerate(zip(layers, self._sources, strict=True)):
            y = layer(*(x if s == -1 else kept[s] for s in sources))
            if i in self._outputs:
                raw.append(y)  # the next layer reads what this one has read
            else:
                x = y
            if i in self._kept:
                kept[i] = x
        return raw or x

    @torch.no_grad()
    def dry_run(self, where: str) -> list[Tensor]:
        """Compute the raw maps of one black image of `DRY_RUN_SIDE` pixels, to measure strides.

        Raises:
            UserError: the layers of the description `where` do not fit together.
        """
        self.eval()  # a training pass would move the batch-norm statistics of a new network towards black images
        images = torch.zeros(1, self.spec.input_channels, DRY_RUN_SIDE, DRY_RUN_SIDE)
        if images.is_meta:  # only its parameters are counted, see `zoo.build_model`
            return []
        hooks = [module.register_forward_pre_hook(_refuse_large_map) for module in self.modules() if module is not self]
        try:
            raw = self(images)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise UserError(
                f"{where}: the layers do not fit together: {(str(error) or repr(error)).splitlines()[0]}"
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        self.train()  # a new network is in training mode, as any nn.Module
        return raw

    @property
    @abstractmethod
    def anchors(self) -> Tensor:
        """Return (L, A, 2) width, height in cells of each raw map."""

    @property
    def box_codings(self) -> tuple[BoxCoding, ...]:
        """Return how the raw boxes of each level are meant."""
        return (YOLOV5_BOXES,) * len(self.strides)


@dataclass(frozen=True)
class Weights:
    """A trained network as read from a file."""

    state_dict: Mapping[str, Tensor]  # float32, averaged weights where the file has them
    spec: DetectionSpec
    names: tuple[str, ...]  # of classes
    strides: tuple[int, ...] | None  # input pixels per cell of each level; None: the file does not say them
    hyp: dict[str, Any] | None  # hyper-parameters it was trained with, in the published flat form, where known
    source: Literal["native", "yolov5", "darknet", "safetensors"]
    path: Path
    trained_size: tuple[int, int] | None = None  # height, width, where the file says it
    epochs_trained: int = 0  # where the file still has the optimizer of its training; 0: it has none
    size_is: str = "trained at"  # what that means
