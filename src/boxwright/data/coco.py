"""COCO instance annotations (one json): read a data set, or find the ground truth beside the images of another one.

Source: the COCO data format; boxes are left, top, width, height in pixels whose origin is the corner of the image.
Crowd regions stay in the ground truth only.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from boxwright.data.files import read_text
from boxwright.data.index import DataIndex, PixelObject, Problem, Record, pixel_record, read_records
from boxwright.errors import UserError
from boxwright.ops.arrays import Floats


def read_json(file: Path) -> dict[str, Any]:
    """Read a COCO json, with lists under images, annotations and categories.

    Raises:
        UserError: not readable, not json, or a key is missing.
    """
    try:
        content = json.loads(read_text(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{file} is not valid json: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: a COCO file is an object with images, annotations and categories")
    table = cast("dict[str, Any]", content)
    for key in ("images", "annotations", "categories"):
        if not isinstance(table.get(key), list):
            raise UserError(
                f"{file}: the key {key!r} is missing or no list; a COCO file has images, annotations, categories"
            )
    return table


def read_coco_names(file: Path) -> tuple[str, ...]:
    """Read category names in order of category id."""
    return tuple(name for _, name in _categories(read_json(file), file))


def read_coco(file: Path, *, names: Sequence[str] = (), images: Path | None = None, decode: bool = False) -> DataIndex:
    """Read a COCO json.

    Args:
        file: the json.
        names: class names in the wanted order; empty: the categories by id. Annotations of a category that is not
            among the names are left out.
        images: folder of the images; None looks beside the json.
        decode: decode every image to find damage.

    Raises:
        UserError: keys are missing or malformed, a name is no category, or no image is found.
    """
    content = read_json(file)
    categories = _categories(content, file)
    names = tuple(names or (name for _, name in categories))
    by_name = {name: category for category, name in categories}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise UserError(f"{file} has no category {missing[0]!r}; it has {', '.join(sorted(by_name))}")
    class_of = {by_name[name]: i for i, name in enumerate(names)}
    try:
        listed = {int(np.int64(image["id"])): image for image in content["images"]}
        folder = images or _image_folder(file, [str(image["file_name"]) for image in listed.values()])
        objects, problems = _objects(content["annotations"], class_of, set(listed), file)
        files = [(number, folder / str(listed[number]["file_name"])) for number in sorted(listed)]
        sizes = {n: (int(image.get("height") or 0), int(image.get("width") or 0)) for n, image in listed.items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{file} does not follow the COCO layout: {error!r}") from error

    def read(i: int, size: tuple[int, int]) -> tuple[Record | None, list[Problem]]:
        number, path = files[i]
        return pixel_record(path, size, sizes[number], objects.get(number, ()), file, number)

    records, found = read_records([path for _, path in files], read, decode=decode)
    category_ids = tuple(by_name[name] for name in names)
    return DataIndex.from_records(
        records, names, category_ids=category_ids, annotations=file, problems=problems + found
    )


def _categories(content: dict[str, Any], file: Path) -> list[tuple[int, str]]:
    try:
        return sorted((int(np.int64(category["id"])), str(category["name"])) for category in content["categories"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{file}: a category has an id and a name: {error!r}") from error


def _image_folder(file: Path, file_names: list[str]) -> Path:
    """Find the folder beside the json that holds its first image."""
    split = file.stem.removeprefix("instances_")
    roots = (file.parent, file.parent.parent)
    places = [root / sub for root in roots for sub in ("", "images", f"images/{split}", split, "JPEGImages")]
    places += [folder for root in roots for folder in sorted((root / "images").glob("*")) if folder.is_dir()]
    if not file_names:
        return file.parent
    for name in file_names[:100]:  # the very first may be the one that is missing
        for place in places:
            if (place / name).is_file():
                return place
    looked = ", ".join(str(place) for place in dict.fromkeys(places))
    raise UserError(f"{file}: cannot find its first image {file_names[0]!r}; looked in {looked}")


def _objects(
    annotations: list[Any], class_of: Mapping[int, int], image_ids: set[int], file: Path
) -> tuple[dict[int, list[PixelObject]], list[Problem]]:
    """Return objects by image id, and the annotations that are none."""
    objects: dict[int, list[PixelObject]] = defaultdict(list)
    problems: list[Problem] = []
    num_crowds = 0
    for annotation in annotations:
        label = f"annotation {annotation.get('id')}"
        image_id, category = int(annotation["image_id"]), int(annotation["category_id"])
        if int(annotation.get("iscrowd") or 0):
            num_crowds += 1
        elif category not in class_of:
            text = f"{label} has the category {category}, which is none of the names; it is left out"
            problems.append(Problem("unknown class", file, 0, text, "row"))
        elif image_id not in image_ids:
            text = f"{label} belongs to image {image_id}, which is not listed; it is left out"
            problems.append(Problem("missing image", file, 0, text, "row"))
        else:
            try:
                left, top, width, height = (float(value) for value in annotation["bbox"])
                polygon = _outline(annotation.get("segmentation"))
            except (KeyError, TypeError, ValueError):
                text = f"{label} has no bbox of four numbers, or a broken polygon; it is left out"
                problems.append(Problem("unreadable label", file, 0, text, "row"))
                continue
            corners = (left, top, left + width, top + height)
            objects[image_id].append(PixelObject(label, 0, class_of[category], corners, polygon))
    if num_crowds:
        text = f"{num_crowds} crowd regions stay in the ground truth and are not trained on"
        problems.append(Problem("set aside", file, 0, text))
    return objects, problems


def _outline(segmentation: Any) -> Floats | None:
    """Return vertices of an object's polygon in pixels; None for masks stored otherwise.

    An object of several parts becomes one polygon: every part is closed and reached from the first vertex of all and
    left to it on the same line, so that these bridges have no area.
    """
    if not isinstance(segmentation, list):
        return None
    parts = [np.array(part, dtype=np.float64).reshape(-1, 2) for part in cast("list[Any]", segmentation)]
    parts = [part for part in parts if len(part) >= 3]
    if len(parts) < 2:
        return parts[0] if parts else None
    start = parts[0][:1]
    return np.concatenate([piece for part in parts for piece in (part, part[:1], start)])


_log = logging.getLogger("boxwright.data")


def with_annotations(index: DataIndex) -> DataIndex:
    """Take COCO image and category ids from a ground truth beside the images, if it knows all of them.

    Looked at: `instances.json` in the folder of the images and up to the parent of `images`, and
    `annotations/instances_FOLDER.json` as COCO lays it out.
    """
    if index.annotations is not None or not len(index):
        return index
    folder = index.path(0).parent
    parents = [folder, *list(folder.parents)[:2]]
    inside = next((i for i, parent in enumerate(parents) if parent.name == "images"), None)
    # Without a folder `images` above it nothing says where the data set ends: only the folder itself is looked at.
    roots = parents[:1] if inside is None else [*parents[: inside + 1], parents[inside].parent]
    names = ("instances.json", f"annotations/instances_{folder.name}.json")
    file = next((root / name for root in roots for name in names if (root / name).is_file()), None)
    if file is None:
        return index
    try:
        content = read_json(file)
        images = [(Path(str(image["file_name"])).name, int(image["id"])) for image in content["images"]]
        by_name = {str(category["name"]): int(category["id"]) for category in content["categories"]}
    except (UserError, KeyError, TypeError, ValueError) as error:
        _log.warning("%s is not used: %s", file, error)
        return index
    by_file = dict(images)
    files = [path.name for path in index.paths]
    unknown_class = next((name for name in index.names if name not in by_name), None)
    unknown_image = next((name for name in files if name not in by_file), None)
    if unknown_class is not None:
        reason = f"it has no category {unknown_class!r}"
    elif unknown_image is not None:
        reason = f"it does not know the image {unknown_image}"
    elif len(by_file) < len(images) or len(set(files)) < len(files):
        reason = "file names do not tell its images apart"
    else:
        ids = np.array([by_file[name] for name in files], dtype=np.int64)
        categories = tuple(by_name[name] for name in index.names)
        return replace(index, image_ids=ids, category_ids=categories, annotations=file)
    _log.warning("%s is not used: %s", file, reason)
    return index
