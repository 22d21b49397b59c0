"""`convert split`: list files and a data yaml that open, each image in one list, the same lists for the same seed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from boxwright.cli.main import main
from boxwright.data.dataset import open_dataset, splits_of
from boxwright.data.split import split_data
from tests.unit.data.small_sets import voc_object, write_voc, write_yolo


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twenty images of class a, of which four have class b and one the only c; two without a label."""
    labels: dict[str, str | None] = {f"{i:02} ü": "0 .5 .5 .2 .2\n" for i in range(20)}
    for i in range(4):
        labels[f"{i:02} ü"] = "0 .5 .5 .2 .2\n1 .3 .3 .1 .1\n"
    labels["19 ü"] = "2 .5 .5 .2 .2\n"
    return write_yolo(tmp_path / "set 猫", {**labels, "none": None, "empty": ""}, names='["a", "b", "ç: 猫"]')


def names_of(yaml: Path, split: str) -> list[str]:
    index = open_dataset(yaml, split)  # type: ignore[arg-type]
    return [index.path(i).name for i in range(len(index))]


def test_lists_that_open(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "set 猫/new lists"
    argv = ["convert", "split", str(data), str(target), "--shares", "0.5", "0.25", "0.25", "--seed", "1"]
    assert main(argv) == 0
    said, yaml = capsys.readouterr().out, target / "data.yaml"
    assert "train: 11 images\nval: 6 images\ntest: 5 images\n" in said
    assert f"go on with --data '{yaml}'\n" in said  # a path with a blank, to be copied as it is
    lists = {split: names_of(yaml, split) for split in splits_of(yaml)}
    assert [len(lists[split]) for split in ("train", "val", "test")] == [11, 6, 5]
    together = [name for names in lists.values() for name in names]
    assert sorted(together) == sorted(path.name for path in (data.parent / "images/train").iterdir())
    index = open_dataset(yaml, "train")
    assert index.names == ("a", "b", "ç: 猫")
    assert [int((open_dataset(yaml, split).classes == 1).sum()) for split in lists] == [2, 1, 1]
    shutil.move(tmp_path / "set 猫", tmp_path / "moved")
    assert names_of(tmp_path / "moved/new lists/data.yaml", "train") == lists["train"]


def test_the_seed_decides(data: Path, tmp_path: Path) -> None:
    lists = [split_data(data, tmp_path / str(i), seed=seed)[1] for i, seed in enumerate((0, 0, 1))]
    assert lists[0] == lists[1]
    assert lists[0] != lists[2]
    assert list(lists[0]) == ["train", "val"]  # no list for a share of 0
    assert not (tmp_path / "0/test.txt").exists()


def test_images_of_the_same_content_stay_together(data: Path, tmp_path: Path) -> None:
    for i in range(10):
        for kind, suffix in (("images", "jpg"), ("labels", "txt")):
            folder = data.parent / kind / "train"
            shutil.copy(folder / f"{i:02} ü.{suffix}", folder / f"copy {i:02}.{suffix}")
    for seed in range(3):
        _, lists, _ = split_data(data, tmp_path / str(seed), shares=(0.5, 0.5, 0.0), seed=seed)
        contents = [{path.read_bytes() for path in images} for images in lists.values()]
        assert not contents[0] & contents[1]
        assert sum(map(len, lists.values())) == 32


def test_what_a_split_loses_is_counted(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = sorted((data.parent / "labels/train").iterdir())
    labels[0].write_text("0 2 .5 .2 .2\n")
    labels[1].write_text("0 .5 .5 .2 .2\n9 .5 .5 .2 .2\n")  # the row stays in its file, as it was
    assert main(["convert", "split", str(data), str(tmp_path / "lists")]) == 1
    assert f"left out: 1 image and 0 boxes of {data}" in capsys.readouterr().out
    extra = "<difficult>1</difficult>"
    objects = voc_object("a", 2, 2, 9, 9) + voc_object("a", 2, 2, 20, 9, extra) + voc_object("a", 9, 9, 2, 2)
    write_voc(tmp_path / "voc", {"one": objects, "two": objects})
    assert main(["convert", "split", str(tmp_path / "voc"), str(tmp_path / "labels"), "--shares", ".5", ".5"]) == 1
    assert "left out: 0 images and 4 boxes of" in capsys.readouterr().out


def test_a_folder_of_images(data: Path, tmp_path: Path) -> None:
    folder, *_ = split_data(data.parent / "images")
    assert folder == data.parent / "images_split"
    assert open_dataset(folder / "data.yaml", "train").names == ("class0", "class1", "class2")
    (data.parent / "labels/classes.txt").write_text("x\ny\nz\nnever\n")
    folder, *_ = split_data(data.parent / "images", tmp_path / "elsewhere")
    assert open_dataset(folder / "data.yaml", "val").names == ("x", "y", "z", "never")


def test_splits_are_thrown_together(data: Path, tmp_path: Path) -> None:
    data.write_text(data.read_text().replace("val: images/train", "val: images/val"))
    write_yolo(data.parent, {"late": "0 .5 .5 .2 .2\n"}, split="val")
    data.write_text("train: images/train\nval: images/val\nnames: [a, b, c]\n")
    _, lists, _ = split_data(data, tmp_path / "out")
    assert sum(map(len, lists.values())) == 23


def test_classes_in_few_images_keep_their_shares(tmp_path: Path) -> None:
    """Twelve classes in two or three of 60 images each: by chance, half of them would be in one list only."""
    labels = {f"{i:02}": f"{i % 30 if i % 30 < 12 else 12} .5 .5 .2 .2\n" for i in range(60)}
    labels |= {f"{40 + k}": f"{k} .5 .5 .2 .2\n12 .3 .3 .1 .1\n" for k in range(0, 12, 2) if 40 + k < 60}
    data = write_yolo(tmp_path / "set", labels, names=str([f"c{k}" for k in range(13)]))
    _, lists, _ = split_data(data, tmp_path / "out", shares=(0.7, 0.3, 0.0))
    assert [len(images) for images in lists.values()] == [42, 18]
    train, val = (open_dataset(tmp_path / "out/data.yaml", split) for split in ("train", "val"))
    there = [np.bincount(index.classes, minlength=13) > 0 for index in (train, val)]
    assert (there[0] & there[1]).sum() >= 12


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["IN", "OUT/new", "--shares", "1"], "shares are two or three numbers"),
        (["IN", "OUT/new", "--shares", "0.9", "0.2", "0"], "sum to 1"),
        (["IN", "OUT/new", "--shares", "much"], "(--shares): should be a valid number, got 'much'"),
        (["IN", "OUT/new", "--copy"], "--copy belongs to convert data, not to this convert split"),
        (["OUT/voc", "OUT/new"], "too few images for 2 lists: 1"),
        (["OUT/bare", "OUT/new"], "no image has a label"),
        (["OUT/nothing", "OUT/new"], "holds no image"),
        (["IN", "OUT/voc"], "is not empty"),
        (["OUT/gone", "OUT/new"], "there is no data set"),
    ],
)
def test_mistakes(data: Path, tmp_path: Path, argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_voc(tmp_path / "voc", {"one": voc_object("a", 2, 2, 9, 9)})
    shutil.copytree(data.parent / "images", tmp_path / "bare")
    (tmp_path / "nothing").mkdir()
    words = [str(data) if word == "IN" else word.replace("OUT", str(tmp_path)) for word in argv]
    assert main(["convert", "split", *words]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
