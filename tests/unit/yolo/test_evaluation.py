"""The pass over batches, with a stand-in for the network whose raw maps are known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boxwright.data.index import DataIndex
from boxwright.data.structures import Batch, Detections, Targets
from boxwright.engine.task import ValWatch
from boxwright.metrics.coco import CocoTruth
from boxwright.metrics.matching import truth_of
from boxwright.yolo.evaluation import Evaluation, evaluate, suppress_labelled, to_original
from boxwright.yolo.loss import LossOutput
from boxwright.yolo.postprocess import YoloPostprocess
from boxwright.yolo.settings import ValConfig
from tests.unit.metrics.scenes import HEIGHT, WIDTH, random_scene, record

SCALE, PAD_TOP, PAD_LEFT = 2.0, 8.0, 16.0
SIDE = 384  # network input: 2 * 160 + 2 * 16 wide


class Oracle(nn.Module):
    """Finds what it is told: raw maps are its answers, one row a box, already decoded."""

    release = "v7.0"

    def __init__(self, index: DataIndex, *, confidence: float = 0.9) -> None:
        super().__init__()
        self.index = index
        self.confidence = confidence

    def forward(self, images: Tensor) -> list[Tensor]:
        assert images.dtype == torch.float32
        assert images.max() <= 1
        assert not self.training
        assert not torch.is_grad_enabled()
        numbers = (images[:, 0, 0, 0] * 255).round().int().tolist()  # each image holds its position
        answers = torch.zeros(len(numbers), 8, 5 + self.index.num_classes)
        for row, image in enumerate(numbers):
            flat = truth_of(self.index, [image])
            boxes = torch.from_numpy(flat.boxes) * SCALE + torch.tensor([PAD_LEFT, PAD_TOP] * 2)
            for i, (box, label) in enumerate(zip(boxes, flat.labels.tolist(), strict=True)):
                answers[row, i, :4] = torch.cat(((box[:2] + box[2:]) / 2, box[2:] - box[:2]))
                answers[row, i, 4] = self.confidence - 0.01 * i
                answers[row, i, 5 + label] = 1.0
        return [answers]

    def decode(self, raw: list[Tensor]) -> Tensor:
        return raw[0]


class Batches:
    def __init__(self, index: DataIndex, batch_size: int = 3) -> None:
        self.index = index
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.index), self.batch_size):
            indices = torch.arange(start, min(start + self.batch_size, len(self.index)))
            count = len(indices)
            images = indices.to(torch.uint8).view(-1, 1, 1, 1).expand(count, 3, 32, SIDE).contiguous()
            empty = Targets(torch.zeros(count, 1, 4), torch.zeros(count, 1).long(), torch.zeros(count, 1).bool())
            yield Batch(
                images=images,
                targets=empty,
                indices=indices,
                original_sizes=torch.tensor([[HEIGHT, WIDTH]] * count),
                scales=torch.full((count, 2), SCALE),
                pads=torch.tensor([[PAD_TOP, PAD_LEFT]] * count),
                paths=tuple(Path(f"{i}.jpg") for i in indices.tolist()),
            )


def run(
    index: DataIndex,
    model: nn.Module | None = None,
    config: ValConfig = ValConfig(),  # noqa: B008  # immutable
    **options: object,
) -> Evaluation:
    oracle: nn.Module = model or Oracle(index)
    given = {"device": torch.device("cpu"), "coco_truth": CocoTruth.from_index(index)} | options
    return evaluate(oracle, Batches(index), index, config, **given)  # type: ignore[arg-type]  # a stand-in


def test_an_oracle_is_perfect_by_every_metric() -> None:
    index, _ = random_scene(1)
    found = run(index)
    assert found.map == pytest.approx(0.995)
    assert (found.precision, found.recall) == (1, 1)
    assert found.coco is not None
    assert found.coco[0] == pytest.approx(1.0)
    assert np.trace(found.confusion) == found.confusion.sum() == len(index.boxes) == found.num_labels
    assert found.num_images == len(index)
    assert found.losses is None


def test_table_of_classes() -> None:
    index, _ = random_scene(1)
    found = run(index)
    assert [row.name for row in found.per_class] == list(index.names)
    owner = np.repeat(np.arange(len(index)), np.diff(index.box_offsets))
    for class_id, row in enumerate(found.per_class):
        assert row.num_labels == (index.classes == class_id).sum()
        assert row.num_images == len(set(owner[index.classes == class_id].tolist()))
        assert row.map == pytest.approx(0.995)
        assert row.coco_ap == pytest.approx(1.0)


def test_without_coco_truth_there_are_no_coco_numbers() -> None:
    index, _ = random_scene(1)
    found = run(index, coco_truth=None)
    assert found.coco is None
    assert all(row.coco_ap is None for row in found.per_class)


def test_callback_gets_original_pixels_on_the_host() -> None:
    index, _ = random_scene(1)
    got: list[Detections] = []
    run(index, watch=ValWatch(after=lambda batch, found: got.extend(found)))
    assert len(got) == len(index)
    for image, one in enumerate(got):
        np.testing.assert_allclose(one.boxes.numpy(), truth_of(index, [image]).boxes, atol=1e-3)


def test_losses_are_the_mean_over_batches() -> None:
    index, _ = random_scene(1)
    calls: list[float] = []

    def criterion(raw: list[Tensor], targets: Targets) -> LossOutput:
        assert raw[0].dtype == torch.float32
        calls.append(float(len(calls)))
        return LossOutput(torch.zeros(()), torch.tensor([calls[-1], 1.0, 2.0]))

    found = run(index, criterion=criterion, autocast=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    assert found.losses == (np.mean(calls), 1.0, 2.0)


def test_mode_of_the_model_is_restored_and_nothing_has_a_gradient() -> None:
    index, _ = random_scene(1)
    for training in (True, False):
        model = Oracle(index).train(training)
        run(index, model)
        assert model.training is training


def test_mode_is_restored_when_a_batch_fails() -> None:
    index, _ = random_scene(1)

    def fail(batch: Batch, found: list[Detections]) -> None:
        raise RuntimeError("stop")

    model = Oracle(index).train()
    with pytest.raises(RuntimeError, match="stop"):
        run(index, model, watch=ValWatch(after=fail))
    assert model.training


def test_single_class() -> None:
    index, _ = random_scene(1)
    found = run(index.as_single_class(), Oracle(index), ValConfig(single_cls=True))
    assert found.names == ("item",)
    assert found.confusion.shape == (2, 2)
    assert found.yolo.class_ids.tolist() == [0]
    assert found.recall > 0.9


@pytest.mark.parametrize("compat", ["faithful", "fixed"])
@pytest.mark.parametrize("case", ["one image", "nothing found", "no labels", "no images"])
def test_corner_cases_give_finite_numbers(case: str, compat: str) -> None:
    boxes, classes = ([], []) if case == "no labels" else ([[10, 10, 60, 60]], [1])
    records = [] if case == "no images" else [record(boxes, classes)]
    index = DataIndex.from_records(records, ["a", "b"])
    found = run(index, Oracle(index, confidence=0 if case == "nothing found" else 0.9), ValConfig(compat=compat))
    expected = 0.995 if case == "one image" else 0.0
    assert found.map == pytest.approx(expected)
    assert found.coco is not None
    assert found.coco[0] == pytest.approx({"one image": 1.0, "nothing found": 0.0}.get(case, -1.0))
    for values in (found.precision, found.recall, found.map50, *vars_of(found)):
        assert np.isfinite(values).all()


def vars_of(found: Evaluation) -> tuple[object, ...]:
    curves, speeds = found.yolo.curves, found.speeds
    return curves.precision, curves.recall, curves.f1, curves.precision_at_recall, speeds.inference, speeds.metrics


def test_to_original_clips_and_keeps_images_apart() -> None:
    batch = next(iter(Batches(random_scene(1)[0], batch_size=2)))
    boxes = torch.tensor([[0.0, 0.0, 1000.0, 1000.0], [PAD_LEFT, PAD_TOP, PAD_LEFT + 20, PAD_TOP + 10]])
    one = Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([1, 2]))
    found = to_original([Detections.empty(), one], batch)
    assert [len(part) for part in found] == [0, 2]
    assert found[1].boxes.tolist() == [[0, 0, WIDTH, HEIGHT], [0, 0, 10, 5]]
    assert found[1].labels.tolist() == [1, 2]
    assert to_original([one, one], batch, single_cls=True)[0].labels.tolist() == [0, 0]


HYBRID_HEIGHT, HYBRID_WIDTH = 64, 128


def batch_with(labels: list[list[tuple[int, float, float, float, float]]]) -> Batch:
    """A batch whose images have these labels: class, cxcywh in network pixels."""
    most = max(map(len, labels))
    boxes, classes = torch.zeros(len(labels), most, 4), torch.zeros(len(labels), most, dtype=torch.int64)
    valid = torch.zeros(len(labels), most, dtype=torch.bool)
    for image, own in enumerate(labels):
        for row, (label, *box) in enumerate(own):
            boxes[image, row] = torch.tensor(box) / torch.tensor((HYBRID_WIDTH, HYBRID_HEIGHT) * 2)
            classes[image, row], valid[image, row] = label, True
    images = torch.zeros(len(labels), 3, HYBRID_HEIGHT, HYBRID_WIDTH, dtype=torch.uint8)
    count = len(labels)
    sizes, ones = torch.tensor([[HYBRID_HEIGHT, HYBRID_WIDTH]] * count), torch.ones(count, 2)
    targets = Targets(boxes, classes, valid)
    return Batch(images, targets, torch.arange(count), sizes, ones, ones * 0, (Path("x.jpg"),) * count)


def decoded(rows: list[list[tuple[float, ...]]]) -> torch.Tensor:
    """Rows of cxcywh, score of class 0, score of class 1."""
    return torch.tensor([[(*row[:4], 1.0, *row[4:]) for row in own] for own in rows])


def boxes_of(found: Detections) -> list[list[float]]:
    return [
        [round(x, 3) for x in (*box, label)]
        for box, label in zip(found.boxes.tolist(), found.labels.tolist(), strict=True)
    ]


def test_labels_take_part_and_are_not_returned() -> None:
    nms = YoloPostprocess(0.1, 0.5, multi_label=True)
    rows = [
        (32.0, 32.0, 20.0, 20.0, 0.9, 0.0),  # as the label: gone
        (41.0, 32.0, 20.0, 20.0, 0.8, 0.0),  # overlaps the first by 0.38 only: there
        (33.0, 32.0, 20.0, 20.0, 0.0, 0.7),  # another class: there
        (100.0, 32.0, 20.0, 20.0, 1.0, 0.0),  # far from it, and as certain as a label: there
    ]
    found = suppress_labelled(nms, decoded([rows, rows]), batch_with([[(0, 32, 32, 20, 20)], []]))
    first = {tuple(row) for row in boxes_of(found[0])}
    assert first == {(31, 22, 51, 42, 0), (23, 22, 43, 42, 1), (90, 22, 110, 42, 0)}
    assert len(found[1]) == 4  # no label there


def test_what_a_suppressed_box_suppressed_is_back() -> None:
    nms = YoloPostprocess(0.1, 0.5)
    rows = [(34.0, 32.0, 20.0, 20.0, 0.9, 0.0), (39.0, 32.0, 20.0, 20.0, 0.8, 0.0)]
    (alone,) = nms(decoded([rows]))
    assert boxes_of(alone) == [[24, 22, 44, 42, 0]]
    (found,) = suppress_labelled(nms, decoded([rows]), batch_with([[(0, 30, 32, 20, 20)]]))
    assert boxes_of(found) == [[29, 22, 49, 42, 0]]


def test_no_label_comes_back_when_labels_overlap() -> None:
    label = (0, 33.3, 31.7, 20.1, 20.9)
    near = (0, 34.1, 31.7, 20.1, 20.9)
    (found,) = suppress_labelled(
        YoloPostprocess(0.1, 0.5), decoded([[(9.0, 9.0, 4.0, 4.0, 0.0, 0.0)]]), batch_with([[label, near]])
    )
    assert len(found) == 0
