"""From a folder as it was downloaded to a prediction: check, split, train, val and predict with one command each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from boxwright.cli.main import main
from boxwright.data.dataset import open_dataset
from tests.integration.small_runs import write_world
from tests.unit.data.small_sets import write_image, write_yolo
from tests.unit.data.test_folders import (
    cameras_suffixes,
    coco,
    kaggle_in_a_folder_of_its_archive,
    label_studio_yolo,
    roboflow_coco,
    roboflow_csv,
    roboflow_voc,
)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def training(tmp_path: Path) -> list[str]:
    _, network = write_world(tmp_path / "world", num_images=2)
    shape = ["--img", "64", "--batch", "2", "--epochs", "1", "--workers", "0", "--device", "cpu", "--noplots"]
    return ["train", "--cfg", str(network), *shape, "--project", "runs"]


@pytest.mark.parametrize(
    ("make", "checked"),
    [
        (kaggle_in_a_folder_of_its_archive, 1),  # without val training does not begin
        (cameras_suffixes, 1),
        (label_studio_yolo, 1),
        (roboflow_voc, 0),
        (roboflow_coco, 0),
        (roboflow_csv, 0),
    ],
)
def test_one_command_each(
    tmp_path: Path,
    make: Callable[[Path], None],
    checked: int,
    training: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(tmp_path / "my set")
    assert main(["check", "my set"]) == checked
    assert ("boxwright convert split 'my set'" in capsys.readouterr().out) == bool(checked)
    if checked:
        assert main([*training, "--data", "my set"]) == 2
        assert "names no val split" in (said := capsys.readouterr().err)
        assert "divide its images by `boxwright convert split 'my set'`" in said
    assert main(["convert", "split", "my set", "--shares", ".5", ".5"]) == 0
    data = "my set_split/data.yaml"
    train, val = open_dataset(data, "train"), open_dataset(data, "val")
    together = len(train) + len(val)
    assert together == (4 if make is not kaggle_in_a_folder_of_its_archive and make is not label_studio_yolo else 2)
    assert len(train.boxes) + len(val.boxes) == together
    assert main(["check", data]) == 0
    assert main([*training, "--data", data]) == 0
    weights = "runs/exp/weights/last.pt"
    assert main(["val", "--weights", weights, "--data", data, "--device", "cpu", "--project", "runs/val"]) == 0
    photo = str(val.path(0))
    assert main(["predict", "--weights", weights, "--source", photo, "--device", "cpu", "--project", "runs/out"]) == 0


def test_images_of_a_split_set_move_with_it(tmp_path: Path) -> None:
    roboflow_voc(tmp_path / "one/set")
    assert main(["convert", "split", "one/set"]) == 0
    shutil.move("one", "two")
    assert len(open_dataset("two/set_split/data.yaml", "train")) == 3


def test_a_set_that_validates_on_what_it_trains_on(
    tmp_path: Path, training: list[str], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    for stem in "ab":
        write_image(tmp_path / f"{stem}.jpg")
    coco(tmp_path / "all.json", ["a.jpg", "b.jpg"])
    assert main(["check", "all.json"]) == 0
    assert "one set of images" in capsys.readouterr().out
    assert main([*training, "--data", "all.json"]) == 0
    assert "all 2 images of the val split are images of the train split" in caplog.text
    assert "`boxwright convert split all.json`" in caplog.text


def test_labels_where_they_are_not_looked_for(
    tmp_path: Path, training: list[str], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = write_yolo(tmp_path / "set", {"a": "0 .5 .5 .2 .2\n", "b": None, "c": None})
    (tmp_path / "set/images/train/b.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "set/labels/train/c.TXT").write_text("0 .5 .5 .2 .2\n")
    assert main([*training, "--data", str(yaml)]) == 0
    assert "train: 2 of 3 images have no label file and count as background" in caplog.text
    assert main(["check", str(yaml)]) == 0
    out = capsys.readouterr().out.replace("\n", "")
    assert "images/train/b.txt is not read" in out
    assert "labels/train/c.TXT is not read" in out
    (tmp_path / "set/labels/train/a.txt").unlink()
    assert main(["check", str(yaml)]) == 1
    assert "the train split has no box at all, so training does not begin" in capsys.readouterr().out
    assert main([*training, "--data", str(yaml)]) == 2
    assert "has no box at all" in capsys.readouterr().err


def test_what_convert_cannot_take_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cameras_suffixes(tmp_path / "set")
    broken = tmp_path / "set/images/train/traina.JPG"
    broken.write_bytes(broken.read_bytes()[:100])
    assert main(["convert", "data", "set", "out", "--to", "yolo"]) == 1
    assert "left out: 1 image and 0 boxes of set" in capsys.readouterr().out
    assert len(list((tmp_path / "out/labels").rglob("*.txt"))) == 3


def test_convert_counts_crowds_and_says_which_masks_become_boxes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_image(tmp_path / "set/images/a.jpg")
    runs = {"size": [48, 64], "counts": [0, 64 * 48]}
    box = {"image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], "segmentation": runs}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"id": 1, **box}, {"id": 2, **box, "bbox": [30, 4, 20, 20], "iscrowd": 1}],
    }
    (tmp_path / "set/a.json").write_text(json.dumps(content))
    assert main(["convert", "data", "set", "out", "--to", "coco"]) == 1
    assert "left out: 0 images and 1 box of set" in capsys.readouterr().out
    assert "of 1 masks, stored as run lengths, only the boxes are read" in caplog.text
