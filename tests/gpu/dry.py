"""A GPU that is not there: tensors that know shape, type and device, and a watch over what a step does with them.

`torch._subclasses.fake_tensor` gives tensors of a device "cuda" without a driver. Two things do not run on them, as
they ask the driver: the backward pass and fused optimizers. The backward pass runs on the device "meta" instead, where
the code takes the same branches (it asks for "cpu", never for "meta").
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from boxwright.engine.device import Policy
from boxwright.engine.evaluate import eval_mode
from boxwright.engine.stopping import Interrupt
from boxwright.engine.trainer import Trainer

CUDA, META = torch.device("cuda", 0), torch.device("meta")
# Operators whose result has a shape, or is a number, that the host has to wait for.
WAITS = (
    "nonzero",
    "_local_scalar_dense",
    "masked_select",
    "item",
    "equal",
    "unique",
    "unique2",
    "bincount",
    "is_nonzero",
)


class Fake(FakeTensorMode):
    """The mode of one test; a copied network stays in it."""

    def __deepcopy__(self, _: Any) -> Fake:
        return self


class SlipError(AssertionError):
    """What a step must not do on a GPU."""


class Watch(TorchDispatchMode):
    """Refuses operators that mix devices, that copy from one to another, and that ask the device for a value."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.calls: list[str] = []  # names of all operators

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func.overloadpacket.__name__)
        self.calls.append(name)
        if name in WAITS:
            raise SlipError(f"{name} waits for the device")
        if name in ("index", "index_put", "index_put_") and any(
            place is not None and place.dtype in (torch.bool, torch.uint8) for place in args[1]
        ):
            raise SlipError("a boolean index has a shape that data decides")
        self._check(name, (args, kwargs))
        result = func(*args, **(kwargs or {}))
        self._check(name, result)
        return result

    def _check(self, name: str, values: Any) -> None:
        for value in tree_leaves(values):
            if isinstance(value, Tensor) and value.device != self.device:
                raise SlipError(f"{name} has a tensor on {value.device}")


class _Event:
    def __init__(self, **_: Any) -> None: ...

    def record(self, *_: Any) -> None: ...


class _Stream:
    """Stands for a stream; writes down who waits for whom."""

    log: list[str] = []  # noqa: RUF012  # emptied by `pretended_gpu`

    def __init__(self, *_: Any, name: str = "side", **__: Any) -> None:
        self.name = name

    def wait_stream(self, other: _Stream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")

    def __enter__(self) -> None:
        self.log.append(f"on {self.name}")

    def __exit__(self, *_: object) -> None: ...


@contextmanager
def pretended_gpu() -> Generator[list[str]]:
    """Let torch believe in a GPU: its streams, events and autocast, but no kernel. Yields what streams did."""
    main = _Stream(name="main")
    _Stream.log = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
        patch.setattr(torch.cuda, "Event", _Event)
        patch.setattr(torch.cuda, "Stream", _Stream)
        patch.setattr(torch.cuda, "current_stream", lambda *_: main)
        patch.setattr(torch.cuda, "stream", lambda stream: stream)
        patch.setattr(Tensor, "record_stream", lambda *_: None)
        patch.setattr(torch.cuda, "synchronize", _synchronize)
        yield _Stream.log


def _synchronize(*_: Any) -> None:
    raise SlipError("synchronize waits for the device")


@contextmanager
def meta_without_autocast() -> Generator[None]:
    """Let code enter an autocast context of the device meta, which has none."""
    real, asked = torch.autocast, torch.is_autocast_enabled
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch,
            "autocast",
            lambda device_type, *a, **k: nullcontext() if device_type == "meta" else real(device_type, *a, **k),
        )
        patch.setattr(torch, "is_autocast_enabled", lambda *kind: kind != ("meta",) and asked(*kind))
        yield


def placed(values: Any, device: torch.device, fake: Fake | None) -> Any:
    """Return a tensor or dataclass of tensors on a device that is not there; a module is changed itself."""
    if isinstance(values, Tensor):
        with fake or nullcontext():
            made = torch.empty_strided(values.shape, values.stride(), dtype=values.dtype, device=device)
            return nn.Parameter(made, values.requires_grad) if isinstance(values, nn.Parameter) else made
    if isinstance(values, nn.Module):
        for module in values.modules():
            for kept in (module._parameters, module._buffers):
                kept.update({name: placed(value, device, fake) for name, value in kept.items() if value is not None})
        return values
    parts = {part.name: getattr(values, part.name) for part in fields(values)}
    parts = {name: placed(v, device, fake) for name, v in parts.items() if isinstance(v, Tensor) or is_dataclass(v)}
    return replace(values, **parts)


class Batches:
    """Stands for a loader: batches that are where they are sent, whatever `to` says."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches) + 1  # the last step of an epoch reports, which waits on purpose

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)

    def batches(self, *_: Any) -> Iterator[Any]:
        yield from self._batches

    def close(self) -> None: ...


def train_dry(trainer: Trainer, device: torch.device, fake: Fake | None) -> Watch:
    """Run the steps of an epoch under a watch; on CUDA gradients are made up and no weight is updated."""
    clip = nn.utils.clip_grad_norm_
    parameters = [p for group in trainer.optimizer.param_groups for p in group["params"]]

    def backward(total: Tensor, *_: Any, **__: Any) -> None:
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.optimizer, "step", lambda *_, **__: None)
        if device == CUDA:
            patch.setattr(Tensor, "backward", backward)
        else:  # for which nothing is done to many tensors at once
            patch.setattr(nn.utils, "clip_grad_norm_", lambda p, max_norm, **_: clip(p, max_norm, foreach=False))
        with fake or nullcontext(), Watch(device) as watch, Interrupt() as interrupt:
            trainer.train_epoch(interrupt)
    return watch


def evaluated_dry(task: Any, patch: pytest.MonkeyPatch, module: Any, loader: Batches, fake: Fake) -> tuple[Any, Any]:
    """Run the stages of a validation up to NMS under a watch; return the raw output and the losses."""
    found: list[Any] = []

    def stages_of(model: nn.Module, batches: Any, stages: Any, *_: Any, **__: Any) -> None:
        with fake, Watch(CUDA), torch.no_grad(), eval_mode(model):
            for batch in batches:
                ready = stages.prepare(batch)
                raw = stages.forward(ready)
                found[:] = [raw, stages.losses(raw, ready)]
        raise _DoneError

    patch.setattr(module, "evaluate", stages_of)
    task.val_loader = loader
    with pytest.raises(_DoneError):
        task.evaluate(task.model, Policy("bf16", CUDA).autocast)
    return found[0], found[1]


class _DoneError(Exception): ...
