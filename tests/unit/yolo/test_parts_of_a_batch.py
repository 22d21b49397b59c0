"""Several processes share a batch: losses and gradients of its parts add up to those of the whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from boxwright.data.structures import Targets
from boxwright.yolo.loss import LossOutput, SumOverRanks, YoloLoss, YoloV3Loss
from boxwright.yolo.settings import LossConfig

ANCHORS = torch.tensor([[[1.0, 1.2], [2.0, 1.5], [1.5, 2.5]]]).repeat(3, 1, 1)
CONFIG = LossConfig(autobalance=True, fl_gamma=0.5)
Criterion = YoloLoss | YoloV3Loss


def make_v5(over_ranks: SumOverRanks) -> Criterion:
    return YoloLoss(ANCHORS, [8, 16, 32], 2, CONFIG, 64, over_ranks=over_ranks)


def make_v3(over_ranks: SumOverRanks) -> Criterion:
    return YoloV3Loss(ANCHORS, 2, CONFIG, 64, over_ranks=over_ranks)


class OneAfterTheOther:
    """Sums over processes that run in turn: each runs until it lacks a sum, then all do so again with it."""

    def __init__(self) -> None:
        self.known: list[Tensor] = []
        self.parts: list[Tensor] = []
        self.calls = 0

    def __call__(self, values: Tensor) -> Tensor:
        self.calls += 1
        if self.calls <= len(self.known):
            return self.known[self.calls - 1]
        self.parts.append(values)
        raise LookupError

    def run(self, processes: list[Callable[[], LossOutput]]) -> list[LossOutput]:
        while True:
            outputs: list[LossOutput] = []
            for process in processes:
                self.calls = 0
                try:
                    outputs.append(process())
                except LookupError:
                    continue
            if outputs:
                return outputs
            self.known.append(torch.stack(self.parts).sum(dim=0))
            self.parts = []


@pytest.mark.parametrize("make", [make_v5, make_v3])
@pytest.mark.parametrize("sizes", [(3, 3), (1, 5), (5, 1, 0)], ids=str)
def test_parts_add_up(make: Callable[[SumOverRanks], Criterion], sizes: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    count, labels = sum(sizes), 4
    maps = [torch.randn(count, 3, side, side, 7, generator=generator) for side in (8, 4, 2)]
    targets = Targets(
        torch.rand(count, labels, 4, generator=generator) * 0.5 + 0.1,
        torch.randint(0, 2, (count, labels), generator=generator),
        torch.rand(count, labels, generator=generator) > 0.3,
    )
    targets.valid[0] = True  # uneven
    whole_maps = [level.clone().requires_grad_() for level in maps]
    criterion = make(lambda values: values)
    whole = criterion(whole_maps, targets)
    whole.total.backward()

    sums = OneAfterTheOther()
    criteria = [make(sums) for _ in sizes]
    rows = torch.arange(count).split(list(sizes))
    parts = [[level[part].clone().requires_grad_() for level in maps] for part in rows]

    def process(rank: int) -> LossOutput:
        share = Targets(*(field[rows[rank]] for field in (targets.boxes_cxcywh, targets.labels, targets.valid)))
        return criteria[rank](parts[rank], share)

    outputs = sums.run([lambda rank=rank: process(rank) for rank in range(len(sizes))])
    torch.testing.assert_close(sum(output.total for output in outputs), whole.total)
    for output, criterion_of_rank in zip(outputs, criteria, strict=True):
        torch.testing.assert_close(output.items, whole.items)
        torch.testing.assert_close(criterion_of_rank.state_dict(), criterion.state_dict())
        output.total.backward()
    for level, of_whole in enumerate(whole_maps):
        of_parts = torch.cat([part[level].grad for part in parts])  # type: ignore[misc]  # backward has run
        torch.testing.assert_close(of_parts, of_whole.grad)
