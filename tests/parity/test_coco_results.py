"""Files of COCO results against pycocotools: boxes, masks and keypoints, every number equal to the bit."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import boxwright as bw
from boxwright.errors import UserError
from boxwright.metrics.coco import IouType, measure_results

SIDE = 120
NUM_IMAGES, NUM_CATEGORIES = 12, 3


def reference(truth: Path, results: Path, iou_type: IouType) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(str(truth))
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(str(results)), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def assert_same(truth: Path, results: Path, iou_type: IouType) -> list[float]:
    values = [number.value for number in measure_results(results, truth, iou_type)]
    np.testing.assert_array_equal(values, reference(truth, results, iou_type))
    return values


def write(folder: Path, truth: dict[str, Any], results: list[dict[str, Any]]) -> tuple[Path, Path]:
    (folder / "gt.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    return folder / "gt.json", folder / "results.json"


def box(random: np.random.Generator) -> list[float]:
    x, y = random.uniform(0, SIDE * 0.7, 2)
    w, h = random.uniform(4, SIDE * 0.9, 2)
    return [round(float(n), 2) for n in (x, y, min(w, SIDE - x), min(h, SIDE - y))]


def near(values: list[float], random: np.random.Generator, spread: float) -> list[float]:
    return [round(float(max(v + random.normal(0, spread), 1)), 2) for v in values]


def scene(random: np.random.Generator) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Labels, some of them crowds, and results near them with repeated scores; images without either."""
    images = [{"id": 10 + i, "height": SIDE, "width": SIDE} for i in range(NUM_IMAGES)]
    categories = [{"id": 2 * i + 1, "name": str(i)} for i in range(NUM_CATEGORIES)]
    truth: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in images[:-2]:
        for _ in range(int(random.integers(0, 7))):
            sides = box(random)
            where = {"image_id": image["id"], "category_id": int(random.integers(0, NUM_CATEGORIES)) * 2 + 1}
            area = round(sides[2] * sides[3] * float(random.uniform(0.3, 1)), 2)
            crowd = int(random.random() < 0.15)
            truth.append({"id": len(truth) + 1, **where, "bbox": sides, "area": area, "iscrowd": crowd})
            for _ in range(int(random.integers(0, 3))):
                score = round(float(random.random()), 1)
                results.append({**where, "bbox": near(sides, random, 3.0), "score": score})
    results += [
        {"image_id": 10 + i, "category_id": 1, "bbox": box(random), "score": 0.05} for i in range(NUM_IMAGES - 1)
    ]
    return {"images": images, "categories": categories, "annotations": truth}, results


def run_length(sides: list[float], random: np.random.Generator) -> dict[str, Any]:
    """A mask of a box with ragged borders."""
    x, y, w, h = (round(n) for n in sides)
    area = np.zeros((SIDE, SIDE), np.uint8, order="F")
    area[y : y + h, x : x + w] = 1
    area[random.random((SIDE, SIDE)) < 0.05] = 0
    code = masks.encode(area)
    return {"size": code["size"], "counts": code["counts"].decode()}


def outline(sides: list[float]) -> list[list[float]]:
    x, y, w, h = sides
    return [[x, y, x + w, y, x + w, y + h / 2, x + w / 2, y + h, x, y + h]]


def joints(sides: list[float], random: np.random.Generator, *, labelled: float) -> list[float]:
    x, y, w, h = sides
    points = np.stack((random.uniform(x, x + w, 17), random.uniform(y, y + h, 17), np.full(17, 2.0)), axis=1)
    points[random.random(17) >= labelled] = 0
    return [round(float(n), 2) for n in points.reshape(-1)]


@pytest.mark.parametrize("seed", range(4))
def test_boxes(tmp_path: Path, seed: int) -> None:
    assert assert_same(*write(tmp_path, *scene(np.random.default_rng(seed))), "bbox")[0] > 0


@pytest.mark.parametrize("with_boxes", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_masks(tmp_path: Path, seed: int, with_boxes: bool) -> None:
    """With a box beside the mask a result has the area of the box, as in pycocotools."""
    random = np.random.default_rng(seed)
    truth, results = scene(random)
    for row in truth["annotations"]:
        code = {"size": [SIDE, SIDE], "counts": [0, 900, SIDE * SIDE - 900]}  # a crowd is an uncompressed code
        row["segmentation"] = code if row["iscrowd"] else outline(row["bbox"])
    for row in results:
        row["segmentation"] = run_length(row["bbox"], random)
        if not with_boxes:
            del row["bbox"]
    assert assert_same(*write(tmp_path, truth, results), "segm")[0] > 0


@pytest.mark.parametrize("seed", range(3))
def test_keypoints(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    truth, results = scene(random)
    by_place: dict[tuple[int, int], list[float]] = {}
    for row in truth["annotations"]:
        row["keypoints"] = joints(row["bbox"], random, labelled=random.choice([0.0, 0.6, 1.0]))
        row["num_keypoints"] = sum(v > 0 for v in row["keypoints"][2::3])
        by_place[row["image_id"], row["category_id"]] = row["keypoints"]
    for row in results:
        base = by_place.get((row["image_id"], row["category_id"])) or joints(row["bbox"], random, labelled=1)
        row["keypoints"] = near(base, random, 1.0)
        del row["bbox"]
    values = assert_same(*write(tmp_path, truth, results), "keypoints")
    assert len(values) == 10
    assert values[0] > 0


def test_no_result_at_all(tmp_path: Path) -> None:
    truth, _ = scene(np.random.default_rng(0))
    values = [n.value for n in measure_results(*reversed(write(tmp_path, truth, [])), "bbox")]
    assert max(values) == 0


def test_nothing_labelled(tmp_path: Path) -> None:
    truth, results = scene(np.random.default_rng(0))
    truth["annotations"] = []
    assert assert_same(*write(tmp_path, truth, results), "bbox") == [-1.0] * 12


def test_lists_arrays_and_objects_are_measured_as_files(tmp_path: Path) -> None:
    truth, results = scene(np.random.default_rng(5))
    files = write(tmp_path, truth, results)
    expected = reference(*files, "bbox")
    rows = [[r["image_id"], *r["bbox"], r["score"], r["category_id"]] for r in results]
    of_numpy = [r | {"bbox": np.array(r["bbox"]), "score": np.float64(r["score"])} for r in results]
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO(str(files[0]))
    for found, known in (
        (results, truth),
        (np.array(rows), api),
        (torch.tensor(rows).double(), truth),
        (of_numpy, files[0]),
    ):
        assert [number.value for number in bw.measure_results(found, known)] == expected


@pytest.mark.parametrize(
    ("results", "iou_type", "says"),
    [
        (np.zeros((3, 5)), "bbox", r"the shape \(N, 6 or 7\), .* not \(3, 5\)"),
        (np.zeros((3, 7)), "segm", "for bbox; not .* for segm"),
        (np.full((1, 7), np.nan), "bbox", "not finite"),
        (np.full((1, 7), 0.5), "bbox", "ids that are no whole numbers"),
        ([{"image_id": 99, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}], "bbox", "results has 1 image_id that"),
        ({}, "bbox", "results holds no list"),
    ],
)
def test_mistakes_of_what_is_handed_over(results: Any, iou_type: IouType, says: str) -> None:
    truth, _ = scene(np.random.default_rng(0))
    for row in truth["annotations"]:
        row["segmentation"] = outline(row["bbox"])
    with pytest.raises(UserError, match=says):
        bw.measure_results(results, truth, iou_type)
