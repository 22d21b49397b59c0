"""Where and how a run computes: device, precision and threads."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from boxwright.engine.distributed import World
from boxwright.errors import UserError
from boxwright.machine import has_memory_limit, processor_flags
from boxwright.ops.torchvision_operators import load_operators
from boxwright.settings.base import Precision
from boxwright.terminal import counted

if TYPE_CHECKING:
    from boxwright.engine.task import B

_GPU_NAME = re.compile(r"(?:cuda:)?(\d+)")


def select_device(name: str) -> torch.device:
    """Turn a device setting into a device that is there, with operators that fit this torch.

    Args:
        name: "" (the first GPU, else the CPU), "cpu", "cuda", a GPU number such as "0", "cuda:0", or "mps".

    Raises:
        UserError: no such device here, the name is not understood, or torchvision does not fit torch.
    """
    load_operators()  # here, before a verb has written anything
    wanted = name.strip().lower()
    if wanted == "cpu" or (not wanted and not torch.cuda.is_available()):
        return torch.device("cpu")
    if wanted == "mps":
        if not torch.backends.mps.is_available():
            raise UserError("device 'mps' is not there: it is the GPU of a Mac; --device cpu runs on the CPU")
        return torch.device("mps")
    match = _GPU_NAME.fullmatch("0" if wanted in ("", "cuda") else wanted)
    if match is None:
        several = "several GPUs are for `boxwright train` alone; " if "," in name else ""
        raise UserError(f"device '{name}' is not understood; {several}give cpu, one GPU as 0 or cuda:0, or mps")
    number, present = int(match[1]), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number >= present:
        there = f"{counted(present, 'GPU')}, numbered from 0" if present else "no GPU that this PyTorch can use"
        raise UserError(f"device '{name}' is not there: this machine has {there}; --device cpu runs on the CPU")
    return torch.device("cuda", number)


def choose_kernels(*, deterministic: bool) -> None:
    """Let a GPU compute with kernels that give the same bits each time, or with those that it finds fastest."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts; else its sums may differ
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = not deterministic


def allow_tf32(allowed: bool) -> None:
    """Let a GPU round the factors of float32 products to 10 bits, or not; by default torch does so in convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


class BatchMover:
    """Copies batches to a device; to a GPU beside the step that is still running there.

    The host is ahead of the GPU, so that the copy on a stream of its own comes while the GPU works on the batch before.
    It does not wait if the batch lies in page-locked memory, as loaders hand it out.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: B) -> B:
        if self._stream is None:
            return batch.to(self.device)
        with torch.cuda.stream(self._stream):
            moved = batch.to(self.device)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._stream)
        for tensor in tensors_on(moved, self.device):
            tensor.record_stream(current)  # else its memory could be given to the next batch while the step reads it
        return moved


def tensors_on(batch: object, device: torch.device) -> Iterator[torch.Tensor]:
    """Yield the tensors of a batch, a dataclass of tensors and such dataclasses, that lie on a device."""
    if isinstance(batch, torch.Tensor):
        if batch.device.type == device.type:
            yield batch
    elif is_dataclass(batch):
        for part in fields(batch):
            yield from tensors_on(getattr(batch, part.name), device)


_ROOM = 64 << 20  # bytes; the code of all kernels of a network is smaller


@contextmanager
def room_for_kernels() -> Generator[None]:
    """Raise a MemoryError before a convolution where a limit of this process (`ulimit -v`) leaves too little for it.

    oneDNN (of PyTorch 2.15) makes the code of a kernel when it is first needed. Where there was no room for that code,
    the backward pass of a strided convolution calls it all the same, which ends the process. So room is asked for
    first: for the code, and for what the convolution makes before it.
    """
    if not has_memory_limit():
        yield
        return

    def require(num_bytes: int) -> None:
        try:
            mmap.mmap(-1, _ROOM + num_bytes).close()
        except OSError as error:
            raise MemoryError("no room for a convolution") from error

    def before_backward(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Conv2d) and output.requires_grad:
            num_bytes = inputs[0].nbytes + output.nbytes
            require(num_bytes)
            output.register_hook(lambda _: require(num_bytes))

    hook = register_module_forward_hook(before_backward)
    try:
        yield
    finally:
        hook.remove()


_FEW_PROCESSES = 8  # that may share cores, as for a trial


def count_processes(device: str, nproc: int) -> int:
    """Count the processes that a run is to have on this machine: one for each of several GPUs, or `nproc`.

    Raises:
        UserError: the two do not agree, a GPU is named twice or not there, or they are far more than cores and GPUs.
    """
    most = max(_FEW_PROCESSES, os.cpu_count() or 1, torch.cuda.device_count() if torch.cuda.is_available() else 0)
    if nproc > most:  # each takes 300 MB, and a settings file of someone else may ask for thousands
        raise UserError(
            f"--nproc {nproc:,}: this machine has {counted(os.cpu_count() or 1, 'core')}, so at most {most}"
        )
    names = [name.strip().lower().removeprefix("cuda:") for name in device.split(",")]
    if len(names) == 1:
        return nproc
    if not all(name.isdigit() for name in names) or len(set(names)) < len(names):
        raise UserError(f"device '{device}' is not understood; several GPUs are given as 0,1,2")
    if nproc not in (1, len(names)):
        raise UserError(
            f"--nproc {nproc} and the {len(names)} GPUs of --device {device} do not agree: leave out --nproc"
        )
    for name in names:  # here, so that one process says what is missing
        select_device(name)
    return len(names)


def device_of_rank(device: str, world: World) -> torch.device:
    """Select the device of one of several processes: the CPU for all, or a GPU for each.

    Args:
        device: as for `select_device`; empty or cuda: as many GPUs as there are processes; several: `0,1`.
        world: how many processes this machine has, and which of them this one is.

    Raises:
        UserError: there is no GPU for each process.
    """
    names, wanted = device.split(","), device.strip().lower()
    if len(names) > 1 and len(names) != world.local_size:
        raise UserError(
            f"--device {device} names {len(names)} GPUs, but there are {world.local_size} processes on this machine"
        )
    if len(names) == 1:
        if world.local_size == 1 or wanted == "cpu" or (not wanted and not torch.cuda.is_available()):
            return select_device(device)
        if wanted not in ("", "cuda"):
            raise UserError(
                f"--device {device} is one GPU for {world.local_size} processes on this machine; name one for each, as "
                "in --device 0,1, or leave it out"
            )
        names = list(map(str, range(world.local_size)))
    own = select_device(names[world.local_rank])
    torch.cuda.set_device(own)  # objects are gathered through the current GPU
    return own


@dataclass(frozen=True, slots=True)
class Policy:
    """How a step computes. Weights stay fp32; bf16 and fp16 are used inside autocast only."""

    name: Literal["fp32", "tf32", "bf16", "fp16"]
    device: torch.device

    def autocast(self) -> AbstractContextManager[object]:
        """Enter the context of the forward pass and the loss."""
        if self.name in ("fp32", "tf32"):
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16 if self.name == "bf16" else torch.float16)

    def make_scaler(self) -> torch.amp.GradScaler:
        """Scale the loss in fp16, whose small gradients would underflow; elsewhere a scaler that does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")


def resolve(precision: Precision, device: torch.device) -> Policy:
    """Choose the policy for a setting on a device.

    Args:
        precision: fp32, tf32, bf16, fp16, or auto: bf16 on CPUs with AVX512-BF16 or AMX and on GPUs that have it, else
            fp32 on the CPU and fp16 on a GPU.
        device: where the step runs.

    Raises:
        UserError: fp16 or tf32 on the CPU, for which PyTorch has no fast kernels, tf32 on a GPU without it, or any but
            fp32 on a Mac's GPU.
    """
    if precision == "auto":
        if device.type == "cuda":
            # is_bf16_supported() alone counts emulation; compute capability 8 is the first with bf16 units.
            precision = "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
        else:
            precision = "bf16" if device.type == "cpu" and cpu_has_bf16() else "fp32"
    if precision != "fp32" and device.type == "mps":
        raise UserError(f"precision {precision} is not for --device mps; give auto or fp32, and no --half")
    if precision in ("fp16", "tf32") and device.type == "cpu":
        raise UserError(f"precision {precision} needs a GPU; on the CPU give auto, bf16 or fp32")
    if precision == "tf32" and torch.cuda.get_device_capability(device)[0] < 8:
        raise UserError("precision tf32 needs a GPU of compute capability 8.0 or more; give auto, fp16 or fp32")
    return Policy(precision, device)


def widest_floats(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on the GPU of a Mac, which has no other."""
    return torch.float32 if device.type == "mps" else torch.float64


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bf16 in hardware (AVX512-BF16 or AMX); False where the system does not tell."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(processor_flags())


@contextmanager
def one_core_left(device: torch.device) -> Generator[None]:
    """Train on the CPU with all cores but one, which loads images; OMP_NUM_THREADS, where it is set, decides instead.

    The threads of an operator wait for each other many times a step. Where another process holds one of their cores,
    they wait for its whole time slice: on two cores beside one busy process, two threads trained 1.4 times slower than
    one (docs/decisions/0020-threads-of-the-training-step.md). The number must not depend on the loader's workers: sums
    over two threads are rounded differently than over one, and a resume with other workers must give the same bits.
    """
    before = torch.get_num_threads()
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, before - 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)
