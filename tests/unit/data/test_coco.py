"""COCO json and VOC folders."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from boxwright.data.dataset import open_dataset, read_names
from boxwright.data.images import read_image
from boxwright.data.index import DataIndex
from boxwright.data.voc import VocSplit, read_voc
from boxwright.errors import UserError
from tests.unit.data.small_sets import turn, voc_object, write_image, write_voc, write_yolo

COCO: dict[str, Any] = {
    "images": [{"id": 5, "file_name": "one.jpg", "width": 64, "height": 48}],
    "annotations": [
        {"id": 1, "image_id": 5, "category_id": 7, "bbox": [8, 12, 16, 12], "iscrowd": 0},
        {"id": 2, "image_id": 5, "category_id": 3, "bbox": [0, 0, 10, 10], "iscrowd": 1},
        {"id": 3, "image_id": 5, "category_id": 3, "bbox": [70, 0, 10, 10]},
        {"id": 4, "image_id": 5, "category_id": 9, "bbox": [0, 0, 10, 10]},
        {"id": 5, "image_id": 5, "category_id": 3, "bbox": [0, 0, "wide"]},
        {"id": 6, "image_id": 5, "category_id": 7, "bbox": [8, 12, 16, 12]},
    ],
    "categories": [{"id": 7, "name": "late"}, {"id": 3, "name": "early"}],
}


def write_coco(root: Path, content: dict[str, Any] = COCO, name: str = "gt.json") -> Path:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def test_coco_json(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "one.jpg")
    index = open_dataset(write_coco(tmp_path), "val")
    assert index.names == ("early", "late")
    assert index.category_ids == (3, 7)
    assert index.image_ids.tolist() == [5]
    assert index.classes.tolist() == [1]
    assert index.annotations == tmp_path / "gt.json"
    np.testing.assert_allclose(index.boxes, [[0.25, 0.375, 0.25, 0.25]])
    found = sorted((problem.kind, problem.drops) for problem in index.problems)
    assert found == [
        ("degenerate box", "row"),
        ("duplicate", "row"),
        ("set aside", ""),
        ("unknown class", "row"),
        ("unreadable label", "row"),
    ]


@pytest.mark.parametrize("key", list(COCO))
def test_coco_without_a_part(tmp_path: Path, key: str) -> None:
    file = write_coco(tmp_path, {k: v for k, v in COCO.items() if k != key})
    with pytest.raises(UserError, match=key):
        open_dataset(file, "val")


@pytest.mark.parametrize(
    ("json_place", "image_place"),
    [
        ("gt.json", "one.jpg"),
        ("gt.json", "images/one.jpg"),
        ("gt.json", "images/whatever/one.jpg"),
        ("instances_val2017.json", "images/val2017/one.jpg"),
        ("annotations/instances_val2017.json", "val2017/one.jpg"),
        ("annotations/instances_val2017.json", "images/val2017/one.jpg"),
    ],
)
def test_images_beside_the_json(tmp_path: Path, json_place: str, image_place: str) -> None:
    image = write_image(tmp_path / image_place)
    assert open_dataset(write_coco(tmp_path, name=json_place), "val").path(0) == image


def test_images_nowhere(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"first image 'one.jpg'; looked in .*images"):
        open_dataset(write_coco(tmp_path), "val")


def test_yaml_over_coco_files(tmp_path: Path) -> None:
    write_image(tmp_path / "pictures" / "one.jpg")
    write_coco(tmp_path)
    yaml = tmp_path / "data.yaml"
    yaml.write_text("train: gt.json\nval: gt.json\nimages: pictures\n")
    assert read_names(yaml) == ("early", "late")
    yaml.write_text("train: gt.json\nval: gt.json\nimages: pictures\nnames: [late]\n")
    index = open_dataset(yaml, "train")
    assert (index.names, index.category_ids, index.classes.tolist()) == (("late",), (7,), [0])
    yaml.write_text("train: gt.json\nimages: pictures\nnames: [late, other]\n")
    with pytest.raises(UserError, match="no category 'other'"):
        open_dataset(yaml, "train")
    yaml.write_text("train: gone.json\n")
    with pytest.raises(UserError, match=r"looked at .*gone\.json"):
        open_dataset(yaml, "train")


def coco_with(segmentation: Any, **image: Any) -> dict[str, Any]:
    annotation = {"id": 1, "image_id": 5, "category_id": 7, "bbox": [8, 12, 16, 12], "segmentation": segmentation}
    return {**COCO, "images": [COCO["images"][0] | image], "annotations": [annotation]}


def test_parts_of_an_object_become_one_polygon_of_the_same_area(tmp_path: Path) -> None:
    write_image(tmp_path / "one.jpg")
    parts = [[2, 2, 12, 2, 12, 12, 2, 12], [20, 20, 30, 20, 30, 40, 20, 40], [40, 5, 60, 5, 50, 15]]
    index = open_dataset(write_coco(tmp_path, coco_with(parts)), "val")
    (polygon,) = index.polygons(0)
    ours, theirs = np.zeros((2, 480, 640), np.uint8)
    cv2.fillPoly(ours, [(polygon * (640, 480)).round().astype(np.int32)], 1)
    cv2.fillPoly(theirs, [(np.array(part).reshape(-1, 2) * 10).astype(np.int32) for part in parts], 1)
    assert int(ours.sum()) == pytest.approx(int(theirs.sum()), rel=0.02)  # the lines between the parts are a pixel wide
    np.testing.assert_array_equal(ours & theirs, theirs)


def test_masks_that_are_no_polygons(tmp_path: Path) -> None:
    write_image(tmp_path / "one.jpg")
    index = open_dataset(write_coco(tmp_path, coco_with({"counts": "abc", "size": [48, 64]})), "val")
    assert len(index.boxes) == 1
    assert len(index.polygons(0)[0]) == 0


def test_another_size_than_declared(tmp_path: Path) -> None:
    write_image(tmp_path / "one.jpg")
    index = open_dataset(write_coco(tmp_path, coco_with(None, width=128, height=96)), "val")
    np.testing.assert_allclose(index.boxes, [[0.125, 0.1875, 0.125, 0.125]])
    assert index.sizes.tolist() == [[48, 64]]
    assert index.problems[0].kind == "size mismatch"


def test_boxes_that_are_shares_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "one.jpg")
    content = coco_with(None)
    content["annotations"][0]["bbox"] = [0.1, 0.2, 0.5, 0.5]
    with pytest.raises(UserError, match="as if they were shares of the image"):
        open_dataset(write_coco(tmp_path, content), "val")


def drawn_on(file: Path, orientation: int, corners: tuple[int, int, int, int], size: tuple[int, int]) -> DataIndex:
    """A grey image with a white block, stored turned, and an annotation that gives its size as width and height."""
    left, top, right, bottom = corners
    pixels = np.zeros((48, 64), np.uint8)
    pixels[top:bottom, left:right] = 255
    file.write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
    turn(file, orientation)
    content = coco_with([[left, top, right, top, right, bottom, left, bottom]], width=size[0], height=size[1])
    content["annotations"][0]["bbox"] = [left, top, right - left, bottom - top]
    return open_dataset(write_coco(file.parent, content), "val")


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_drawn_on_an_image_as_it_is_stored_are_turned_with_it(
    tmp_path: Path, orientation: int, caplog: pytest.LogCaptureFixture
) -> None:
    index = drawn_on(tmp_path / "one.jpg", orientation, (8, 4, 28, 20), size=(64, 48))
    rows, columns = np.nonzero(read_image(tmp_path / "one.jpg")[..., 0] > 128)
    block = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / (48, 64, 48, 64)
    centre, sides = index.boxes[0, :2], index.boxes[0, 2:]
    np.testing.assert_allclose([*(centre - sides / 2), *(centre + sides / 2)], block, atol=1e-6)
    (polygon,) = index.polygons(0)
    np.testing.assert_allclose([*polygon.min(axis=0), *polygon.max(axis=0)], block, atol=1e-6)
    assert "val: 1 of 1 annotations name another size than their image has" in caplog.text
    assert "boxes are turned with it, as its EXIF entry says" in caplog.text


def test_width_and_height_that_were_mistaken_for_each_other(tmp_path: Path) -> None:
    index = drawn_on(tmp_path / "one.jpg", 1, (8, 4, 28, 20), size=(48, 64))
    np.testing.assert_allclose(index.boxes, [[18 / 64, 12 / 48, 20 / 64, 16 / 48]], atol=1e-6)
    assert index.problems[0].text.endswith("boxes stay as they are")


def test_ground_truth_beside_yolo_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    yaml = write_yolo(tmp_path, {"one": "0 .5 .5 .2 .2\n"}, names="[late, early]")
    file = write_coco(tmp_path, name="instances.json")
    index = open_dataset(yaml, "val")
    assert (index.annotations, index.category_ids, index.image_ids.tolist()) == (file, (7, 3), [5])
    assert open_dataset(yaml, "val", single_cls=True).annotations is None
    caplog.set_level(logging.WARNING)
    for content, reason in [
        ({**COCO, "images": []}, "does not know the image one.jpg"),
        ({**COCO, "categories": []}, "has no category 'late'"),
        ({**COCO, "images": COCO["images"] * 2}, "do not tell"),
        ({**COCO, "images": [{}]}, "file_name"),
    ]:
        write_coco(tmp_path, content, "instances.json")
        assert open_dataset(yaml, "val").annotations is None
        assert reason in caplog.records[-1].getMessage()


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("instances.json", True),
        ("images/instances.json", True),
        ("images/train/instances.json", True),
        ("annotations/instances_train.json", True),
        ("annotations/instances_val.json", False),
        ("../instances.json", False),
    ],
)
def test_where_a_ground_truth_is_looked_for(tmp_path: Path, place: str, found: bool) -> None:
    yaml = write_yolo(tmp_path / "set", {"one": "0 .5 .5 .2 .2\n"}, names="[late, early]")
    write_coco(tmp_path / "set", name=place)
    assert (open_dataset(yaml, "val").annotations is not None) == found


def test_voc(tmp_path: Path) -> None:
    objects = (
        voc_object("cell", 1, 1, 64, 24)
        + voc_object("atom", 5, 5, 5, 9)
        + voc_object("atom", 1, 1, "x", 9)
        + voc_object("cell", 1, 1, 64, 24)
        + voc_object("cell", 2, 2, 20, 20, "<difficult>1</difficult>")
        + voc_object("cell", 11, 11, 20, 20, "<part><name>nucleus</name><bndbox><xmin>3</xmin></bndbox></part>")
    )
    index = open_dataset(write_voc(tmp_path, {"one two": objects, "none": None, "empty": ""}), "train")
    assert index.names == ("atom", "cell")
    assert len(index) == 3
    np.testing.assert_allclose(index.boxes[0], [0.5, 0.25, 1.0, 0.5])
    np.testing.assert_allclose(index.boxes[1] * (64, 48, 64, 48), [15, 15, 10, 10], rtol=1e-6)
    assert len(index.boxes) == 2
    found = {(problem.kind, problem.line, problem.drops) for problem in index.problems}
    assert found == {
        ("degenerate box", 3, "row"),
        ("unreadable label", 4, "row"),
        ("duplicate", 5, "row"),
        ("set aside", 0, ""),
        ("missing label", 0, ""),
        ("empty label", 0, ""),
    }


@pytest.mark.parametrize(
    ("head", "says"), [("<!DOCTYPE a [<!ENTITY b 'c'>]>", "entities"), ("<a", "not valid xml"), ("\0", "not valid xml")]
)
def test_voc_annotations_that_are_refused(tmp_path: Path, head: str, says: str) -> None:
    root = write_voc(tmp_path, {"good": voc_object("cell", 1, 1, 64, 24)})
    write_voc(tmp_path, {"good": None, "bad": voc_object("cell", 1, 1, 64, 24)}, head=head)
    index = open_dataset(root, "train")
    assert [index.path(i).stem for i in range(len(index))] == ["good"]
    assert says in index.problems[0].text
    assert index.problems[0].line >= 1
    (root / "Annotations/good.xml").unlink()
    with pytest.raises(UserError, match=f"hold no object of any class: .*bad.xml .*{says}"):
        open_dataset(root, "train")


def test_voc_lists_with_flags_and_missing_images(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": voc_object("cell", 1, 1, 64, 24)})
    (root / "ImageSets/Main/train.txt").write_text("a  1\n\ngone -1\n")
    index = open_dataset(root, "train")
    assert len(index) == 1
    assert [problem.kind for problem in index.problems] == ["missing image"]


def test_voc_without_the_split_names_those_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it has train; divide its images by `boxwright convert split"):
        open_dataset(write_voc(tmp_path, {"a": ""}), "val")


def test_a_list_with_a_mark_at_its_start_and_one_that_is_no_text(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": voc_object("cell", 1, 1, 64, 24)})
    file = root / "ImageSets" / "Main" / "train.txt"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(open_dataset(root, "train")) == 1
    file.write_bytes(b"\xff\xff\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        open_dataset(root, "train")


def test_an_id_beyond_all_numbers(tmp_path: Path) -> None:
    file = write_coco(tmp_path, COCO | {"images": [{"id": 2**70, "file_name": "a.jpg"}]})
    with pytest.raises(UserError, match="does not follow the COCO layout"):
        open_dataset(file, "train")


def coco_of(*images: tuple[Any, str], categories: Any, boxes: Any) -> dict[str, Any]:
    """Images (id, file name), categories (id, name, supercategory) and boxes (image id, category id)."""
    return {
        "images": [{"id": number, "file_name": name} for number, name in images],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": [2 + i, 2, 9, 9]}
            for i, (image, category) in enumerate(boxes)
        ],
        "categories": [{"id": number, "name": name, "supercategory": top} for number, name, top in categories],
    }


@pytest.mark.parametrize(
    ("categories", "names"),
    [
        ([(0, "pets", "none"), (1, "red", "pets"), (2, "green", "pets")], ("red", "green")),
        ([(0, "helmet", "none"), (1, "helmet", "helmet")], ("helmet",)),
        ([(0, "person", "person"), (1, "rider", "person")], ("person", "rider")),  # a class of its own name
        ([(0, "pets", "none"), (1, "red", "pets"), (2, "car", "vehicle")], ("pets", "red", "car")),
    ],
)
def test_the_root_of_the_others_is_no_class(tmp_path: Path, categories: Any, names: tuple[str, ...]) -> None:
    write_image(tmp_path / "one.jpg")
    file = write_coco(tmp_path, coco_of((0, "one.jpg"), categories=categories, boxes=[(0, 1)]))
    index = open_dataset(file, "train")
    assert (index.names, read_names(file)) == (names, names)
    assert index.names[index.classes[0]] == categories[1][1]
    assert index.category_ids[index.classes[0]] == 1
    said = [problem.text for problem in index.problems if problem.kind == "root category"]
    assert len(said) == (len(names) < len(categories))


def test_a_root_with_annotations_is_a_class(tmp_path: Path) -> None:
    write_image(tmp_path / "one.jpg")
    categories = [(0, "pets", "none"), (1, "red", "pets")]
    file = write_coco(tmp_path, coco_of((0, "one.jpg"), categories=categories, boxes=[(0, 0), (0, 1)]))
    assert open_dataset(file, "train").names == ("pets", "red")


def test_categories_of_one_name_are_one_class(tmp_path: Path) -> None:
    write_image(tmp_path / "one.jpg")
    content = coco_of((0, "one.jpg"), categories=[(1, "red", ""), (2, "red", "")], boxes=[(0, 1), (0, 2)])
    index = open_dataset(write_coco(tmp_path, content), "val")
    assert (index.names, index.classes.tolist()) == (("red",), [0, 0])
    assert [(problem.kind, problem.drops) for problem in index.problems] == [("category twice", "")]
    assert index.annotations is None  # the COCO metric would tell them apart


def test_ids_that_repeat_are_named_and_their_images_left_out(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_image(tmp_path / f"{name}.jpg")
    images = [(0, "a.jpg"), (0, "b.jpg"), (1, "c.jpg"), (1, "c.jpg")]  # the last is only written twice
    file = write_coco(tmp_path, coco_of(*images, categories=[(1, "red", "")], boxes=[(0, 1), (1, 1)]))
    index = open_dataset(file, "train")
    assert [path.name for path in index.paths] == ["c.jpg"]
    assert [(problem.kind, problem.drops, problem.path.name) for problem in index.problems] == [
        ("repeated id", "image", "a.jpg"),
        ("repeated id", "image", "b.jpg"),
    ]
    assert "the image id 0 for a.jpg and for b.jpg" in index.problems[0].text
    content = coco_of((0, "a.jpg"), categories=[(1, "red", ""), (1, "blue", "")], boxes=[(0, 1)])
    index = open_dataset(write_coco(tmp_path, content), "train")
    assert (len(index.boxes), index.problems[0].kind, index.problems[0].drops) == (0, "repeated id", "row")


def test_ids_that_are_text(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.jpg")
    images, categories = [("x", "b.jpg"), ("y", "a.jpg")], [("k", "red", ""), ("j", "blue", "")]
    file = write_coco(tmp_path, coco_of(*images, categories=categories, boxes=[("y", "j")]))
    index = open_dataset(file, "val")
    assert (index.names, index.classes.tolist(), index.annotations) == (("red", "blue"), [1], None)
    assert len(index.labels([path.name for path in index.paths].index("a.jpg"))[0]) == 1
    file = write_coco(tmp_path, coco_of(("7", "a.jpg"), categories=[(1, "red", "")], boxes=[(7, "1")]))
    assert open_dataset(file, "val").image_ids.tolist() == [7]


def test_splits_whose_files_number_classes_otherwise(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.jpg")
    first = coco_of((0, "a.jpg"), categories=[(1, "cat", ""), (2, "dog", "")], boxes=[(0, 1)])
    second = coco_of((0, "b.jpg"), categories=[(1, "dog", ""), (2, "cat", ""), (3, "owl", "")], boxes=[(0, 1)])
    write_coco(tmp_path, first, "first.json")
    write_coco(tmp_path, second, "second.json")
    yaml = tmp_path / "data.yaml"
    yaml.write_text("train: first.json\nval: second.json\n")
    train, val = open_dataset(yaml, "train"), open_dataset(yaml, "val")
    assert train.names == val.names == ("cat", "dog", "owl")
    assert (train.classes.tolist(), val.classes.tolist()) == ([0], [1])
    assert val.category_ids == (2, 1, 3)


def test_files_of_one_split_are_put_together(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.jpg")
    write_coco(tmp_path, coco_of((0, "a.jpg"), categories=[(1, "cat", "")], boxes=[(0, 1)]), "cats.json")
    dogs = coco_of((0, "b.jpg"), (1, "a.jpg"), categories=[(1, "dog", "")], boxes=[(1, 1), (1, 1)])
    write_coco(tmp_path, dogs, "dogs.json")
    yaml = tmp_path / "data.yaml"
    yaml.write_text("train: [cats.json, dogs.json]\nval: cats.json\n")
    index = open_dataset(yaml, "train")
    assert index.names == ("cat", "dog")
    assert {path.name: index.labels(i)[0].tolist() for i, path in enumerate(index.paths)} == {
        "a.jpg": [0, 1, 1],
        "b.jpg": [],
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [("<annotation>" + "<a>" * 60, "nested deeper than 50"), ("<annotation>" + "<a/>" * 200_001, "more than 200,000")],
)
def test_an_xml_of_too_many_elements_is_left_out(text: str, says: str, tmp_path: Path) -> None:
    image, file = tmp_path / "a.png", tmp_path / "a.xml"
    write_image(image, 20, 20)
    file.write_text(text)
    index = read_voc(VocSplit([(image, file)]), ["a"])
    assert len(index) == 0
    assert says in index.problems[0].text
