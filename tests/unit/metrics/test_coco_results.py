"""`boxwright val --json`: what is printed, and every mistake in one sentence with exit code 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from boxwright.cli.main import main

TRUTH: dict[str, Any] = {
    "images": [{"id": 1, "height": 9, "width": 9}],
    "categories": [{"id": 3}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 5, 5]}],
}
RESULT: dict[str, Any] = {"image_id": 1, "category_id": 3, "bbox": [1, 1, 5, 5], "score": 0.5}


def run(folder: Path, truth: object, results: object, *argv: str) -> int:
    (folder / "gt.json").write_text(json.dumps(truth))
    (folder / "r.json").write_text(json.dumps(results))
    return main(["val", "--json", str(folder / "r.json"), "--annotations", str(folder / "gt.json"), *argv])


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k != key}


def test_numbers_in_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, TRUTH, [RESULT]) == 0
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
    assert run(tmp_path, truth, [RESULT]) == 2
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
    assert run(tmp_path, TRUTH, results) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "r.json" in error
    assert len(error.strip().splitlines()) == 1


def test_another_type_than_the_results_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = TRUTH["annotations"][0] | {"segmentation": [[1, 1, 6, 1, 6, 6]], "area": 12.5}
    assert run(tmp_path, TRUTH | {"annotations": [label]}, [RESULT], "--iou-type", "segm") == 2
    assert "has no segmentation, which --iou-type segm compares; it can be" in capsys.readouterr().err
    assert run(tmp_path, TRUTH, [RESULT], "--iou-type", "keypoints") == 2
    assert "has no keypoints, num_keypoints, area" in capsys.readouterr().err
    broken = RESULT | {"segmentation": {"size": [9, 9], "counts": 3}}
    assert run(tmp_path, TRUTH | {"annotations": [label]}, [broken], "--iou-type", "segm") == 2
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
