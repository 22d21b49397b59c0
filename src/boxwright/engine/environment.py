"""What a run computes with: versions, processor, GPUs, memory."""

import contextlib
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from boxwright.engine.device import cpu_has_bf16, select_device
from boxwright.errors import UserError
from boxwright.machine import available_memory, processor_name
from boxwright.terminal import counted

# Of which results, or what can be done at all, depend; the last ones come with extras.
_PACKAGES = """
    numpy torchvision opencv-python-headless opencv-python pillow scipy hotcoco safetensors
    onnx onnxscript onnxruntime onnxruntime-gpu openvino ncnn optuna mlflow-skinny wandb clearml comet_ml
""".split()
_GIB = 2**30
_VERSION = sys.modules["boxwright"].__version__  # importing it would count as one of all that it offers


def environment_line(device: str, processes: int = 1) -> str:
    """Describe versions, each device and memory in one line.

    Args:
        device: as the setting says, also several GPUs; of one that is not there nothing is said.
        processes: of this machine, each of which takes a GPU of its own where the setting names none.
    """
    if device.strip().lower() in ("", "cuda") and torch.cuda.is_available():
        device = ",".join(map(str, range(processes)))
    places = " and ".join(dict.fromkeys(_place(torch.device("cuda", n) if n >= 0 else None) for n in _gpus(device)))
    free = available_memory()
    memory = f", {free / _GIB:.1f} GiB of memory free" if free is not None and "GiB" not in places else ""
    return f"boxwright {_VERSION}, Python {platform.python_version()}, torch {torch.__version__}, {places}{memory}"


def environment_table() -> str:
    """List versions, devices and memory, a line each."""
    rows = list(_rows())
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _rows() -> Iterator[tuple[str, str]]:
    yield "boxwright", f"{_VERSION} in {Path(__file__).parents[1]}"
    yield "Python", f"{platform.python_version()}, {platform.platform()}"
    yield "torch", torch.__version__
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            yield package, version(package)
    cores = counted(os.cpu_count() or 1, "core")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    bf16 = "bf16 in hardware" if cpu_has_bf16() else "no bf16 in hardware"
    yield "CPU", f"{processor_name()}, {cores}, {usable} usable, {counted(torch.get_num_threads(), 'thread')}, {bf16}"
    free = available_memory()
    yield "memory free", "not known" if free is None else f"{free / _GIB:.1f} GiB"
    if not torch.cuda.is_available():
        yield "GPU", "none that this PyTorch can use"
        return
    yield "CUDA, cuDNN", f"{torch.version.cuda}, {torch.backends.cudnn.version()}"
    for number in range(torch.cuda.device_count()):
        yield f"GPU {number}", _place(torch.device("cuda", number)).partition(" ")[2]


def _gpus(device: str) -> list[int]:
    """Return the numbers of the GPUs that a setting names; -1 is the CPU, or the GPU of a Mac."""
    try:
        places = [select_device(name) for name in device.split(",")]
    except UserError:  # told where it is used
        return [-1]
    return [place.index or 0 if place.type == "cuda" else -1 for place in places]


def _place(gpu: torch.device | None) -> str:
    if gpu is None:
        return f"CPU {processor_name()} ({counted(os.cpu_count() or 1, 'core')})"
    about = torch.cuda.get_device_properties(gpu)
    return f"cuda:{gpu.index} {about.name} ({about.total_memory / _GIB:.0f} GiB)"
