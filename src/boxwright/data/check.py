"""Find what no single file shows: images that two splits share, labels without an image, and statistics of classes."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from boxwright.data.index import DataIndex, Problem
from boxwright.data.yolo_txt import label_file, label_files
from boxwright.ops.arrays import Floats, Ints
from boxwright.reading import place_in_tar, read_bytes

_NOT_LABELS = frozenset(("classes.txt", "README.txt"))  # what annotation tools put beside the labels


def shared_images(train: DataIndex, val: DataIndex) -> list[Problem]:
    """Find the images of val whose content is in train as well, whatever their names."""
    images = [*train.paths, *val.paths]
    if (line := images_of_train(train, val)) and len(set(train.paths) & set(val.paths)) == len(val):
        return [Problem("shared image", val.path(0).parent, 0, line)]
    problems: list[Problem] = []
    for path, first in list(zip(images, content_groups(images), strict=True))[len(train) :]:
        if first < len(train):
            twin = images[first]
            text = "this image is in train and val" if twin == path else f"the same image is in train as {twin}"
            problems.append(Problem("shared image", path, 0, text))
    return problems


def images_of_train(train: DataIndex, val: DataIndex) -> str | None:
    """Say how many images of val are files of train as well; None where there is none."""
    count = len(set(train.paths) & set(val.paths))
    if not count:
        return None
    part = f"all {count} images" if count == len(val) else f"{count} of {len(val)} images"
    return f"{part} of the val split are images of the train split: validation measures what was trained on"


def content_groups(images: Sequence[Path]) -> list[int]:
    """Return for each image the position of the first one with the same content, which may be itself."""
    sizes = {path: place[2] if (place := place_in_tar(path)) else path.stat().st_size for path in images}
    # Only files of the same size are read, each once: of photos these are few.
    times = Counter(sizes.values())
    keys = {
        path: path if times[size] == 1 else hashlib.sha256(read_bytes(path)).digest() for path, size in sizes.items()
    }
    first: dict[object, int] = {}
    return [first.setdefault(keys[path], i) for i, path in enumerate(images)]


def labels_without_image(indices: Mapping[str, DataIndex]) -> list[Problem]:
    """Find YOLO label files beside those of the data set that belong to no image of any split."""
    expected: set[Path] = set()
    for index in indices.values():
        expected.update(label_files(index.paths))
        # An image that is left out is named by its problem: by itself, or by its label file.
        expected.update(label_file(problem.path) for problem in index.problems if problem.drops == "image")
    folders = {file.parent for file in expected if file.is_file()}
    orphans = sorted(
        file
        for folder in folders
        for file in folder.glob("*.txt")
        if file not in expected and file.name not in _NOT_LABELS
    )
    return [Problem("label without image", file, 0, "there is no image for this label file") for file in orphans]


class ClassStatistics(NamedTuple):
    """Arrays over the classes."""

    images: Ints  # (C,) images that have the class
    boxes: Ints  # (C,) boxes of it
    sides: Floats  # (C,) median of the root of their area, in pixels of the image file; NaN without boxes


def class_statistics(index: DataIndex) -> ClassStatistics:
    """Count a split by class."""
    owner = np.repeat(np.arange(len(index)), np.diff(index.box_offsets))
    sides = np.sqrt(index.boxes[:, 2:].astype(np.float64).prod(axis=1) * index.sizes[owner].prod(axis=1))
    pairs = np.unique(np.stack((index.classes.astype(np.int64), owner)), axis=1)
    medians = np.full(index.num_classes, np.nan)
    order = index.classes.argsort(kind="stable")
    present, starts = np.unique(index.classes[order], return_index=True)
    for label, own in zip(present.tolist(), np.split(sides[order], starts[1:]), strict=False):
        medians[label] = np.median(own)
    return ClassStatistics(
        np.bincount(pairs[0], minlength=index.num_classes),
        np.bincount(index.classes, minlength=index.num_classes),
        medians,
    )
