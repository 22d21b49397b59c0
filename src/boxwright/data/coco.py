"""COCO instance annotations (one json) to the index. Crowd regions stay in the ground truth only."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from boxwright.data.image_header import BrokenImageError, image_size
from boxwright.data.index import DataIndex, Problem, Record
from boxwright.errors import UserError


def read_json(file: Path) -> dict[str, Any]:
    """Content of a COCO json, with lists under images, annotations and categories.

    Raises:
        UserError: not readable, not json, or a key is missing.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the COCO file {file}: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
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
    """Category names in order of category id."""
    return tuple(name for _, name in _categories(read_json(file)))


def read_coco(
    file: Path, *, names: Sequence[str] | None = None, images: Path | None = None, decode: bool = False
) -> DataIndex:
    """Read a COCO json.

    Args:
        file: the json.
        names: class names in the wanted order; None takes the categories by id.
        images: folder of the images; None looks beside the json.
        decode: decode every image to find damage.

    Raises:
        UserError: keys are missing or malformed, a name is no category, or no image is found.
    """
    content = read_json(file)
    try:
        categories = _categories(content)
        names = tuple(names or (name for _, name in categories))
        by_name = {name: category for category, name in categories}
        missing = [name for name in names if name not in by_name]
        if missing:
            raise UserError(f"{file} has no category {missing[0]!r}; it has {', '.join(sorted(by_name))}")
        class_of = {by_name[name]: i for i, name in enumerate(names)}
        folder = images or _image_folder(file, [str(image["file_name"]) for image in content["images"]])
        annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for annotation in content["annotations"]:
            annotations[int(annotation["image_id"])].append(annotation)
        records: list[Record] = []
        problems: list[Problem] = []
        for image in sorted(content["images"], key=lambda image: int(image["id"])):
            record = _record(image, annotations[int(image["id"])], folder, class_of, file, problems, decode)
            if record is not None:
                records.append(record)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} does not follow the COCO layout: {error!r}") from error
    category_ids = tuple(by_name[name] for name in names)
    return DataIndex.from_records(records, names, category_ids=category_ids, annotations=file, problems=problems)


def _categories(content: dict[str, Any]) -> list[tuple[int, str]]:
    return sorted((int(category["id"]), str(category["name"])) for category in content["categories"])


def _image_folder(file: Path, file_names: list[str]) -> Path:
    """The folder beside the json that holds its first image."""
    split = file.stem.removeprefix("instances_")
    roots = (file.parent, file.parent.parent)
    places = [root / sub for root in roots for sub in ("", "images", f"images/{split}", split, "JPEGImages")]
    places += [folder for root in roots for folder in sorted((root / "images").glob("*")) if folder.is_dir()]
    for place in places:
        if file_names and (place / file_names[0]).is_file():
            return place
    if not file_names:
        return file.parent
    looked = ", ".join(str(place) for place in places)
    raise UserError(f"{file}: cannot find its first image {file_names[0]!r}; looked in {looked}")


def _record(
    image: dict[str, Any],
    annotations: list[dict[str, Any]],
    folder: Path,
    class_of: dict[int, int],
    file: Path,
    problems: list[Problem],
    decode: bool,
) -> Record | None:
    path = folder / str(image["file_name"])
    try:
        height, width = image_size(path, decode=decode)
    except BrokenImageError as error:
        kind = "corrupt image" if path.exists() else "missing image"
        problems.append(Problem(kind, path, 0, f"{error}; the image is left out", "image"))
        return None
    classes: list[int] = []
    boxes: list[NDArray[np.float32]] = []
    polygons: list[NDArray[np.float32]] = []
    side = np.array([width, height], dtype=np.float64)
    for annotation in annotations:
        if annotation.get("iscrowd", 0) or int(annotation["category_id"]) not in class_of:
            continue
        left, top, box_width, box_height = (float(value) for value in annotation["bbox"])
        low = np.clip((left, top), 0, side)
        high = np.clip((left + box_width, top + box_height), 0, side)
        if not (high > low).all():
            text = f"annotation {annotation.get('id')} has no area inside {path.name}; it is left out"
            problems.append(Problem("degenerate box", file, 0, text, "row"))
            continue
        classes.append(class_of[int(annotation["category_id"])])
        boxes.append(np.concatenate(((low + high) / 2 / side, (high - low) / side)).astype(np.float32))
        polygons.append(_outline(annotation.get("segmentation"), side))
    box_rows = np.stack(boxes) if boxes else np.zeros((0, 4), np.float32)
    return Record(path, height, width, np.array(classes, np.int32), box_rows, tuple(polygons), int(image["id"]))


def _outline(segmentation: Any, side: NDArray[np.float64]) -> NDArray[np.float32]:
    """Vertices of the largest polygon, normalised; empty for masks stored otherwise."""
    parts = cast("list[list[float]]", segmentation) if isinstance(segmentation, list) else []
    parts = [part for part in parts if len(part) >= 6 and len(part) % 2 == 0]
    if not parts:
        return np.zeros((0, 2), np.float32)
    points = np.array(max(parts, key=len), dtype=np.float64).reshape(-1, 2)
    return np.clip(points / side, 0, 1).astype(np.float32)
