"""Values that processes send each other, as json and the bytes of tensors: nothing that arrives can run code.

A tag says which of list, tuple, dict, path, tensor and array a value is; a data class is accepted only where the
receiver names it.
"""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

_HEAD = 8  # bytes that say how long the json is
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_WHOLE = (torch.bool, torch.uint8, torch.int64, torch.int32, torch.int16, torch.int8)
_DTYPES = {str(dtype): dtype for dtype in (*_FLOATS, *_WHOLE)}
_ARRAY_KINDS = "fiub"


def pack(value: object, *classes: type) -> bytes:
    """Write a value as bytes.

    Args:
        value: plain values, paths, tensors (which arrive on the CPU) and arrays, nested in lists, tuples and dicts.
        classes: data classes that may be in it.

    Raises:
        TypeError: it holds something else.
    """
    numbers: list[bytes] = []

    def plain(item: Any) -> Any:
        if item is None or type(item) in (bool, int, float, str):
            return item
        if type(item) in (list, tuple):
            return [type(item).__name__, *map(plain, item)]
        if isinstance(item, Mapping):
            return ["dict", *([plain(key), plain(kept)] for key, kept in cast(Mapping[Any, Any], item).items())]
        if isinstance(item, Path):
            return ["path", str(item)]
        if type(item) is bytes:
            numbers.append(item)
            return ["bytes", len(item)]
        if isinstance(item, Tensor):
            values = item.detach().cpu()
            # With its strides: a state that is laid out in another way is updated with other rounding.
            order = sorted(range(values.dim()), key=lambda d: -values.stride(d))
            if not values.permute(order).is_contiguous():
                values = values.contiguous()
            flat = values.as_strided((values.numel(),), (1,))
            numbers.append(flat.view(torch.uint8).numpy().tobytes())
            return ["tensor", str(values.dtype), list(values.shape), list(values.stride()), len(numbers[-1])]
        if isinstance(item, np.ndarray) and item.dtype.kind in _ARRAY_KINDS:
            numbers.append(item.tobytes())
            return ["array", item.dtype.str, list(item.shape), len(numbers[-1])]
        if type(item) in classes and is_dataclass(item):
            return ["class", classes.index(type(item)), *(plain(getattr(item, field.name)) for field in fields(item))]
        raise TypeError(f"a {type(item).__name__} cannot be sent to another process")

    # Surrogates, as in paths that are not UTF-8, are escaped.
    head = json.dumps(plain(value)).encode()
    return b"".join((len(head).to_bytes(_HEAD, "little"), head, *numbers))


def unpack(data: bytes | memoryview, *classes: type) -> Any:
    """Read what `pack` wrote; `classes` are the same.

    Raises:
        ValueError: it is something else.
    """
    place = _HEAD + int.from_bytes(data[:_HEAD], "little")
    head = json.loads(bytes(data[_HEAD:place]))

    def take(size: int) -> bytearray:
        nonlocal place
        place += size
        if size < 0 or place > len(data):
            raise ValueError("a value from another process is cut short")
        return bytearray(data[place - size : place])

    def value(item: Any) -> Any:
        if not isinstance(item, list):
            return item
        tag, *parts = cast(list[Any], item)
        match tag:
            case "list":
                return [value(part) for part in parts]
            case "tuple":
                return tuple(value(part) for part in parts)
            case "dict":
                return {value(key): value(kept) for key, kept in parts}
            case "path":
                return Path(parts[0])
            case "bytes":
                return bytes(take(parts[0]))
            case "tensor":
                dtype, shape, stride, size = _DTYPES[parts[0]], *parts[1:]
                flat = torch.frombuffer(take(size), dtype=dtype) if size else torch.empty(0, dtype=dtype)
                return flat.as_strided(shape, stride)  # which looks that it stays inside
            case "array":
                dtype = np.dtype(parts[0])
                if dtype.kind not in _ARRAY_KINDS:
                    raise ValueError(f"an array of {dtype} from another process")
                return np.frombuffer(take(parts[2]), dtype).reshape(parts[1])
            case "class":
                return classes[parts[0]](*(value(part) for part in parts[1:]))
            case _:
                raise ValueError(f"a value from another process is of an unknown kind {tag!r}")

    return value(head)
