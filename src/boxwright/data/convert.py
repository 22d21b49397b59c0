"""Convert a data set: to YOLO training labels for a run, or all its splits from one format to another.

- YOLO: `labels/SPLIT/x.txt` beside `images/SPLIT/x.jpg`. A file that has any polygon is read as polygons only, as
  published, so its plain boxes are written by their corners.
- COCO: `annotations/instances_SPLIT.json` beside `images/SPLIT`; a box is left, top, width, height in pixels whose
  origin is the corner of the image.
- VOC: Annotations/*.xml, ImageSets/Main/SPLIT.txt, JPEGImages, classes.txt. Corners count pixels from 1 and include
  both ends (the VOC development kit), see voc.py. Whole pixels are written as whole numbers, others with decimals, so
  that boxes stay what they are; only one narrower than a pixel becomes a pixel wide. Polygons are lost. `classes.txt`
  keeps the order of the classes and those without an object, which annotations cannot tell.
- shards: `SPLIT-000000.tar`, ... and `shards.yaml`; images with YOLO labels, in the order of the source, see shards.py.
"""

import io
import json
import logging
import tarfile
import tempfile
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args
from unicodedata import category
from xml.sax.saxutils import escape

import numpy as np
import yaml
from numpy.typing import NDArray

from boxwright.data.dataset import describe, open_dataset, read_split, splits_of
from boxwright.data.files import FreeNames, file_errors, link_or_copy, require_free, whole_folder
from boxwright.data.index import DataIndex, Problem
from boxwright.data.split_names import FORMS, Split, is_voc_root, split_of
from boxwright.data.voc import CLASSES_FILE, annotation_files, read_voc, read_voc_names, voc_list
from boxwright.data.yolo_txt import label_files, label_row
from boxwright.errors import UserError
from boxwright.ops.arrays import Floats
from boxwright.reading import read_bytes
from boxwright.settings.base import Compat

_SMALLEST_POLYGON = 3  # vertices
_SAME_BOX = 0.5  # pixels that a polygon's extent may differ from the box, which it replaces in a YOLO label
_COCO_DECIMALS = 4  # of a pixel
_VOC_DECIMALS = 3  # of a pixel
_NARROWEST = 1.01  # pixels: a box of one column has xmin = xmax and counts as empty where it is read
OUTSIDE = "boxes outside of their image, left out: %d"
_LOST_POLYGONS = "polygons of which only the box is kept: %d"
SHARD_BYTES = 10**9
_log = logging.getLogger("boxwright.data")


def read_annotated(path: Path, split: Split) -> DataIndex | None:
    """Read a place whose labels need converting; None where it is none of those.

    Args:
        path: a COCO json, a csv, a folder of them or of VOC xml, or a list of a VOC root (ROOT/ImageSets/Main/x.txt).
        split: what is taken of a folder that has several.
    """
    if path.suffix == ".txt" and path.parent.name == "Main" and is_voc_root(path.parents[2]):
        root = path.parents[2]
        return read_voc(voc_list(path), read_voc_names(root, annotation_files(root)))
    if path.suffix not in FORMS and not path.is_dir():
        return None
    try:
        described = describe(path)
    except UserError:
        if path.suffix in FORMS:
            raise
        return None  # images without labels: said when they are opened
    if described.form == "yolo":
        return None
    is_whole = tuple(described.splits) == ("train",) and not is_voc_root(path)
    return read_split(path, "train" if is_whole else split)


def free_stem(names: FreeNames, image: Path, owner: object) -> str:
    """Take a name without suffix for an image: its own, or with a number where another owner has that.

    Dots that a name begins with are left out, because hidden files are no images; so are blanks around it.
    """
    return names.take(image.stem.strip().lstrip(". ") or "image", owner)


def link_images(index: DataIndex, folder: Path, *, copy: bool = False) -> Generator[Path]:
    """Link or copy the images of a split into a folder, which is made, and yield their new places.

    Raises:
        UserError: an image of the same name is in the way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = FreeNames()
    for i, image in enumerate(index.paths):
        link = folder / f"{free_stem(names, image, i)}{image.suffix}"
        if link.is_symlink():
            link.unlink()  # of an earlier conversion
        if not link.exists():
            link_or_copy(image, link, copy=copy)
        elif read_bytes(link) != read_bytes(image):
            raise UserError(f"{link} exists already for another image of that name; choose another convertor_path")
        yield link


def write_yolo(index: DataIndex, names: Sequence[str], folder: Path, split: str) -> Path:
    """Write labels and link images: folder/labels/SPLIT/x.txt beside folder/images/SPLIT/x.jpg.

    Args:
        index: images and boxes.
        names: the classes in the order of their numbers; boxes of other classes are left out, with a word.
        folder: made if it is not there; files of an earlier conversion are replaced.
        split: name of the sub-folders.

    Returns:
        folder/SPLIT.txt, the list of the images.

    Raises:
        UserError: nothing can be written there, or an image of the same name is in the way.
    """
    number_of = {name: number for number, name in enumerate(names)}
    left_out = Counter[str]()
    listed: list[str] = []
    labels = folder / "labels" / split
    file = folder / f"{split}.txt"
    with file_errors("write converted labels into", folder):
        labels.mkdir(parents=True, exist_ok=True)
        for i, link in enumerate(link_images(index, folder / "images" / split)):
            classes, boxes = index.labels(i)
            rows: list[str] = []
            for label, box in zip(classes.tolist(), boxes.astype(np.float64), strict=True):
                name = index.names[label]
                if name in number_of:
                    rows.append(label_row(number_of[name], box, ".8g"))
                else:
                    left_out[name] += 1
            (labels / f"{link.stem}.txt").write_text("".join(rows), encoding="utf-8")
            listed.append(f"./images/{split}/{link.name}\n")
        file.write_text("".join(listed), encoding="utf-8")
    for name, count in left_out.items():
        _log.warning("%s: %d boxes of %r are left out, which is none of the names", split, count, name)
    return file


def _corners(index: DataIndex, image: int) -> Floats:
    """Return boxes of an image as (n, 4) normalised xyxy, which may reach out of it."""
    boxes = index.labels(image)[1].astype(np.float64)
    return np.concatenate((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), axis=1)


def _pixel_corners(index: DataIndex, image: int) -> Floats:
    """Return boxes of an image as (n, 4) xyxy in pixels, clipped to the image."""
    return _corners(index, image).clip(0, 1) * np.tile(index.sizes[image, ::-1].astype(np.float64), 2)


# Each writer takes splits with the same names and an empty folder, and counts what it loses.


def write_labels(splits: Mapping[str, DataIndex], folder: Path, *, copy: bool) -> Counter[str]:
    """Write every split as YOLO labels."""
    lost = Counter[str]()
    for split, index in splits.items():
        labels = folder / "labels" / split
        labels.mkdir(parents=True)
        for i, link in enumerate(link_images(index, folder / "images" / split, copy=copy)):
            (labels / f"{link.stem}.txt").write_text(_label_text(index, i, lost, ".8g"), encoding="utf-8")
    return lost


def _label_text(index: DataIndex, image: int, lost: Counter[str], number_format: str) -> str:
    """Return the YOLO label of an image."""
    classes, boxes = index.labels(image)
    corners, polygons = _corners(index, image), index.polygons(image)
    # A reader takes the box from the extent of the polygon: it stands for its box where both agree to half a pixel.
    size = np.tile(index.sizes[image, ::-1], 2)
    fitting: list[bool] = []
    for points, box in zip(polygons, corners, strict=True):
        is_polygon = len(points) >= _SMALLEST_POLYGON
        extent = np.concatenate((points.min(axis=0), points.max(axis=0))) if is_polygon else box
        fitting.append(is_polygon and bool((np.abs(extent - box) * size <= _SAME_BOX).all()))
        if is_polygon and not fitting[-1]:
            lost[f"{_LOST_POLYGONS} (its extent is not the box, which a YOLO label takes from it)"] += 1
    rows: list[str] = []
    for label, box, (left, top, right, bottom), points, fits in zip(
        classes.tolist(), boxes, corners, polygons, fitting, strict=True
    ):
        numbers = points.ravel() if fits else box
        if any(fitting) and not fits:
            numbers = np.array((left, top, right, top, right, bottom, left, bottom)).clip(0, 1)
        rows.append(label_row(label, numbers, number_format))
    return "".join(rows)


def write_shards(splits: Mapping[str, DataIndex], folder: Path, shard_bytes: int, *, own_labels: bool) -> Counter[str]:
    """Write every split as tar shards, and `shards.yaml`.

    Args:
        splits: what to write.
        folder: an empty folder.
        shard_bytes: after which a shard ends and the next one begins.
        own_labels: the images have YOLO labels, which are taken as they are, so that they are read as they were.
    """
    lost, sources = Counter[str](), dict[str, str]()
    for split, index in splits.items():
        names, number, tar = FreeNames(), 0, None
        paths = index.paths
        files = label_files(paths) if own_labels else paths
        try:
            for i, (image, file) in enumerate(zip(paths, files, strict=True)):
                if tar is None or tar.offset >= shard_bytes:
                    if tar is not None:
                        tar.close()
                    tar = tarfile.open(folder / f"{split}-{number:06}.tar", "x")  # noqa: SIM115
                    number += 1
                # The key of a sample ends at the first dot, so its name has none.
                key = names.take(image.stem.strip().lstrip(". ").replace(".", "_") or "image", i)
                if own_labels:
                    text = read_bytes(file) if file.is_file() else b""
                else:
                    text = _label_text(index, i, lost, ".9g").encode()  # nine digits tell float32 numbers apart
                for name, content in ((f"{key}{image.suffix.lower()}", read_bytes(image)), (f"{key}.txt", text)):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
                tar.members.clear()  # type: ignore[attr-defined]
        finally:
            if tar is not None:
                tar.close()
        numbers = f"{{000000..{number - 1:06}}}" if number > 1 else "000000"
        sources[split] = f"{split}-{numbers}.tar"
    write_data_yaml(folder / "shards.yaml", sources, next(iter(splits.values())).names)
    return lost


def write_coco(splits: Mapping[str, DataIndex], folder: Path, *, copy: bool) -> Counter[str]:
    """Write every split as COCO json; ids of images and categories are those that the source has."""
    (folder / "annotations").mkdir()
    lost = Counter[str]()
    # Ids of the source if its splits agree, else 1, 2, 3, ...
    category_ids, *others = {index.category_ids for index in splits.values()}
    category_ids = tuple(range(1, len(category_ids) + 1)) if others else category_ids
    for split, index in splits.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for i, link in enumerate(link_images(index, folder / "images" / split, copy=copy)):
            image_id, (height, width) = int(index.image_ids[i]), index.sizes[i].tolist()
            images.append({"id": image_id, "file_name": link.name, "width": width, "height": height})
            for label, box, polygon in zip(
                index.labels(i)[0].tolist(), _pixel_corners(index, i), index.polygons(i), strict=True
            ):
                extent = box[2:] - box[:2]
                if not (extent > 0).all():
                    lost[OUTSIDE] += 1
                    continue
                segmentation: list[list[float]] = []
                area = float(extent.prod())
                if len(polygon) >= _SMALLEST_POLYGON:
                    outline = polygon.astype(np.float64) * (width, height)
                    segmentation = [np.round(outline.ravel(), _COCO_DECIMALS).tolist()]
                    x, y = outline.T  # by the trapezoid formula, as COCO counts the area of the mask and not of the box
                    area = float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": category_ids[label],
                        "bbox": np.round((*box[:2], *extent), _COCO_DECIMALS).tolist(),
                        "area": round(area, _COCO_DECIMALS),
                        "iscrowd": 0,
                        "segmentation": segmentation,
                    }
                )
        categories = [{"id": n, "name": name} for n, name in zip(category_ids, index.names, strict=True)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        file = folder / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8", errors="backslashreplace")
    return lost


def write_voc(splits: Mapping[str, DataIndex], folder: Path, *, copy: bool) -> Counter[str]:
    """Write every split as a VOC folder; an image that several splits have is there once.

    Raises:
        UserError: a class name or file name that xml cannot hold.
    """
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / part).mkdir(parents=True)
    names = next(iter(splits.values())).names
    for name in names:
        _require_text(name, "class")
    (folder / CLASSES_FILE).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    lost, free_names, written = Counter[str](), FreeNames(), set[str]()
    for split, index in splits.items():
        stems: list[str] = []
        seen = Counter[Path]()
        for i, image in enumerate(index.paths):
            seen[image] += 1  # a ground truth may list one file several times, with other boxes
            stems.append(stem := free_stem(free_names, image, (image, seen[image])))
            if stem in written:
                continue
            written.add(stem)
            name = f"{stem}{image.suffix.lower()}"
            _require_text(name, "file")
            link_or_copy(image, folder / "JPEGImages" / name, copy=copy)
            corners = _pixel_corners(index, i)
            solid = (corners[:, 2:] > corners[:, :2]).all(axis=1)
            lost[OUTSIDE] += int((~solid).sum())
            polygons = sum(len(points) >= _SMALLEST_POLYGON for points in index.polygons(i))
            lost[f"{_LOST_POLYGONS} (VOC cannot hold one)"] += polygons
            labels = [names[label] for label in index.labels(i)[0][solid]]
            text = _annotation(name, index.sizes[i], labels, corners[solid])
            (folder / "Annotations" / f"{stem}.xml").write_text(text, encoding="utf-8")
        listed = "".join(f"{stem}\n" for stem in stems)
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(listed, encoding="utf-8")
    return lost


def _require_text(name: str, what: str) -> None:
    """Raise a UserError for what comes back different from a line of text or from xml."""
    if name != name.strip() or len(name.splitlines()) != 1 or any(category(letter) == "Cc" for letter in name):
        raise UserError(f"VOC cannot hold the {what} name {name!r}: empty, blanks around it, or control characters")


def _annotation(name: str, size: NDArray[np.int32], labels: list[str], corners: Floats) -> str:
    height, width = size.tolist()
    objects: list[str] = []
    for label, box in zip(labels, corners, strict=True):
        low, high = box[:2].copy(), box[2:].copy()
        for axis, side in enumerate((width, height)):
            lacking = _NARROWEST - (high[axis] - low[axis])
            if lacking > 0:
                # Widened about its middle, but not over the border, where it would be clipped when it is read.
                low[axis] = min(max(low[axis] - lacking / 2, 0), side - _NARROWEST)
                high[axis] = low[axis] + _NARROWEST
        # Corners count pixels from 1 and include both ends: only the first two are shifted.
        texts = [f"{value:.{_VOC_DECIMALS}f}".rstrip("0").rstrip(".") for value in (*(low + 1), *high)]
        tags = zip(("xmin", "ymin", "xmax", "ymax"), texts, strict=True)
        objects.append(
            f"  <object>\n    <name>{escape(label)}</name>\n    <pose>Unspecified</pose>\n"
            "    <truncated>0</truncated>\n    <difficult>0</difficult>\n    <bndbox>"
            + "".join(f"<{tag}>{text}</{tag}>" for tag, text in tags)
            + "</bndbox>\n  </object>\n"
        )
    return (
        "<annotation>\n"
        f"  <folder>JPEGImages</folder>\n  <filename>{escape(name)}</filename>\n"
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
        "  <segmented>0</segmented>\n" + "".join(objects) + "</annotation>\n"
    )


Format = Literal["yolo", "coco", "voc", "shards"]
_WRITERS = {"yolo": write_labels, "coco": write_coco, "voc": write_voc}
_SOURCES = {"yolo": "images/{}", "coco": "annotations/instances_{}.json"}  # what a data yaml calls a split


def convert_data(
    source: str | Path,
    target: str | Path,
    to: Format,
    *,
    copy: bool = False,
    compat: Compat = "faithful",
    shard_bytes: int = SHARD_BYTES,
) -> tuple[dict[str, DataIndex], int]:
    """Write every split of a data set in another format, with its images linked or copied.

    YOLO and COCO get a `data.yaml`, shards a `shards.yaml`; a VOC folder names its splits by itself. Images without
    boxes stay, images and rows that training leaves out are left out, and said. Boxes are clipped to the image where
    the format counts pixels.

    Args:
        source: a data set of any format; a json or csv by itself is the split that its name says (val, test), else
            train.
        target: a new folder, or an empty one. It is there as a whole, or not at all.
        to: the format.
        copy: copy images instead of linking them.
        compat: "fixed" mends two defects of the published reading of labels, see yolo_txt.
        shard_bytes: after which a tar shard ends.

    Returns:
        what was read, by split, and how many boxes of it are not written, as the format cannot hold them.

    Raises:
        UserError: the source cannot be read or has no split, its splits name different classes, a name that the format
            cannot hold, something that would not be read again, or the target is not free.
    """
    if to not in (known := get_args(Format)):
        raise UserError(f"convert data --to takes {', '.join(known)}, not {to!r}")
    folder = Path(target).expanduser().absolute()
    require_free(folder)
    splits = _read_splits(source, compat)
    names = next(iter(splits.values())).names
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None and to not in ("yolo", "shards"):
        raise UserError(f"{source}: two classes are called {twice!r}, which {to} cannot tell apart")
    with whole_folder(folder) as made:
        own_labels = compat == "faithful" and describe(source).form == "yolo"
        lost = write_splits(splits, made, to, copy=copy, shard_bytes=shard_bytes, own_labels=own_labels)
        _require_all(splits, made, to, lost[OUTSIDE])
    return splits, lost[OUTSIDE]


def write_splits(
    splits: Mapping[str, DataIndex],
    folder: Path,
    to: Format,
    *,
    copy: bool = False,
    shard_bytes: int = SHARD_BYTES,
    own_labels: bool = False,
) -> Counter[str]:
    """Write splits into an empty folder, with a data yaml where the format needs one; say and return what is lost."""
    if to == "shards":
        lost = write_shards(splits, folder, shard_bytes, own_labels=own_labels)
    else:
        lost = _WRITERS[to](splits, folder, copy=copy)
    if to in _SOURCES:
        names = next(iter(splits.values())).names
        write_data_yaml(folder / "data.yaml", {split: _SOURCES[to].format(split) for split in splits}, names)
    for what, count in lost.items():
        if count:
            _log.warning(what, count)
    return lost


def _require_all(splits: Mapping[str, DataIndex], folder: Path, to: Format, num_lost: int) -> None:
    """Read what was written; raise a UserError if it has fewer images or boxes than it should have."""
    with tempfile.TemporaryDirectory() as cache:
        place = folder / "data.yaml" if to in _SOURCES else folder
        written = [read_split(place, cast(Split, split), cache_dir=Path(cache)) for split in splits]
    wanted = sum(map(len, splits.values())), sum(len(index.boxes) for index in splits.values()) - num_lost
    found = sum(map(len, written)), sum(len(index.boxes) for index in written)
    if found != wanted:
        first = next((problem for index in written for problem in index.problems if problem.drops), "")
        raise UserError(
            f"as {to} only {found[0]} of {wanted[0]} images and {found[1]} of {wanted[1]} boxes would be read again, "
            f"so nothing is written: {str(first).replace(str(folder), folder.name)}"
        )


def say_set_aside(index: DataIndex, split: str) -> None:
    """Say what is in no data index, and so not written: crowds, difficult objects, masks of run lengths."""
    for problem in index.problems:
        if problem.kind == "set aside":
            _log.warning("%s: %s; they are not written", split, problem)
        elif problem.kind == "mask as box":
            _log.warning("%s: %s", split, problem)


def count_lost(problems: Iterable[Problem]) -> tuple[int, int]:
    """Count the images and the boxes that are in no data index."""
    listed = [*problems]
    images = len({problem.path for problem in listed if problem.drops == "image"})
    boxes = sum(problem.drops == "row" for problem in listed)
    return images, boxes + sum(problem.count for problem in listed if problem.kind == "set aside")


def write_data_yaml(file: Path, sources: Mapping[str, str], names: tuple[str, ...]) -> None:
    """Write a data yaml with sources relative to it."""
    text = yaml.safe_dump({**sources, "names": dict(enumerate(names))}, sort_keys=False, allow_unicode=True)
    file.write_text(text, encoding="utf-8")


def _read_splits(source: str | Path, compat: Compat) -> dict[str, DataIndex]:
    path = Path(source)
    indices: dict[str, DataIndex] = {}
    for split in splits_of(source):
        name = split
        if path.suffix in FORMS:  # the name of a COCO json tells its split: instances_val2017.json is val
            name = split_of((path.stem,)) or "train"
        index = indices[name] = open_dataset(source, split, compat=compat)
        say_set_aside(index, name)
        first = next(iter(indices))
        if index.names != indices[first].names:
            raise UserError(
                f"{source}: {first} and {name} name different classes or in another order "
                f"({', '.join(indices[first].names[:5])}, and {', '.join(index.names[:5])}); give names in a data yaml"
            )
    if not indices:
        raise UserError(f"{source} has none of the splits train, val and test")
    return indices
