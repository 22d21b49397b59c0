"""`convert data`: every format into every other and back, what each can hold, and nothing half-written."""

from __future__ import annotations

import itertools
import json
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from boxwright.cli.main import main
from boxwright.data import convert
from boxwright.data.convert import convert_data
from boxwright.data.dataset import open_dataset, splits_of
from boxwright.data.index import DataIndex
from boxwright.errors import UserError
from tests.unit.data.small_sets import turn, voc_object, write_image, write_voc, write_yolo

FORMATS = ("yolo", "coco", "voc")
NAMES = ("猫 & <cat>", "Größe", "unused", "a")
LABELS = {
    "one ü": "0 0.5 0.5 0.25 0.5\n3 0.123456 0.7654321 0.0333 0.21\n1 0.9 0.9 0.2 0.2\n",
    "tiny": "1 0.5 0.5 0.008 0.3\n1 0.006 0.5 0.012 0.3\n",  # less than a pixel wide
    "empty": "",
    "none": None,
    "x.y.jpg": "3 0.4 0.4 0.2 0.2\n",
}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two splits with images of equal names and other content; one of a suffix in capitals, one turned."""
    root = tmp_path / "source 猫"
    write_yolo(root, LABELS)
    write_yolo(root, {"one ü": "0 0.3 0.3 0.1 0.1\n"}, split="val")
    write_image(root / "images/val/one ü.jpg", 30, 40, seed=77)
    write_image(root / "images/val/loud.PNG", 20, 30, seed=78)
    turn(write_image(root / "images/val/turned.jpg", 24, 64, seed=79), 6)
    (root / "labels/val/turned.txt").write_text("3 0.5 0.25 0.25 0.125\n")
    names = json.dumps(NAMES, ensure_ascii=False)
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {names}\n", encoding="utf-8")
    return root / "data.yaml"


def opened(folder: Path) -> Path:
    return folder / "data.yaml" if (folder / "data.yaml").is_file() else folder


def by_content(index: DataIndex) -> dict[bytes, tuple[list[str], np.ndarray]]:
    """Class names and pixel boxes of each image in a fixed order, by the content of its file."""
    found: dict[bytes, tuple[list[str], np.ndarray]] = {}
    for i in range(len(index)):
        classes, boxes = index.labels(i)
        height, width = index.sizes[i]
        rows = boxes.astype(np.float64) * (width, height, width, height)
        low, high = rows[:, :2] - rows[:, 2:] / 2, rows[:, :2] + rows[:, 2:] / 2
        corners = np.concatenate((low, high), axis=1)
        order = np.lexsort((np.round(corners[:, 1]), np.round(corners[:, 0]), classes))
        found[index.path(i).read_bytes()] = ([index.names[c] for c in classes[order]], corners[order])
    return found


def assert_same(one: Path, other: Path, pixels: float) -> None:
    assert splits_of(one) == splits_of(other)
    for split in splits_of(one):
        ours, theirs = open_dataset(one, split), open_dataset(other, split)
        assert ours.names == theirs.names
        left, right = by_content(ours), by_content(theirs)
        assert left.keys() == right.keys()
        for key, (names, boxes) in left.items():
            assert right[key][0] == names
            np.testing.assert_allclose(right[key][1], boxes, atol=pixels)


@pytest.mark.parametrize("route", [*itertools.permutations(FORMATS), ("coco", "yolo"), ("voc", "yolo")])
def test_there_and_back(data: Path, tmp_path: Path, route: tuple[str, ...]) -> None:
    place = data
    for number, form in enumerate(route):
        target = tmp_path / f"{number} ü {form}"
        assert main(["convert", "data", str(place), str(target), "--to", form]) == 0
        assert_same(data, opened(target), 0.005 if "voc" not in route[: number + 1] else 0.5)
        place = opened(target)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_only_the_narrowest_boxes_change_in_voc(data: Path, tmp_path: Path) -> None:
    (data.parent / "labels/train/tiny.txt").write_text("")
    convert_data(data, tmp_path / "voc", "voc")
    assert_same(data, tmp_path / "voc", 0.001)


def test_links_or_copies(data: Path, tmp_path: Path) -> None:
    convert_data(data, tmp_path / "coco", "coco")
    convert_data(tmp_path / "coco/data.yaml", tmp_path / "voc", "voc")
    linked = tmp_path / "voc/JPEGImages/tiny.jpg"
    assert linked.is_symlink()
    # Not a link to a link; relative, so that both folders can be moved together.
    assert os.readlink(linked) == f"../../{data.parent.name}/images/train/tiny.jpg"
    convert_data(data, tmp_path / "copied", "yolo", copy=True)
    assert not any(path.is_symlink() for path in (tmp_path / "copied").rglob("*"))


def test_empty_images_have_empty_annotations(data: Path, tmp_path: Path) -> None:
    for form in FORMATS:
        convert_data(data, tmp_path / form, form)
    assert (tmp_path / "yolo/labels/train/none.txt").read_text() == ""
    content = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text(encoding="utf-8"))
    assert [image["file_name"] for image in content["images"]] == sorted(f"{stem}.jpg" for stem in LABELS)
    assert [category["name"] for category in content["categories"]] == list(NAMES)
    assert "<object>" not in (tmp_path / "voc/Annotations/empty.xml").read_text(encoding="utf-8")


POLYGON = "0 0.25 0.25 0.5 0.25 0.5 0.75\n1 0.5 0.5 0.25 0.25\n"  # with a plain box below


def test_polygons_where_the_format_has_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write_yolo(tmp_path / "source", {"one": POLYGON})
    convert_data(data, tmp_path / "coco", "coco", compat="fixed")
    first, second = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())["annotations"]
    assert first["segmentation"] == [[16, 12, 32, 12, 32, 36]]
    assert (first["area"], first["bbox"]) == (192, [16, 12, 16, 24])
    assert (second["area"], second["bbox"], second["segmentation"]) == (192, [24, 18, 16, 12], [])
    convert_data(tmp_path / "coco/data.yaml", tmp_path / "back", "yolo")
    rows = (tmp_path / "back/labels/train/one.txt").read_text().splitlines()
    assert rows[0] == "0 0.25 0.25 0.5 0.25 0.5 0.75"
    assert rows[1] == "1 0.375 0.375 0.625 0.375 0.625 0.625 0.375 0.625"  # a box row would be read as two points
    back = open_dataset(tmp_path / "back/data.yaml", "train")
    np.testing.assert_allclose(back.boxes, [[0.375, 0.5, 0.25, 0.5], [0.5, 0.5, 0.25, 0.25]])
    assert not caplog.messages
    convert_data(tmp_path / "coco/data.yaml", tmp_path / "voc", "voc")
    assert "polygons of which only the box is kept: 2 (" in caplog.text  # the only polygon, in train and in val


def test_a_box_wins_over_a_polygon_that_is_not_its_extent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    convert_data(write_yolo(tmp_path / "source", {"one": POLYGON}), tmp_path / "coco", "coco", compat="fixed")
    file = tmp_path / "coco/annotations/instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [16, 12, 20, 24]
    file.write_text(json.dumps(content))
    convert_data(file, tmp_path / "yolo", "yolo")
    assert (tmp_path / "yolo/labels/train/one.txt").read_text().startswith("0 0.40625 0.5 0.3125 0.5\n")
    assert "its extent is not the box" in caplog.text


def test_ids_of_coco_are_kept(tmp_path: Path) -> None:
    write_image(tmp_path / "one.jpg")
    image = {"id": 4711, "file_name": "one.jpg", "width": 64, "height": 48}
    box = {"id": 9, "image_id": 4711, "category_id": 90, "bbox": [1, 2, 3, 4]}
    crowd = {"id": 10, "image_id": 4711, "category_id": 90, "bbox": [1, 2, 3, 4], "iscrowd": 1}
    content = {"images": [image], "annotations": [box, crowd], "categories": [{"id": 90, "name": "cat"}]}
    file = tmp_path / "instances_val2017.json"
    file.write_text(json.dumps(content))
    assert list(convert_data(file, tmp_path / "out", "coco")[0]) == ["val"]
    written = json.loads((tmp_path / "out/annotations/instances_val.json").read_text())
    assert written["images"] == [image]
    assert written["categories"] == content["categories"]
    assert [item["bbox"] for item in written["annotations"]] == [[1, 2, 3, 4]]


def test_the_same_file_listed_twice(tmp_path: Path) -> None:
    write_image(tmp_path / "one.jpg")
    images = [{"id": i, "file_name": "one.jpg"} for i in (1, 2)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [4, 4, 4 * i, 4]} for i in (1, 2)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "gt.json").write_text(json.dumps(content))
    for form in FORMATS:
        convert_data(tmp_path / "gt.json", tmp_path / form, form)
        index = open_dataset(opened(tmp_path / form), "train")
        assert [path.stem for path in map(index.path, range(2))] == ["one", "one_2"]
        np.testing.assert_allclose(index.boxes[:, 2] * 64, [4, 8], atol=1e-3)


def test_voc_without_classes_file_has_sorted_names(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc", {"one": voc_object("b", 2, 2, 9, 9) + voc_object("a", 2, 2, 8, 8)})
    convert_data(root, tmp_path / "yolo", "yolo")
    assert open_dataset(tmp_path / "yolo/data.yaml", "train").names == ("a", "b")
    (root / "classes.txt").write_text("z\nb\n")
    assert open_dataset(root, "train").names == ("z", "b", "a")  # also from a warm cache


def test_nothing_is_left_when_it_fails(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "here").mkdir()
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(convert, "link_or_copy", fail)
    with pytest.raises(UserError, match="no space left"):
        convert_data(data, tmp_path / "here", "coco")
    assert sorted(path for path in tmp_path.iterdir() if path.name != "cache") == before
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["IN", "OUT/full", "--to", "voc"], "is not empty"),
        (["IN", "OUT/file", "--to", "voc"], "is a file"),
        (["IN", "OUT/file/sub", "--to", "voc"], "not a directory"),
        (["IN", "OUT/new"], "convert data needs --to"),
        (["IN", "OUT/new", "--to", "kitti"], "should be '', 'yolo', 'coco', 'voc' or 'shards', got 'kitti'"),
        (
            ["IN", "OUT/new", "--to", "voc", "--seed", "3"],
            "--seed belongs to convert split and convert synthetic, not to this convert data",
        ),
        (["IN", "--to", "voc"], "convert data needs OUT"),
        (["OUT/gone.yaml", "OUT/new", "--to", "voc"], "there is no data set"),
    ],
)
def test_mistakes(data: Path, tmp_path: Path, argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("")
    (tmp_path / "file").write_text("")
    words = [str(data) if word == "IN" else word.replace("OUT", str(tmp_path)) for word in argv]
    assert main(["convert", "data", *words]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("names", "to", "says"), [("[a, a]", "coco", "two classes"), ('["a ", c]', "voc", "cannot hold")]
)
def test_names_that_a_format_cannot_hold(tmp_path: Path, names: str, to: str, says: str) -> None:
    data = write_yolo(tmp_path / "source", {"one": "0 .5 .5 .2 .2\n"}, names=names)
    with pytest.raises(UserError, match=says):
        convert_data(data, tmp_path / "out", to)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["source"]


def test_real_sets(shared: Path, tmp_path: Path) -> None:
    for name, to in product(("bccd", "coco128/coco128.yaml"), FORMATS):
        if name == "bccd" and to == "voc":
            continue
        source, target = shared / "data" / name, tmp_path / f"{Path(name).stem} as {to}"
        convert_data(source, target, to)  # type: ignore[arg-type]
        assert_same(source, opened(target), 0.5)
