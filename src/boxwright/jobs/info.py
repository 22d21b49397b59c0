"""What a model is: layers, parameters, strides and cost of one image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from boxwright.checkpoints.reader import load_model
from boxwright.errors import UserError
from boxwright.models.build import build_model
from boxwright.models.detection import DetectionModel, LayerInfo
from boxwright.models.fuse import fuse
from boxwright.models.zoo import load_spec


@dataclass(frozen=True)
class ModelSummary:
    """Figures of one network.

    Args:
        name: as it was asked for.
        names: one name a class.
        layers: one entry a row of the model yaml.
        num_parameters: before batch norms are folded.
        num_parameters_fused: after that.
        strides: input pixels per cell of each level.
        imgsz: side of the square image that `gflops` is for.
        gflops: 10^9 floating point operations of the convolutions, two a multiply-add, for one image.
    """

    name: str
    names: tuple[str, ...]
    layers: tuple[LayerInfo, ...]
    num_parameters: int
    num_parameters_fused: int
    strides: tuple[int, ...]
    imgsz: int
    gflops: float

    def text(self, verbose: bool = False) -> str:
        """For the terminal: one line a layer if verbose, then the summary."""
        lines: list[str] = []
        if verbose:
            lines.append(f"{'':>4}{'from':>16}{'n':>4}{'parameters':>13}  block")
            for layer in self.layers:
                sources = ", ".join(str(source) for source in layer.sources)
                lines.append(
                    f"{layer.index:>4}{sources:>16}{layer.repeats:>4}{layer.num_parameters:>13,}  {layer.block}"
                )
        lines += [
            f"{self.name}: {len(self.layers)} layers, {self.num_parameters:,} parameters "
            f"({self.num_parameters_fused:,} fused), {len(self.names)} classes",
            f"strides {', '.join(str(stride) for stride in self.strides)}; "
            f"{self.gflops:.2f} GFLOPs for one image of {self.imgsz} x {self.imgsz} (convolutions)",
        ]
        return "\n".join(lines)


def describe(model: str, imgsz: int = 640) -> ModelSummary:
    """Build or load a model and measure it. No image is computed: the cost is counted from shapes.

    Args:
        model: a published name, a model yaml or a checkpoint.
        imgsz: side of the image whose cost is counted.

    Raises:
        UserError: no such model, not readable, or a side that the strides do not divide.
    """
    suffix = Path(model).suffix
    is_checkpoint = suffix == ".pt" or (Path(model).is_file() and suffix not in (".yaml", ".yml"))
    network = load_model(model) if is_checkpoint else build_model(load_spec(model))
    network.eval()
    num_parameters = _count(network)
    largest = max(network.strides)
    if imgsz < largest or imgsz % largest:
        raise UserError(f"--imgsz {imgsz}: the largest stride of {model} is {largest}, the side must be a multiple")
    fused = fuse(network)
    return ModelSummary(
        name=model,
        names=network.names,
        layers=network.layers,
        num_parameters=num_parameters,
        num_parameters_fused=_count(fused),
        strides=network.strides,
        imgsz=imgsz,
        gflops=_gflops(fused, imgsz),
    )


def _count(network: DetectionModel) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _gflops(network: DetectionModel, imgsz: int) -> float:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network.to("meta")(torch.zeros(1, network.spec.input_channels, imgsz, imgsz, device="meta"))
    return counter.get_total_flops() / 1e9
