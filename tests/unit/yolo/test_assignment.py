"""The static assignment against a plain loop over labels."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwright.data.structures import Targets
from boxwright.yolo.assignment import assign

ANCHORS = torch.tensor([[1.25, 1.625], [2.0, 3.75], [4.125, 2.875]])
WIDTH, HEIGHT = 16, 12

# Multiples of 1/64 fall on cell borders and cell middles often; floats do not.
fraction = st.one_of(st.integers(0, 64).map(lambda n: n / 64), st.floats(0, 1, width=32))
label = st.tuples(fraction, fraction, fraction, fraction)


def takes(centre: float, cells: int) -> tuple[bool, bool]:
    """Whether a centre is tried half a cell towards the start, and towards the end, of its axis."""
    from_end = float(torch.tensor(cells - centre, dtype=torch.float32))
    return centre % 1 < 0.5 and centre > 1, from_end % 1 < 0.5 and from_end > 1


def published_list(boxes: torch.Tensor, valid: torch.Tensor, anchor_t: float) -> list[tuple[int, ...]]:
    """(image, anchor, row, column, index of the label) in the published order: place, anchor, image, label."""
    found: list[tuple[int, ...]] = []
    for place in range(5):  # own, left, up, right, down
        for anchor, (anchor_w, anchor_h) in enumerate(ANCHORS.tolist()):
            for image, number in valid.nonzero().tolist():
                x, y, w, h = (boxes[image, number] * torch.tensor([WIDTH, HEIGHT] * 2)).tolist()
                if min(w, h) == 0 or max(w / anchor_w, anchor_w / w, h / anchor_h, anchor_h / h) >= anchor_t:
                    continue
                (left, right), (up, down) = takes(x, WIDTH), takes(y, HEIGHT)
                if not (True, left, up, right, down)[place]:
                    continue
                row = int(y + (0, 0, -0.5, 0, 0.5)[place])
                column = int(x + (0, -0.5, 0, 0.5, 0)[place])
                found.append((image, anchor, min(row, HEIGHT - 1), min(column, WIDTH - 1), number))
    return found


@settings(max_examples=200)
@given(st.lists(label, min_size=4, max_size=4), st.integers(0, 3), st.sampled_from([2.0, 4.0]))
def test_equals_a_plain_loop(labels: list[tuple[float, ...]], num_padded: int, anchor_t: float) -> None:
    boxes = torch.tensor(labels, dtype=torch.float32).view(2, 2, 4)
    valid = (torch.arange(4) < 4 - num_padded).view(2, 2)
    numbers = torch.arange(2).expand(2, 2)  # the label index in place of a class, so that the loop can name it
    found = assign(Targets(boxes, numbers, valid), ANCHORS, (HEIGHT, WIDTH), anchor_t)
    columns = (found.order, found.images, found.anchors, found.rows, found.columns, found.labels)
    rows = sorted(zip(*(c.tolist() for c in columns), found.counts.tolist(), strict=True))
    ours = [tuple(place) for _, *place, count in rows for _ in range(int(count))]
    theirs = published_list(boxes, valid, anchor_t)
    assert Counter(ours) == Counter(theirs)
    last = {place[:4]: place[4] for place in theirs}  # a dict keeps the last one put in
    assert {place[:4]: place[4] for place in ours} == last
    order = found.order[found.counts > 0]
    assert len(order.unique()) == len(order)


def test_a_border_label_comes_back_after_its_neighbours() -> None:
    # A's centre is on a border: own cell 3, and again 3 in the place of the right neighbour. B takes 3 as its left.
    size = [2 / WIDTH, 3.75 / HEIGHT]
    boxes = torch.tensor([[[3 / WIDTH, 5.5 / HEIGHT, *size], [4.25 / WIDTH, 5.5 / HEIGHT, *size]]])
    found = assign(Targets(boxes, torch.arange(2)[None], torch.ones(1, 2, dtype=torch.bool)), ANCHORS[1:2], (12, 16), 4)
    in_cell = (found.columns == 3) & (found.counts > 0)
    assert found.labels[in_cell][found.order[in_cell].argmax()] == 0


def test_rect2_takes_left_and_upper_neighbours_within_a_fifth() -> None:
    """Centres at .1, .3 and .9 of their cells: the first alone has neighbours, before it; none does in cell 0."""
    size = [2 / WIDTH, 3.75 / HEIGHT]
    centres = [(3.1, 5.1), (7.3, 5.3), (9.9, 5.9), (0.1, 0.1)]
    boxes = torch.tensor([[[x / WIDTH, y / HEIGHT, *size] for x, y in centres]])
    targets = Targets(boxes, torch.arange(4)[None], torch.ones(1, 4, dtype=torch.bool))
    found = assign(targets, ANCHORS[1:2], (HEIGHT, WIDTH), 4.0, style="rect2")
    taken = found.counts > 0
    cells = zip(found.labels[taken].tolist(), found.columns[taken].tolist(), found.rows[taken].tolist(), strict=True)
    assert sorted(cells) == [(0, 2, 5), (0, 3, 4), (0, 3, 5), (1, 7, 5), (2, 9, 5), (3, 0, 0)]
    assert found.counts[taken].tolist() == [1.0] * 6


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


def test_compacted_keeps_what_counts_in_its_order() -> None:
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.3], [0.3, 0.71, 0.1, 0.2], [0.0, 0.0, 0.0, 0.0]]])
    targets = Targets(boxes, torch.tensor([[4, 7, 0]]), torch.tensor([[True, True, False]]))
    found = assign(targets, ANCHORS, (HEIGHT, WIDTH), 4.0)
    fewer, counts = found.compacted(), found.counts > 0
    assert 0 < len(fewer.counts) < len(found.counts)
    for name in ("counts", "order", "images", "anchors", "rows", "columns", "boxes", "labels"):
        assert torch.equal(getattr(fewer, name), getattr(found, name)[counts]), name
    assert torch.equal(fewer.anchor_sizes, found.anchor_sizes[:, counts])
