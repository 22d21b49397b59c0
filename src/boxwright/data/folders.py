"""Describe a folder that holds a data set: by the yaml in it, or by the labels in it and how they are laid out.

Looked for in this order: the VOC development kit, a data yaml, a Darknet `.data` file, COCO json files (Roboflow,
CVAT, Label Studio), VOC xml beside or apart from the images (Roboflow, LabelImg, Kaggle), csv, YOLO txt. Names of
folders and files tell the splits (split_names); where they tell none all images are train.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from boxwright.data.csv_boxes import is_box_table
from boxwright.data.data_yaml import MOST_CLASSES, DataYaml, numbered, read_darknet_data, read_data_yaml
from boxwright.data.files import files_below, read_lines
from boxwright.data.images import images_below
from boxwright.data.split_names import FORMS, SPLITS, Form, Split, by_folder, is_voc_root, split_of
from boxwright.data.voc import annotation_files, voc_folder
from boxwright.data.yolo_txt import label_file, label_files, unread_label
from boxwright.errors import UserError
from boxwright.reading import decoded, load_yaml, read_bytes, read_text
from boxwright.terminal import say_once

_MOST_DIGITS = 18  # longer ones are no numbers of classes
_HEAD = 65536  # bytes of a json that tell whether it is COCO
_COCO_LIST = re.compile(r'"(images|annotations)"\s*:\s*\[')  # the metrics of a run have a number of "images"
_NAMES_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt")


def describe_folder(folder: Path) -> DataYaml:
    """Describe the data set in a folder as its data yaml would.

    Raises:
        UserError: it holds nothing that is read, or something that is not unmistakable.
    """
    if is_voc_root(folder):
        return _of_voc(folder)
    if file := _data_yaml(folder):
        return read_data_yaml(file)
    if len(described := _beside(folder, ".data")) == 1:
        return read_darknet_data(described[0])
    images = [Path(file) for file in images_below(folder)]
    labelled = [image for image, file in zip(images, label_files(images), strict=True) if file.is_file()]
    tables = {suffix: _label_files(folder, suffix) for suffix in FORMS}
    found: list[Form] = [FORMS[suffix] for suffix, files in tables.items() if files]
    if images and annotation_files(folder):
        found.append("voc")
    if labelled:
        found.append("yolo")
    if not found:
        held = "no image"
        if images:
            held = f"{len(images)} images, but no image has a label{unread_label(images[0], label_file(images[0]))}"
        raise UserError(
            f"{folder} is no data set: it holds {held}. Labels are read from a data yaml with YOLO labels (that of "
            "images/x.jpg is labels/x.txt, that of x.jpg is x.txt), VOC xml, COCO json or csv"
        )
    form = min(found, key=("coco", "voc", "csv", "yolo").index)
    if len(found) > 1:
        say_once(f"{folder} has labels in several formats ({', '.join(sorted(found))}); {form} is read")
    if form == "voc":
        return _of_voc(folder)
    if form == "yolo":
        return _of_images(folder, images, labelled)
    files = next(tables[suffix] for suffix in FORMS if FORMS[suffix] == form)
    return DataYaml(folder, (folder,), _split_files(folder, files), form=form)


def _beside(folder: Path, *suffixes: str) -> list[Path]:
    """List the entries of a folder that have one of these suffixes, in lower or upper case."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in suffixes and file.name[0] != ".")


def _data_yaml(folder: Path) -> Path | None:
    """Return the yaml in a folder that names splits."""
    files = _beside(folder, ".yaml", ".yml")
    if len(files) > 1:
        files = [file for file in files if _names_splits(file)]
    if len(files) > 1:
        raise UserError(f"{folder} is a folder with {', '.join(file.name for file in files)}; name the data yaml")
    return files[0] if files else None


def _names_splits(file: Path) -> bool:
    try:
        content = load_yaml(read_text(file), file)
    except UserError:
        return True  # said when it is read
    return isinstance(content, dict) and any(key in cast("dict[object, object]", content) for key in SPLITS)


def _of_voc(folder: Path) -> DataYaml:
    voc = voc_folder(folder)
    return DataYaml(folder, (folder,), {split: (str(folder),) for split in voc.splits}, form="voc", voc=voc)


def _is_coco(file: Path) -> bool:
    try:
        head = read_bytes(file, first=_HEAD)
    except UserError:
        return False
    text = decoded(head, "ignore").lstrip()
    return text.startswith("{") and _COCO_LIST.search(text) is not None and '"shapes"' not in text  # of labelme


def _label_files(folder: Path, suffix: str) -> list[Path]:
    """List the files of this suffix that hold boxes."""
    is_labels = _is_coco if FORMS[suffix] == "coco" else is_box_table
    files = [file for file in map(Path, sorted(files_below(folder, {suffix}))) if is_labels(file)]
    # COCO has other annotations of the same images beside the boxes.
    boxes = {file.parent for file in files if file.stem.startswith("instances_")}
    return [file for file in files if file.parent not in boxes or file.stem.startswith("instances_")]


def _split_files(folder: Path, files: Sequence[Path]) -> dict[Split, tuple[str, ...]]:
    """Return the label files of each split, by the folders that they are in, else by their names."""
    splits: dict[Split, list[str]] = {}
    others: list[str] = []
    for file in files:
        *folders, _ = file.relative_to(folder).parts
        split = split_of((*folders, file.stem))
        (splits.setdefault(split, []) if split else others).append(str(file.relative_to(folder)))
    if others and not splits:
        if len(others) > 1:
            say_once(f"{folder}: the names of {', '.join(others)} tell no split; together they are train")
        splits["train"] = others
    elif others and "train" not in splits and len(others) == 1:
        splits["train"] = others
    elif others:
        say_once(f"{folder}: {', '.join(others)} tells no split by its name and is not read")
    return {split: tuple(splits[split]) for split in SPLITS if split in splits}


def _of_images(folder: Path, images: Sequence[Path], labelled: Sequence[Path]) -> DataYaml:
    """Describe images with YOLO labels."""
    places = {image.parent for image in labelled}
    used = [image for image in images if image.parent in places]
    if len(used) < len(images):
        say_once(f"{folder}: {len(images) - len(used)} images in folders without any label are left out")
    splits: dict[Split, list[str]] = {}
    for image, split in zip(used, by_folder(used, folder), strict=True):
        if split is not None:
            splits.setdefault(split, []).append(str(image))
    labels = sorted({file.parent for file in label_files(labelled)})
    names = _class_names(folder, [*labels, *sorted(places)]) or _counted_classes(folder, labelled)
    return DataYaml(folder, (folder,), {s: tuple(splits[s]) for s in SPLITS if s in splits}, names)


def _class_names(folder: Path, beside: Sequence[Path]) -> tuple[str, ...]:
    """Read the class names that annotation tools leave beside the labels; none where there are none."""
    places = dict.fromkeys(
        (folder, folder / "labels", folder / "images", *beside, folder.parent, folder.parent / "labels")
    )
    files = [place / name for place in places for name in _NAMES_FILES if (place / name).is_file()]
    files += [file for place in places for file in sorted(place.glob("*.names")) if file not in files]
    listed = {file: tuple(filter(None, read_lines(file))) for file in files}
    if not listed:
        return ()
    first = files[0]
    inside = {file: names for file, names in listed.items() if file.is_relative_to(folder)} or listed
    if other := next((file for file, names in inside.items() if names != listed[first]), None):
        raise UserError(f"{first} and {other} name different classes; write a data yaml with the right names")
    return listed[first]


def _counted_classes(folder: Path, images: Sequence[Path]) -> tuple[str, ...]:
    """Name classes by their numbers, up to the largest one in the labels."""
    largest = 0
    for file in label_files(images):
        for line in read_lines(file):
            first = line.split()[0] if line else ""
            number = int(first) if first.isdecimal() and len(first) <= _MOST_DIGITS else 0
            if number >= MOST_CLASSES:
                numbered(number + 1, file)  # refuses it
            largest = max(largest, number)
    say_once(f"{folder} has no classes.txt: its classes are called by their numbers, up to class{largest}")
    return numbered(largest + 1, folder)
