"""Folders as annotation tools and platforms leave them, opened without a list or a yaml."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from boxwright.data.dataset import open_dataset, splits_of
from boxwright.data.folders import describe_folder
from boxwright.errors import UserError
from tests.unit.data.small_sets import voc_object, write_image, write_voc

BOX = "1 .5 .5 .2 .2\n"
CATEGORIES = [{"id": 1, "name": "late"}, {"id": 2, "name": "early"}]
# What Roboflow writes first: the project, which no annotation has.
ROOTED = [{"id": 0, "name": "pets", "supercategory": "none"}] + [
    category | {"supercategory": "pets"} for category in CATEGORIES
]


def image(path: Path) -> Path:
    return write_image(path, seed=abs(hash(path)) % 2**32)


def xml(path: Path, name: str = "cat", filename: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    named = f"<filename>{filename}</filename>" if filename else ""
    path.write_text(f"<annotation>{named}{voc_object(name, 2, 2, 20, 20)}</annotation>")


def coco(file: Path, images: Sequence[str], categories: Sequence[dict[str, Any]] = CATEGORIES, **text: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    listed = [{"id": i, "file_name": name} for i, name in enumerate(images)]
    boxes = [
        {"id": i, "image_id": i, "category_id": categories[-1]["id"], "bbox": [2, 2, 9, 9]} for i in range(len(images))
    ]
    content = {"images": listed, "annotations": boxes, "categories": list(categories)}
    file.write_text(json.dumps(content), **text)


def label(path: Path, text: str = BOX, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)


def labelimg(root: Path) -> None:
    for stem in "ab":
        image(root / f"JPEGImages/{stem}.jpg")
        xml(root / f"Annotations/{stem}.xml")


def kaggle_in_a_folder_of_its_archive(root: Path) -> None:
    for stem in "ab":
        image(root / f"pets-master/images/{stem}.png")
        xml(root / f"pets-master/annots/{stem}.xml")
    (root / "pets-master/.idea.xml").write_text("<project></project>")
    (root / "pets-master/project.xml").write_text("<project><module/></project>")  # of another tool


def cameras_suffixes(root: Path) -> None:
    for split in ("train", "test"):
        for stem in "ab":
            photo = image(root / f"images/{split}/{split}{stem}.jpg")
            photo.rename(photo.with_suffix(".JPG"))
            xml(root / f"images/{split}/{split}{stem}.xml")


def roboflow_voc(root: Path) -> None:
    for split in ("train", "valid"):
        for stem in "ab":
            image(root / f"{split}/{stem}_jpg.rf.{split}.jpg")
            xml(root / f"{split}/{stem}_jpg.rf.{split}.xml", filename=f"{stem}_jpg.rf.{split}.jpg")


def renamed_images(root: Path) -> None:
    for number in range(2):
        image(root / f"photos/DSC_{number}.jpeg")
        xml(root / f"xml/{number:03}.xml", filename=f"C:\\Users\\me\\DSC_{number}.jpeg")


def sub_folders_in_a_list(root: Path) -> None:
    for sub in ("one", "two"):
        image(root / f"JPEGImages/{sub}/frame.jpg")
        xml(root / f"Annotations/{sub}/frame.xml", name=sub)
    label(root / "ImageSets/Main/default.txt", "one/frame\ntwo/frame\n")


def roboflow_coco(root: Path) -> None:
    for split in ("train", "valid"):
        names = [f"{split}{stem}.jpg" for stem in "ab"]
        for name in names:
            image(root / split / name)
        coco(root / split / "_annotations.coco.json", names, ROOTED)


def cvat_coco(root: Path) -> None:
    for stem in "ab":
        image(root / f"images/default/{stem}.jpg")
    coco(root / "annotations/instances_default.json", ["a.jpg", "b.jpg"])
    (root / "annotations/captions_default.json").write_text('{"images": [], "annotations": []}')


def label_studio_coco(root: Path) -> None:
    """Names from a Windows machine, and the mark that its editors put first."""
    for stem in "ab":
        image(root / f"images/1f-{stem}.jpg")
    coco(root / "result.json", ["images\\1f-a.jpg", "images\\1f-b.jpg"], encoding="utf-8-sig")


def label_studio_uploads(root: Path) -> None:
    for stem in "ab":
        image(root / f"images/{stem}.jpg")
    coco(root / "result.json", ["/data/upload/1/a.jpg", "/data/upload/1/b.jpg"])


def label_studio_yolo(root: Path) -> None:
    for stem in "ab":
        image(root / f"images/{stem}.jpg")
        label(root / f"labels/{stem}.txt", encoding="utf-8-sig")
    label(root / "classes.txt", "late\r\nearly\r\n", encoding="utf-8-sig")
    (root / "notes.json").write_text('{"categories": [], "info": {}}')


def cvat_yolo(root: Path) -> None:
    """CVAT's lists speak of the folder `data` that Darknet has; it is not in the archive."""
    for stem in "ab":
        image(root / f"obj_train_data/{stem}.jpg")
        label(root / f"obj_train_data/{stem}.txt")
    label(root / "obj.names", "late\nearly\n")
    label(root / "train.txt", "data/obj_train_data/a.jpg\ndata\\obj_train_data\\b.jpg\n")
    label(root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")


def roboflow_darknet(root: Path) -> None:
    for split in ("train", "valid"):
        for stem in "ab":
            image(root / f"{split}/{split}{stem}.jpg")
            label(root / f"{split}/{split}{stem}.txt")
        label(root / f"{split}/_darknet.labels", "late\nearly\n")


def roboflow_csv(root: Path) -> None:
    for split in ("train", "valid"):
        rows = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
        for stem in "ab":
            image(root / f"{split}/{split}{stem}.jpg")
            rows.append(f"{split}{stem}.jpg,64,48,cat,2,2,20,20")
        label(root / f"{split}/_annotations.csv", "\n".join(rows))


def from_a_system_without_letter_case(root: Path) -> None:
    for split in ("train", "val"):
        for stem in "ab":
            image(root / f"Images/{split.title()}/{stem}.jpg")
            label(root / f"LABELS/{split}/{stem}.txt")
    label(root / "Data.YAML", "train: Images/Train\nval: images/val\nnames: [late, early]\n")


def in_the_encoding_of_windows(root: Path) -> None:
    for stem in "ab":
        image(root / f"images/{stem}.jpg")
        label(root / f"labels/{stem}.txt", f"\ufeff{BOX}".replace("\n", "\r\n"), "utf-16-le")
    label(root / "classes.txt", "late\r\nearly\r\n", "utf-16")


def coco_in_the_encoding_of_windows(root: Path) -> None:
    for stem in "ab":
        image(root / f"{stem}.jpg")
    coco(root / "a.json", ["a.jpg", "b.jpg"], encoding="utf-16")


def voc_in_the_encoding_of_windows(root: Path) -> None:
    labelimg(root)
    for file in (root / "Annotations").iterdir():  # and still said to be UTF-8
        file.write_text(f'<?xml version="1.0" encoding="utf-8"?>{file.read_text()}', encoding="utf-16")


def csv_in_the_encoding_of_windows(root: Path) -> None:
    roboflow_csv(root)
    for file in root.rglob("*.csv"):
        file.write_text(file.read_text(), encoding="utf-16")


@pytest.mark.parametrize(
    ("make", "splits", "names"),
    [
        (labelimg, ["train"], ("cat",)),
        (kaggle_in_a_folder_of_its_archive, ["train"], ("cat",)),
        (cameras_suffixes, ["train", "test"], ("cat",)),
        (roboflow_voc, ["train", "val"], ("cat",)),
        (renamed_images, ["train"], ("cat",)),
        (sub_folders_in_a_list, ["train"], ("one", "two")),
        (roboflow_coco, ["train", "val"], ("late", "early")),
        (cvat_coco, ["train"], ("late", "early")),
        (label_studio_coco, ["train"], ("late", "early")),
        (label_studio_uploads, ["train"], ("late", "early")),
        (label_studio_yolo, ["train"], ("late", "early")),
        (cvat_yolo, ["train"], ("late", "early")),
        (roboflow_darknet, ["train", "val"], ("late", "early")),
        (roboflow_csv, ["train", "val"], ("cat",)),
        (from_a_system_without_letter_case, ["train", "val"], ("late", "early")),
        (in_the_encoding_of_windows, ["train"], ("late", "early")),
        (coco_in_the_encoding_of_windows, ["train"], ("late", "early")),
        (voc_in_the_encoding_of_windows, ["train"], ("cat",)),
        (csv_in_the_encoding_of_windows, ["train", "val"], ("cat",)),
    ],
)
def test_exports_as_they_are_unpacked(
    tmp_path: Path, make: Callable[[Path], None], splits: list[str], names: tuple[str, ...]
) -> None:
    root = tmp_path / "set"
    make(root)
    assert list(splits_of(root)) == splits
    for split in splits:
        index = open_dataset(root, split)  # type: ignore[arg-type]
        assert index.names == names
        assert (len(index), len(index.boxes)) == (2, 2)
        assert not [problem for problem in index.problems if problem.kind != "root category"]
        assert set(index.classes.tolist()) <= {len(names) - 1, 0}


def test_what_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="it holds no image"):
        splits_of(tmp_path)
    image(tmp_path / "images/a.jpg")
    with pytest.raises(UserError, match="no image has a label"):
        splits_of(tmp_path)
    label(tmp_path / "images/a.txt")  # beside an image of a folder `images`
    with pytest.raises(UserError, match=r"images/a\.txt is not read"):
        splits_of(tmp_path)


def test_several_jsons_whose_names_tell_no_split_are_train(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for name in ("one", "two"):
        image(tmp_path / f"images/{name}.jpg")
        coco(tmp_path / f"annotations/instances_{name}.json", [f"{name}.jpg"])
    assert splits_of(tmp_path) == ("train",)
    index = open_dataset(tmp_path, "train")
    assert [path.name for path in index.paths] == ["one.jpg", "two.jpg"]
    assert len(index.boxes) == 2
    assert "instances_two.json tell no split; together they are train" in caplog.text


def test_several_formats_and_images_outside_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    labelimg(tmp_path / "both")
    label(tmp_path / "both/JPEGImages/a.txt")
    assert len(open_dataset(tmp_path / "both", "train").boxes) == 2
    assert "several formats (voc, yolo); voc is read" in caplog.text
    roboflow_voc(tmp_path / "rf")
    image(tmp_path / "rf/extra/x.jpg")
    xml(tmp_path / "rf/extra/x.xml")
    assert len(open_dataset(tmp_path / "rf", "train")) == 2
    assert "1 images are in no folder of a split" in caplog.text


def test_masks_and_other_pictures_are_no_background(tmp_path: Path) -> None:
    labelimg(tmp_path)
    image(tmp_path / "SegmentationClass/a.png")
    image(tmp_path / "JPEGImages/c.jpg")
    index = open_dataset(tmp_path, "train")
    assert [path.name for path in index.paths] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [problem.kind for problem in index.problems] == ["missing label"]


def test_folders_of_a_development_kit_in_small_letters(tmp_path: Path) -> None:
    for stem in "ab":
        image(tmp_path / f"jpegimages/{stem}.jpg")
        xml(tmp_path / f"annotations/{stem}.xml")
        label(tmp_path / f"imagesets/main/{'train' if stem == 'a' else 'val'}.txt", f"{stem}\n")
    assert [open_dataset(tmp_path, split).path(0).stem for split in splits_of(tmp_path)] == ["a", "b"]


def test_lists_of_a_development_kit(tmp_path: Path) -> None:
    objects = voc_object("cat", 2, 2, 20, 20)
    root = write_voc(tmp_path / "kit", {"a": objects, "b": objects, "c": objects}, split="trainval")
    assert splits_of(root) == ("train",)
    (root / "ImageSets/Main/val.txt").write_text("b\n")
    (root / "ImageSets/Main/cat_val.txt").write_text("b  1\n")
    assert [path.stem for path in open_dataset(root, "train").paths] == ["a", "c"]  # without those of val
    assert [path.stem for path in open_dataset(root, "val").paths] == ["b"]


def test_annotations_that_claim_an_image_of_another(tmp_path: Path) -> None:
    labelimg(tmp_path)
    xml(tmp_path / "Annotations/copy.xml", filename="a.jpg")
    xml(tmp_path / "Annotations/gone.xml", filename="gone.jpg")
    xml(tmp_path / "Annotations/b.xml", filename="a.jpg")
    found = {(problem.kind, problem.path.name, problem.drops) for problem in open_dataset(tmp_path, "train").problems}
    assert found == {
        ("duplicate", "copy.xml", "image"),
        ("missing image", "gone.jpg", "image"),
        ("other image", "b.xml", ""),
    }


def test_two_images_of_one_name_do_not_share_an_annotation(tmp_path: Path) -> None:
    image(tmp_path / "x.jpg")
    image(tmp_path / "x.png")
    image(tmp_path / "none.jpg")
    xml(tmp_path / "x.xml", filename="x.png")
    index = open_dataset(tmp_path, "train")
    assert [(path.name, len(index.labels(i)[0])) for i, path in enumerate(index.paths)] == [
        ("none.jpg", 0),
        ("x.png", 1),
    ]
    (problem,) = (problem for problem in index.problems if problem.drops)
    assert (problem.path.name, problem.text) == ("x.jpg", "x.xml is the annotation of x.png; the image is left out")


def test_classes_that_differ_in_capital_letters_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for stem, name in (("1", "cat"), ("2", "Cat"), ("3", "dog")):
        image(tmp_path / f"{stem}.jpg")
        xml(tmp_path / f"{stem}.xml", name)
    open_dataset(tmp_path, "train")
    assert "the classes 'Cat' and 'cat' differ in capital letters or blanks alone" in caplog.text


def test_classes_without_names_are_numbered(tmp_path: Path) -> None:
    for split in ("train", "val"):
        image(tmp_path / f"images/{split}/{split}.jpg")
        label(tmp_path / f"labels/{split}/{split}.txt", "2 .5 .5 .2 .2\n" if split == "val" else BOX)
    assert open_dataset(tmp_path, "train").names == ("class0", "class1", "class2")  # of both splits


def test_a_class_number_beyond_reason_makes_no_names(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 20, 20)
    (tmp_path / "a.txt").write_text("2000000000 .5 .5 .1 .1\n")
    with pytest.raises(UserError, match=r"a\.txt: a data set of 2,000,000,001 classes; at most 100,000"):
        describe_folder(tmp_path)


def test_the_metrics_of_a_run_within_are_no_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labelimg(tmp_path)
    (tmp_path / "runs/train/exp").mkdir(parents=True)
    (tmp_path / "runs/train/exp/metrics.json").write_text('{"images": 1, "labels": 2, "annotations": {"a": []}}')
    assert describe_folder(tmp_path).form == "voc"
    assert "several formats" not in caplog.text
