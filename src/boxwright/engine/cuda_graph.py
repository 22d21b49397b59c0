"""Steps that a GPU replays: forward and backward pass, recorded once for each shape of a batch.

A small network leaves a GPU idle between its kernels, as the host needs longer to start one than the GPU to run it. A
recorded graph is started as a whole. Kernels of a graph read and write where they did when it was recorded: batches are
copied to one place, gradients are added to tensors that stay, and what the step gives is copied out.

Source: the documentation of `torch.cuda.graph` on capturing a whole step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic

import torch
from torch import Tensor

from boxwright.engine.device import tensors_on
from boxwright.engine.task import B
from boxwright.errors import UserError

_WARM_UP = 3  # steps of a shape that run as they are: kernels are chosen, libraries make their workspaces
_MOST_GRAPHS = 8  # shapes; each holds the activations of its step


class CapturedStep(Generic[B]):
    """Runs `step` on batches of a GPU; from the fourth batch of a shape on it is replayed.

    Args:
        step: forward and backward pass of a batch and the factor of its loss; adds to the gradients and returns the
            detached items of the loss. It reads nothing else that changes from step to step. Gradients stay the same
            tensors: between updates they are set to 0, not to None.
        device: a GPU.
    """

    def __init__(self, step: Callable[[B, float], Tensor], device: torch.device) -> None:
        self._step, self._device = step, device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._seen: dict[tuple[object, ...], int] = {}
        self._graphs: dict[tuple[object, ...], tuple[torch.cuda.CUDAGraph, B, Tensor]] = {}

    def __call__(self, batch: B, loss_scale: float) -> Tensor:
        """Run the step."""
        tensors = list(tensors_on(batch, self._device))
        key = (loss_scale, *((tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors))
        if key in self._graphs:
            return self._replay(key, tensors)
        self._seen[key] = self._seen.get(key, 0) + 1
        if self._seen[key] <= _WARM_UP or len(self._graphs) >= _MOST_GRAPHS:
            return self._run(batch, loss_scale)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                items = self._step(batch, loss_scale)
        except RuntimeError as error:
            raise UserError(f"--cuda-graph: this step cannot be recorded; leave it out ({error})") from error
        self._graphs[key] = graph, batch, items
        return self._replay(key, tensors)

    def _run(self, batch: B, loss_scale: float) -> Tensor:
        """Run the step as it is, on the stream that will record it: what waits for gradients is bound to one."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            items = self._step(batch, loss_scale)
        current.wait_stream(self._stream)
        return items

    def _replay(self, key: tuple[object, ...], tensors: list[Tensor]) -> Tensor:
        """Copy the batch to where the graph reads, and start the graph."""
        graph, recorded, items = self._graphs[key]
        for place, tensor in zip(tensors_on(recorded, self._device), tensors, strict=True):
            if place is not tensor:
                place.copy_(tensor)
        graph.replay()
        return items.clone()


def check_cuda_graph(device: torch.device, num_processes: int) -> None:
    """Refuse what cannot be recorded.

    Raises:
        UserError: the run has no GPU, or several.
    """
    if device.type != "cuda":
        raise UserError(f"--cuda-graph needs a GPU; this run is on {device}")
    if num_processes > 1:
        raise UserError("--cuda-graph is for one GPU: gradients that processes share are not recorded")
