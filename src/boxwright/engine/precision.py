"""Precision as a policy: which number format a step computes in, its autocast context and its gradient scaler."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from boxwright.errors import UserError

PrecisionName = Literal["fp32", "bf16", "fp16"]
_DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Policy:
    """How a step computes. Weights stay fp32; bf16 and fp16 are used inside autocast only."""

    name: PrecisionName
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPES[self.name]

    def autocast(self) -> AbstractContextManager[object]:
        """The context of the forward pass and the loss."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def make_scaler(self) -> torch.amp.GradScaler:
        """Scale the loss in fp16, whose small gradients would underflow; elsewhere a scaler that does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")


def resolve(precision: str, device: torch.device) -> Policy:
    """Choose the policy for a setting on a device.

    Args:
        precision: fp32, bf16, fp16, or auto: bf16 on CPUs with AVX512-BF16 or AMX and on GPUs that have it, else fp32
            on the CPU and fp16 on a GPU.
        device: where the step runs.

    Raises:
        UserError: fp16 on the CPU, where PyTorch has no fast fp16 kernels, or an unknown name.
    """
    if precision == "auto":
        if device.type == "cuda":
            # is_bf16_supported() alone counts emulation; compute capability 8 is the first with bf16 units.
            precision = "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
        else:
            precision = "bf16" if device.type == "cpu" and cpu_has_bf16() else "fp32"
    if precision not in _DTYPES:
        raise UserError(f"precision '{precision}' is not known; give auto, fp32, bf16 or fp16")
    if precision == "fp16" and device.type == "cpu":
        raise UserError("precision fp16 needs a GPU; on the CPU give auto, bf16 or fp32")
    return Policy(precision, device)  # type: ignore[arg-type]  # checked against _DTYPES above


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor multiplies bf16 in hardware (AVX512-BF16 or AMX)."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        return False
    flags = next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set[str]())
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16"})
