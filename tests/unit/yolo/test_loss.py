"""Properties of the loss: no host sync, static shapes, padding, empty targets, precision, memory layout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from boxwright.data.structures import Targets
from boxwright.yolo.loss import LossOutput, YoloLoss, scale_gains
from boxwright.yolo.settings import LossConfig

STRIDES, NUM_CLASSES, SIDE, BATCH = (8, 16, 32), 4, 96, 2
ANCHORS_PX = [
    [[10.0, 13], [16, 30], [33, 23]],
    [[30.0, 61], [62, 45], [59, 119]],
    [[116.0, 90], [156, 198], [373, 326]],
]
WAITS = ("nonzero", "_local_scalar_dense", "masked_select", "unique", "item", "equal")


class Record(TorchDispatchMode):
    """Writes down every operator with the shapes of its results; refuses those that wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        assert name not in WAITS, f"{name} waits for the device"
        if name in ("index", "index_put_", "index_put"):
            places = [index for index in args[1] if index is not None]
            assert all(index.dtype is torch.int64 for index in places), "a boolean index has a shape that data decides"
        result = func(*args, **(kwargs or {}))
        results = result if isinstance(result, tuple | list) else (result,)
        self.calls.append((name, *(tuple(r.shape) for r in results if isinstance(r, Tensor))))
        return result


def make_loss(**settings: Any) -> YoloLoss:
    anchors = torch.tensor(ANCHORS_PX) / torch.tensor(STRIDES, dtype=torch.float32)[:, None, None]
    return YoloLoss(anchors, STRIDES, NUM_CLASSES, LossConfig(**settings), imgsz=SIDE)


def make_maps(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sides = [SIDE // stride for stride in STRIDES]
    maps = [torch.randn(BATCH, 3, side, side, 5 + NUM_CLASSES, generator=generator) for side in sides]
    return [m.to(dtype).requires_grad_() for m in maps]


def make_targets(num_valid: int, padded_to: int = 6, seed: int = 0) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(BATCH, padded_to, 4, generator=generator) * 0.5 + 0.2
    labels = torch.randint(0, NUM_CLASSES, (BATCH, padded_to), generator=generator)
    valid = (torch.arange(padded_to) < num_valid).expand(BATCH, -1)
    return Targets(boxes * valid[..., None], labels * valid, valid)


def gradients(output: LossOutput, maps: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(output.total, maps))


@pytest.mark.parametrize("settings", [{}, {"autobalance": True}, {"sort_obj_iou": True}, {"fl_gamma": 1.5}])
def test_the_same_operators_run_whatever_the_data(settings: dict[str, Any]) -> None:
    recorded: list[list[tuple[Any, ...]]] = []
    for num_valid in (0, 3, 6):
        loss, maps, targets = make_loss(**settings), make_maps(num_valid), make_targets(num_valid, seed=num_valid)
        with Record() as record:
            loss(maps, targets).total.backward()
        recorded.append(record.calls)
    assert len(recorded[0]) > 50
    assert recorded[0] == recorded[1] == recorded[2]


def test_the_record_notices_a_wait() -> None:
    with Record(), pytest.raises(AssertionError, match="waits"):
        torch.ones(3).sum().item()
    with Record(), pytest.raises(AssertionError):
        torch.ones(3)[torch.tensor([True, False, True])]


def test_compiles_into_one_graph() -> None:
    loss, targets = make_loss(), make_targets(4)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    maps, again = make_maps(), make_maps()
    ours, plain = compiled(maps, targets), loss(again, targets)
    torch.testing.assert_close(ours.items, plain.items)
    for found, expected in zip(gradients(ours, maps), gradients(plain, again), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_more_padding_changes_nothing() -> None:
    loss, few, many = make_loss(), make_targets(4, padded_to=4), make_targets(4, padded_to=4)
    room = (0, 0, 0, 13)
    pad = torch.nn.functional.pad
    many = Targets(pad(many.boxes_cxcywh, room), pad(many.labels, (0, 13)), pad(many.valid, (0, 13)))
    maps, again = make_maps(), make_maps()
    first, second = loss(maps, few), loss(again, many)
    torch.testing.assert_close(first.items, second.items)
    for a, b in zip(gradients(first, maps), gradients(second, again), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)


def test_box_and_class_terms_are_means() -> None:
    # A label in the middle of a cell of the 8 px level has one candidate there and none elsewhere; twice, it has two.
    box = torch.tensor([4.5 / 12, 4.5 / 12, 3 / SIDE, 4 / SIDE])
    once = Targets(box.expand(2, 2, 4), torch.ones(2, 2).long(), torch.tensor([[True, False], [False, False]]))
    twice = Targets(once.boxes_cxcywh, once.labels, torch.tensor([[True, True], [False, False]]))
    first, second = make_loss()(make_maps(), once).items, make_loss()(make_maps(), twice).items
    assert first[0] > 0
    torch.testing.assert_close(first, second)


def test_padding_may_hold_anything() -> None:
    loss, clean = make_loss(), make_targets(3)
    dirty = Targets(
        torch.where(clean.valid[..., None], clean.boxes_cxcywh, 0.5), clean.labels.clone(), clean.valid.clone()
    )
    torch.testing.assert_close(loss(make_maps(), dirty).items, loss(make_maps(), clean).items, rtol=0, atol=0)


@pytest.mark.parametrize("padded_to", [1, 5])
def test_no_labels_leave_only_objectness(padded_to: int) -> None:
    maps = make_maps()
    output = make_loss()(maps, make_targets(0, padded_to=padded_to))
    box, objectness, cls = output.items.tolist()
    assert box == cls == 0
    assert objectness > 0
    for gradient in gradients(output, maps):
        assert gradient.isfinite().all()
        assert gradient[..., :4].count_nonzero() == gradient[..., 5:].count_nonzero() == 0
        assert gradient[..., 4].all()


def test_extreme_predictions_keep_a_finite_gradient() -> None:
    for value in (-80.0, -40.0, 0.0, 40.0, 80.0):
        maps = [torch.full_like(m, value).requires_grad_() for m in make_maps()]
        output = make_loss()(maps, make_targets(5))
        assert output.total.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients(output, maps))


def test_low_precision_maps_give_a_float32_loss() -> None:
    maps, targets = make_maps(dtype=torch.bfloat16), make_targets(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = make_loss()(maps, targets)
    assert output.total.dtype == output.items.dtype == torch.float32
    exact = [m.detach().float().requires_grad_() for m in maps]
    torch.testing.assert_close(output.items, make_loss()(exact, targets).items, rtol=1e-6, atol=1e-7)
    assert all(gradient.dtype is torch.bfloat16 for gradient in gradients(output, maps))


def test_gradients_have_the_memory_layout_of_the_maps() -> None:
    plain = make_maps()
    last = [m.detach().permute(0, 2, 3, 1, 4).contiguous().permute(0, 3, 1, 2, 4).requires_grad_() for m in plain]
    loss, targets = make_loss(), make_targets(4)
    first, second = gradients(loss(plain, targets), plain), gradients(loss(last, targets), last)
    for a, b, m in zip(first, second, last, strict=True):
        assert b.stride() == m.stride()
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)


def test_autobalance_follows_only_in_training_and_is_saved() -> None:
    loss = make_loss(autobalance=True)
    start = loss.balance.clone()
    loss.eval()(make_maps(), make_targets(3))
    assert torch.equal(loss.balance, start)
    loss.train()(make_maps(), make_targets(3))
    assert not torch.equal(loss.balance, start)
    assert loss.balance[1] == 1
    again = make_loss(autobalance=True)
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again.balance, loss.balance)


def test_gains_scale_with_layers_classes_and_size() -> None:
    scaled = scale_gains(LossConfig(), num_layers=4, num_classes=20, imgsz=1280)
    assert scaled.box == pytest.approx(0.05 * 3 / 4)
    assert scaled.cls == pytest.approx(0.5 * 20 / 80 * 3 / 4)
    assert scaled.obj == pytest.approx(4 * 3 / 4)
