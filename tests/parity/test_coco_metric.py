"""The COCO metric against pycocotools: every number and the whole precision array equal to the bit."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from boxwright.data.index import DataIndex, Record
from boxwright.data.structures import Detections
from boxwright.metrics.coco import BoxEvaluator, CocoMetrics, CocoTruth, as_json


def reference(truth: dict[str, Any], results: list[dict[str, Any]]) -> COCOeval:
    """What pycocotools makes of it, without its chatter."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = truth
        ground_truth.createIndex()
        found = COCO()
        found.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": []}
        found.createIndex()
        if results:
            found = ground_truth.loadRes([dict(row) for row in results])
        evaluation = COCOeval(ground_truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def ours(truth: dict[str, Any], results: list[dict[str, Any]], batch_size: int) -> CocoMetrics:
    """The same through our adapter, streamed in batches; `results` must be in float32 and rounded as we write them."""
    records = [
        Record(
            Path(f"{image['id']}.jpg"),
            image["height"],
            image["width"],
            np.zeros(0, np.int32),
            np.zeros((0, 4), np.float32),
            image_id=image["id"],
        )
        for image in truth["images"]
    ]
    category_ids = [category["id"] for category in truth["categories"]]
    index = DataIndex.from_records(records, [str(i) for i in category_ids], category_ids=category_ids)
    evaluator = BoxEvaluator(index, CocoTruth.from_json(truth))
    detections = [rows_of(results, image["id"], category_ids) for image in truth["images"]]
    for start in range(0, len(detections), batch_size):
        part = detections[start : start + batch_size]
        evaluator.process(part, range(start, start + len(part)))
    return evaluator.evaluate()


def rows_of(results: list[dict[str, Any]], image_id: int, category_ids: list[int]) -> Detections:
    mine = [row for row in results if row["image_id"] == image_id]
    boxes = torch.tensor([row["bbox"] for row in mine], dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = torch.tensor([row["score"] for row in mine], dtype=torch.float32)
    labels = torch.tensor([category_ids.index(row["category_id"]) for row in mine], dtype=torch.int64)
    return Detections(boxes.float(), scores, labels)


def assert_same_bits(metrics: CocoMetrics, evaluation: COCOeval) -> None:
    np.testing.assert_array_equal(metrics.stats, evaluation.stats)
    np.testing.assert_array_equal(metrics.precision, evaluation.eval["precision"])


def test_cocoapi_example(shared: Path) -> None:
    folder = shared / "data" / "cocoapi"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    known = [0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564]
    expected = reference(truth, results)
    for batch_size in (1, 7, 1000):
        metrics = ours(truth, results, batch_size)
        np.testing.assert_allclose(metrics.stats, known, atol=5.01e-4)
        assert_same_bits(metrics, expected)
    assert_same_bits(metrics, reference(truth, as_json(metrics.predictions)))


def random_truth(rng: np.random.Generator, *, num_images: int, num_classes: int, max_boxes: int) -> dict[str, Any]:
    images = [{"id": int(i), "width": 640, "height": 480} for i in rng.permutation(num_images * 3)[:num_images]]
    categories = [{"id": int(i), "name": f"c{i}"} for i in np.sort(rng.permutation(90)[:num_classes] + 1)]
    annotations: list[dict[str, Any]] = []
    for image in images:
        for _ in range(int(rng.integers(0, max_boxes + 1)) if rng.random() > 0.2 else 0):
            x, y, w, h = box(rng)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": int(rng.choice([c["id"] for c in categories])),
                    "bbox": [x, y, w, h],
                    "area": float(w * h * rng.uniform(0.4, 1)),
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
    return {"images": images, "categories": categories, "annotations": annotations}


def box(rng: np.random.Generator) -> list[float]:
    """A box of any size class whose corners a float32 holds exactly."""
    side = float(rng.choice([8, 40, 200]))
    w, h = (np.round(rng.uniform(0.3, 1.5, 2) * side * 4) / 4 + 0.25).tolist()
    x, y = (np.round(rng.uniform(0, 400, 2) * 4) / 4).tolist()
    return [x, y, w, h]


def random_results(rng: np.random.Generator, truth: dict[str, Any], *, per_label: int, spread: int) -> list[Any]:
    """Detections around labels and elsewhere; scores on a coarse grid, so that many are equal."""
    seeds = [(a["image_id"], a["category_id"], a["bbox"]) for a in truth["annotations"] for _ in range(per_label)]
    for image in truth["images"]:
        for _ in range(int(rng.integers(0, spread + 1))):
            seeds.append((image["id"], int(rng.choice([c["id"] for c in truth["categories"]])), box(rng)))
    results: list[Any] = []
    for image_id, category_id, corner_box in seeds:
        shift = np.round(rng.normal(0, 0.06, 4) * np.array(corner_box)[[2, 3, 2, 3]] * 4) / 4
        x, y, w, h = (np.array(corner_box) + shift).tolist()
        score = float(rng.integers(0, 20)) / 20
        row = {"image_id": image_id, "category_id": category_id, "bbox": [x, y, max(w, 0.25), max(h, 0.25)]}
        results.append(row | {"score": score})
    order = rng.permutation(len(results))
    return [results[i] for i in order]


CASES = {
    "many classes": ({"num_images": 25, "num_classes": 7, "max_boxes": 8}, {"per_label": 3, "spread": 6}),
    "one class": ({"num_images": 20, "num_classes": 1, "max_boxes": 12}, {"per_label": 2, "spread": 5}),
    "more than 100 boxes an image": (
        {"num_images": 3, "num_classes": 1, "max_boxes": 60},
        {"per_label": 5, "spread": 90},
    ),
    "one image": ({"num_images": 1, "num_classes": 2, "max_boxes": 30}, {"per_label": 2, "spread": 3}),
    "no detections": ({"num_images": 5, "num_classes": 2, "max_boxes": 5}, {"per_label": 0, "spread": 0}),
    "no ground truth": ({"num_images": 5, "num_classes": 2, "max_boxes": 0}, {"per_label": 0, "spread": 9}),
    "nothing at all": ({"num_images": 4, "num_classes": 2, "max_boxes": 0}, {"per_label": 0, "spread": 0}),
}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("case", CASES)
def test_random_sets(case: str, seed: int) -> None:
    rng = np.random.default_rng([seed, list(CASES).index(case)])
    truth_settings, result_settings = CASES[case]
    truth = random_truth(rng, **truth_settings)
    results = random_results(rng, truth, **result_settings)
    # Equal scores are ranked in the order given, so both sides get the detections grouped by image.
    results = [row for image in truth["images"] for row in results if row["image_id"] == image["id"]]
    evaluation = reference(truth, results)
    for batch_size in (1, 4, 1000):
        assert_same_bits(ours(truth, results, batch_size), evaluation)


def test_random_sets_hold_what_they_are_for() -> None:
    rng = np.random.default_rng([0, 0])
    truth = random_truth(rng, **CASES["many classes"][0])
    results = random_results(rng, truth, **CASES["many classes"][1])
    assert any(a["iscrowd"] for a in truth["annotations"])
    assert len({a["image_id"] for a in truth["annotations"]}) < len(truth["images"])
    assert len({row["score"] for row in results}) < len(results) / 4
    assert 0.1 < reference(truth, results).stats[0] < 0.9


def test_classes_without_labels_do_not_count() -> None:
    rng = np.random.default_rng([0, 0])
    truth = random_truth(rng, **CASES["many classes"][0])
    results = random_results(rng, truth, **CASES["many classes"][1])
    missing = truth["categories"][0]["id"]
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] != missing]
    metrics = ours(truth, results, 32)
    labelled = {a["category_id"] for a in truth["annotations"] if not a["iscrowd"]}
    present = np.array([category["id"] in labelled for category in truth["categories"]])
    assert (metrics.ap_per_class[~present] == -1).all()
    np.testing.assert_allclose(metrics.ap_per_class[present].mean(), metrics.stats[0], rtol=1e-12)
    np.testing.assert_allclose(metrics.ap50_per_class[present].mean(), metrics.stats[1], rtol=1e-12)
