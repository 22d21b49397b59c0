"""What a network is made of and what it costs: counts, the table of its parameters, and the search for modules.

Counted from shapes, on the meta device: no image is computed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True, slots=True)
class ParameterRow:
    """One parameter of a network.

    Args:
        index: position among all parameters.
        name: as in the state dict.
        trained: it takes part in training.
        count: numbers in it.
        shape: its sides.
        mean, std: of its values; std is 0 for a single number.
    """

    index: int
    name: str
    trained: bool
    count: int
    shape: tuple[int, ...]
    mean: float
    std: float


def parameter_rows(network: nn.Module) -> list[ParameterRow]:
    """Return one row a parameter, in the order of the network."""
    rows: list[ParameterRow] = []
    for index, (name, value) in enumerate(network.named_parameters()):
        numbers = value.detach().double()
        std = float(numbers.std()) if numbers.numel() > 1 else 0.0
        mean = float(numbers.mean()) if numbers.numel() else 0.0
        rows.append(ParameterRow(index, name, value.requires_grad, value.numel(), tuple(value.shape), mean, std))
    return rows


def count_parameters(network: nn.Module, *, only_trained: bool = False) -> int:
    """Count the numbers in all parameters, each shared one counted once."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad or not only_trained)


def count_gflops(network: nn.Module, shape: Sequence[int]) -> float:
    """Count 10^9 floating point operations of one forward pass: convolutions and matrix products, two a multiply-add.

    Args:
        network: any module that takes one tensor; it is copied.
        shape: of its input.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        copy.deepcopy(network).to("meta")(torch.zeros(*shape, device="meta"))
    return counter.get_total_flops() / 1e9


def find_modules(network: nn.Module, pattern: str) -> Iterator[tuple[str, nn.Module]]:
    """Return modules whose class or whose dotted name fits a pattern, in the order of the network.

    Args:
        network: is searched, itself left out.
        pattern: `*` and `?` as in file names; `BatchNorm2d`, `*Pool*`, `model.9.*`.
    """
    for name, module in network.named_modules():
        if name and (fnmatchcase(type(module).__name__, pattern) or fnmatchcase(name, pattern)):
            yield name, module
