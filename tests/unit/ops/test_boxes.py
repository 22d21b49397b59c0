"""Box functions: round trips, bounds, agreement with torchvision, degenerate boxes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou, complete_box_iou, distance_box_iou, generalized_box_iou

from boxwright.ops.boxes import (
    IouKind,
    clip_boxes,
    cxcywh_from_xyxy,
    elementwise_iou,
    intersection_over_area,
    pairwise_iou,
    scale_back,
    xyxy_from_cxcywh,
)

REFERENCES = {"iou": box_iou, "giou": generalized_box_iou, "diou": distance_box_iou, "ciou": complete_box_iou}
side = st.floats(0, 500, width=32)


def random_boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 4, generator=generator) * 100 + 1


@given(st.lists(st.tuples(side, side, side, side), min_size=1, max_size=8))
def test_conversions_are_inverse(rows: list[tuple[float, ...]]) -> None:
    boxes = torch.tensor(rows)
    torch.testing.assert_close(cxcywh_from_xyxy(xyxy_from_cxcywh(boxes)), boxes, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_agrees_with_torchvision(kind: IouKind) -> None:
    a, b = random_boxes(50, 1), random_boxes(50, 2)
    expected = REFERENCES[kind](xyxy_from_cxcywh(a), xyxy_from_cxcywh(b)).diagonal()
    torch.testing.assert_close(elementwise_iou(a, b, kind), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_degenerate_boxes_stay_finite(kind: IouKind) -> None:
    sizes = torch.tensor([0.0, 1e-30, 1e-8, 1.0, 1e4])
    w, h = torch.meshgrid(sizes, sizes, indexing="ij")
    one = torch.stack((w, h, w, h), dim=-1).reshape(-1, 4)
    a = one.repeat_interleave(len(one), dim=0).requires_grad_()
    b = one.repeat(len(one), 1).requires_grad_()
    values = elementwise_iou(a, b, kind)
    assert values.isfinite().all()
    for gradient in torch.autograd.grad(values.sum(), (a, b)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
@pytest.mark.parametrize("eps", [1e-7, 1e-16])
def test_identical_boxes_overlap_fully(kind: IouKind, eps: float) -> None:
    boxes = random_boxes(20, 3)
    torch.testing.assert_close(elementwise_iou(boxes, boxes, kind, eps), torch.ones(20))


def test_pairwise_equals_elementwise_and_torchvision() -> None:
    a, b = random_boxes(7, 4), random_boxes(9, 5)
    table = pairwise_iou(xyxy_from_cxcywh(a), xyxy_from_cxcywh(b))
    torch.testing.assert_close(table, box_iou(xyxy_from_cxcywh(a), xyxy_from_cxcywh(b)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(table, elementwise_iou(a[:, None], b[None]), rtol=1e-4, atol=1e-6)
    assert pairwise_iou(a[:0], b).shape == (0, 9)


def test_share_of_a_covered_box() -> None:
    outer, inner = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 5, 15, 10], [2, 2, 4, 4], [20, 20, 30, 30]])
    torch.testing.assert_close(intersection_over_area(outer, inner), torch.tensor([[0.5, 1.0, 0.0]]))


def test_clipping_leaves_its_input_and_the_inside_alone() -> None:
    boxes = torch.tensor([[-5.0, 3, 700, 500], [10, 20, 30, 40]])
    before = boxes.clone()
    assert clip_boxes(boxes, height=480, width=640).tolist() == [[0, 3, 640, 480], [10, 20, 30, 40]]
    assert torch.equal(boxes, before)


@settings(max_examples=50)
@given(st.floats(0.25, 4), st.integers(0, 60), st.integers(0, 60), st.integers(0, 1000))
def test_scale_back_undoes_a_letterbox(scale: float, pad_x: int, pad_y: int, seed: int) -> None:
    height, width = 200, 300
    original = torch.rand(5, 2, 2, generator=torch.Generator().manual_seed(seed)).sort(dim=1).values.flatten(1)
    original = original * torch.tensor([width, height, width, height])
    letterboxed = original * scale + torch.tensor([pad_x, pad_y, pad_x, pad_y])
    found = scale_back(letterboxed, (scale, scale), (pad_y, pad_x), (height, width))
    torch.testing.assert_close(found, original, rtol=1e-4, atol=1e-2)
