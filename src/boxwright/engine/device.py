"""The name of a device, as users type it, to a torch device."""

from __future__ import annotations

import re

import torch

from boxwright.errors import UserError

_GPU_NAME = re.compile(r"(?:cuda:)?(\d+)")


def select_device(name: str) -> torch.device:
    """Turn a device setting into a device that is there.

    Args:
        name: "" (the first GPU, else the CPU), "cpu", "cuda", a GPU number such as "0", or "cuda:0".

    Raises:
        UserError: no such device here, or the name is not understood.
    """
    wanted = name.strip().lower()
    if wanted == "cpu" or (not wanted and not torch.cuda.is_available()):
        return torch.device("cpu")
    match = _GPU_NAME.fullmatch("0" if wanted in ("", "cuda") else wanted)
    if match is None:
        raise UserError(f"device '{name}' is not understood; give cpu, or one GPU as 0 or cuda:0")
    number, present = int(match[1]), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number >= present:
        there = f"{present} GPU(s), numbered from 0" if present else "no GPU that this PyTorch can use"
        raise UserError(f"device '{name}' is not there: this machine has {there}; --device cpu runs on the CPU")
    return torch.device("cuda", number)
