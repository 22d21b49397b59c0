"""Find the COCO ground truth that stands beside the images of a YOLO txt data set."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from boxwright.data.coco import read_json
from boxwright.data.index import DataIndex

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
    content = read_json(file)
    by_file = {Path(str(image["file_name"])).name: int(image["id"]) for image in content["images"]}
    by_name = {str(category["name"]): int(category["id"]) for category in content["categories"]}
    unknown = [name for name in index.names if name not in by_name]
    if unknown:
        _log.warning("%s is not used: it has no category %r", file, unknown[0])
        return index
    ids = [by_file.get(index.path(i).name, -1) for i in range(len(index))]
    if min(ids) < 0:
        _log.warning("%s is not used: it does not know the image %s", file, index.path(ids.index(-1)).name)
        return index
    categories = tuple(by_name[name] for name in index.names)
    return replace(index, image_ids=np.array(ids, dtype=np.int64), category_ids=categories, annotations=file)
