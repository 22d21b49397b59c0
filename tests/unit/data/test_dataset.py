"""YOLO txt data sets: where things are looked for, and what is left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from boxwright.data.dataset import open_dataset, read_names, splits_of
from boxwright.data.images import IMAGE_SUFFIXES
from boxwright.data.index import DataIndex
from boxwright.data.yolo_txt import label_file
from boxwright.errors import UserError
from tests.unit.data.small_sets import turn, write_image, write_yolo


def stems(index: DataIndex) -> list[str]:
    return [index.path(i).stem for i in range(len(index))]


def test_folder_with_spaces_and_umlauts(tmp_path: Path) -> None:
    yaml = write_yolo(tmp_path / "Übung mit Leerzeichen 図", {"ein bild": "0 .5 .5 .2 .2\n"})
    for _ in range(2):
        index = open_dataset(yaml, "train")
        assert index.path(0).exists()
        assert index.labels(0)[0].tolist() == [0]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("/a/images/b/c.d.jpg", "/a/labels/b/c.d.txt"),
        ("/images/x/images/c.jpg", "/images/x/labels/c.txt"),
        ("/a/my images/c.jpg", "/a/my images/c.txt"),
        ("/a/images", "/a/images.txt"),
    ],
)
def test_label_of_an_image(image: str, label: str) -> None:
    assert label_file(Path(image)) == Path(label)


@pytest.mark.parametrize(
    ("folders", "image", "label"),
    [
        ("Labels", "Images/c.jpg", "Labels/c.txt"),
        ("LABELS", "images/c.jpg", "LABELS/c.txt"),
        ("labels/train", "images/Train/c.jpg", "labels/train/c.txt"),
        ("labels Labels", "images/c.jpg", "labels/c.txt"),
        ("Labels LABELS", "images/c.jpg", "labels/c.txt"),  # which of the two is not known
        ("", "Images/c.jpg", "Images/c.txt"),
        ("Labels", "Images/set/images/c.jpg", "Images/set/labels/c.txt"),
    ],
)
def test_folders_of_labels_in_other_letter_case(tmp_path: Path, folders: str, image: str, label: str) -> None:
    for folder in folders.split():
        (tmp_path / folder).mkdir(parents=True)
    assert label_file(tmp_path / image) == tmp_path / label


def test_a_yaml_may_name_folders_in_other_letter_case(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    yaml = write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n"})
    (tmp_path / "images").rename(tmp_path / "IMAGES")
    assert len(open_dataset(yaml, "train").boxes) == 1
    assert f"there is no {tmp_path}/images/train; taken is {tmp_path}/IMAGES/train" in caplog.text


def test_names_are_taken_as_they_are_written(tmp_path: Path) -> None:
    yaml = write_yolo(tmp_path, {"a": ""}, names="[no, on, 1.0, 007]")
    assert read_names(yaml) == ("no", "on", "1.0", "007")
    for names, says in (
        ("{0: yes, 1: }", "class 1 has no name"),
        ("classes.txt", "names is 'classes.txt'; it is a list"),
    ):
        write_yolo(tmp_path, {"a": ""}, names=names)
        with pytest.raises(UserError, match=says):
            read_names(yaml)


def test_list_files_and_names_as_map(tmp_path: Path) -> None:
    write_yolo(tmp_path / "set", {"a": "1 .5 .5 .2 .2\n", "b": "", "c": ""})
    lists = tmp_path / "set" / "lists"
    lists.mkdir()
    (lists / "one.txt").write_text(f"./../images/train/b.jpg\n\n{tmp_path}/set/images/train/a.jpg\n")
    (lists / "two.txt").write_text("images/train/c.jpg\n../images/train/b.jpg\n")
    yaml = tmp_path / "by list.yaml"
    yaml.write_text("path: set\ntrain: [lists/one.txt, lists/two.txt]\nval: lists/two.txt\nnames: {1: dog, 0: cat}\n")
    index = open_dataset(yaml, "train")
    assert sorted(set(stems(index))) == ["a", "b", "c"]
    assert index.classes.tolist() == [1]
    assert sorted(stems(open_dataset(yaml, "val"))) == ["b", "c"]
    assert read_names(yaml) == ("cat", "dog")


def test_path_key_is_relative_to_the_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_yolo(tmp_path / "sets" / "one", {"a": ""})
    yaml = tmp_path / "one.yaml"
    yaml.write_text("path: sets/one\ntrain: images/train\nval: images/train\nnames: [a]\n")
    monkeypatch.chdir("/")
    assert len(open_dataset(yaml, "val")) == 1


def test_paths_are_absolute_wherever_the_cache_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_yolo(tmp_path / "set", {"a": ""})
    monkeypatch.chdir(tmp_path / "set")
    assert open_dataset("data.yaml", "train").path(0).is_absolute()
    monkeypatch.chdir(tmp_path)
    assert open_dataset("set/data.yaml", "train").path(0).exists()
    assert len(open_dataset("set/data", "train")) == 1
    assert len(open_dataset("set", "train")) == 1


def test_yaml_that_points_nowhere_lists_the_places(tmp_path: Path) -> None:
    yaml = tmp_path / "data.yaml"
    yaml.write_text("path: elsewhere\ntrain: ../gone/images\nnames: [a]\n")
    with pytest.raises(UserError) as error:
        open_dataset(yaml, "train")
    for place in (tmp_path / "gone/images", tmp_path.parent / "gone/images", tmp_path / "elsewhere/gone/images"):
        assert str(place) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_export_that_was_unpacked_a_level_too_high(tmp_path: Path) -> None:
    yaml = write_yolo(tmp_path, {"a": ""})
    yaml.write_text("train: ../images/train\nval: ../images/train\nnames: [a]\n")
    assert len(open_dataset(yaml, "train")) == 1


@pytest.mark.parametrize("data", ["gone.yaml", "gone", "gone.json"])
def test_no_such_data_set(tmp_path: Path, data: str) -> None:
    with pytest.raises(UserError, match=rf"looked at {tmp_path}/gone"):
        open_dataset(tmp_path / data, "train")


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
        ("train: C:\\set\\train\nnames: [a]\n", r"names C:\\set\\train, which is on a drive of Windows"),
        ("val: images/train\nnames: [a]\n", "names no train split"),
        ("train:\nval: images/train\nnames: [a]\n", "names no train split"),
        ("train: !!python/object/apply:os.system [touch hacked]\nnames: [a]\n", "not valid yaml"),
    ],
)
def test_bad_yaml(tmp_path: Path, text: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    yaml = write_yolo(tmp_path, {"a": ""})
    yaml.write_text(text)
    with pytest.raises(UserError, match=says):
        open_dataset(yaml, "train")
    assert not Path("hacked").exists()


def test_download_entry_is_not_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    yaml = write_yolo(tmp_path, {"a": ""})
    yaml.write_text(yaml.read_text() + f"download: bash -c 'touch {tmp_path}/hacked'\n")
    open_dataset(yaml, "train")
    assert not (tmp_path / "hacked").exists()
    assert "`download` is not run" in caplog.text


def test_bad_rows_and_files_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = {
        "good": "0 .5 .5 .2 .2\n7 .5 .5 .2 .2\n1 .5 .5 0 .2\n",
        "text": "0 .5 .5 .2 .2\ncat .5 .5 .2 .2\n0 .5\n",
        "bare": None,
    }
    yaml = write_yolo(tmp_path, labels)
    cut = write_image(tmp_path / "images/train/cut.jpg")
    cut.write_bytes(cut.read_bytes()[:-200])
    for _ in range(2):
        caplog.clear()
        index = open_dataset(yaml, "train")
        assert stems(index) == ["bare", "good"]
        assert len(index.boxes) == 1
        by_kind = {problem.kind: problem for problem in index.problems}
        kinds = {"unknown class", "degenerate box", "unreadable label", "column count", "missing label"}
        assert set(by_kind) == {*kinds, "corrupt image"}
        assert [by_kind[kind].line for kind in ("unknown class", "degenerate box", "unreadable label")] == [2, 3, 2]
        assert "train: 2 of 4 images left out" in caplog.text
        assert "train: 2 of 3 boxes left out" in caplog.text


def test_polygons_stay_with_their_boxes(tmp_path: Path) -> None:
    text = "9 .1 .1 .2 .1 .2 .2\n1 .1 .1 .5 .1 .5 .6 .1 .6\n0 .3 .3 .4 .3 .4 .5\n"
    index = open_dataset(write_yolo(tmp_path, {"a": text}), "train")
    assert index.classes.tolist() == [1, 0]
    assert [len(points) for points in index.polygons(0)] == [4, 3]


def test_exif_rotation_swaps_the_size(tmp_path: Path) -> None:
    yaml = write_yolo(tmp_path, {"a": ""})
    turn(tmp_path / "images/train/a.jpg", 6)
    assert open_dataset(yaml, "train").sizes.tolist() == [[64, 48]]


def test_one_label_file_of_several_images_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    yaml = write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n", "b": None})
    write_image(tmp_path / "images/train/a.png")
    write_image(tmp_path / "images/train/b.png")  # without labels, as b.jpg
    assert len(open_dataset(yaml, "train").boxes) == 2
    assert "train: 1 label files belong to several of 4 images, the first: " in caplog.text
    assert "labels/train/a.txt: it is the label file of a.jpg and of a.png" in caplog.text


def test_what_counts_as_an_image(tmp_path: Path) -> None:
    yaml = write_yolo(tmp_path, {"a": ""})
    folder = tmp_path / "images/train"
    write_image(folder / "deep/er/b.PNG".replace("PNG", "png"))
    (folder / "deep/er/b.png").rename(folder / "deep/er/b.PNG")
    for name in ("notes.md", ".hidden.jpg", "movie.mp4"):
        (folder / name).write_bytes(b"no image")
    (folder / "deep" / "loop").symlink_to(folder)
    (folder / "z linked.jpg").symlink_to(folder / "a.jpg")
    assert stems(open_dataset(yaml, "train")) == ["a", "b", "z linked"]
    assert ".jpg" in IMAGE_SUFFIXES


def test_photos_of_kinds_that_are_not_read_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    yaml = write_yolo(tmp_path, {"a": ""})
    for name in ("b.HEIC", "c.avif", ".d.heic"):
        (tmp_path / "images/train" / name).write_bytes(b"photo")
    assert stems(open_dataset(yaml, "train")) == ["a"]
    assert "photos of a kind that is not read: 2, such as" in caplog.text
    assert "b.HEIC; save them as JPEG or PNG" in caplog.text


def test_empty_split(tmp_path: Path) -> None:
    yaml = write_yolo(tmp_path, {"a": ""})
    (tmp_path / "empty").mkdir()
    yaml.write_text("train: images/train\nval: empty\nnames: [a]\n")
    with pytest.raises(UserError, match=r"the val split of .* holds no image"):
        open_dataset(yaml, "val")
    (tmp_path / "images/train/a.jpg").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"no usable image: all images are left out, the first because .*a\.jpg"):
        open_dataset(yaml, "train")


def test_single_class(tmp_path: Path) -> None:
    yaml = write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n1 .4 .4 .2 .2\n"})
    index = open_dataset(yaml, "train", single_cls=True)
    assert index.names == ("item",)
    assert index.classes.tolist() == [0, 0]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser writes everywhere")
def test_read_only_data_set(tmp_path: Path) -> None:
    yaml = write_yolo(tmp_path / "set", {"a": "0 .5 .5 .2 .2\n"})
    folders = [tmp_path / "set", *(path for path in (tmp_path / "set").rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert len(open_dataset(yaml, "train")) == 1
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_compat(tmp_path: Path) -> None:
    yaml = write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n  \n1 .4 .4 .2 .2\n", "b": ""})
    assert stems(open_dataset(yaml, "train")) == ["b"]
    assert stems(open_dataset(yaml, "train", compat="fixed")) == ["a", "b"]


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


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("work/data/x.yaml", "path: ../sets/one\ntrain: images/train\n"),  # releases from v6.0
        ("work/data/x.yaml", "train: ../sets/one/images/train\n"),  # releases up to v5.0
        ("work/one/data.yaml", "train: one/images/train\n"),  # exports that name their own folder
        ("work/data/x.yaml", "train: ..\\sets\\one\\images\\train\n"),
        ("work/data/x.yaml", "train: ../sets/list.txt\n"),
    ],
)
def test_paths_as_published_releases_resolve_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str
) -> None:
    write_yolo(tmp_path / "sets/one", {"a": "0 .5 .5 .2 .2\n"})
    write_yolo(tmp_path / "work/one", {"a": "0 .5 .5 .2 .2\n"})
    (tmp_path / "sets/list.txt").write_text("../sets/one/images/train/a.jpg\n")
    yaml = tmp_path / file
    yaml.parent.mkdir(exist_ok=True)
    yaml.write_text(f"{text}names: [a]\n")
    monkeypatch.chdir(tmp_path / "work")
    assert len(open_dataset(yaml, "train").boxes) == 1
    monkeypatch.chdir("/")  # a run that is resumed from elsewhere: the folder above the yaml
    assert len(open_dataset(yaml, "train").boxes) == 1


def test_what_lies_beside_the_yaml_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = write_yolo(tmp_path / "set", {"mine": "0 .5 .5 .2 .2\n"})
    write_yolo(tmp_path / "here", {"other": "0 .5 .5 .2 .2\n"})
    monkeypatch.chdir(tmp_path / "here")
    assert stems(open_dataset(yaml, "train")) == ["mine"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "trian: images/train\nval: images/train\nnames: [a]\n",
            r"data\.yaml:1: .* no key trian; did you mean train\?",
        ),
        ("train: images/train\nvalid: images/train\nnames: [a]\n", r"data\.yaml:2: .*did you mean val\?"),
        (
            "train: images/train\nnames: [a]\nnames: [b]\n",
            r"data\.yaml:3: names is set a second time \(first in line 2\)",
        ),
        ("train: images/train\nnames: {0: a, 0: b}\n", "0 of names is set a second time"),
    ],
)
def test_keys_of_a_data_yaml(tmp_path: Path, text: str, says: str) -> None:
    yaml = write_yolo(tmp_path, {"a": ""})
    yaml.write_text(text)
    with pytest.raises(UserError, match=says):
        open_dataset(yaml, "train")


def test_other_keys_of_a_data_yaml_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    yaml = write_yolo(tmp_path, {"a": ""}, names="[a, a]")
    yaml.write_text(yaml.read_text() + "roboflow: {version: 2}\nauthors: me\n")
    open_dataset(yaml, "train")
    assert "keys that are not read: authors" in caplog.text
    assert "several classes are called 'a'" in caplog.text
    yaml.write_text("train: images/train\nvalidation: images/train\nnames: [a]\n")
    with pytest.raises(UserError, match="names no val split; it has train; keys that are not read: validation; divide"):
        open_dataset(yaml, "val")


def test_labels_of_darknets_own_layout(tmp_path: Path) -> None:
    """The `.data` lies in `cfg`, lists name images from the folder above it, JPEGImages becomes labels."""
    for stem in ("a", "b"):
        write_image(tmp_path / f"VOC2007/JPEGImages/{stem}.jpg")
    (tmp_path / "VOC2007/labels").mkdir()
    (tmp_path / "VOC2007/labels/a.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "VOC2007/JPEGImages/b.txt").write_text("0 .5 .5 .2 .2\n0 .5 .5 .4 .4\n")  # beside, where there is none
    (tmp_path / "cfg").mkdir()
    (tmp_path / "cfg/voc.data").write_text("classes= 1\ntrain = train.txt\nvalid = train.txt\n")
    (tmp_path / "train.txt").write_text("VOC2007/JPEGImages/a.jpg\nVOC2007/JPEGImages/b.jpg\n")
    index = open_dataset(tmp_path / "cfg/voc.data", "val")
    assert [len(index.labels(i)[0]) for i in range(2)] == [1, 2]
