"""The batch size that memory allows, for `--batch-size -1`: measured at small batches, then on a line.

Source of the rule: published YOLOv5 AutoBatch (docs/spec/yolov5.md, B6): batches of 1, 2, 4, 8 and 16, three runs each,
a straight line through what they took, 0.8 of what is free. On the CPU, where published AutoBatch measures nothing, two
small batches are run once and the bytes are counted that the forward pass keeps for the backward pass.

What is not here: finding out by failing. A size that is too large is seen in the first steps of the run.
"""

import copy
import gc
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from boxwright.engine.device import Policy
from boxwright.engine.distributed import World
from boxwright.errors import UserError
from boxwright.machine import available_memory
from boxwright.terminal import counted
from boxwright.yolo.detection import DetectionModel
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.task import batch_unit, largest_side

FRACTION: Final = 0.8  # published: the rest is for what was not measured
LARGEST: Final = 1024
FALLBACK: Final = 16  # published: where the line leads nowhere
GPU_BATCHES: Final = (1, 2, 4, 8, 16)
CPU_BATCHES: Final = (1, 3)
_RUNS: Final = 3
# Gradients of activations live only from one layer to the next, but the widest layers come together with their
# workspace: for yolov5n and yolov5s at 320 and 640 resident memory rises to 1.1 to 1.25 times the bytes kept.
_BACKWARD: Final = 1.3
_COPIES: Final = 4  # of the weights, in float32: gradients, momentum or two moments, and the average
_GIB: Final = 2**30


# Bytes that a training step took at its peak, weights and all, by rising batch of images; None: it did not fit.
Measured = dict[int, int | None]


def published_batch(measured: Measured, free: int) -> int:
    """Compute the batch whose step takes FRACTION of the memory.

    Args:
        measured: up to the first batch that did not fit.
        free: bytes that the process can have, those that it has already among them.

    Returns:
        1 to LARGEST; FALLBACK where the line leads elsewhere. Not beyond the last batch that fitted if one did not.
    """
    fitted = [(batch, taken) for batch, taken in measured.items() if taken is not None]
    if len(fitted) < 2:
        return fitted[0][0] if fitted and len(measured) > 1 else FALLBACK
    slope, intercept = np.polyfit(*zip(*fitted, strict=True), deg=1).tolist()
    batch = int((free * FRACTION - intercept) / slope) if slope > 0 else 0
    failed = next((batch for batch, taken in measured.items() if taken is None), LARGEST + 1)
    if batch >= failed:
        return fitted[-1][0]
    return batch if 1 <= batch <= LARGEST else FALLBACK


def estimated_batch(measured: dict[int, int], free: int) -> int:
    """Compute the same from an estimate, which cannot fail: outside of 1 to LARGEST the nearer end is taken."""
    (small, low), (large, high) = measured.items()
    slope = (high - low) / (large - small)
    room = free * FRACTION - (low - slope * small)
    return min(max(int(room / slope), 1), LARGEST) if slope > 0 else FALLBACK


def shared_batch(one: int, num_images: int, unit: int, num_ranks: int) -> int:
    """Limit the batch of all ranks to a multiple of `unit`, to LARGEST and to what the images fill.

    `one`: images that one rank can take.
    """
    most = min(LARGEST // unit, -(-num_images // unit))
    return max(min(one * num_ranks // unit, most), 1) * unit


def with_fitting_batch(
    config: RunConfig, model: DetectionModel, num_images: int, policy: Policy, world: World
) -> RunConfig:
    """Replace a batch size of -1 by what fits; print what was measured. Other settings stay as they are.

    Args:
        config: sides are multiples of the largest stride.
        model: a copy of it is run.
        num_images: size of the training set.
        policy: device and precision.
        world: the first process measures for all.

    Raises:
        UserError: a single image does not fit.
    """
    if config.batch_size != -1:
        return config
    size, problem = 0, ""
    if world.is_first:
        try:
            size = _measured_batch(config, model, num_images, policy, world)
        except UserError as error:  # the others wait, and must hear of it
            problem = str(error)
    size, problem = world.from_first((size, problem))
    if problem:
        raise UserError(problem)
    return config.model_copy(update={"batch_size": size})


def _measured_batch(config: RunConfig, model: DetectionModel, num_images: int, policy: Policy, world: World) -> int:
    """Measure small batches and print what follows from them."""
    # A copy in training mode: passes move the statistics of batch norms, and the run begins with untouched ones.
    network = copy.deepcopy(model).to(policy.device, memory_format=torch.channels_last).train()  # pyright: ignore
    side = largest_side(config, max(model.strides))
    measured: Measured = {}
    if policy.device.type == "cuda":
        measured, free = measure_cuda(network, side, policy)
        one = published_batch(measured, free)
    else:
        estimated = measure_cpu(network, side, policy, loaded_ahead=2 * world.loader_workers(config.workers) + 1)
        free = (available_memory() or _GIB) // world.local_size
        one = estimated_batch(estimated, free)
        measured |= estimated
    if measured[1] is None:
        raise UserError(
            f"--batch-size -1: not even one image of {side} pixels fits in the {free / _GIB:.1f} GiB of memory; "
            "take a lower --imgsz or a smaller --model"
        )
    size = shared_batch(one, num_images, batch_unit(config, world.size), world.size)
    words = {batch: "does not fit" if taken is None else f"{taken / _GIB:.2f}" for batch, taken in measured.items()}
    taken = ", ".join(f"{batch}: {word}" for batch, word in words.items())
    shared = f", shared by {world.size} processes" if world.size > 1 else ""
    print(
        f"--batch-size -1: training steps at {side} pixels took these GiB by batch size: {taken}; "
        f"{free / _GIB:.2f} GiB are there for a process, {FRACTION:g} of which are used: --batch-size {size}{shared}"
    )
    if size >= num_images:
        print(
            f"more would fit, but there {'is' if num_images == 1 else 'are'} {counted(num_images, 'image')} to train on"
        )
    return size


def measure_cuda(network: nn.Module, side: int, policy: Policy) -> tuple[Measured, int]:
    """Measure the peak memory of steps on a GPU, up to the first batch that does not fit, and what there is."""
    device = policy.device
    measured: Measured = {}
    # What the allocator of this process has set aside is free for it, though not for others.
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    for batch in GPU_BATCHES:
        _empty(network)
        torch.cuda.reset_peak_memory_stats(device)
        try:
            for _ in range(_RUNS):
                _step(network, batch, side, policy)
        except torch.cuda.OutOfMemoryError:
            measured[batch] = None
            break
        measured[batch] = torch.cuda.max_memory_reserved(device)
    _empty(network)
    return measured, free


def measure_cpu(network: nn.Module, side: int, policy: Policy, loaded_ahead: int) -> dict[int, int]:
    """Estimate the bytes that steps of two batches take on the CPU.

    Args:
        network: in training mode.
        side: of the square images, pixels.
        policy: precision.
        loaded_ahead: batches that wait in loader processes, one byte a value.
    """
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    measured: dict[int, int] = {}
    for batch in CPU_BATCHES:
        kept = kept_bytes(lambda batch=batch: _step(network, batch, side, policy), exclude=network)
        _empty(network)
        waiting = batch * 3 * side * side * loaded_ahead
        measured[batch] = int(kept * _BACKWARD) + weights * _COPIES + waiting
    return measured


def kept_bytes(run: Callable[[], Any], exclude: nn.Module) -> int:
    """Count the bytes of all tensors that a forward pass keeps for the backward pass, each memory block once.

    Args:
        run: forward and backward pass.
        exclude: its weights and buffers, which are there in any case, do not count.
    """
    own = {value.untyped_storage().data_ptr() for value in (*exclude.parameters(), *exclude.buffers())}
    blocks: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            blocks[storage.data_ptr()] = storage.nbytes()  # kept alive until the backward pass: addresses are unique
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        run()
    return sum(blocks.values())


def _step(network: nn.Module, batch: int, side: int, policy: Policy) -> None:
    """Run a forward and a backward pass of black images; the loss itself takes next to nothing."""
    images = torch.zeros(batch, 3, side, side, device=policy.device).contiguous(memory_format=torch.channels_last)
    with policy.autocast():
        outputs: list[Tensor] = network(images)
        total = torch.stack([output.float().sum() for output in outputs]).sum()
    total.backward()


def _empty(network: nn.Module) -> None:
    """Release gradients and cached memory, so that the next measurement starts at the bottom."""
    network.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
