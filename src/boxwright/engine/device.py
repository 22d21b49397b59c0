"""The name of a device, as users type it, to a torch device."""

from __future__ import annotations

import re

import torch

from boxwright.engine.distributed import World
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
        several = "several GPUs are for `boxwright train` alone; " if "," in name else ""
        raise UserError(f"device '{name}' is not understood; {several}give cpu, or one GPU as 0 or cuda:0")
    number, present = int(match[1]), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number >= present:
        there = f"{present} GPU(s), numbered from 0" if present else "no GPU that this PyTorch can use"
        raise UserError(f"device '{name}' is not there: this machine has {there}; --device cpu runs on the CPU")
    return torch.device("cuda", number)


def count_processes(device: str, nproc: int) -> int:
    """How many processes of this machine a run is meant to have: one for each of several GPUs, or `nproc`.

    Raises:
        UserError: the two do not agree, or a GPU is named twice or not there.
    """
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
    """The device of one of several processes: the CPU for all, or a GPU for each.

    Args:
        device: as for `select_device`; empty or cuda: as many GPUs as there are processes; several: `0,1`.
        world: how many processes this machine has, and which of them this one is.

    Raises:
        UserError: there is no GPU for each process.
    """
    names = device.split(",")
    wanted = device.strip().lower()
    if len(names) > 1:
        if len(names) != world.local_size:
            raise UserError(
                f"--device {device} names {len(names)} GPUs, but there are {world.local_size} processes on this machine"
            )
        return _made_current(select_device(names[world.local_rank]))
    if world.local_size == 1 or wanted == "cpu" or (not wanted and not torch.cuda.is_available()):
        return select_device(device)
    if wanted not in ("", "cuda"):
        raise UserError(
            f"--device {device} is one GPU for {world.local_size} processes on this machine; name one for each, as in "
            "--device 0,1, or leave it out"
        )
    return _made_current(select_device(str(world.local_rank)))


def _made_current(device: torch.device) -> torch.device:
    """What is pickled and gathered goes by the current GPU, so that each process needs its own."""
    torch.cuda.set_device(device)
    return device
