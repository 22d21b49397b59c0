"""The static assignment against a plain loop over labels."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwright.losses.assign_anchor import assign
from boxwright.structures import Targets

ANCHORS = torch.tensor([[1.25, 1.625], [2.0, 3.75], [4.125, 2.875]])
WIDTH, HEIGHT = 16, 12

# Multiples of 1/64 fall on cell borders and cell middles often; floats do not.
fraction = st.one_of(st.integers(0, 64).map(lambda n: n / 64), st.floats(0, 1, width=32))
label = st.tuples(fraction, fraction, fraction, fraction)


def published_places(centre: float, cells: int) -> list[float]:
    """Shifts of the centre along one axis, besides none: towards the start, towards the end."""
    shifts: list[float] = []
    from_end = float(torch.tensor(cells - centre, dtype=torch.float32))
    if centre % 1 < 0.5 and centre > 1:
        shifts.append(-0.5)
    if from_end % 1 < 0.5 and from_end > 1:
        shifts.append(0.5)
    return shifts


def loop(boxes: torch.Tensor, valid: torch.Tensor, anchor_t: float) -> Counter[tuple[int, ...]]:
    """How often each (image, anchor, row, column, index of the label) is assigned."""
    found: Counter[tuple[int, ...]] = Counter()
    for image, number in valid.nonzero().tolist():
        x, y, w, h = (boxes[image, number] * torch.tensor([WIDTH, HEIGHT] * 2)).tolist()
        cells = [(x, y)]
        cells += [(x + shift, y) for shift in published_places(x, WIDTH)]
        cells += [(x, y + shift) for shift in published_places(y, HEIGHT)]
        for anchor, (anchor_w, anchor_h) in enumerate(ANCHORS.tolist()):
            if min(w, h) == 0 or max(w / anchor_w, anchor_w / w, h / anchor_h, anchor_h / h) >= anchor_t:
                continue
            for cell_x, cell_y in cells:
                row, column = min(int(cell_y), HEIGHT - 1), min(int(cell_x), WIDTH - 1)
                found[image, anchor, row, column, number] += 1
    return found


@settings(deadline=None, max_examples=200)
@given(st.lists(label, min_size=4, max_size=4), st.integers(0, 3), st.sampled_from([2.0, 4.0]))
def test_equals_a_plain_loop(labels: list[tuple[float, ...]], num_padded: int, anchor_t: float) -> None:
    boxes = torch.tensor(labels, dtype=torch.float32).view(2, 2, 4)
    valid = (torch.arange(4) < 4 - num_padded).view(2, 2)
    numbers = torch.arange(2).expand(2, 2)  # the label index in place of a class, so that the loop can name it
    found = assign(Targets(boxes, numbers, valid), ANCHORS, (HEIGHT, WIDTH), anchor_t)
    columns = (found.images, found.anchors, found.rows, found.columns, found.labels)
    ours: Counter[tuple[int, ...]] = Counter()
    for *place, count in zip(*(c.tolist() for c in columns), found.counts.tolist(), strict=True):
        ours[tuple(place)] += int(count)
    assert +ours == loop(boxes, valid, anchor_t)
    order = found.order[found.counts > 0]
    assert len(order.unique()) == len(order)


def test_offsets_stay_in_reach_of_the_decoding() -> None:
    boxes = torch.rand(4, 50, 4, generator=torch.Generator().manual_seed(1)) * 0.9 + 0.05
    targets = Targets(boxes, torch.zeros(4, 50, dtype=torch.int64), torch.ones(4, 50, dtype=torch.bool))
    found = assign(targets, ANCHORS, (HEIGHT, WIDTH), 4.0)
    offsets = found.boxes[found.counts > 0][:, :2]
    assert len(offsets) > 100
    assert offsets.min() >= -0.5
    assert offsets.max() <= 1.5


@pytest.mark.parametrize("place", [(0.5, 0.5), (1.0, 1.0), (0.0, 0.0)])
def test_border_centres_count_their_own_cell_again(place: tuple[float, float]) -> None:
    boxes = torch.tensor([[[*place, 2 / WIDTH, 3.75 / HEIGHT]]])
    targets = Targets(boxes, torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool))
    found = assign(targets, ANCHORS[1:2], (HEIGHT, WIDTH), 4.0)
    inside = place == (0.5, 0.5)
    # In the middle: own cell (three times over), left, up. At the corners one of the two directions does not exist.
    assert found.counts.tolist() == ([3.0, 1.0, 1.0] if inside else [1.0, 1.0, 1.0])
