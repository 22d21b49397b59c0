"""Find the COCO ground truth that stands beside the images of a YOLO txt data set."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from boxwright.data.coco import read_json
from boxwright.data.index import DataIndex
from boxwright.errors import UserError

_log = logging.getLogger("boxwright.data")


def with_annotations(index: DataIndex) -> DataIndex:
    """The index with COCO image and category ids, if a ground truth stands beside the images and knows all of them.

    Looked at: `instances.json` in the folder of the images and up to the parent of `images`, and
    `annotations/instances_FOLDER.json` as COCO lays it out.
    """
    if index.annotations is not None or not len(index):
        return index
    file = next((place for place in _places(index.path(0)) if place.is_file()), None)
    return index if file is None else _joined(index, file)


def _places(image: Path) -> list[Path]:
    folder = image.parent
    places: list[Path] = []
    for parent in (folder, *list(folder.parents)[:2]):
        places += [parent / "instances.json", parent / "annotations" / f"instances_{folder.name}.json"]
        if parent.name == "images":
            root = parent.parent
            return [*places, root / "instances.json", root / "annotations" / f"instances_{folder.name}.json"]
    return places[:2]


def _joined(index: DataIndex, file: Path) -> DataIndex:
    try:
        content = read_json(file)
        images = [(Path(str(image["file_name"])).name, int(image["id"])) for image in content["images"]]
        by_name = {str(category["name"]): int(category["id"]) for category in content["categories"]}
    except (UserError, KeyError, TypeError, ValueError) as error:
        _log.warning("%s is not used: %s", file, error)
        return index
    by_file = dict(images)
    names = [index.path(i).name for i in range(len(index))]
    unknown_class = next((name for name in index.names if name not in by_name), None)
    unknown_image = next((name for name in names if name not in by_file), None)
    if unknown_class is not None:
        reason = f"it has no category {unknown_class!r}"
    elif unknown_image is not None:
        reason = f"it does not know the image {unknown_image}"
    elif len(by_file) < len(images) or len(set(names)) < len(names):
        reason = "file names do not tell its images apart"
    else:
        ids = np.array([by_file[name] for name in names], dtype=np.int64)
        categories = tuple(by_name[name] for name in index.names)
        return replace(index, image_ids=ids, category_ids=categories, annotations=file)
    _log.warning("%s is not used: %s", file, reason)
    return index
