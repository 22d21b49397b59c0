"""Recorded steps, by a graph that keeps what is run while it is recorded and runs it when it is replayed."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from boxwright.engine import cuda_graph
from boxwright.engine.cuda_graph import CapturedStep, check_cuda_graph
from boxwright.errors import UserError

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Images:
    images: Tensor


class Graph:
    recording: Graph | None = None

    def __init__(self) -> None:
        self.runs: list[Callable[[], None]] = []
        self.replayed = 0

    def replay(self) -> None:
        self.replayed += 1
        for run in self.runs:
            run()


class Stream:
    def __init__(self, *_: Any) -> None: ...

    def wait_stream(self, other: Stream) -> None: ...


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    made: list[Graph] = []

    def make() -> Graph:
        made.append(Graph())
        return made[-1]

    @contextmanager
    def record(graph: Graph, **_: Any) -> Generator[None]:
        Graph.recording = graph
        try:
            yield
        finally:
            Graph.recording = None

    monkeypatch.setattr(torch.cuda, "CUDAGraph", make)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: Stream())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    return made


class Line:
    """A step that is not run while it is recorded, as on a GPU."""

    def __init__(self) -> None:
        self.model = nn.Linear(3, 1, bias=False)

    def __call__(self, batch: Images, loss_scale: float) -> Tensor:
        items = torch.zeros(1)

        def run() -> None:
            total = self.model(batch.images).sum() * loss_scale
            total.backward()
            items.copy_(total.detach())

        if Graph.recording is None:
            run()
        else:
            Graph.recording.runs.append(run)
        return items


def gradients(step: Callable[[Any, float], Tensor], line: Line, batches: list[tuple[Images, float]]) -> list[Tensor]:
    """The gradients after each batch, which add up over two, and then the items of all."""
    found: list[Tensor] = []
    items: list[Tensor] = []
    for number, (batch, scale) in enumerate(batches):
        items.append(step(batch, scale))
        assert line.model.weight.grad is not None
        found.append(line.model.weight.grad.clone())
        if number % 2:
            line.model.zero_grad(set_to_none=False)
    return found + items


def test_replayed_steps_give_what_the_step_gives(graphs: list[Graph]) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [2, 2, 2, 2, 4, 2, 4, 4, 4, 2, 2]
    batches = [(Images(torch.randn(size, 3, generator=generator)), 1.0) for size in sizes]
    batches.append((batches[0][0], 0.5))  # another factor is another graph
    line, again = Line(), Line()
    again.model.load_state_dict(line.model.state_dict())
    plain = gradients(line, line, batches)
    replayed = gradients(CapturedStep(again, CPU), again, batches)
    torch.testing.assert_close(replayed, plain, rtol=0, atol=0)
    # Three of a shape are run as they are: of the seven batches of two images four are replayed, of those of four one.
    assert [graph.replayed for graph in graphs] == [4, 1]


def test_few_shapes_are_kept(graphs: list[Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graph, "_MOST_GRAPHS", 1)
    line = Line()
    step = CapturedStep(line, CPU)
    for size in [1] * 5 + [2] * 5:
        step(Images(torch.ones(size, 3)), 1.0)
    assert [graph.replayed for graph in graphs] == [2]


def test_a_step_that_cannot_be_recorded_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(batch: Images, loss_scale: float) -> Tensor:
        if Graph.recording is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        return torch.zeros(1)

    captured = CapturedStep(step, CPU)
    for _ in range(3):
        captured(Images(torch.ones(1, 3)), 1.0)
    with pytest.raises(UserError, match="--cuda-graph: this step cannot be recorded; leave it out"):
        captured(Images(torch.ones(1, 3)), 1.0)


@pytest.mark.parametrize(("device", "size", "says"), [("cpu", 1, "needs a GPU"), ("cuda:0", 2, "for one GPU")])
def test_runs_that_have_no_graph(device: str, size: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_cuda_graph(torch.device(device), size)
