"""Darknet `.weights` files: a short header, then the numbers of every convolution, in the order of the cfg.

A file names nothing: only the cfg says which number belongs where. For each convolution it holds, if it has batch norm,
bias, weight, running mean and running variance of that, else its own bias; then its kernel (out, in, height, width).
Source: the published format (spec A1, A2); a header of version 0.2 or later counts the images seen in 64 bits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from boxwright.errors import UserError
from boxwright.yolo.darknet import DarknetModel
from boxwright.yolo.darknet_cfg import DarknetSpec

_FLOAT = np.dtype("<f4")
_LARGEST_VERSION = 1000  # a number from here on is no version but text, or the marks of other formats


@dataclass(frozen=True)
class Header:
    """Version of the Darknet that wrote the file, and how many images it had trained on."""

    major: int = 0
    minor: int = 2
    revision: int = 5
    images_seen: int = 0

    @property
    def long_count(self) -> bool:
        """Whether the number of images takes 8 bytes instead of 4."""
        return self.major * 10 + self.minor >= 2

    def to_bytes(self) -> bytes:
        versions = np.array([self.major, self.minor, self.revision], "<i4").tobytes()
        return versions + np.array([self.images_seen], "<i8" if self.long_count else "<i4").tobytes()


@dataclass(frozen=True)
class DarknetWeights:
    """A file as read.

    Args:
        header: as it stands in the file.
        spec: the network, with the classes that the file was written for.
        state_dict: entries by published name; without those of layers that a cut-off file does not reach.
        num_layers: layers of the cfg that the file covers; all of them unless it is cut off.
        strides: input pixels a cell of each output.
    """

    header: Header
    spec: DarknetSpec
    state_dict: dict[str, Tensor]
    num_layers: int
    strides: tuple[int, ...]


def is_darknet(path: Path) -> bool:
    """Whether a file begins as Darknet's do: three small version numbers."""
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
    learned = [name for name, _ in model.named_parameters() if name.endswith(".w")]
    if learned:
        raise UserError(f"{path}: {learned[0]} is a learned shortcut weight, which a .weights file has no place for")
    state_dict = model.state_dict()
    pieces = [(header or Header()).to_bytes()]
    for index in _counts(model.spec):
        if num_layers is None or index < num_layers:
            names = [key for key, _ in _entries(model, index)]
            pieces += [state_dict[key].detach().cpu().float().numpy().astype(_FLOAT).tobytes() for key in names]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(b"".join(pieces))
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _open(path: Path) -> tuple[Header, NDArray[np.float32]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not is_darknet(path):
        raise UserError(f"{path} is no Darknet .weights file: it does not begin with a version")
    header = Header(*np.frombuffer(content[:12], "<i4").tolist())
    begin = 20 if header.long_count else 16
    if len(content) < begin or (len(content) - begin) % _FLOAT.itemsize:
        raise UserError(f"{path} is damaged: after a header of {begin} bytes come numbers of 4 bytes, it has a rest")
    (seen,) = np.frombuffer(content[12:begin], "<i8" if header.long_count else "<i4").tolist()
    return Header(header.major, header.minor, header.revision, seen), np.frombuffer(content, _FLOAT, offset=begin)


def _skeleton(spec: DarknetSpec) -> DarknetModel:
    """The network without memory for its numbers: only names and shapes are asked for."""
    with torch.device("meta"):
        return DarknetModel(spec)


def _entries(model: DarknetModel, index: int) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a convolution in the order of the file."""
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
    """How many numbers each convolution has in a file, by layer."""
    model = _skeleton(spec)
    convolutions = [i for i, section in enumerate(spec.sections) if section.kind == "convolutional"]
    return {i: sum(tensor.numel() for _, tensor in _entries(model, i)) for i in convolutions}


def _classes_of(num_values: int, spec: DarknetSpec) -> int | None:
    """The number of classes for which the network has just so many numbers; every class adds the same count."""
    one, two = (sum(_counts(spec.with_classes(n)).values()) for n in (1, 2))
    more, rest = divmod(num_values - one, two - one)
    return 1 + more if rest == 0 and more >= 0 else None


def _covered(path: Path, spec: DarknetSpec, counts: dict[int, int], num_values: int, *, strict: bool) -> int:
    """How many layers so many numbers cover; complains where they end inside one, go beyond the last, or must not."""
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
