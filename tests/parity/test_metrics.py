"""The published YOLOv5 metric against recorded numbers: matching, AP, curves, confusion matrix, and the whole chain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boxwright.data.index import DataIndex, Record
from boxwright.data.structures import Detections
from boxwright.metrics.coco import BoxEvaluator, CocoMetrics, CocoTruth, as_json
from boxwright.metrics.matching import IOU_THRESHOLDS, FlatBoxes, Generation, confusion, match
from boxwright.ops.boxes import cxcywh_from_xyxy, scale_back, xyxy_from_cxcywh
from boxwright.yolo.metric import (
    YoloEvaluator,
    YoloMetrics,
    average_precision,
    average_precision_per_class,
    fitness,
    smooth,
)
from boxwright.yolo.postprocess import YoloPostprocess
from tests.golden import golden_cases, read_case

TOLERANCE = {"rtol": 1e-6, "atol": 1e-9}


def generation_of(meta: dict[str, Any]) -> Generation:
    """Which rule a record of some release is of."""
    return "v6.1" if meta["version"] in ("v6.0", "v6.1") else "v7.0"


def groups(arrays: dict[str, np.ndarray], marker: str) -> list[str]:
    """Names of the cases inside one file: what stands before `marker`."""
    return sorted(key.removesuffix(marker) for key in arrays if key.endswith(marker))


def flat(rows: np.ndarray, *, truth: bool = False, image: int = 0) -> FlatBoxes:
    """Boxes of one image from (n, 6) x1, y1, x2, y2, score, class or, for truth, (n, 5) class and xyxy."""
    boxes, labels = (rows[:, 1:5], rows[:, 0]) if truth else (rows[:, :4], rows[:, 5])
    scores = np.ones(len(rows), np.float32) if truth else rows[:, 4].astype(np.float32)
    return FlatBoxes(np.full(len(rows), image), boxes.astype(np.float32), labels.astype(np.int64), scores)


@pytest.mark.parametrize("file", [*golden_cases("metrics", "ap_v6*.npz"), *golden_cases("metrics", "ap_v7*.npz")])
def test_average_precision_per_class(file: Path) -> None:
    arrays, meta = read_case(file)
    cases = groups(arrays, "|tp")
    assert cases
    for case in cases:

        def value(name: str, case: str = case) -> np.ndarray:
            return arrays[f"{case}|{name}"]

        inputs = [value(name) for name in ("tp", "conf", "pred_cls", "target_cls")]
        metrics = average_precision_per_class(*inputs, generation=generation_of(meta))
        np.testing.assert_array_equal(metrics.class_ids, value("out_classes"))
        for name, got in (
            ("p", metrics.precision),
            ("r", metrics.recall),
            ("f1", metrics.f1),
            ("ap", metrics.ap),
            ("map50", metrics.map50),
            ("map", metrics.map),
        ):
            np.testing.assert_allclose(got, value(f"out_{name}"), **TOLERANCE, err_msg=f"{case} {name}")
        if f"{case}|out_tp_count" in arrays:
            np.testing.assert_array_equal(metrics.true_positives, value("out_tp_count"), err_msg=case)
            np.testing.assert_array_equal(metrics.false_positives, value("out_fp_count"), err_msg=case)


@pytest.mark.parametrize("file", [*golden_cases("metrics", "ap_v6*.npz"), *golden_cases("metrics", "ap_v7*.npz")])
def test_curve_smoothing_and_fitness(file: Path) -> None:
    arrays, _ = read_case(file)
    for case in groups(arrays, "|out_envelope"):
        area, axis, envelope = average_precision(arrays[f"{case}|recall"], arrays[f"{case}|precision"])
        np.testing.assert_allclose(area, arrays[f"{case}|out_ap"], **TOLERANCE)
        np.testing.assert_allclose(axis, arrays[f"{case}|out_recall_axis"], **TOLERANCE)
        np.testing.assert_allclose(envelope, arrays[f"{case}|out_envelope"], **TOLERANCE)
    for key in (key for key in arrays if key.startswith("smooth|out_f")):
        smoothed = smooth(arrays["smooth|y"], float(key.removeprefix("smooth|out_f")))
        np.testing.assert_allclose(smoothed, arrays[key], **TOLERANCE)
    for row, expected in zip(arrays.get("fitness|x", ()), arrays.get("fitness|out", ()), strict=True):
        got = fitness(float(row[2]), float(row[3]))
        np.testing.assert_allclose(got, expected, **TOLERANCE)


@pytest.mark.parametrize("file", [*golden_cases("metrics", "match_v6*.npz"), *golden_cases("metrics", "match_v7*.npz")])
def test_matching(file: Path) -> None:
    arrays, meta = read_case(file)
    np.testing.assert_array_equal(IOU_THRESHOLDS, arrays["iouv"])
    scenes = groups(arrays, "_out_correct")
    assert scenes
    for scene in scenes:
        found, truth = flat(arrays[f"{scene}_detections"]), flat(arrays[f"{scene}_labels"], truth=True)
        correct = match(found, truth, generation=generation_of(meta))
        np.testing.assert_array_equal(correct, arrays[f"{scene}_out_correct"].astype(bool), err_msg=scene)


@pytest.mark.parametrize("file", [*golden_cases("metrics", "match_v6*.npz"), *golden_cases("metrics", "match_v7*.npz")])
def test_matching_of_many_images_at_once_equals_one_by_one(file: Path) -> None:
    arrays, meta = read_case(file)
    scenes = groups(arrays, "_out_correct")
    parts = [flat(arrays[f"{scene}_detections"], image=i) for i, scene in enumerate(scenes)]
    truths = [flat(arrays[f"{scene}_labels"], truth=True, image=i) for i, scene in enumerate(scenes)]
    correct = match(joined(parts), joined(truths), generation=generation_of(meta))
    expected = np.concatenate([arrays[f"{scene}_out_correct"] for scene in scenes]).astype(bool)
    np.testing.assert_array_equal(correct, expected)


def joined(parts: list[FlatBoxes]) -> FlatBoxes:
    columns = ("images", "boxes", "labels", "scores")
    return FlatBoxes(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))


@pytest.mark.parametrize("file", [*golden_cases("metrics", "match_v6*.npz"), *golden_cases("metrics", "match_v7*.npz")])
def test_confusion_matrix(file: Path) -> None:
    arrays, meta = read_case(file)
    scenes = groups(arrays, "_out_correct")
    total = np.zeros_like(arrays["total_out_confusion"])
    for scene in scenes:
        found, truth = flat(arrays[f"{scene}_detections"]), flat(arrays[f"{scene}_labels"], truth=True)
        matrix = confusion(found, truth, meta["nc"], generation=generation_of(meta))
        np.testing.assert_array_equal(matrix, arrays[f"{scene}_out_confusion"], err_msg=scene)
        total += matrix
    np.testing.assert_array_equal(total, arrays["total_out_confusion"])
    if meta["tp"] is not None:
        np.testing.assert_array_equal(total.diagonal()[:-1], meta["tp"])
        np.testing.assert_array_equal((total.sum(axis=1) - total.diagonal())[:-1], meta["fp"])


class Recorded:
    """An end-to-end recording: decoded predictions, labels and letterbox of a few batches."""

    def __init__(self, file: Path) -> None:
        self.arrays, self.meta = read_case(file)
        self.batches = groups(self.arrays, "_decoded")
        self.records: list[Record] = []
        self.detections: list[Detections] = []
        nms: dict[str, Any] = self.meta["nms"]
        postprocess = YoloPostprocess(
            nms["conf_thres"], nms["iou_thres"], nms["max_det"], multi_label=nms["multi_label"]
        )
        for batch in self.batches:
            found = postprocess(torch.from_numpy(self.arrays[f"{batch}_decoded"]))
            for row, one in enumerate(found):
                boxes = self.to_original(batch, row, one.boxes)
                self.detections.append(Detections(boxes, one.scores, one.labels))
                self.records.append(self.record(batch, row))
        self.index = DataIndex.from_records(
            self.records, [str(i) for i in range(self.meta["nc"])], category_ids=range(self.meta["nc"])
        )

    def to_original(self, batch: str, row: int, boxes: torch.Tensor) -> torch.Tensor:
        ratio, pad = self.arrays[f"{batch}_ratio_hw"][row], self.arrays[f"{batch}_pad_wh"][row]
        height, width = self.arrays[f"{batch}_shape0_hw"][row].tolist()
        scale = float(ratio[0]), float(ratio[0])  # the recorded system scales both axes by the vertical ratio
        return scale_back(boxes, scale, (float(pad[1]), float(pad[0])), (height, width))

    def record(self, batch: str, row: int) -> Record:
        targets = self.arrays[f"{batch}_targets"]
        mine = targets[targets[:, 0] == row]
        input_height, input_width = self.meta["input_hw"]
        padded = torch.from_numpy(mine[:, 2:] * np.array([input_width, input_height] * 2, np.float32))
        boxes = cxcywh_from_xyxy(self.to_original(batch, row, xyxy_from_cxcywh(padded)))
        height, width = self.arrays[f"{batch}_shape0_hw"][row].tolist()
        norm = boxes.numpy() / np.array([width, height] * 2, np.float32)
        return Record(Path(f"{len(self.records)}.jpg"), height, width, mine[:, 1].astype(np.int32), norm)


@pytest.fixture(params=golden_cases("metrics", "end_to_end*.npz"))
def recorded(request: pytest.FixtureRequest) -> Recorded:
    return Recorded(request.param)


def test_chain_detections(recorded: Recorded) -> None:
    for image, found in enumerate(recorded.detections):
        expected = recorded.arrays[f"img{image}_detections"]
        got = torch.cat((found.boxes, found.scores[:, None], found.labels[:, None].float()), dim=1).numpy()
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-3)


def test_chain_published_metric(recorded: Recorded) -> None:
    metrics = published(recorded, batch_size=4)
    expected = recorded.meta["expected_val"]
    got = (metrics.mean_precision, metrics.mean_recall, metrics.map50, metrics.map)
    wanted = [expected[name] for name in ("mean_precision", "mean_recall", "map50", "map50_95")]
    np.testing.assert_allclose(got, wanted, **TOLERANCE)
    # The record gives classes without labels the mean of all.
    maps = np.full(recorded.meta["nc"], metrics.map)
    maps[metrics.class_ids] = metrics.ap.mean(axis=1)
    np.testing.assert_allclose(maps, expected["maps_per_class"], **TOLERANCE)


def test_chain_does_not_depend_on_the_batches(recorded: Recorded) -> None:
    one, all_at_once = published(recorded, batch_size=1), published(recorded, batch_size=1000)
    np.testing.assert_array_equal(one.ap, all_at_once.ap)


def published(recorded: Recorded, batch_size: int) -> YoloMetrics:
    evaluator = YoloEvaluator(recorded.index, generation_of(recorded.meta))
    for start in range(0, len(recorded.index), batch_size):
        rows = range(start, min(start + batch_size, len(recorded.index)))
        evaluator.process([recorded.detections[i] for i in rows], rows)
    return evaluator.evaluate()


def test_chain_coco_metric(recorded: Recorded) -> None:
    metrics = coco(recorded, recorded.detections)
    np.testing.assert_allclose(metrics.stats, recorded.meta["expected_coco_stats"], rtol=1e-6, atol=1e-6)
    rows, expected = as_json(metrics.predictions), recorded.meta["coco_predictions"]
    assert [(r["image_id"], r["category_id"]) for r in rows] == [(r["image_id"], r["category_id"]) for r in expected]
    for name, atol in (("bbox", 1.5e-3), ("score", 1.5e-5)):  # one unit of the last decimal written
        np.testing.assert_allclose([r[name] for r in rows], [r[name] for r in expected], rtol=0, atol=atol)


def test_chain_coco_metric_of_whole_pixel_corners(recorded: Recorded) -> None:
    rounded = [Detections(found.boxes.round(), found.scores, found.labels) for found in recorded.detections]
    expected = recorded.meta["expected_coco_stats_corners_rounded_to_integers"]
    np.testing.assert_allclose(coco(recorded, rounded).stats, expected, rtol=1e-6, atol=1e-6)


def coco(recorded: Recorded, detections: list[Detections]) -> CocoMetrics:
    evaluator = BoxEvaluator(recorded.index, CocoTruth.from_json(recorded.meta["coco_ground_truth"]))
    for image, found in enumerate(detections):
        evaluator.process([found], [image])
    return evaluator.evaluate()
