"""What a pickle may name and call, and the harmless things that stand for it: the closed list.

A name stays a name: nothing is imported, no attribute is looked up. The few callables that a checkpoint needs are
functions of this file; an object of a foreign class becomes a `StandIn`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

STAND_IN_MODULES = ("models", "utils", "torch.nn", "__torch__")  # classes of these packages become stand-ins
NATIVE_CLASSES = "__torch__.torch.classes."  # TorchScript's name for classes that are not in its archive
STAND_IN_NAMES = {"argparse.Namespace", "numpy.ndarray"}
STORAGES = {  # name of the storage class -> what it holds
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
FUSED_METHODS = ("fuseforward", "forward_fuse")
NUMBER_TYPES = frozenset(kind + size for kind in "fiu" for size in "1248") | {"b1"}  # of numpy scalars


class RefusedError(Exception):
    """The pickle asks for something that is not on the list."""


class DamagedError(Exception):
    """The file is not what it claims to be."""


@dataclass(frozen=True, slots=True)
class Name:
    """Something that a pickle mentions by module and name. It is never looked up."""

    text: str

    @property
    def is_stand_in(self) -> bool:
        listed = self.text in STAND_IN_NAMES or self.text.startswith(tuple(f"{m}." for m in STAND_IN_MODULES))
        return listed and not self.text.startswith(NATIVE_CLASSES)


@dataclass(slots=True)
class StandIn:
    """An object of a foreign class: the name of the class and the state, inert."""

    class_name: str
    state: dict[str, Any] = field(default_factory=dict[str, Any])


def rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """Build a tensor over a storage, after checking that it lies inside and repeats no element."""
    if type(size) not in (tuple, list) or type(stride) not in (tuple, list) or len(size) > 16:
        raise DamagedError("a tensor has a malformed shape")
    numbers = (offset, *size, *stride)
    if not isinstance(storage, Tensor) or any(type(n) is not int or not 0 <= n < 1 << 62 for n in numbers):
        raise DamagedError("a tensor has a malformed shape")
    num_items, last = 1, offset
    for side, step in zip(size, stride, strict=True):
        num_items *= side
        last += (side - 1) * step
    if num_items > storage.numel() or (num_items and last >= storage.numel()):
        raise DamagedError(f"a tensor of shape {tuple(size)} does not fit into its {storage.numel()} numbers")
    return storage.as_strided(size, stride, offset) if num_items else storage.new_empty(size)


def rebuild_parameter(data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise DamagedError("a parameter is no tensor")
    return data


def scalar_key(value: Any) -> Any:
    """Return a value that may be hashed; nested tuples are refused, whose hash could take for ever."""
    if type(value) not in (str, int, float, bool, bytes, type(None)):
        raise DamagedError(f"a {type(value).__name__} is used as a key")
    return value


def encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Encode text as bytes, as old pickles write them."""
    if type(text) is not str or encoding != "latin1":
        raise DamagedError("bytes in an unknown encoding")
    return text.encode("latin1")


def number_type(code: Any, *_: Any) -> np.dtype[Any]:
    if type(code) is not str or code not in NUMBER_TYPES:
        raise DamagedError("a numpy number of an unknown type")
    return np.dtype(f"<{code}")


def number(dtype: Any, data: Any = b"") -> int | float | bool:
    if not isinstance(dtype, np.dtype) or type(data) is not bytes:
        raise DamagedError("a malformed numpy number")
    return np.frombuffer(data, dtype, count=1)[0].item()


def method_name(owner: Any, name: Any, *_: Any) -> str:
    """Keep the name of a method: networks with folded batch norms replace `forward` in each convolution."""
    if not isinstance(owner, StandIn) or type(name) is not str or name not in FUSED_METHODS:
        raise RefusedError("__builtin__.getattr")
    return name


def typed_list(items: Any) -> list[Any]:
    if type(items) is not list:
        raise DamagedError("a malformed list")
    return items


def device_text(*parts: Any) -> str:
    if any(type(part) not in (str, int) for part in parts):
        raise DamagedError("a malformed device")
    return ":".join(str(part) for part in parts)


# What a pickle may call, and what that stands for here.
CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": rebuild_tensor,
    "torch._utils._rebuild_parameter": rebuild_parameter,
    "torch.Size": lambda sides=(): tuple(sides),
    "torch.device": device_text,
    "collections.OrderedDict": lambda pairs=(): {scalar_key(key): value for key, value in pairs},
    **dict.fromkeys(("__builtin__.set", "builtins.set"), lambda items=(): {scalar_key(item) for item in items}),
    "__builtin__.getattr": method_name,
    "_codecs.encode": encode,
    # TorchScript's lists of one type.
    **{f"torch.jit._pickle.build_{kind}list": typed_list for kind in ("int", "double", "bool", "tensor")},
    "torch.jit._pickle.restore_type_tag": lambda value, _: value,
    "numpy.dtype": number_type,
    **dict.fromkeys(("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"), number),
    # No array in a checkpoint is needed.
    **dict.fromkeys(
        ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
        lambda *_: StandIn("numpy.ndarray"),
    ),
    # Python 3.13 names the module pathlib._local; before and after it is pathlib.
    **{
        f"{module}.{name}": as_text
        for module in ("pathlib", "pathlib._local")
        for name, as_text in (
            *dict.fromkeys(("Path", "PosixPath", "PurePosixPath"), lambda *parts: str(PurePosixPath(*parts))).items(),
            *dict.fromkeys(("WindowsPath", "PureWindowsPath"), lambda *parts: str(PureWindowsPath(*parts))).items(),
        )
    },
}
DTYPES: dict[str, torch.dtype] = {str(dtype): dtype for dtype in STORAGES.values()}  # "torch.float16" and so on
