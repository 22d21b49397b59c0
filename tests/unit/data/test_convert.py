"""VOC and COCO written as YOLO labels."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from boxwright.data import convert
from boxwright.data.convert import read_annotated
from boxwright.data.dataset import open_dataset
from boxwright.errors import UserError
from tests.unit.data.small_sets import voc_object, write_image, write_voc, write_yolo


def test_voc_becomes_labels_that_are_read_back(tmp_path: Path) -> None:
    objects = voc_object("b", 9, 13, 24, 24) + voc_object("a", 1, 1, 64, 48)
    root = write_voc(tmp_path / "vöc", {"one": objects, "two": None}, split="train")
    index = read_annotated(root / "ImageSets/Main/train.txt", "any")
    assert index is not None
    assert index.names == ("a", "b")
    folder = tmp_path / "labels here"
    listed = convert.write_yolo(index, ("b", "a"), folder, "train")
    rows = (folder / "labels/train/one.txt").read_text().splitlines()
    assert rows == ["0 0.25 0.375 0.25 0.25", "1 0.5 0.5 1 1"]
    assert (folder / "labels/train/two.txt").read_text() == ""
    yaml = tmp_path / "data.yaml"
    yaml.write_text(f"train: {listed}\nval: {listed}\nnames: [b, a]\n")
    back = open_dataset(yaml, "train")
    assert [back.path(i).name for i in range(len(back))] == ["one.jpg", "two.jpg"]
    np.testing.assert_allclose(back.boxes, index.boxes, rtol=1e-6)
    assert back.classes.tolist() == [0, 1]


def test_coco_and_images_of_the_same_name(tmp_path: Path) -> None:
    for sub in ("x", "y"):
        write_image(tmp_path / sub / "one.jpg", seed=ord(sub))
    images = [
        {"id": i, "file_name": f"{sub}/one.jpg", "width": 64, "height": 48} for i, sub in enumerate(("x", "y"), 1)
    ]
    boxes = [{"id": i, "image_id": i, "category_id": 7, "bbox": [8, 12, 16 * i, 12]} for i in (1, 2)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 7, "name": "cat"}]}
    (tmp_path / "gt.json").write_text(json.dumps(content))
    index = read_annotated(tmp_path / "gt.json", "train")
    assert index is not None
    convert.write_yolo(index, ("cat",), tmp_path / "out", "val")
    assert (tmp_path / "out/labels/val/one.txt").read_text() == "0 0.25 0.375 0.25 0.25\n"
    assert (tmp_path / "out/labels/val/one_2.txt").read_text() == "0 0.375 0.375 0.5 0.25\n"
    assert (tmp_path / "out/images/val/one_2.jpg").read_bytes() == (tmp_path / "y/one.jpg").read_bytes()
    convert.write_yolo(index, ("cat",), tmp_path / "out", "val")  # a second time, over the first


def test_classes_that_are_not_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_voc(tmp_path, {"one": voc_object("a", 1, 1, 9, 9) + voc_object("b", 1, 1, 20, 20)})
    index = read_annotated(root, "train")
    assert index is not None
    with caplog.at_level(logging.WARNING):
        convert.write_yolo(index, ("b",), tmp_path / "out", "train")
    assert "1 boxes of 'a' are left out" in caplog.text
    assert (tmp_path / "out/labels/train/one.txt").read_text().startswith("0 ")


def test_what_needs_no_conversion(tmp_path: Path) -> None:
    write_yolo(tmp_path / "yolo", {"one": "0 .5 .5 .1 .1\n"})
    assert read_annotated(tmp_path / "yolo" / "images" / "train", "train") is None


def test_another_image_in_the_way(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc", {"one": voc_object("a", 1, 1, 9, 9)})
    index = read_annotated(root, "train")
    assert index is not None
    write_image(tmp_path / "out/images/train/one.jpg", seed=9)
    with pytest.raises(UserError, match=r"one\.jpg exists already for another image"):
        convert.write_yolo(index, ("a",), tmp_path / "out", "train")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write converted labels"):
        convert.write_yolo(index, ("a",), tmp_path / "file", "train")
