"""COCO instance annotations (one json): read a data set, or find the ground truth beside the images of another one.

Source: the COCO data format; boxes are left, top, width, height in pixels whose origin is the corner of the image.
Crowd regions stay in the ground truth only.
"""

import itertools
import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from boxwright.data.index import DataIndex, PixelObject, Problem, Record, join_records, pixel_record, read_records
from boxwright.errors import UserError
from boxwright.ops.arrays import Floats
from boxwright.reading import parsing, read_text, reads


@reads("COCO json")
def read_json(file: Path) -> dict[str, Any]:
    """Read a COCO json, with lists under images, annotations and categories.

    Raises:
        UserError: not readable, not json, or a key is missing.
    """
    text = read_text(file)
    with parsing(file, "json"):
        content = json.loads(text)
    if not isinstance(content, dict):
        raise UserError(f"{file}: a COCO file is an object with images, annotations and categories")
    table = cast("dict[str, Any]", content)
    for key in ("images", "annotations", "categories"):
        if not isinstance(table.get(key), list):
            raise UserError(
                f"{file}: the key {key!r} is missing or no list; a COCO file has images, annotations, categories"
            )
    return table


def read_coco(
    files: Sequence[Path],
    *,
    named_by: Sequence[Path] = (),
    names: Sequence[str] = (),
    images: Path | None = None,
    decode: bool = False,
) -> DataIndex:
    """Read COCO json files as one split. An image that several files list has the boxes of all of them.

    Args:
        files: the json files of the split.
        named_by: the files of all splits, whose categories together are the classes; empty: those of the split.
        names: class names in the wanted order; empty: the categories by id, without the root of Roboflow's exports.
            Annotations of a category that is not among the names are left out.
        images: folder of the images; None looks beside each json.
        decode: decode every image to find damage.

    Raises:
        UserError: keys are missing or malformed, a name is no category, or no image is found.
    """
    contents = {file: read_json(file) for file in dict.fromkeys((*named_by, *files))}
    classes = {file: _categories(content, file) for file, content in contents.items()}
    names, root_names = _class_names(classes, names)
    parts = [_read_file(file, contents[file], classes[file], names, images, decode) for file in files]
    problems = [problem for part in parts for problem in part.problems]
    for name in root_names:
        text = f"the category {name!r} is the root of the others and has no annotation; it is left out"
        problems.insert(0, Problem("root category", files[0], 0, text))
    if len(parts) == 1:
        (part,) = parts
        return DataIndex.from_records(
            part.records, names, category_ids=part.category_ids, annotations=part.truth, problems=problems
        )
    merged: dict[Path, Record] = {}
    for record in (record for part in parts for record in part.records):
        # Numbers of images begin anew in each file.
        merged[record.path] = join_records(merged[record.path], record) if record.path in merged else record
    records = [replace(record, image_id=-1) for record in merged.values()]
    return DataIndex.from_records(records, names, problems=problems)


def read_coco_names(files: Sequence[Path]) -> tuple[str, ...]:
    """Read category names of json files in order of category id, without the root of Roboflow's exports."""
    return _class_names({file: _categories(read_json(file), file) for file in files}, ())[0]


Id = int | str


def _id(value: Any) -> Id:
    """Return an id as a number where it is one, else as text: some tools write "7", others a file name."""
    if value is None or isinstance(value, bool | list | dict):
        raise TypeError(f"{value!r} is no id")
    text = str(value)
    return int(np.int64(int(float(text) if isinstance(value, float) else text))) if _NUMBER.fullmatch(text) else text


_MOST_SHARE = 1.5  # a whole file of boxes within the first pixels does not exist; shares may be a little above 1
_NUMBER = re.compile(r"-?\d+(\.0)?")


@dataclass(frozen=True, slots=True)
class _Category:
    id: Id
    name: str
    is_root: bool  # Roboflow's first category: the project's name, the supercategory of all others, without annotation


def _categories(content: dict[str, Any], file: Path) -> list[_Category]:
    """Return the categories by id, in the order of the file if ids are no numbers."""
    try:
        rows = [(_id(row["id"]), str(row["name"]), str(row.get("supercategory"))) for row in content["categories"]]
        used = {str(annotation.get("category_id")).removesuffix(".0") for annotation in content["annotations"]}
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise UserError(f"{file}: a category has an id and a name: {error!r}") from error
    if all(isinstance(row[0], int) for row in rows):
        rows.sort(key=lambda row: row[0])
    below = Counter(row[2] for row in rows)
    found: list[_Category] = []
    for number, name, above in rows:
        is_root = len(rows) > 1 and str(number) not in used and above != name and below[name] == len(rows) - 1
        found.append(_Category(number, name, is_root))
    return found


def _class_names(
    classes: Mapping[Path, Sequence[_Category]], wanted: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the classes of all files together, and those of roots, which are none."""
    every = [category for categories in classes.values() for category in categories]
    found = dict.fromkeys(category.name for category in every)
    if missing := [name for name in wanted if name not in found]:
        file = next(iter(classes))
        raise UserError(f"{file} has no category {missing[0]!r}; it has {', '.join(sorted(found))}")
    if wanted:
        return tuple(wanted), ()
    # One that is a root here and has annotations there, or is called like a class, stays.
    names = dict.fromkeys(category.name for category in every if not category.is_root)
    return tuple(names), tuple(category.name for category in next(iter(classes.values())) if category.is_root)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one json gives."""

    records: Sequence[Record]
    category_ids: tuple[int, ...]
    truth: Path | None  # the json itself if the COCO metric can be taken against it
    problems: list[Problem]


@reads("COCO json")
def _read_file(
    file: Path,
    content: dict[str, Any],
    categories: Sequence[_Category],
    names: Sequence[str],
    images: Path | None,
    decode: bool,
) -> _Part:
    problems = _repeated_categories(categories, file)
    number_of = {name: i for i, name in enumerate(names)}
    ambiguous = {number for number, count in Counter(category.id for category in categories).items() if count > 1}
    class_of = {c.id: number_of[c.name] for c in categories if c.name in number_of and c.id not in ambiguous}
    try:
        listed: dict[Id, dict[str, Any]] = {}
        twice: dict[Id, list[str]] = {}
        for image in content["images"]:
            first = listed.setdefault(_id(image["id"]), image)
            if str(first["file_name"]) != str(image["file_name"]):
                twice.setdefault(_id(image["id"]), [str(first["file_name"])]).append(str(image["file_name"]))
        numbers = [number for number in listed if number not in twice]
        if all(isinstance(number, int) for number in numbers):
            numbers.sort()
        paths = _image_paths(file, [str(image["file_name"]) for image in content["images"]], images)
        objects, more = _objects(content["annotations"], class_of, set(listed), file)
        sizes = {n: (int(listed[n].get("height") or 0), int(listed[n].get("width") or 0)) for n in numbers}
        files = [paths[str(listed[number]["file_name"])] for number in numbers]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{file} does not follow the COCO layout: {error!r}") from error
    for number, same in twice.items():
        text = (
            f"{file.name} has the image id {number} for {' and for '.join(same)}: whose boxes are whose cannot be told"
        )
        problems += [Problem("repeated id", paths[name], 0, f"{text}; the image is left out", "image") for name in same]
    plain = all(isinstance(number, int) for number in (*listed, *class_of))

    def read(i: int, size: tuple[int, int]) -> tuple[Record | None, list[Problem]]:
        number = numbers[i]
        own = number if isinstance(number, int) and plain else -1
        return pixel_record(files[i], size, sizes[number], objects.get(number, ()), file, own)

    records, found = read_records(files, read, decode=decode)
    id_of = {c.name: c.id for c in reversed(categories) if isinstance(c.id, int) and not c.is_root}
    free = itertools.count(max((*id_of.values(), 0)) + 1)
    ids = tuple(id_of[name] if name in id_of else next(free) for name in names)
    is_one_to_one = plain and not twice and len(set(class_of.values())) == len(class_of)
    return _Part(records, ids, file if is_one_to_one else None, problems + more + found)


def _repeated_categories(categories: Sequence[_Category], file: Path) -> list[Problem]:
    """Name the ids and the names that several categories have."""
    problems: list[Problem] = []
    ids, names = defaultdict[Id, list[str]](list), defaultdict[str, list[Id]](list)
    for category in categories:
        ids[category.id].append(category.name)
        if not category.is_root:
            names[category.name].append(category.id)
    for number, same in ids.items():
        if len(same) > 1:
            text = (
                f"the category id {number} stands for {' and for '.join(map(repr, same))}: its annotations are left out"
            )
            problems.append(Problem("repeated id", file, 0, text, "row"))
    for name, several in names.items():
        if len(several) > 1 and len(set(several)) == len(several):
            text = f"the categories {', '.join(map(str, several))} are all called {name!r}; they are taken as one class"
            problems.append(Problem("category twice", file, 0, text))
    return problems


def _image_paths(file: Path, names: Sequence[str], images: Path | None) -> dict[str, Path]:
    """Return the image file of each name, in a folder that is given or beside the json.

    Names may have folders that are not here any more: then the last part alone is looked for.
    """
    if not names:
        return {}
    split = file.stem.removeprefix("instances_")
    roots = (file.parent, file.parent.parent)
    places = [root / sub for root in roots for sub in ("", "images", f"images/{split}", split, "JPEGImages")]
    places += [folder for root in roots for folder in sorted((root / "images").glob("*")) if folder.is_dir()]
    places = [images] if images else places
    forward = {name: name.replace("\\", "/") for name in names}
    short = {name: forward[name].rpartition("/")[2] for name in names}
    for form in (dict(zip(names, names, strict=True)), forward, short):
        for name in names[:100]:  # the very first may be the one that is missing
            for place in places:
                if os.path.isfile(place / form[name]):
                    if form is short and len(set(short.values())) < len(short):
                        raise UserError(f"{file}: its images have folders in their names that are not in {place}")
                    return {name: place / form[name] for name in names}
    if images:
        return {name: images / forward[name] for name in names}
    looked = ", ".join(str(place) for place in dict.fromkeys(places))
    raise UserError(f"{file}: cannot find its first image {names[0]!r}; looked in {looked}")


def _objects(
    annotations: list[Any], class_of: Mapping[Id, int], image_ids: set[Id], file: Path
) -> tuple[dict[Id, list[PixelObject]], list[Problem]]:
    """Return objects by image id, and the annotations that are none."""
    objects: dict[Id, list[PixelObject]] = defaultdict(list)
    problems: list[Problem] = []
    num_crowds = num_masks = 0
    for annotation in annotations:
        label = f"annotation {annotation.get('id')}"
        image_id, category = _id(annotation["image_id"]), _id(annotation["category_id"])
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
                outline = annotation.get("segmentation")
                polygon = _outline(outline)
            except (KeyError, TypeError, ValueError):
                text = f"{label} has no bbox of four numbers, or a broken polygon; it is left out"
                problems.append(Problem("unreadable label", file, 0, text, "row"))
                continue
            num_masks += isinstance(outline, dict)
            corners = (left, top, left + width, top + height)
            objects[image_id].append(PixelObject(label, 0, class_of[category], corners, polygon))
    largest = max((max(item.corners) for found in objects.values() for item in found), default=0)
    if 0 < largest < _MOST_SHARE:
        raise UserError(
            f"{file}: its boxes all lie within the first pixels, as if they were shares of the image; boxes of a COCO "
            "json are pixels: left, top, width, height"
        )
    if num_crowds:
        text = f"{num_crowds} crowd regions stay in the ground truth and are not trained on"
        problems.append(Problem("set aside", file, 0, text, count=num_crowds))
    if num_masks:
        text = f"of {num_masks} masks, stored as run lengths, only the boxes are read"
        problems.append(Problem("mask as box", file, 0, text, count=num_masks))
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
        with parsing(file, "COCO json"):
            images = [(Path(str(image["file_name"])).name, int(image["id"])) for image in content["images"]]
            by_name = {str(category["name"]): int(category["id"]) for category in content["categories"]}
    except UserError as error:
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
