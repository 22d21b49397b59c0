"""What a model is and costs, and what a run would train with: `boxwright info` and `info --schedule`."""

import copy
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from boxwright.data.dataset import open_dataset
from boxwright.engine.schedule import Schedule, StepSettings, check_schedule, schedule_name
from boxwright.errors import UserError
from boxwright.ops.arrays import Ints
from boxwright.settings.flags import flags_of
from boxwright.terminal import counted
from boxwright.yolo.detection import DetectionModel, LayerInfo
from boxwright.yolo.graph import BLOCKS
from boxwright.yolo.hyp import load_run
from boxwright.yolo.input_size import write_size
from boxwright.yolo.published import schedule_rules, with_release
from boxwright.yolo.settings import InfoConfig, RunConfig
from boxwright.yolo.spec import ModelSpec
from boxwright.yolo.weights import fuse, load_model, read_weights, transfer
from boxwright.yolo.zoo import build_model, load_spec


@dataclass(frozen=True, slots=True)
class ParameterRow:
    """One parameter of a network."""

    index: int  # position among all parameters
    name: str  # as in the state dict
    trained: bool
    count: int  # numbers in it
    shape: tuple[int, ...]
    mean: float
    std: float  # 0 for a single number


def parameter_rows(network: nn.Module) -> list[ParameterRow]:
    """Return one row a parameter, in the order of the network."""
    rows: list[ParameterRow] = []
    for index, (name, value) in enumerate(network.named_parameters()):
        numbers = value.detach().double()
        std = float(numbers.std()) if numbers.numel() > 1 else 0.0
        mean = float(numbers.mean()) if numbers.numel() else 0.0
        rows.append(ParameterRow(index, name, value.requires_grad, value.numel(), tuple(value.shape), mean, std))
    return rows


def count_parameters(network: nn.Module) -> int:
    """Count the numbers in all parameters, each shared one counted once."""
    return sum(p.numel() for p in network.parameters())


def count_gflops(network: nn.Module, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> float:
    """Count 10^9 operations of a pass over one tensor: convolutions and matrix products, two a multiply-add."""
    # On the meta device: counted from shapes, no number is computed.
    return gflops_of(copy.deepcopy(network).to("meta"), torch.zeros(*shape, dtype=dtype, device="meta"))


def gflops_of(function: Callable[[Tensor], Any], images: Tensor) -> float:
    """Run a function and count its operations, see `count_gflops`."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        function(images)
    return counter.get_total_flops() / 1e9


@dataclass(frozen=True)
class ModelSummary:
    """Figures of one network."""

    name: str  # as it was asked for
    network: DetectionModel
    parameters: Sequence[ParameterRow]  # before batch norms are folded
    num_parameters_fused: int  # after batch norms are folded
    imgsz: tuple[int, int]  # height, width that `gflops` is for
    gflops: float  # 10^9 operations of the convolutions, two a multiply-add, for one image

    @property
    def num_parameters(self) -> int:
        return sum(row.count for row in self.parameters)

    def text(self, verbose: bool = False) -> str:
        """Format for the terminal: one line a layer, one line a parameter if verbose, then the summary."""
        network, (height, width) = self.network, self.imgsz
        lines = [f"{'':>4}{'from':>16}{'n':>4}{'parameters':>13}  {'module':<16}arguments"]
        for layer in layers_as_written(network):
            sources = str(layer.sources[0]) if len(layer.sources) == 1 else str(list(layer.sources))
            cells = f"{layer.index:>4}{sources:>16}{layer.repeats:>4}{layer.num_parameters:>13,}"
            lines.append(f"{cells}  {layer.block:<16}{show_arguments(layer.args)}")
        if verbose:
            wide = max((len(row.name) for row in self.parameters), default=0) + 2
            title = f"{'name':<{wide}}{'gradient':>8}{'parameters':>13}{'shape':>22}{'mean':>12}{'std':>12}"
            lines += ["", f"{'layer':>5}  {title}"]
            lines += [
                f"{row.index:>5}  {row.name:<{wide}}{'yes' if row.trained else 'no':>8}{row.count:>13,}"
                f"{list(row.shape)!s:>22}{row.mean:>12.3g}{row.std:>12.3g}"
                for row in self.parameters
            ]
        classes = counted(network.num_classes, "class")
        num_modules = sum(1 for _ in network.modules())  # with the network itself, as published summaries count layers
        num_gradients = sum(row.count for row in self.parameters if row.trained)
        trained_at = f"; {network.size_is} {write_size(network.trained_size)} px" if network.trained_size else ""
        lines += [
            "",
            f"{self.name}: {counted(len(network.layers), 'layer')} ({num_modules} modules), "
            f"{self.num_parameters:,} parameters "
            f"({self.num_parameters_fused:,} fused), {num_gradients:,} gradients, {classes}{trained_at}",
            f"strides {', '.join(map(str, network.strides))}; "
            f"{self.gflops:.2f} GFLOPs for one image of {width} x {height} (convolutions)",
        ]
        return "\n".join(lines)


def info(config: InfoConfig) -> Any:
    """Print and return what a model is made of, or with `schedule` the rates of a training run.

    Raises:
        UserError: see `describe` and `describe_schedule`; or settings of a run stand there without `schedule`.
    """
    if config.env:
        from boxwright.engine.environment import environment_table

        table = environment_table()
        print(table)
        if not (config.model or config.weights or config.schedule):
            return table
    given = config.model_fields_set
    of_run = {name: getattr(config, name) for name in ("data", "epochs", "batch_size") if name in given}
    of_run |= {f"optim.{name}": getattr(config.optim, name) for name in config.optim.model_fields_set}
    if config.schedule:
        network = {name: getattr(config, name) for name in ("model", "weights") if getattr(config, name)}
        run = load_run(RunConfig, network | of_run, hyp=config.hyp, config=config.config)
        report = describe_schedule(run, config.images)
        report.draw(Path(config.schedule))
        print(f"{report.text()}\ndrawn in {config.schedule}")
        return report
    stray = [*of_run, *(name for name in ("images", "hyp", "config") if getattr(config, name))]
    if stray:
        names = {flag.setting: flag.names[0] for flag in flags_of(InfoConfig)}
        raise UserError(f"{names[stray[0]]} is about a training run: it goes with --schedule")
    if config.find:
        network = open_network(config.model, weights=config.weights, num_classes=config.num_classes)
        print(list_modules(network, config.find))
        return network
    summary = describe(config.model, weights=config.weights, num_classes=config.num_classes, imgsz=config.imgsz)
    print(summary.text(verbose=config.verbose))
    return summary


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
    if height % largest or width % largest:
        given = height if height == width else f"{height} {width}"
        raise UserError(f"--imgsz {given}: the largest stride of {name} is {largest}, the side must be a multiple")
    return summarise(network, name, (height, width))


def summarise(network: DetectionModel, name: str, size: tuple[int, int]) -> ModelSummary:
    """Measure a network for an image of this height and width."""
    fused = fuse(network)
    gflops = count_gflops(fused, (1, network.spec.input_channels, *size))
    return ModelSummary(name, network, parameter_rows(network), count_parameters(fused), size, gflops)


def open_network(model: str = "", *, weights: str = "", num_classes: int | None = None) -> DetectionModel:
    """Return a network by its name, by a file that describes it, or from a checkpoint; see `describe`. On the CPU."""
    if not model and not weights:
        raise UserError("name a model: a published name such as yolov5n, a model description or a checkpoint")
    path = Path(model)
    described = path.suffix in (".yaml", ".yml", ".cfg")
    if not weights and (path.suffix in (".pt", ".safetensors", ".weights") or (path.is_file() and not described)):
        model, weights = "", model
    if not model:
        if num_classes is not None:
            raise UserError(f"--nc is for a model that is built; {weights} has its own number of classes")
        return load_model(weights)
    network = build_model(load_spec(model, num_classes))
    if weights:
        transfer(network, read_weights(weights, fallback=model))
    return network


class FoundModule(NamedTuple):
    """A module of a network."""

    layer: int  # number of the layer that it is, or is in; -1: of none
    name: str  # dotted
    module: nn.Module


def find_modules(network: nn.Module, wanted: type[nn.Module] | str) -> list[FoundModule]:
    """Find the modules of a class, or those whose class or dotted name fits a pattern, as `*Pool*`.

    Args:
        network: a module; of a detector that `load` gives, its `network`.
        wanted: the class, whose subclasses count too, or the pattern.
    """

    def fits(name: str, module: nn.Module) -> bool:
        if not isinstance(wanted, str):
            return isinstance(module, wanted)
        return fnmatchcase(type(module).__name__, wanted) or fnmatchcase(name, wanted)

    return [
        FoundModule(next((int(part) for part in name.split(".") if part.isdecimal()), -1), name, module)
        for name, module in network.named_modules()
        if name and fits(name, module)
    ]


def list_modules(network: DetectionModel, pattern: str) -> str:
    """List for the terminal what `find_modules` finds: layer, name, class and parameters.

    Raises:
        UserError: none fits.
    """
    found = find_modules(network, pattern)
    if not found:
        raise UserError(f"no module of the network has a class or name like '{pattern}' (such as *Conv* or model.9.*)")
    wide = max(len(name) for _, name, _ in found) + 2
    lines = [
        f"{layer if layer >= 0 else '-':>5}  {name:<{wide}}{type(module).__name__:<20}{count_parameters(module):>13,}"
        for layer, name, module in found
    ]
    title = f"{'layer':>5}  {'name':<{wide}}{'class':<20}{'parameters':>13}"
    return "\n".join([title, *lines, f"{len(found)} found"])


def show_arguments(args: Iterable[Any]) -> str:
    """Show arguments as in a model yaml: lists in brackets, anchors of a level in one flat list."""
    shown: list[str] = []
    for value in args:
        if isinstance(value, tuple | list):
            pairs = all(isinstance(item, tuple | list) and len(item) == 2 for item in value)  # pyright: ignore
            shown.append(show_arguments([side for pair in value for side in pair] if pairs and value else value))  # pyright: ignore
        else:
            shown.append(f"{value:g}" if isinstance(value, float) else repr(value))
    return f"[{', '.join(shown)}]"


def layers_as_written(network: DetectionModel) -> Sequence[LayerInfo]:
    """Return the layers with the arguments that their rows name; what a row leaves to its default is not shown."""
    if not isinstance(network.spec, ModelSpec):
        return network.layers
    shown: list[LayerInfo] = []
    for layer, row in zip(network.layers, network.spec.rows, strict=True):
        num_possible = len(inspect.signature(BLOCKS[row.block]).parameters) - 1  # without the site
        args = layer.args[: len(layer.args) - (num_possible - len(row.args))]
        shown.append(replace(layer, args=args))
    return shown


_MOST_POINTS = 4000  # steps that are looked at, besides the first and the last of each epoch
_ANY_FITNESS = 0.5
_PICTURES = (".png", ".jpg", ".svg", ".pdf")


@dataclass(frozen=True)
class ScheduleReport:
    """The schedule of a run."""

    config: RunConfig  # with what the recipe of the model makes of it
    steps_per_epoch: int
    steps: Ints  # (S,) steps looked at, counted over the run
    settings: Sequence[StepSettings]  # of each of these steps
    warmup_steps: int  # until the rate is at its height

    @property
    def title(self) -> str:
        optim, name = self.config.optim, schedule_name(self.config.optim)
        release = f" of {optim.release}" if optim.release else ""
        constant = ", for a fitness that never changes" if name == "plateau" else ""
        return (
            f"{optim.optimizer}, {name}{release}{constant}: {counted(self.config.epochs, 'epoch')} of "
            f"{counted(self.steps_per_epoch, 'step')}"
        )

    def text(self) -> str:
        """Format for the terminal."""
        first, last = self.settings[0], self.settings[-1]
        peak = max(range(len(self.steps)), key=lambda i: self.settings[i].lr_other)
        lines = [
            f"{self.title}, {counted(self.config.batch_size, 'image')} each, "
            f"{last.accumulate} gathered for a step in the end"
        ]
        if self.warmup_steps:
            what = "rises" if self.config.optim.schedule == "one-cycle" else "warm-up"
            lines.append(
                f"{what}: until step {self.warmup_steps} (epoch {self.warmup_steps / self.steps_per_epoch:.4g}), "
                f"biases from {first.lr_bias:.3g}, others from {first.lr_other:.3g}, momentum from {first.momentum:.3g}"
            )
        step, total = self.steps[peak], self.config.epochs * self.steps_per_epoch
        highest = f"{self.settings[peak].lr_other:.4g} at step {step} (epoch {step / self.steps_per_epoch:.4g})"
        lines += [f"highest rate: {highest}", f"last rate: {last.lr_other:.4g}, momentum {last.momentum:.3g}"]
        if self.warmup_steps >= total:
            lines.append(f"the run ends in its warm-up: it has {total} steps, the warm-up {self.warmup_steps}")
        return "\n".join(lines)

    def draw(self, path: Path) -> None:
        """Draw it; raise a UserError if the file cannot be written, or is no picture by its suffix."""
        if path.suffix.lower() not in _PICTURES:
            raise UserError(f"--schedule {path}: the picture is a file that ends in {', '.join(_PICTURES)}")
        from boxwright.reporting.plots import plot_schedule

        warm = min(self.warmup_steps / self.steps_per_epoch, float(self.config.epochs))
        plot_schedule(self.title, self.steps / self.steps_per_epoch, self.settings, warm, path)


def describe_schedule(config: RunConfig, num_images: int | None = None) -> ScheduleReport:
    """Compute the schedule of a run without training it; a model or weights bring the settings of their recipe.

    Args:
        config: settings of the run.
        num_images: to train on; None: as `data` has.

    Raises:
        UserError: settings that contradict each other, or nothing says how many images there are.
    """
    check_schedule(config.optim, config.epochs, validates=not config.noval)
    if config.batch_size < 1:
        raise UserError("a schedule needs the number of images a step: --batch-size N; only train can measure -1")
    if num_images is None and not config.data:
        raise UserError("a schedule needs the number of training images: --images N, or --data")
    if num_images is not None and num_images < 1:
        raise UserError(f"--images {num_images}: there is at least one image to train on")
    if config.model or config.weights:
        network = open_network(config.model, weights=config.weights)
        config = with_release(config, network.release, has_backbone=network.num_backbone_layers > 0)
    if num_images is None:
        num_images = len(open_dataset(config.data, "train", single_cls=config.single_cls, compat=config.compat))
    per_epoch = -(-num_images // config.batch_size)
    schedule = Schedule(config.optim, config.epochs, per_epoch, config.batch_size, schedule_rules(config.optim.release))
    # Steps spread over the run, with the first and last of each epoch, or of some epochs of a very long run.
    starts = np.unique(np.linspace(0, config.epochs - 1, min(_MOST_POINTS, config.epochs)).astype(np.int64)) * per_epoch
    total = config.epochs * per_epoch
    spread = np.linspace(0, total - 1, min(_MOST_POINTS, total)).astype(np.int64)
    steps = np.unique(np.concatenate((starts, starts + per_epoch - 1, spread)))
    # A plateau schedule asks for the fitness of past epochs: one that never changes shows when it would fall.
    known = np.where(config.optim.schedule == "plateau", steps // per_epoch, 0)
    settings = [schedule.at(int(step), [_ANY_FITNESS] * past) for step, past in zip(steps, known, strict=True)]
    if config.optim.optimizer != "SGD":  # its beta1 stays
        settings = [replace(one, momentum=config.optim.momentum) for one in settings]
    return ScheduleReport(config, per_epoch, steps, settings, schedule.warmup_steps)
