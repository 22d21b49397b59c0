"""Networks as safetensors: the numbers in the published form of that format, the description as json in its metadata.

Any safetensors reader can take the tensors; the entries `spec`, `names`, `strides`, `imgsz` of the metadata are ours.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from boxwright.checkpoints.native import FORMAT, VERSION
from boxwright.data.files import write_atomically
from boxwright.errors import UserError, reason
from boxwright.reading import open_file, reads
from boxwright.terminal import say_once

_DIGEST = "sha256"  # of the metadata: the digest of everything else in the file
_LARGEST_HEADER = 100_000_000  # bytes, the limit of the format


def is_safetensors(path: Path) -> bool:
    """Tell whether a file begins as the format does: the length of a json header, then that header."""
    try:
        with open_file(path) as file:
            start = file.read(10)
        size = path.stat().st_size
    except (OSError, UserError):
        return False
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= min(size - 8, _LARGEST_HEADER)


def write_safetensors(path: Path, state_dict: dict[str, Tensor], model: dict[str, Any]) -> None:
    """Write a network in one step: either the new file is there whole, or the old one is untouched.

    Args:
        path: where to; the folder must exist.
        model: spec, names, strides and imgsz in plain values.

    Raises:
        UserError: it cannot be written.
    """
    metadata = {"format": FORMAT, "version": str(VERSION)} | {key: json.dumps(value) for key, value in model.items()}
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state_dict.items()}
    metadata[_DIGEST] = _digest(tensors, metadata)
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the digest of all tensors and of all other metadata."""
    total = hashlib.sha256(json.dumps(sorted(item for item in metadata.items() if item[0] != _DIGEST)).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


@reads("safetensors file")
def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a network: its entries, and spec, names, strides and imgsz in plain values; old files have no imgsz.

    Raises:
        UserError: unreadable, damaged, or without our description of the network.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = cast(dict[str, str], file.metadata() or {})
            tensors = {key: cast(Tensor, file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118, it is no mapping
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    except (safetensors.SafetensorError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is a damaged safetensors file: {error}") from error
    if metadata.get("format") != FORMAT or metadata.get("version") != str(VERSION):
        raise UserError(
            f"{path} is a safetensors file without a description of a network by Boxwright (its metadata has "
            f"{', '.join(sorted(metadata)) or 'no entry'}); `boxwright convert weights` writes such files"
        )
    if _DIGEST not in metadata:
        say_once(f"{path} has no checksum, as an earlier version wrote it: damage to its numbers would not be noticed")
    elif metadata[_DIGEST] != _digest(tensors, metadata):
        raise UserError(f"{path} is damaged, or was changed by another tool: its numbers do not have their checksum")
    try:
        return tensors, {
            key: json.loads(metadata[key])
            for key in ("spec", "names", "strides", "imgsz")
            if key != "imgsz" or key in metadata
        }
    except (KeyError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: its description of the model is malformed ({error})") from error
