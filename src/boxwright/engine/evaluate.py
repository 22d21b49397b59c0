"""The one evaluation loop: batches to detections to a metric, with losses on the way.

What differs from system to system is handed in: how a batch is prepared, what the network gives, how that becomes
detections, and the evaluator. What is not here: drawing and files (the val verbs).
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import zip_longest
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from boxwright.engine.task import B, D, ValWatch

Raw = TypeVar("Raw")  # what a network gives for a batch
Result = TypeVar("Result")
DetectionsIn = TypeVar("DetectionsIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)
Found = tuple[list[int], list[Any]]  # positions of the images of a batch, and what was found in each
# Where several ranks share the batches (image i of a batch goes to rank i % n): hands what each found to one.
Gather = Callable[[list[Found]], list[list[Found]]]


class Evaluator(Protocol[DetectionsIn, ResultOut]):
    """Gathers detections batch by batch and turns them into one result."""

    def process(self, detections: Sequence[DetectionsIn], indices: Sequence[int]) -> None:
        """Take the detections of images, on the host, and the positions of these images in their data set."""

    def evaluate(self) -> ResultOut:
        """Reduce what was gathered; finite numbers even if that is nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Speeds:
    """Milliseconds per image of each stage."""

    load: float = 0.0  # waiting for the loader
    preprocess: float = 0.0  # to the device, and to 0..1
    inference: float = 0.0  # network and decoding
    nms: float = 0.0  # and the way back to original pixels
    metrics: float = 0.0


NO_SPEEDS = Speeds()


@dataclass(slots=True)
class Stopwatch:
    """Adds up seconds by stage; waits for a GPU so that its time counts where it was spent."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to a stage."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now

    def speeds(self, num_images: int) -> Speeds:
        """Divide the time of each stage by the images."""
        return Speeds(*(1000 * self.seconds.get(stage.name, 0.0) / max(num_images, 1) for stage in fields(Speeds)))


@dataclass(frozen=True, slots=True)
class Stages(Generic[B, Raw, D]):
    """The steps of one batch in a system."""

    prepare: Callable[[B], B]  # moves a batch to the device, ready for the network
    forward: Callable[[B], Raw]
    detect: Callable[[Raw, B], list[D]]  # what each image shows, on the host
    losses: Callable[[Raw, B], Tensor] | None = None  # (number of losses,)
    takes_empty: bool = False  # also run where other ranks have the images of a step, as for losses summed over ranks


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Iterable[B],
    stages: Stages[B, Raw, D],
    evaluator: Evaluator[D, Result],
    *,
    device: torch.device,
    gather: Gather | None = None,
    watch: ValWatch[B, D] | None = None,
) -> tuple[Result, tuple[float, ...] | None, Speeds]:
    """Run a model over batches and measure what it finds.

    Args:
        model: on `device`; it is in eval mode during the pass and left as it was.
        loader: every image at most once.
        stages: the steps of a batch.
        evaluator: measures on the host; with `gather`, all images in one process and none in the others.
        device: where the network runs.
        gather: hands the detections of all ranks to one.
        watch: called before and after each batch.

    Returns:
        what the evaluator gives; mean losses over batches, if the stages give losses; and the time of each stage.
    """
    items: list[Tensor] = []
    kept: list[Found] = []
    num_images = 0
    clock = Stopwatch(device)
    with eval_mode(model):
        for batch in loader:
            if watch is not None and watch.before is not None:  # of empty batches too: all ranks look for signals
                watch.before(batch)
            if not len(batch) and not stages.takes_empty:
                continue
            clock.lap("load")
            ready = stages.prepare(batch)
            clock.lap("preprocess")
            raw = stages.forward(ready)
            clock.lap("inference")
            detections = stages.detect(raw, ready) if len(batch) else []
            clock.lap("nms")
            found = (batch.indices.tolist(), detections)
            if gather is None:  # at once, so that memory does not grow with the data set
                evaluator.process(found[1], found[0])
            else:
                kept.append(found)
            num_images += len(batch)
            clock.lap("metrics")
            # After the metrics, so that no stage of the published speeds contains the loss.
            if stages.losses is not None:
                items.append(stages.losses(raw, ready))
            if watch is not None and watch.after is not None:
                watch.after(batch, detections)
            clock.lap("other")
    # One gather after the last batch: ranks may have different numbers of batches with images.
    if gather is not None:
        for indices, detections in in_order(gather(kept)):
            evaluator.process(detections, indices)
    result = evaluator.evaluate()
    clock.lap("metrics")
    losses = tuple(torch.stack(items).float().mean(dim=0).tolist()) if items else None
    return result, losses, clock.speeds(num_images)


def in_order(of_ranks: Sequence[Sequence[Found]]) -> Iterator[Found]:
    """Yield the batches that one process would have found: image i of each lies with rank i % n."""
    for shares in zip_longest(*of_ranks, fillvalue=([], [])):  # the last ranks may have skipped an empty batch
        positions = sorted((row, rank) for rank, (indices, _) in enumerate(shares) for row in range(len(indices)))
        yield [shares[rank][0][row] for row, rank in positions], [shares[rank][1][row] for row, rank in positions]


@contextmanager
def eval_mode(model: nn.Module) -> Generator[None]:
    """Put a model into eval mode, and back into the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
