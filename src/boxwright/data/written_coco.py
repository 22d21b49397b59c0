"""Splits written as COCO instance annotations: `annotations/instances_SPLIT.json` beside `images/SPLIT`.

Source: the COCO data format; a box is left, top, width, height in pixels whose origin is the image's corner.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.data.index import DataIndex
from boxwright.data.placed_images import free_stems, place_image
from boxwright.data.written_labels import SMALLEST_POLYGON, Written, pixel_corners

_DECIMALS = 4  # of a pixel


def write_coco(splits: Mapping[str, DataIndex], folder: Path, *, copy: bool) -> Written:
    """Write every split; ids of images and categories are those that the source has.

    Args:
        splits: indexes with the same names.
        folder: exists.
        copy: copy images instead of linking them.
    """
    (folder / "annotations").mkdir()
    left_out = 0
    category_ids = _category_ids(list(splits.values()))
    for split, index in splits.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        place = folder / "images" / split
        place.mkdir(parents=True)
        paths = [index.path(i) for i in range(len(index))]
        for i, (image, stem) in enumerate(zip(paths, free_stems(paths), strict=True)):
            name, image_id = f"{stem}{image.suffix}", int(index.image_ids[i])
            place_image(image, place / name, copy=copy)
            height, width = index.sizes[i].tolist()
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
            objects = _objects(index, i, category_ids)
            left_out += len(index.labels(i)[0]) - len(objects)
            numbers = range(len(annotations) + 1, len(annotations) + 1 + len(objects))
            annotations += [
                {"id": number, "image_id": image_id} | item for number, item in zip(numbers, objects, strict=True)
            ]
        categories = [{"id": n, "name": name} for n, name in zip(category_ids, index.names, strict=True)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        file = folder / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return Written({split: f"annotations/instances_{split}.json" for split in splits}, boxes_outside=left_out)


def _category_ids(indices: Sequence[DataIndex]) -> tuple[int, ...]:
    """Ids of the source if its splits agree, else 1, 2, 3, ..."""
    first = indices[0].category_ids
    return first if all(index.category_ids == first for index in indices) else tuple(range(1, len(first) + 1))


def _objects(index: DataIndex, image: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    classes, _ = index.labels(image)
    size = index.sizes[image, ::-1].astype(np.float64)
    objects: list[dict[str, Any]] = []
    for label, corners, polygon in zip(
        classes.tolist(), pixel_corners(index, image), index.polygons(image), strict=True
    ):
        low, extent = corners[:2], corners[2:] - corners[:2]
        if not (extent > 0).all():
            continue  # outside of the image
        outline = polygon.astype(np.float64) * size if len(polygon) >= SMALLEST_POLYGON else None
        objects.append(
            {
                "category_id": category_ids[label],
                "bbox": _rounded(np.concatenate((low, extent))),
                "area": round(float(extent.prod()) if outline is None else _area(outline), _DECIMALS),
                "iscrowd": 0,
                "segmentation": [] if outline is None else [_rounded(outline.ravel())],
            }
        )
    return objects


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return np.round(values, _DECIMALS).tolist()


def _area(polygon: NDArray[np.float64]) -> float:
    """Area by the trapezoid formula."""
    x, y = polygon.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
