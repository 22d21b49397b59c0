"""Values between processes: they come out as they went in, and bytes of someone else build nothing."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from boxwright.engine.exchange import pack, unpack

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
KEYS = st.booleans() | st.integers() | st.text() | st.tuples(st.integers(), st.text())


@dataclass(frozen=True)
class Found:
    boxes: torch.Tensor
    name: str


@given(st.recursive(PLAIN, lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner)))
def test_plain_values_come_out_as_they_went_in(value: object) -> None:
    found = unpack(pack(value))
    assert found == value
    assert repr(found) == repr(value)  # 1, 1.0 and True are equal, but not the same


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64, torch.uint8])
@pytest.mark.parametrize("shape", [(1, 1), (0, 4), (2, 3)])
def test_tensors_keep_type_shape_and_bits(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.rand(shape) * 200).to(dtype)
    found = unpack(pack({"x": (tensor.mT, [tensor])}))["x"]
    assert found[0].dtype == dtype
    assert torch.equal(found[0], tensor.mT)
    assert torch.equal(found[1][0], tensor)


def test_tensors_keep_how_they_lie_in_memory() -> None:
    """A momentum in another layout than its weights is added with other rounding."""
    images = torch.rand(4, 3, 5, 6)
    for tensor in (images, images.to(memory_format=torch.channels_last), images[:1, :, :1, :1].contiguous(), images.mT):
        found = unpack(pack(tensor))
        assert found.stride() == tensor.stride()
        assert torch.equal(found, tensor)
    part = images[:, 1:, ::2]
    assert torch.equal(unpack(pack(part)), part)
    whole = pack(torch.ones(2, 3))
    with pytest.raises(RuntimeError):
        unpack(whole.replace(b"[3, 1]", b"[9, 1]"))


def test_paths_arrays_and_named_classes() -> None:
    value = [Path("a/\udcff"), np.arange(6, dtype=np.int16).reshape(2, 3), Found(torch.ones(2), "x")]
    path, array, found = unpack(pack(value, Found), Found)
    assert path == value[0]
    assert (array.dtype, array.tolist()) == (np.int16, [[0, 1, 2], [3, 4, 5]])
    assert type(found) is Found
    assert torch.equal(found.boxes, torch.ones(2))
    with pytest.raises(TypeError, match="a Found cannot be sent"):
        pack(value)


def test_what_was_not_packed_builds_nothing() -> None:
    whole = pack([torch.ones(4), "text"])
    for data in (pickle.dumps(print), whole[:-1], b"\x02" + bytes(7) + b"[]", b"\x05" + bytes(7) + b'["x"]'):
        with pytest.raises((ValueError, TypeError)):
            unpack(data)
    with pytest.raises(IndexError):
        unpack(pack(Found(torch.ones(1), ""), Found))  # the receiver has named no class
