"""Acceptance of YOLO label files against what the published system does with them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from boxwright.data.dataset import open_dataset
from boxwright.data.yolo_txt import parse_labels, read_yolo
from tests.golden import golden_cases
from tests.unit.data.small_sets import write_image


@pytest.mark.parametrize("expected", golden_cases("labels", "expected_v*.json"))
def test_acceptance(expected: Path) -> None:
    for case in json.loads(expected.read_text())["results"]:
        if case["file"] is None:
            assert case["outcome"].startswith("background")  # there is no label file at all
            continue
        text = (expected.parent / "files" / case["file"]).read_bytes().decode()
        labels = parse_labels(text, Path(case["file"]))
        outcome = case["outcome"]
        assert labels.rejected == (outcome == "rejected"), case["file"]
        if outcome == "rejected":
            assert labels.problems[0].drops == "image"
            assert labels.problems[0].line >= 1
            continue
        boxes = np.array(case["boxes"], dtype=np.float32).reshape(-1, 5)
        np.testing.assert_array_equal(labels.rows, boxes, err_msg=case["file"])
        assert [len(points) for points in labels.polygons] == case["segment_lengths"]
        left_out = any(problem.drops for problem in labels.problems)
        assert left_out == (outcome == "accepted_with_warning"), case["file"]


@pytest.mark.parametrize("expected", golden_cases("labels", "expected_v*.json"))
def test_images_of_the_label_files(expected: Path, tmp_path: Path) -> None:
    """The whole way: an image is in the index exactly if its label file is accepted, or missing."""
    cases = json.loads(expected.read_text())["results"]
    for case in cases:
        name = case["file"] or "no label.txt"
        write_image(tmp_path / "images" / Path(name).with_suffix(".png"), height=48, width=64)
        if case["file"]:
            (tmp_path / "labels").mkdir(exist_ok=True)
            (tmp_path / "labels" / name).write_bytes((expected.parent / "files" / name).read_bytes())
    images = sorted((tmp_path / "images").iterdir())
    index = read_yolo(images, [f"class {i}" for i in range(1000)])
    stems = {index.path(i).stem: i for i in range(len(index))}
    for case in cases:
        stem = Path(case["file"] or "no label.txt").stem
        assert (stem in stems) == (case["outcome"] != "rejected"), stem
        if stem in stems:
            boxes = np.array(case["boxes"], dtype=np.float32).reshape(-1, 5)
            boxes = boxes[(boxes[:, 3:] > 0).all(axis=1)]  # without area: left out here
            np.testing.assert_array_equal(index.labels(stems[stem])[1], boxes[:, 1:])


@pytest.mark.parametrize("expected", golden_cases("labels", "expected_v*.json"))
def test_smallest_images(expected: Path, tmp_path: Path) -> None:
    for case in json.loads(expected.read_text())["image_checks"]:
        width, height = (int(number) for number in re.findall(r"\d+", case["image"]))
        image = write_image(tmp_path / f"{width}x{height}.png", height, width)
        assert len(read_yolo([image], ["a"])) == (case["outcome"] == "accepted"), case


REAL = [
    ("coco128/coco128.yaml", "train", 128, 929),
    ("coco_val164/coco_val164.yaml", "val", 164, 1543),
    ("coco_val164/instances.json", "val", 164, 1543),
    ("bccd", "train", 205, 2804),
    ("bccd", "val", 87, 1137),
    ("bccd", "test", 72, 945),
]


def test_real_data_sets(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for data, split, images, boxes in REAL * 2:  # read, then from the cache
        index = open_dataset(shared / "data" / data, split)  # type: ignore[arg-type]
        assert (len(index), len(index.boxes)) == (images, boxes)
        assert {problem.kind for problem in index.problems} <= {"degenerate box", "missing label", "set aside"}
        assert sum(problem.drops != "" for problem in index.problems) == (data == "bccd" and split != "test")


def test_both_formats_of_one_set_agree(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    txt = open_dataset(shared / "data/coco_val164/coco_val164.yaml", "val")
    coco = open_dataset(shared / "data/coco_val164/instances.json", "val")
    assert txt.annotations == coco.annotations
    assert txt.names == coco.names
    assert txt.category_ids == coco.category_ids
    order = {image_id: i for i, image_id in enumerate(coco.image_ids.tolist())}
    for i, image_id in enumerate(txt.image_ids.tolist()):
        ours, theirs = (
            sorted(map(tuple, np.c_[labels, boxes].round(3).tolist()))
            for labels, boxes in (txt.labels(i), coco.labels(order[image_id]))
        )
        np.testing.assert_allclose(ours, theirs, atol=2e-3)
