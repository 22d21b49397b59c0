"""The COCO adapter: ground truth from files and labels, ids, rounding, empty sets, bad files; and the command line
on files of results: what is printed, and every mistake in one sentence with exit code 2.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright.cli.main import main
from boxwright.data.index import DataIndex
from boxwright.data.structures import Detections
from boxwright.errors import UserError
from boxwright.metrics.coco import STAT_NAMES, BoxEvaluator, CocoMetrics, CocoTruth, as_json, truth_for
from boxwright.metrics.matching import truth_of
from tests.unit.metrics.scenes import HEIGHT, WIDTH, detections, random_scene


def measure(index: DataIndex, truth: CocoTruth, found: list[Detections], batch_size: int = 3) -> CocoMetrics:
    evaluator = BoxEvaluator(index, truth)
    for start in range(0, len(found), batch_size):
        part = found[start : start + batch_size]
        evaluator.process(part, range(start, start + len(part)))
    return evaluator.evaluate()


def as_ground_truth(index: DataIndex) -> dict[str, Any]:
    """The labels of an index written as a COCO file would have them."""
    annotations: list[dict[str, Any]] = []
    for image in range(len(index)):
        flat = truth_of(index, [image])
        for box, label in zip(flat.boxes.astype(float).tolist(), flat.labels.tolist(), strict=True):
            x, y, w, h = box[0], box[1], box[2] - box[0], box[3] - box[1]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": int(index.image_ids[image]),
                    "category_id": index.category_ids[label],
                    "bbox": [x, y, w, h],
                }
            )
    images = [{"id": int(i), "width": WIDTH, "height": HEIGHT} for i in index.image_ids]
    return {"images": images, "annotations": annotations, "categories": [{"id": i} for i in index.category_ids]}


def test_labels_are_as_good_as_a_file(tmp_path: Path) -> None:
    index, found = random_scene(7)
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(as_ground_truth(index)))
    from_file = measure(index, truth_for(replace(index, annotations=file)), found)
    from_labels = measure(index, truth_for(index), found)
    np.testing.assert_array_equal(from_file.stats, from_labels.stats)
    assert 0 < from_file.stats[0] < 1
    assert list(from_file.named()) == list(STAT_NAMES)


@pytest.mark.parametrize("batch_size", [1, 100])
def test_batches_do_not_matter(batch_size: int) -> None:
    index, found = random_scene(8)
    truth = CocoTruth.from_index(index)
    one, other = measure(index, truth, found, batch_size), measure(index, truth, found)
    np.testing.assert_array_equal(one.precision, other.precision)


def test_ids_and_rounding_of_results() -> None:
    index, _ = random_scene(9, num_images=2)
    index = replace(index, image_ids=np.array([397133, 37777]), category_ids=(1, 44, 90))
    found = [detections([[1 / 3, 2, 10 + 2 / 3, 20]], [0.123456], [1]), detections([], [], [])]
    rows = as_json(measure(index, CocoTruth.from_index(index), found).predictions)
    assert rows == [
        {"image_id": 397133, "category_id": 44, "bbox": [0.333, 2.0, 10.333, 18.0], "score": 0.12346},
    ]


def test_nothing_to_measure_is_minus_one() -> None:
    index, found = random_scene(10)
    bare = DataIndex.from_records([], index.names)
    assert (measure(bare, CocoTruth.from_index(bare), []).stats == -1).all()
    unlabelled = replace(index, box_offsets=np.zeros_like(index.box_offsets))
    assert (measure(unlabelled, CocoTruth.from_index(unlabelled), found).stats == -1).all()
    nothing_found = measure(index, CocoTruth.from_index(index), [Detections.empty() for _ in found])
    assert nothing_found.stats[:3].tolist() == [0, 0, 0]


def test_classes_that_the_ground_truth_does_not_know_are_left_out() -> None:
    index, found = random_scene(11)
    truth = CocoTruth.from_index(index)
    fewer = CocoTruth(
        truth.images,
        {i: [a for a in rows if a["category_id"] != 3] for i, rows in truth.annotations.items()},
        truth.categories[:2],
    )
    metrics = measure(index, fewer, found)
    whole = measure(index, truth, found)
    np.testing.assert_array_equal(metrics.ap_per_class, [*whole.ap_per_class[:2], -1])


def test_a_file_that_does_not_know_the_images_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index, found = random_scene(12)
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(as_ground_truth(replace(index, image_ids=index.image_ids + 100))))
    with caplog.at_level(logging.WARNING, "boxwright.evaluation"):
        truth = truth_for(replace(index, annotations=file))
    assert "does not know 8 of the 8 images" in caplog.text
    expected = measure(index, CocoTruth.from_index(index), found)
    np.testing.assert_array_equal(measure(index, truth, found).stats, expected.stats)


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]", '{"images": [], "annotations": [{"id": 1}], "categories": []}'])
def test_files_that_are_no_ground_truth(tmp_path: Path, text: str) -> None:
    file = tmp_path / "instances.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"instances\.json"):
        CocoTruth.from_file(file)
    with pytest.raises(UserError, match=r"missing\.json"):
        CocoTruth.from_file(tmp_path / "missing.json")


def test_boxes_are_measured_without_sizes_and_ids_of_annotations() -> None:
    index, found = random_scene(12)
    content = as_ground_truth(index)
    expected = measure(index, CocoTruth.from_json(content), found).stats
    for row in content["images"]:
        del row["width"], row["height"]
    for row in content["annotations"]:
        del row["id"]
    np.testing.assert_array_equal(measure(index, CocoTruth.from_json(content), found).stats, expected)


TRUTH: dict[str, Any] = {
    "images": [{"id": 1, "height": 9, "width": 9}],
    "categories": [{"id": 3}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 5, 5]}],
}
RESULT: dict[str, Any] = {"image_id": 1, "category_id": 3, "bbox": [1, 1, 5, 5], "score": 0.5}


def run_val(folder: Path, truth: object, results: object, *argv: str) -> int:
    (folder / "gt.json").write_text(json.dumps(truth))
    (folder / "r.json").write_text(json.dumps(results))
    return main(["val", "--json", str(folder / "r.json"), "--annotations", str(folder / "gt.json"), *argv])


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k != key}


def test_numbers_in_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_val(tmp_path, TRUTH, [RESULT]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    names = "AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl".split()
    assert [row[0] for row in rows] == names
    assert rows[0] == ["AP", "0.50:0.95", "all", "100", "1.000"]
    assert rows[5] == ["APl", "0.50:0.95", "large", "100", "-1.000"]
    assert rows[6] == ["AR1", "0.50:0.95", "all", "1", "1.000"]


@pytest.mark.parametrize(
    ("truth", "says"),
    [
        ([], "is no COCO ground truth"),
        (without(TRUTH, "categories"), "the key 'categories' is missing"),
        (without(TRUTH, "annotations"), "the key 'annotations' is missing"),
        (TRUTH | {"images": [{"width": 9}]}, "entry 0 of images has no id"),
        (TRUTH | {"annotations": [{"id": 1, "image_id": 1}]}, "entry 0 of annotations has no category_id, bbox"),
        (TRUTH | {"annotations": [TRUTH["annotations"][0] | {"bbox": [1, 2]}]}, "bbox is a list of 4 numbers"),
        (TRUTH | {"categories": ["cat"]}, "entry 0 of categories is no record"),
        (TRUTH | {"images": [{"id": "1"}]}, "id is a whole number"),
    ],
)
def test_a_ground_truth_without_what_is_needed(
    tmp_path: Path, truth: object, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_val(tmp_path, truth, [RESULT]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "gt.json" in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("results", "says"),
    [
        ({}, "holds no list of COCO results"),
        ([without(RESULT, "score")], "entry 0 of the results has no score"),
        ([without(RESULT, "bbox")], "has no bbox, which --iou-type bbox compares"),
        ([RESULT, RESULT | {"image_id": 7}], "has 1 image_id that"),
        ([RESULT | {"category_id": 0}], "does not list: 0; the categories there are 3"),
        ([RESULT | {"bbox": [1, 2, 3]}], "bbox is a list of 4 numbers"),
        ([RESULT | {"bbox": [1, 2, 3, None]}], "bbox is a list of 4 numbers"),
        ([RESULT | {"score": "high"}], "score is a number"),
        ([RESULT | {"score": float("nan")}], "score is a number"),
        ([3], "entry 0 of the results is no record"),
    ],
)
def test_results_that_do_not_fit(
    tmp_path: Path, results: object, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_val(tmp_path, TRUTH, results) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "r.json" in error
    assert len(error.strip().splitlines()) == 1


def test_another_type_than_the_results_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = TRUTH["annotations"][0] | {"segmentation": [[1, 1, 6, 1, 6, 6]], "area": 12.5}
    assert run_val(tmp_path, TRUTH | {"annotations": [label]}, [RESULT], "--iou-type", "segm") == 2
    assert "has no segmentation, which --iou-type segm compares; it can be" in capsys.readouterr().err
    assert run_val(tmp_path, TRUTH, [RESULT], "--iou-type", "keypoints") == 2
    assert "has no keypoints, num_keypoints, area" in capsys.readouterr().err
    broken = RESULT | {"segmentation": {"size": [9, 9], "counts": 3}}
    assert run_val(tmp_path, TRUTH | {"annotations": [label]}, [broken], "--iou-type", "segm") == 2
    assert "r.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--json", "r.json"], "needs --annotations"),
        (["--annotations", "gt.json"], "--annotations goes with --json"),
        (
            ["--json", "r.json", "--annotations", "g.json", "--iou-type", "box"],
            "(--iou-type): should be 'bbox', 'segm' or 'keypoints', got 'box'",
        ),
        (["--json", "r.json", "--annotations", "g.json", "--imgsz", "3"], "leave out --imgsz"),
        (["--json", "gone.json", "--annotations", "gone.json"], "cannot read gone.json"),
    ],
)
def test_flags(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["val", *argv]) == 2
    assert says in capsys.readouterr().err
