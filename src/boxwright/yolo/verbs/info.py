"""What a model is: layers, parameters, strides and cost of one image."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxwright.errors import UserError
from boxwright.inference.complexity import ParameterRow, count_gflops, count_parameters, find_modules, parameter_rows
from boxwright.yolo.detection import DetectionModel, LayerInfo
from boxwright.yolo.graph import BLOCKS
from boxwright.yolo.spec import ModelSpec
from boxwright.yolo.weights import fuse, load_model, read_weights, transfer
from boxwright.yolo.zoo import build_model, load_spec


@dataclass(frozen=True)
class ModelSummary:
    """Figures of one network.

    Args:
        name: as it was asked for.
        names: one name a class.
        layers: one entry a row of the model yaml; arguments as far as they are written there.
        parameters: one row each.
        num_modules: the network and everything in it, as published summaries count layers.
        num_parameters: before batch norms are folded.
        num_gradients: those of them that are trained.
        num_parameters_fused: after batch norms are folded.
        strides: input pixels per cell of each level.
        imgsz: height and width of the image that `gflops` is for.
        gflops: 10^9 floating point operations of the convolutions, two a multiply-add, for one image.
    """

    name: str
    names: tuple[str, ...]
    layers: tuple[LayerInfo, ...]
    parameters: tuple[ParameterRow, ...]
    num_modules: int
    num_parameters: int
    num_gradients: int
    num_parameters_fused: int
    strides: tuple[int, ...]
    imgsz: tuple[int, int]
    gflops: float

    def text(self, verbose: bool = False) -> str:
        """Format for the terminal: one line a layer, one line a parameter if verbose, then the summary."""
        lines = [f"{'':>4}{'from':>16}{'n':>4}{'parameters':>13}  {'module':<16}arguments"]
        for layer in self.layers:
            cells = f"{layer.index:>4}{_sources(layer):>16}{layer.repeats:>4}{layer.num_parameters:>13,}"
            lines.append(f"{cells}  {layer.block:<16}{show_arguments(layer.args)}")
        if verbose:
            lines += ["", *_parameter_lines(self.parameters)]
        height, width = self.imgsz
        lines += [
            "",
            f"{self.name}: {len(self.layers)} layers ({self.num_modules} modules), {self.num_parameters:,} parameters "
            f"({self.num_parameters_fused:,} fused), {self.num_gradients:,} gradients, {_classes(len(self.names))}",
            f"strides {', '.join(str(stride) for stride in self.strides)}; "
            f"{self.gflops:.2f} GFLOPs for one image of {width} x {height} (convolutions)",
        ]
        return "\n".join(lines)


def describe(
    model: str = "", *, weights: str = "", num_classes: int | None = None, imgsz: int | Sequence[int] = 640
) -> ModelSummary:
    """Build or load a model and measure it. No image is computed: the cost is counted from shapes.

    Args:
        model: a published name, a model description (yaml, cfg) or a checkpoint.
        weights: a checkpoint; with a model, what fits of it is put into that model.
        num_classes: of a model that is built, instead of its own.
        imgsz: side, or height and width, of the image whose cost is counted.

    Raises:
        UserError: no such model, not readable, or a side that the strides do not divide.
    """
    network = open_network(model, weights=weights, num_classes=num_classes)
    name = model or weights
    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else (imgsz[0], imgsz[-1])
    largest = max(network.strides)
    if min(height, width) < largest or height % largest or width % largest:
        given = height if height == width else f"{height} {width}"
        raise UserError(f"--imgsz {given}: the largest stride of {name} is {largest}, the side must be a multiple")
    parameters = tuple(parameter_rows(network))
    fused = fuse(network)
    return ModelSummary(
        name=name,
        names=network.names,
        layers=_as_written(network),
        parameters=parameters,
        num_modules=sum(1 for _ in network.modules()),
        num_parameters=count_parameters(network),
        num_gradients=count_parameters(network, only_trained=True),
        num_parameters_fused=count_parameters(fused),
        strides=network.strides,
        imgsz=(height, width),
        gflops=count_gflops(fused, (1, network.spec.input_channels, height, width)),
    )


def open_network(model: str = "", *, weights: str = "", num_classes: int | None = None) -> DetectionModel:
    """Return a network by its name, by a file that describes it, or from a checkpoint; see `describe`. On the CPU."""
    if not model and not weights:
        raise UserError("name a model: a published name such as yolov5n, a model description or a checkpoint")
    if not weights and _is_checkpoint(model):
        model, weights = "", model
    if not model:
        if num_classes is not None:
            raise UserError(f"--nc is for a model that is built; {weights} has its own number of classes")
        return load_model(weights)
    network = build_model(load_spec(model, num_classes))
    if weights:
        transfer(network, read_weights(weights))
    return network


def list_modules(network: DetectionModel, pattern: str) -> str:
    """List for the terminal: name, class and parameters of the modules that fit a pattern (see `find_modules`).

    Raises:
        UserError: none fits.
    """
    rows = [(name, type(module).__name__, count_parameters(module)) for name, module in find_modules(network, pattern)]
    if not rows:
        raise UserError(f"no module of the network has a class or name like '{pattern}' (such as *Conv* or model.9.*)")
    wide = max(len(name) for name, _, _ in rows) + 2
    lines = [f"{name:<{wide}}{kind:<20}{count:>13,}" for name, kind, count in rows]
    return "\n".join([f"{'name':<{wide}}{'class':<20}{'parameters':>13}", *lines, f"{len(rows)} found"])


def show_arguments(args: Iterable[Any]) -> str:
    """Show arguments as in a model yaml: lists in brackets, anchors of a level in one flat list."""
    return f"[{', '.join(_show(value) for value in args)}]"


def _show(value: Any) -> str:
    if isinstance(value, tuple | list):
        pairs = all(isinstance(item, tuple | list) and len(item) == 2 for item in value)  # pyright: ignore
        return show_arguments([side for pair in value for side in pair] if pairs and value else value)  # pyright: ignore
    return f"{value:g}" if isinstance(value, float) else repr(value)


def _sources(layer: LayerInfo) -> str:
    return str(layer.sources[0]) if len(layer.sources) == 1 else str(list(layer.sources))


def _as_written(network: DetectionModel) -> tuple[LayerInfo, ...]:
    """Return the layers with the arguments that their rows name; what a row leaves to its default is not shown."""
    if not isinstance(network.spec, ModelSpec):
        return network.layers
    shown: list[LayerInfo] = []
    for layer, row in zip(network.layers, network.spec.rows, strict=True):
        num_possible = len(inspect.signature(BLOCKS[row.block]).parameters) - 1  # without the site
        args = layer.args[: len(layer.args) - (num_possible - len(row.args))]
        shown.append(LayerInfo(layer.index, layer.sources, layer.repeats, layer.block, layer.num_parameters, args))
    return tuple(shown)


def _parameter_lines(rows: Sequence[ParameterRow]) -> list[str]:
    wide = max((len(row.name) for row in rows), default=0) + 2
    title = f"{'layer':>5}  {'name':<{wide}}{'gradient':>8}{'parameters':>13}{'shape':>22}{'mean':>12}{'std':>12}"
    return [title] + [
        f"{row.index:>5}  {row.name:<{wide}}{'yes' if row.trained else 'no':>8}{row.count:>13,}"
        f"{list(row.shape)!s:>22}{row.mean:>12.3g}{row.std:>12.3g}"
        for row in rows
    ]


def _is_checkpoint(model: str) -> bool:
    suffix = Path(model).suffix
    return suffix in (".pt", ".safetensors", ".weights") or (
        Path(model).is_file() and suffix not in (".yaml", ".yml", ".cfg")
    )


def _classes(count: int) -> str:
    return "1 class" if count == 1 else f"{count} classes"
