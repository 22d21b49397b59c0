"""The public COCO metric: tensors against pycocotools, ground truth of torch data sets, ranks, and mistakes."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch.utils.data import Subset

import boxwright as bw
from boxwright.engine import coco_evaluator
from boxwright.errors import UserError
from boxwright.metrics.coco import IouType

SIDE, NUM_IMAGES = 40, 5
KINDS: tuple[IouType, ...] = ("bbox", "segm", "keypoints")
Sample = tuple[torch.Tensor, dict[str, torch.Tensor]]


class Scenes(torch.utils.data.Dataset[Sample]):
    """Images with objects of two categories; the last image has none."""

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.samples: list[Sample] = []
        for number in range(NUM_IMAGES):
            count = 0 if number == NUM_IMAGES - 1 else int(random.integers(1, 5))
            corner = torch.tensor(random.integers(0, 20, (count, 2)), dtype=torch.float32)
            boxes = torch.cat((corner, corner + torch.tensor(random.integers(6, 20, (count, 2)))), dim=1)
            points = corner[:, None] + torch.tensor(random.uniform(0, 8, (count, 17, 2)), dtype=torch.float32)
            target = {
                "boxes": boxes,
                "labels": torch.tensor(random.choice([1, 3], count), dtype=torch.int64),
                "image_id": torch.tensor([100 + number]),
                "iscrowd": torch.tensor(random.random(count) < 0.1, dtype=torch.int64),
                "masks": filled(boxes),
                "keypoints": torch.cat((points, torch.full((count, 17, 1), 2.0)), dim=2),
            }
            self.samples.append((torch.zeros(3, SIDE, SIDE), target))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def filled(boxes: torch.Tensor) -> torch.Tensor:
    found = torch.zeros(len(boxes), SIDE, SIDE)
    for mask, (left, top, right, bottom) in zip(found, boxes.round().int().tolist(), strict=True):
        mask[max(top, 0) : bottom, max(left, 0) : right] = 1
    return found


def predictions(scenes: Scenes, seed: int = 1) -> dict[int, dict[str, torch.Tensor]]:
    """What a network might find: objects a few pixels off, some twice, in any order."""
    torch.manual_seed(seed)
    found: dict[int, dict[str, torch.Tensor]] = {}
    for _, target in scenes.samples:
        twice = torch.arange(len(target["boxes"])).repeat(2)
        boxes = target["boxes"][twice] + torch.randn(len(twice), 4).clamp(-2, 2)
        points = target["keypoints"][twice] + torch.randn(len(twice), 17, 3)
        found[int(target["image_id"])] = {
            "boxes": boxes,
            "labels": target["labels"][twice],
            "scores": torch.rand(len(twice)).round(decimals=1),
            "masks": filled(boxes)[:, None] * 0.9,
            "keypoints": points,
        }
    return found


def reference(truth: dict[str, Any], found: dict[int, dict[str, torch.Tensor]], kind: IouType) -> list[float]:
    """The numbers of pycocotools, on records that are made here."""
    rows: list[dict[str, Any]] = []
    for image, one in found.items():
        for i in range(len(one["labels"])):
            row: dict[str, Any] = {"image_id": image, "category_id": int(one["labels"][i])}
            row["score"] = float(one["scores"][i])
            if kind == "bbox":
                left, top, right, bottom = one["boxes"][i].double().tolist()
                row["bbox"] = [left, top, right - left, bottom - top]
            elif kind == "segm":
                row["segmentation"] = masks.encode(np.asfortranarray((one["masks"][i, 0] > 0.5).numpy().astype("u1")))
            else:
                row["keypoints"] = one["keypoints"][i].double().flatten().tolist()
            rows.append(row)
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO()
        api.dataset = {"info": {}, **truth}
        api.createIndex()
        evaluation = COCOeval(api, api.loadRes(rows), kind)
        evaluation.params.imgIds = sorted(found)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def values(evaluator: bw.CocoEvaluator, kind: IouType) -> list[float]:
    return [number.value for number in evaluator.numbers[kind]]


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_against_pycocotools(kind: IouType, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = Scenes()
    truth, found = bw.coco_of(scenes), predictions(scenes)
    evaluator = bw.CocoEvaluator(truth, kind)
    for image in (103, 100, 104, 101):  # 102 is not handed over: it does not count
        evaluator.update({image: found[image]})
    evaluator.summarize()
    del found[102]
    expected = reference(truth, found, kind)
    assert values(evaluator, kind) == pytest.approx(expected, abs=1e-12)
    assert 0 < expected[0] < 1
    assert f"4 images ({kind})" in capsys.readouterr().out


def test_an_image_counts_once_and_nothing_found_counts() -> None:
    scenes = Scenes()
    found = predictions(scenes)
    evaluator = bw.CocoEvaluator(bw.coco_of(scenes), KINDS)
    evaluator.update({100: found[100], 101: {}})
    evaluator.update({100: {}, 101: found[101]})  # as samplers do that fill up the last batch
    evaluator.accumulate()
    expected = {100: found[100], 101: {name: value[:0] for name, value in found[101].items()}}
    for kind in KINDS:
        assert values(evaluator, kind) == pytest.approx(reference(bw.coco_of(scenes), expected, kind), abs=1e-12)


def test_nothing_at_all_is_minus_one() -> None:
    evaluator = bw.CocoEvaluator(bw.coco_of(Scenes()))
    evaluator.accumulate()
    assert set(values(evaluator, "bbox")) == {-1.0}


class TwoRanks:
    """A world whose other rank has found what is handed over here."""

    def __init__(self, other: dict[int, Any]) -> None:
        self.other = other

    def all(self, value: dict[int, Any]) -> list[dict[int, Any]]:
        return [value, self.other]


def test_ranks_share_what_they_found(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = Scenes()
    truth, found = bw.coco_of(scenes), predictions(scenes)
    one, other, alone = (bw.CocoEvaluator(truth) for _ in range(3))
    one.update({100: found[100], 101: found[101]})
    other.update({101: found[100], 102: found[102]})  # 101 is with both: the first rank's counts
    monkeypatch.setattr(coco_evaluator, "current_world", lambda: TwoRanks(other._found))
    one.synchronize()
    one.accumulate()
    alone.update({image: found[image] for image in (100, 101, 102)})
    alone.accumulate()
    assert one.numbers == alone.numbers


class Files:
    """As torchvision's CocoDetection: the truth of all images, and the ids of those that the data set has."""

    def __init__(self, truth: dict[str, Any], ids: Sequence[int]) -> None:
        self.coco = COCO()
        self.coco.dataset = truth
        self.ids = list(ids)

    def __len__(self) -> int:
        return len(self.ids)


def test_ground_truth_of_subsets() -> None:
    scenes = Scenes()
    truth = bw.coco_of(scenes)
    assert [image["id"] for image in truth["images"]] == [100, 101, 102, 103, 104]
    assert truth["images"][0] == {"id": 100, "height": SIDE, "width": SIDE}
    assert [category["id"] for category in truth["categories"]] == [1, 3]
    part = Subset(Subset(scenes, [4, 3, 1]), [2, 0])
    assert [image["id"] for image in bw.coco_of(part)["images"]] == [101, 104]
    files: Any = Subset(Files(truth, [100, 102, 103]), [2, 0])  # type: ignore[arg-type, var-annotated]
    taken = bw.coco_of(files)
    assert [image["id"] for image in taken["images"]] == [100, 103]
    assert {row["image_id"] for row in taken["annotations"]} == {100, 103}
    assert taken["categories"] == truth["categories"]


def test_images_of_pillow_and_positions_as_ids() -> None:
    target = {"boxes": np.array([[1, 2, 5, 9]]), "labels": [7]}
    truth = bw.coco_of([(Image.new("RGB", (30, 20)), target)])
    assert truth["images"] == [{"id": 0, "height": 20, "width": 30}]
    row = {"id": 1, "image_id": 0, "category_id": 7, "bbox": [1.0, 2.0, 4.0, 7.0], "area": 28.0, "iscrowd": 0}
    assert truth["annotations"] == [row]


def test_a_label_that_is_no_category_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    scenes = Scenes()
    found = predictions(scenes)
    evaluator, plain = bw.CocoEvaluator(bw.coco_of(scenes)), bw.CocoEvaluator(bw.coco_of(scenes))
    plain.update(found)
    for image, one in found.items():
        more = {name: torch.cat((value, value[:1])) for name, value in one.items()}
        more["labels"][len(one["labels"]) :] = 2
        evaluator.update({image: more})
    evaluator.accumulate()
    plain.accumulate()
    assert evaluator.numbers == plain.numbers
    assert [record.message.partition(" of the")[0] for record in caplog.records] == [
        "label 2 of image 100 is no category"
    ]


BOX = {"boxes": torch.zeros(1, 4), "labels": torch.ones(1), "scores": torch.ones(1)}


@pytest.mark.parametrize(
    ("kind", "found", "says"),
    [
        ("bbox", {7: BOX}, "lists no image 7"),
        ("segm", {100: BOX}, "no masks, which segm needs"),
        ("bbox", {100: BOX | {"boxes": torch.zeros(4)}}, r"boxes \(4,\); they are \(N,\), \(N,\) and \(N, 4\)"),
        ("bbox", {100: BOX | {"scores": torch.ones(2)}}, r"scores \(2,\)"),
        ("segm", {100: BOX | {"masks": torch.zeros(1, 8, 8)}}, r"masks \(1, 8, 8\); .*\(N, 40, 40\)"),
        ("bbox", {100: BOX | {"scores": torch.full((1,), torch.nan)}}, "not finite"),
    ],
)
def test_mistakes(kind: IouType, found: dict[int, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        bw.CocoEvaluator(bw.coco_of(Scenes()), kind).update(found)


def test_mistakes_of_the_truth() -> None:
    with pytest.raises(UserError, match="'box' is none of bbox"):
        bw.CocoEvaluator(bw.coco_of(Scenes()), "box")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="sample 0 of the list is no pair"):
        bw.coco_of([torch.zeros(3)])
    with pytest.raises(UserError, match="truth is no COCO ground truth"):
        bw.CocoEvaluator([])
    with pytest.raises(UserError, match="mapping by image id, not a list"):
        bw.CocoEvaluator(bw.coco_of(Scenes())).update([])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        ([{"boxes": torch.zeros(2, 4), "labels": torch.zeros(1)}], "2 boxes, but 1 labels"),
        (
            [{"boxes": torch.zeros(0, 4), "labels": [], "image_id": "a.jpg"}],
            "the image_id of sample 0 of the list is no number",
        ),
        (
            [{"boxes": torch.zeros(0, 4), "labels": [], "image_id": 7}] * 2,
            "sample 1 of the list has the image_id 7 of one before it",
        ),
    ],
)
def test_mistakes_of_a_data_set(targets: list[Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        bw.coco_of([(torch.zeros(3, 8, 8), target) for target in targets])
    with pytest.raises(UserError, match="not a int"):
        bw.coco_of(5)


def test_what_comes_after_the_summary_counts_too() -> None:
    scenes = Scenes()
    found = predictions(scenes)
    late, whole = bw.CocoEvaluator(bw.coco_of(scenes)), bw.CocoEvaluator(bw.coco_of(scenes))
    late.update({100: found[100]})
    late.summarize()
    late.update(found)
    whole.update(found)
    assert late.summarize() == whole.summarize()


def test_a_truth_that_the_metric_itself_refuses_is_one_sentence(tmp_path: Path) -> None:
    scenes = Scenes()
    truth = bw.coco_of(scenes)
    truth["annotations"][0]["area"] = "large"
    evaluator = bw.CocoEvaluator(truth)
    evaluator.update(predictions(scenes))
    with pytest.raises(UserError, match=r"predictions cannot be measured against the ground truth as bbox: .*area"):
        evaluator.accumulate()
    os.mkfifo(tmp_path / "truth.json")
    with pytest.raises(UserError, match="it is a pipe"):
        bw.CocoEvaluator(tmp_path / "truth.json")
