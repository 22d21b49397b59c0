"""Darknet `.data` and `.names` files as a data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxwright.data.dataset import open_dataset, read_names, splits_of
from boxwright.errors import UserError
from tests.unit.data.small_sets import write_yolo

DATA = "classes= 2\ntrain=data/train.txt # a list\nvalid = val.txt\n\nnames=data/pets.names\nbackup=backup/\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project as Darknet has it: paths are named from the folder above `data`."""
    write_yolo(tmp_path / "set", {"a": "1 .5 .5 .2 .2\n", "b": "0 .5 .5 .2 .2\n"})
    data = tmp_path / "data"
    data.mkdir()
    (data / "pets.names").write_text("cat\nguinea pig\n\n")
    (data / "train.txt").write_text("set/images/train/a.jpg\nset/images/train/b.jpg\n")
    (data / "val.txt").write_text("../set/images/train/b.jpg\n")
    (data / "pets.data").write_text(DATA)
    return tmp_path


def test_splits_and_names(folder: Path) -> None:
    file = folder / "data" / "pets.data"
    train, val = (open_dataset(file, split) for split in ("train", "val"))
    assert train.names == read_names(file) == ("cat", "guinea pig")
    assert [train.path(i).name for i in range(len(train))] == ["a.jpg", "b.jpg"]
    assert train.classes.tolist() == [1, 0]
    assert [val.path(i).name for i in range(len(val))] == ["b.jpg"]
    assert splits_of(file) == ("train", "val")


def test_the_leading_data_may_be_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert len(open_dataset("pets.data", "train")) == 2
    assert len(open_dataset(folder / "pets.data", "train")) == 2
    with pytest.raises(UserError, match=r"no data set dogs\.data; looked at .*data/dogs\.data"):
        open_dataset("dogs.data", "train")


def test_without_names(folder: Path) -> None:
    file = folder / "data" / "pets.data"
    file.write_text("classes=2\ntrain=train.txt\n")
    assert read_names(file) == ("class0", "class1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes=2\nvalit=val.txt\n", r"pets\.data:2: a \.data file has no key valit; did you mean valid"),
        ("classes=2\ntrain\n", r"pets\.data:2: a line is key=value, not 'train'"),
        ("train=val.txt\ntrain=val.txt\n", r"pets\.data:2: train is set a second time \(first at .*pets\.data:1\)"),
        ("train=none.txt\n", r"pets\.data:1: train names 'none\.txt', which is not there; looked at .*data/none\.txt"),
        ("train=val.txt\n", r"pets\.data: names= .* or classes= is missing"),
        ("train=val.txt\nclasses=3\nnames=pets.names", r"pets\.data:2: classes is 3 but .*pets\.names has 2 names"),
        ("train=val.txt\nclasses=two", r"pets\.data:2: classes is the number of classes, not 'two'"),
        ("names=pets.names", r"pets\.data: it names no images"),
        ("train=val.txt\nnames=val.names", r"pets\.data:2: names names 'val\.names', which is not there"),
    ],
)
def test_mistakes_are_named_with_their_line(folder: Path, text: str, message: str) -> None:
    file = folder / "data" / "pets.data"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        open_dataset(file, "train")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cat\n\ndog\n", r"pets\.names:2: a blank line between class names"),
        ("cat\ndog\ncat\n", r"pets\.names:3: the class cat stands in line 1 already"),
        ("\n", r"pets\.names: a \.names file has one class a line"),
    ],
)
def test_mistakes_in_names(folder: Path, names: str, message: str) -> None:
    (folder / "data" / "pets.names").write_text(names)
    with pytest.raises(UserError, match=message):
        open_dataset(folder / "data" / "pets.data", "train")
