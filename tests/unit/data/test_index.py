"""The data index, its readers and its cache."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwright.data.dataset import open_dataset, read_names
from boxwright.data.index import DataIndex, Record
from boxwright.errors import UserError
from tests.unit.data.small_sets import write_image, write_yolo


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=6), st.integers(0, 1000))
def test_records_come_back(counts: list[list[int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    records = []
    for i, vertices in enumerate(counts):
        n = len(vertices)
        polygons = tuple(rng.random((k, 2)).astype(np.float32) for k in vertices)
        classes, boxes = rng.integers(0, 9, n).astype(np.int32), rng.random((n, 4)).astype(np.float32)
        records.append(Record(Path(f"ä {i}.jpg"), 10 + i, 20, classes, boxes, polygons))
    index = DataIndex.from_records(records, ["x"] * 9)
    assert len(index) == len(records)
    for i, record in enumerate(records):
        classes, boxes = index.labels(i)
        assert index.path(i) == record.path
        assert index.sizes[i].tolist() == [record.height, record.width]
        np.testing.assert_array_equal(classes, record.classes)
        np.testing.assert_array_equal(boxes, record.boxes)
        for ours, theirs in zip(index.polygons(i), record.polygons, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_folder_with_spaces_and_umlauts(tmp_path: Path) -> None:
    yaml = write_yolo(tmp_path / "Übung mit Leerzeichen 図", {"ein bild": "0 .5 .5 .2 .2\n"})
    index = open_dataset(yaml, "train")
    assert index.path(0).exists()
    assert index.labels(0)[0].tolist() == [0]


def test_list_files_and_names_as_map(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": "1 .5 .5 .2 .2\n", "b": ""})
    (tmp_path / "list.txt").write_text(f"./images/train/b.jpg\n\n{tmp_path}/images/train/a.jpg\n")
    yaml = tmp_path / "by list.yaml"
    yaml.write_text("train: [list.txt, images/train]\nval: list.txt\nnames: {1: dog, 0: cat}\n")
    index = open_dataset(yaml, "train")
    assert [index.path(i).name for i in range(len(index))] == ["a.jpg", "b.jpg"]
    assert read_names(yaml) == ("cat", "dog")


def test_path_key_is_relative_to_the_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_yolo(tmp_path / "sets" / "one", {"a": ""})
    yaml = tmp_path / "one.yaml"
    yaml.write_text("path: sets/one\ntrain: images/train\nval: images/train\nnames: [a]\n")
    monkeypatch.chdir("/")
    assert len(open_dataset(yaml, "val")) == 1


def test_yaml_that_points_nowhere_lists_the_places(tmp_path: Path) -> None:
    yaml = tmp_path / "data.yaml"
    yaml.write_text("path: elsewhere\ntrain: gone/images\nnames: [a]\n")
    with pytest.raises(UserError) as error:
        open_dataset(yaml, "train")
    assert str(tmp_path / "elsewhere" / "gone" / "images") in str(error.value)
    assert str(tmp_path / "gone" / "images") in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: images/train\n", "names is missing"),
        ("train: images/train\nnames: []\n", "names is empty"),
        ("train: images/train\nnames: [a]\nnc: 2\n", "nc is 2 but names has 1"),
        ("train: images/train\nnames: {0: a, 2: b}\n", "without a gap"),
        ("- a\n", "a mapping"),
        ("train: [\n", "not valid yaml"),
        ("train: {a: b}\nnames: [a]\n", "train is a folder"),
        ("val: images/train\nnames: [a]\n", "names no train split"),
        ("train: !!python/object/apply:os.system [touch hacked]\nnames: [a]\n", "not valid yaml"),
    ],
)
def test_bad_yaml(tmp_path: Path, text: str, says: str) -> None:
    write_yolo(tmp_path, {"a": ""})
    yaml = tmp_path / "bad.yaml"
    yaml.write_text(text)
    with pytest.raises(UserError, match=says):
        open_dataset(yaml, "train")
    assert not Path("hacked").exists()


def test_download_entry_is_not_run(tmp_path: Path) -> None:
    yaml = write_yolo(tmp_path, {"a": ""})
    yaml.write_text(yaml.read_text() + f"download: bash -c 'touch {tmp_path}/hacked'\n")
    open_dataset(yaml, "train")
    assert not (tmp_path / "hacked").exists()


def test_bad_rows_and_files_are_left_out(tmp_path: Path) -> None:
    yaml = write_yolo(
        tmp_path, {"good": "0 .5 .5 .2 .2\n7 .5 .5 .2 .2\n", "text": "0 .5 .5 .2 .2\ncat .5 .5 .2 .2\n", "bare": None}
    )
    cut = write_image(tmp_path / "images/train/cut.jpg")
    cut.write_bytes(cut.read_bytes()[:-200])
    index = open_dataset(yaml, "train")
    assert sorted(index.path(i).stem for i in range(len(index))) == ["bare", "good"]
    assert len(index.boxes) == 1
    by_kind = {problem.kind: problem for problem in index.problems}
    assert set(by_kind) == {"unknown class", "unreadable label", "missing label", "corrupt image"}
    assert by_kind["unreadable label"].line == 2
    assert by_kind["unknown class"].line == 2


def test_same_size_edit_of_a_label_is_noticed(tmp_path: Path, own_cache: Path) -> None:
    yaml = write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n"})
    label = tmp_path / "labels/train/a.txt"
    before = os.stat(label)
    assert open_dataset(yaml, "train").classes.tolist() == [0]
    assert list(own_cache.rglob("*.npz"))
    label.write_text("1 .5 .5 .2 .2\n")
    os.utime(label, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert open_dataset(yaml, "train").classes.tolist() == [1]


def test_a_broken_cache_is_made_again(tmp_path: Path, own_cache: Path) -> None:
    yaml = write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n"})
    open_dataset(yaml, "train")
    (cache,) = own_cache.rglob("*.npz")
    cache.write_bytes(b"PK\x03\x04 cut off")
    assert len(open_dataset(yaml, "train").boxes) == 1
    assert not list(own_cache.rglob("*.tmp"))


def test_single_class(tmp_path: Path) -> None:
    yaml = write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n1 .4 .4 .2 .2\n"})
    index = open_dataset(yaml, "train", single_cls=True)
    assert index.names == ("item",)
    assert index.classes.tolist() == [0, 0]


def test_exif_rotation_swaps_the_size(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "images/train/turned.jpg"
    path.parent.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(path, exif=exif)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [a]\n")
    assert open_dataset(tmp_path / "data.yaml", "train").sizes.tolist() == [[64, 48]]


def test_coco_json(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "one.jpg")
    boxes = [
        {"id": 1, "image_id": 5, "category_id": 7, "bbox": [8, 12, 16, 12], "iscrowd": 0},
        {"id": 2, "image_id": 5, "category_id": 3, "bbox": [0, 0, 10, 10], "iscrowd": 1},
        {"id": 3, "image_id": 5, "category_id": 3, "bbox": [70, 0, 10, 10]},
    ]
    content = {
        "images": [{"id": 5, "file_name": "one.jpg", "width": 64, "height": 48}],
        "annotations": boxes,
        "categories": [{"id": 7, "name": "late"}, {"id": 3, "name": "early"}],
    }
    file = tmp_path / "gt.json"
    file.write_text(json.dumps(content))
    index = open_dataset(file, "val")
    assert index.names == ("early", "late")
    assert index.category_ids == (3, 7)
    assert index.image_ids.tolist() == [5]
    assert index.classes.tolist() == [1]
    np.testing.assert_allclose(index.boxes, [[0.25, 0.375, 0.25, 0.25]])
    assert [problem.kind for problem in index.problems] == ["degenerate box"]
    for key in content:
        file.write_text(json.dumps({k: v for k, v in content.items() if k != key}))
        with pytest.raises(UserError, match=key):
            open_dataset(file, "val")


def test_voc_without_the_split_names_those_there(tmp_path: Path) -> None:
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("")
    with pytest.raises(UserError, match="there are train"):
        open_dataset(tmp_path, "val")


def test_voc_corners_and_entities(tmp_path: Path) -> None:
    for folder in ("Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("one\nbomb\n")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>64</xmax><ymax>24</ymax></bndbox>"
    for stem in ("one", "bomb"):
        write_image(tmp_path / f"JPEGImages/{stem}.jpg")
        head = "<!DOCTYPE a [<!ENTITY b 'c'>]>" if stem == "bomb" else ""
        text = f"{head}<annotation><object><name>cell</name>{box}</object></annotation>"
        (tmp_path / f"Annotations/{stem}.xml").write_text(text)
    index = open_dataset(tmp_path, "train")
    assert len(index) == 1
    np.testing.assert_allclose(index.boxes, [[0.5, 0.25, 1.0, 0.5]])
    assert "entities" in index.problems[0].text


def test_empty_split(tmp_path: Path) -> None:
    yaml = write_yolo(tmp_path, {"a": ""})
    (tmp_path / "empty").mkdir()
    yaml.write_text("train: images/train\nval: empty\nnames: [a]\n")
    with pytest.raises(UserError, match=r"the val split of .* holds no image"):
        open_dataset(yaml, "val")
