"""`boxwright check` names every problem with file and line and tells by its exit code."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import pytest

from boxwright.cli.main import main
from boxwright.errors import UserError
from boxwright.yolo.settings import CheckConfig
from boxwright.yolo.verbs.check import check
from tests.unit.data.small_sets import voc_object, write_image, write_voc, write_yolo


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_clean_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yaml = write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n"})
    write_image(tmp_path / "images/val/b.jpg", seed=9)
    (tmp_path / "labels/val").mkdir(parents=True)
    (tmp_path / "labels/val/b.txt").write_text("1 .5 .5 .2 .2\n")
    yaml.write_text("train: images/train\nval: images/val\nnames: [a, b]\n")
    assert check(CheckConfig(data=str(yaml))) == 0
    assert "problems: none" in capsys.readouterr().out


def test_every_kind_of_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = {
        "good": "0 .5 .5 .2 .2\n",
        "twice": "0 .5 .5 .2 .2\n0 .5 .5 .2 .2\n",
        "class": "0 .5 .5 .2 .2\n9 .5 .5 .2 .2\n",
        "range": "0 .5 .5 .2 .2\n0 .5 1.5 .2 .2\n",
        "columns": "0 .5 .5 .2\n",
        "text": "\n\nzero .5 .5 .2 .2\n",
        "flat": "0 .5 .5 .0 .2\n",
        "empty": "",
        "none": None,
        "cut": "0 .5 .5 .2 .2\n",
        "garbage": "0 .5 .5 .2 .2\n",
    }
    yaml = write_yolo(tmp_path, labels)
    images = tmp_path / "images/train"
    (images / "cut.jpg").write_bytes((images / "cut.jpg").read_bytes()[:-100])
    (images / "garbage.jpg").write_bytes(b"no image")
    (tmp_path / "images/val").mkdir()
    shutil.copy(images / "good.jpg", tmp_path / "images/val/copy.jpg")
    (tmp_path / "val.txt").write_text("images/val/copy.jpg\nimages/val/gone.jpg\n")
    yaml.write_text("train: images/train\nval: val.txt\nnames: [a, b]\n")
    assert check(CheckConfig(data=str(yaml))) == 1
    out = capsys.readouterr().out
    for place, text in [
        ("twice.txt:2", "before"),
        ("class.txt:2", "class 9"),
        ("range.txt:2", "above 1"),
        ("columns.txt:1", "5 numbers"),
        ("text.txt:3", "'zero' is not a number"),
        ("flat.txt:1", "no width or height"),
        ("empty.txt", "empty"),
        ("none.txt", "no label file"),
        ("cut.jpg", "truncated"),
        ("garbage.jpg", "cannot be read as an image"),
        ("gone.jpg", "no such file"),
        ("copy.jpg", "the same image is in train"),
    ]:
        assert any(place in line and text in line for line in out.splitlines()), (place, text, out)


def test_no_word_is_broken_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_yolo(tmp_path / "my photos", {"a": "0 .5 .5 .2 .2\n", "b": None}).unlink()
    (tmp_path / "my photos/classes.txt").write_text("a\n")
    monkeypatch.setenv("COLUMNS", "80")
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdout", terminal)
    assert check(CheckConfig(data=str(tmp_path / "my photos"))) == 1
    lines = terminal.getvalue().splitlines()
    assert any(f"`boxwright convert split '{tmp_path / 'my photos'}'`" in line for line in lines)
    problems = lines[: next(i for i, line in enumerate(lines) if line.startswith("┏"))]
    assert all(len(re.sub(r"\x1b\[[\d;]*m", "", line)) <= 80 or str(tmp_path) in line for line in problems)


def test_label_files_without_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yaml = write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n", "rejected": "cat\n"})
    for name in ("lost.txt", "classes.txt"):
        (tmp_path / "labels/train" / name).write_text("0 .5 .5 .2 .2\n")
    assert check(CheckConfig(data=str(yaml))) == 1
    out = capsys.readouterr().out
    assert "lost.txt: there is no image for this label file" in out
    assert "1 label without image" in out


def test_a_split_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yaml = write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n", "b": "0 .5\n"})
    yaml.write_text("train: images/train\nval: gone\nnames: [a, b]\n")
    assert check(CheckConfig(data=str(yaml))) == 1
    out = capsys.readouterr().out
    assert "looked at" in out
    assert "b.txt:1" in out  # the other split is still checked
    yaml.write_text("train: gone\nval: gone\nnames: [a, b]\n")
    with pytest.raises(UserError, match="looked at"):
        check(CheckConfig(data=str(yaml)))


def test_a_split_whose_images_are_all_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yaml = write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n"})
    (tmp_path / "images/train/a.jpg").write_bytes(b"no image")
    assert check(CheckConfig(data=str(yaml))) == 1
    assert "2 corrupt image" in capsys.readouterr().out  # in train and in val


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(write_yolo(tmp_path / "ä ö", {"a": "0 .5 .5 .2 .2\n"}))]) == 0
    assert main(["check", str(tmp_path / "gone.yaml")]) == 2
    assert f"looked at {tmp_path}/gone.yaml" in capsys.readouterr().err


def test_crowds_of_a_coco_json_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = [{"id": k, "image_id": 1, "category_id": 1, "bbox": [k, 2, 9, 9], "iscrowd": k % 2} for k in range(1, 6)]
    image = {"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}
    content = {"images": [image], "categories": [{"id": 1, "name": "a"}], "annotations": boxes}
    write_image(tmp_path / "a.jpg")
    (tmp_path / "instances.json").write_text(json.dumps(content))
    assert check(CheckConfig(data=str(tmp_path / "instances.json"))) == 0
    assert "3 crowd regions" in capsys.readouterr().out


def test_warnings_alone_pass(tmp_path: Path) -> None:
    assert check(CheckConfig(data=str(write_yolo(tmp_path, {"a": None, "b": "", "c": "0 .5 .5 .2 .2\n"})))) == 0


def test_classes_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yaml = write_yolo(tmp_path, {"x": "0 .5 .5 .25 .25\n0 .5 .5 .5 .5\n2 .5 .5 .1 .1\n", "y": "0 .5 .5 1 1\n"})
    (tmp_path / "images/val").mkdir()
    write_image(tmp_path / "images/val/z.jpg", 100, 400)
    (tmp_path / "labels/val").mkdir()
    (tmp_path / "labels/val/z.txt").write_text("2 .5 .5 .25 .25\n2 .5 .5 .5 .5\n")
    yaml.write_text("train: images/train\nval: images/val\nnames: ['[b]a', never, ü]\n")
    assert main(["check", str(yaml), "--plots", str(tmp_path / "plots ü/a")]) == 0
    out = capsys.readouterr().out
    rows = {cells[0]: cells[1:] for line in out.splitlines() if len(cells := line.strip("│ ").split("│")) == 3}
    rows = {name.strip(): [cell.strip() for cell in cells] for name, cells in rows.items()}
    assert rows["0 [b]a"] == ["2 / 3 / 28 px", "0"]  # sides 14, 28 and 55
    assert rows["1 never"] == ["0", "0"]
    assert rows["2 ü"] == ["1 / 1 / 6 px", "1 / 2 / 75 px"]  # 50 and 100
    drawn = sorted((tmp_path / "plots ü/a").iterdir())
    assert [file.name for file in drawn] == ["labels_train.png", "labels_val.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in drawn)
    (tmp_path / "file").write_text("")
    assert main(["check", str(yaml), "--plots", str(tmp_path / "file")]) == 2
    assert "cannot write plots into" in capsys.readouterr().err


def test_degenerate_boxes_of_voc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, flat = voc_object("a", 2, 2, 9, 9), voc_object("a", 30, 5, 30, 9)
    write_voc(tmp_path, {"one": good + flat, "two": flat})
    assert check(CheckConfig(data=str(tmp_path))) == 1
    assert "2 degenerate box" in capsys.readouterr().out
