"""The losses of every release: terms, gains, empty targets, the parts of processes, and who chooses which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils._python_dispatch import TorchDispatchMode

import boxwright as bw
from boxwright.data.structures import Targets
from boxwright.errors import UserError
from boxwright.yolo.assignment import Assignment
from boxwright.yolo.darknet_cfg import DarknetSpec
from boxwright.yolo.detection import YOLOV3_BOXES, YOLOV5_BOXES
from boxwright.yolo.loss import (
    FOCAL_ALPHA,
    LossOutput,
    SumOverRanks,
    YoloLoss,
    YoloV3Loss,
    binary_cross_entropy,
    decode_boxes,
    make_criterion,
    objectness_targets,
    scale_gains,
)
from boxwright.yolo.published import RELEASES, YOLOV5_RELEASES
from boxwright.yolo.settings import LossConfig
from boxwright.yolo.zoo import build_model, load_spec

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
    box, _, cls = make_loss(reduction="sum")(make_maps(), once).items
    box_of_two, _, cls_of_two = make_loss(reduction="sum")(make_maps(), twice).items
    torch.testing.assert_close(torch.stack((box_of_two, cls_of_two)), 2 * torch.stack((box, cls)))
    torch.testing.assert_close(torch.stack((box, cls / NUM_CLASSES)), first[[0, 2]])


def test_gr_is_the_share_of_the_overlap_in_the_objectness_target() -> None:
    none, half, whole = (make_loss(gr=share)(make_maps(), make_targets(4)).items for share in (0, 0.5, 1))
    assert none[1] != whole[1]
    torch.testing.assert_close(half[1], (none[1] + whole[1]) / 2)  # the loss is linear in its target
    assert none[0] == whole[0]
    found, iou = two_in_one_cell(), torch.tensor([0.4, 0.8])
    wanted = objectness_targets(torch.Size((1, 1, 1, 1)), found, iou, gr=0.25, best_wins=False)
    torch.testing.assert_close(wanted.flatten(), torch.tensor([0.75 + 0.25 * 0.8]))


def two_in_one_cell(*order: int) -> Assignment:
    """Two candidates of the only cell, at these places of the published list."""
    zeros, ones = torch.zeros(2, dtype=torch.int64), torch.ones(2)
    places = torch.tensor(order or (1, 2))
    return Assignment(ones, places, zeros, zeros, zeros, zeros, torch.ones(2, 4), torch.ones(2, 2), zeros)


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
@pytest.mark.parametrize("ious", [(0.4, 0.8), (0.8, 0.4)])
def test_of_two_in_a_cell_the_last_wins_or_the_best(order: tuple[int, int], ious: tuple[float, float]) -> None:
    found, iou = two_in_one_cell(*order), torch.tensor(ious)
    last, best = (
        objectness_targets(torch.Size((1, 1, 1, 1)), found, iou, gr=1.0, best_wins=best_wins).item()
        for best_wins in (False, True)
    )
    assert last == pytest.approx(ious[order.index(2)])
    assert best == pytest.approx(0.8)


@pytest.mark.parametrize("kind", [YoloLoss, YoloV3Loss])
def test_sums_are_means_times_what_they_are_taken_over(kind: type[YoloLoss | YoloV3Loss]) -> None:
    """On one level; a total of sums is no more times the batch."""
    anchors, maps, targets = ANCHORS[:1], make_maps()[:1], make_targets(4)

    def run(reduction: Literal["mean", "sum"]) -> LossOutput:
        config = LossConfig(reduction=reduction)
        if kind is YoloLoss:
            return YoloLoss(anchors, [8], NUM_CLASSES, config)(maps, targets)
        return YoloV3Loss(anchors, NUM_CLASSES, config)(maps, targets)

    mean, summed = run("mean"), run("sum")
    cells = maps[0].shape[:4].numel()
    positives = summed.items[0] / mean.items[0]
    assert positives == pytest.approx(round(float(positives)), rel=1e-5)
    assert positives > 1
    torch.testing.assert_close(
        summed.items, mean.items * torch.stack((positives, torch.tensor(float(cells)), positives * NUM_CLASSES))
    )
    torch.testing.assert_close(summed.total.detach(), summed.items.sum())
    torch.testing.assert_close(mean.total.detach(), mean.items.sum() * (BATCH if kind is YoloLoss else 1))


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


@pytest.mark.parametrize("weight", [1.0, 0.8, 1.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient(weight: float, dtype: torch.dtype) -> None:
    ours = torch.cat((torch.linspace(-120, 120, 999), torch.zeros(1))).to(dtype).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    targets = torch.rand(1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    targets[::3], targets[1::3] = 0, 1
    upstream = torch.linspace(-1, 2, 1000, dtype=dtype)
    value = binary_cross_entropy(ours, targets, weight)
    expected = binary_cross_entropy_with_logits(
        theirs, targets, pos_weight=torch.tensor(weight, dtype=dtype), reduction="none"
    )
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=2e-5 if dtype is torch.float32 else 1e-12)
    value.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_focal_weighs_down_what_is_already_right() -> None:
    logits, targets = torch.tensor([0.0, 4.0, -4.0]), torch.tensor([1.0, 1.0, 1.0])
    plain = binary_cross_entropy(logits, targets)
    focal = binary_cross_entropy(logits, targets, gamma=2.0)
    probability = logits.sigmoid()
    torch.testing.assert_close(focal, FOCAL_ALPHA * (1 - probability) ** 2 * plain)
    for reduction, expected in (("none", focal), ("mean", focal.mean()), ("sum", focal.sum())):
        torch.testing.assert_close(bw.focal_loss(logits, targets, 2.0, reduction=reduction), expected)
    torch.testing.assert_close(bw.focal_loss(logits, 1 - targets, 0.0, 0.4, reduction="none"), 0.6 * (plain + logits))
    with pytest.raises(UserError, match="mean, sum or none, not 'all'"):
        bw.focal_loss(logits, targets, reduction="all")  # type: ignore[arg-type]


def test_inputs_are_left_alone() -> None:
    logits, targets = torch.randn(5), torch.rand(5)
    copies = logits.clone(), targets.clone()
    binary_cross_entropy(logits, targets, 1.3, 1.5)
    assert torch.equal(logits, copies[0])
    assert torch.equal(targets, copies[1])


SMALL_CFG = """
[net]
channels=3
[convolutional]
filters=8
size=8
stride=8
activation=leaky
[convolutional]
filters=16
size=2
stride=2
batch_normalize=1
activation=leaky
[convolutional]
filters=21
size=1
activation=linear
[yolo]
mask=3,4,5
anchors=10,14, 23,27, 37,58, 81,82, 135,169, 344,319
classes=2
[route]
layers=0
[convolutional]
filters=21
size=1
activation=linear
[yolo]
mask=1,2,3
anchors=10,14, 23,27, 37,58, 81,82, 135,169, 344,319
classes=2
"""


def make_v3_loss(**settings: Any) -> YoloV3Loss:
    anchors = torch.tensor(ANCHORS_PX) / torch.tensor(STRIDES, dtype=torch.float32)[:, None, None]
    return YoloV3Loss(anchors, NUM_CLASSES, LossConfig(**settings), imgsz=SIDE)


def test_nothing_waits_for_the_device_and_shapes_do_not_depend_on_labels() -> None:
    loss = make_v3_loss()
    recorded = []
    for count in (0, 2, 5):
        maps, targets = make_maps(), make_targets(count)
        with Record() as record:
            loss(maps, targets).total.backward()
        recorded.append(record.calls)
    assert recorded[0] == recorded[1] == recorded[2]


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_gradients_are_finite(kind: str) -> None:
    for maps in (make_maps(), [m.detach().mul(200).requires_grad_() for m in make_maps()]):
        output = make_v3_loss(iou_kind=kind, fl_gamma=1.5, label_smoothing=0.1)(maps, make_targets(4))
        output.total.backward()
        assert output.items.isfinite().all()
        assert all(level.grad is not None and level.grad.isfinite().all() for level in maps)


def test_without_labels_only_objectness_is_left() -> None:
    items = make_v3_loss()(make_maps(), make_targets(0)).items
    assert items[0] == 0
    assert items[1] > 0
    assert items[2] == 0


def test_padding_changes_nothing() -> None:
    short, long = make_targets(2, padded_to=2), make_targets(2, padded_to=9)
    first = short.boxes_cxcywh
    padded = torch.cat((first, long.boxes_cxcywh[:, 2:]), dim=1)
    labels = torch.cat((short.labels, long.labels[:, 2:]), dim=1)
    same = Targets(padded, labels, long.valid)
    assert torch.equal(make_v3_loss()(make_maps(), short).items, make_v3_loss()(make_maps(), same).items)


def test_kinds_differ() -> None:
    found = {
        kind: float(make_v3_loss(iou_kind=kind)(make_maps(), make_targets(4)).items[0]) for kind in ("iou", "giou")
    }
    assert float(make_v3_loss()(make_maps(), make_targets(4)).items[0]) == found["giou"]
    assert found["iou"] < found["giou"]


def test_model_chooses_the_recipe_and_settings_override_it() -> None:
    darknet = build_model(DarknetSpec.from_text(SMALL_CFG))
    yolov5 = build_model(load_spec("yolov5n", 2))
    assert isinstance(make_criterion(darknet, LossConfig()), YoloV3Loss)
    assert isinstance(make_criterion(yolov5, LossConfig()), YoloLoss)
    for model, coding in ((darknet, YOLOV3_BOXES), (yolov5, YOLOV5_BOXES)):
        for recipe in ("v3", "v5"):
            criterion = make_criterion(model, LossConfig(recipe=recipe), 64)
            assert isinstance(criterion, YoloV3Loss if recipe == "v3" else YoloLoss)
            assert set(criterion.codings) == {coding}
            targets = Targets(torch.rand(1, 3, 4), torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 3).bool())
            assert criterion(model(torch.rand(1, 3, 64, 64)), targets).total.isfinite()


def test_level_weights_follow_the_strides() -> None:
    darknet = build_model(DarknetSpec.from_text(SMALL_CFG))
    assert darknet.strides == (16, 8)
    criterion = make_criterion(darknet, LossConfig(recipe="v5"))
    assert isinstance(criterion, YoloLoss)
    assert criterion.balance.tolist() == [1.0, 4.0]


STRETCHED_CFG = SMALL_CFG.replace("[yolo]", "[yolo]\nscale_x_y=1.2")
SQUARED_CFG = SMALL_CFG.replace("activation=linear\n[yolo]", "activation=logistic\n[yolo]\nnew_coords=1\nscale_x_y=1.5")


@pytest.mark.parametrize("release", ["v3", "v3.0", "v7.0"])
@pytest.mark.parametrize("cfg", [STRETCHED_CFG, SQUARED_CFG], ids=["scale_x_y", "new_coords"])
def test_a_cfg_is_trained_with_the_loss_of_any_release(cfg: str, release: str) -> None:
    model = build_model(DarknetSpec.from_text(cfg))
    criterion = make_criterion(model, LossConfig(recipe=release), 64)
    assert criterion.codings == model.box_codings
    targets = Targets(torch.rand(1, 3, 4), torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 3).bool())
    criterion(model(torch.rand(1, 3, 64, 64)), targets).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["darknet", "stretched", "squared", "yolov5n"])
def test_loss_reads_boxes_as_the_network_decodes_them(name: str) -> None:
    cfgs = {"darknet": SMALL_CFG, "stretched": STRETCHED_CFG, "squared": SQUARED_CFG}
    model = build_model(DarknetSpec.from_text(cfgs[name]) if name in cfgs else load_spec(name, 2))
    maps = [torch.randn_like(raw) for raw in model(torch.rand(1, 3, 64, 64))]
    level, anchor, row, column = 1, 2, 1, 3
    raw = maps[level][0, anchor, row, column]
    inside = decode_boxes(raw[:4, None], model.anchors[level, anchor][:, None], model.box_codings[level])[:, 0]
    inside[:2] += torch.tensor([column, row])
    rows = model.decode(maps)[0].split([m[0, ..., 0].numel() for m in maps])[level]
    expected = rows.view(*maps[level].shape[1:])[anchor, row, column, :4]
    torch.testing.assert_close(inside * model.strides[level], expected)


@pytest.mark.parametrize("release", YOLOV5_RELEASES)
def test_network_chooses_the_loss_of_its_release(release: str) -> None:
    model = build_model(load_spec(f"yolov5s@{release}", 2))
    criterion = make_criterion(model, LossConfig())
    assert isinstance(criterion, YoloLoss)
    assert criterion.rules is RELEASES[release].loss
    other = make_criterion(model, LossConfig(recipe="v2.0"))
    assert isinstance(other, YoloLoss)
    assert other.rules is RELEASES["v2.0"].loss


@pytest.mark.parametrize("name", YOLOV5_RELEASES)
def test_a_centre_on_the_far_edge_is_taken_into_the_last_cell(name: str) -> None:
    """Up to v3.1 the published loss ended with an index out of range."""
    strides = (8, 16, 32)
    anchors = torch.tensor([[[2.0, 2.0]], [[1.5, 1.5]], [[1.0, 1.0]]])
    rules = RELEASES[name].loss
    assert rules is not None
    criterion = YoloLoss(anchors, strides, 2, LossConfig(), rules=rules)
    maps = [torch.zeros(1, 1, 64 // s, 64 // s, 7, requires_grad=True) for s in strides]
    boxes = torch.tensor([[[1.0, 1.0, 0.4, 0.4], [0.0, 1.0, 0.4, 0.4]]])
    targets = Targets(boxes, torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.bool))
    output = criterion(maps, targets)
    output.total.backward()
    assert output.items.isfinite().all()
    assert output.items[0] > 0
    for level in maps:
        assert level.grad is not None
        assert level.grad.isfinite().all()
        assert level.grad[0, 0, -1, -1, :4].abs().sum() > 0


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


def make_sum(over_ranks: SumOverRanks) -> Criterion:
    return YoloLoss(ANCHORS, [8, 16, 32], 2, LossConfig(reduction="sum"), 64, over_ranks=over_ranks)


@pytest.mark.parametrize("make", [make_v5, make_v3, make_sum])
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
