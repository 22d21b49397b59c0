"""Convert a data set: to YOLO training labels for a run, or all its splits from one format to another."""

import filecmp
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from boxwright.data.coco import read_coco
from boxwright.data.dataset import open_dataset, splits_of
from boxwright.data.files import link_or_copy
from boxwright.data.index import DataIndex
from boxwright.data.voc import is_voc_root, read_voc
from boxwright.data.writers import free_stems, require_free, whole_folder, write_coco, write_labels, write_voc
from boxwright.data.yolo_txt import label_row
from boxwright.errors import UserError
from boxwright.settings.base import Compat

_log = logging.getLogger("boxwright.data")


def read_annotated(path: Path, split: str) -> DataIndex | None:
    """Read a place whose labels need converting; None where it is none of those.

    Args:
        path: a COCO json, a VOC root, or a list of a VOC root (ROOT/ImageSets/Main/NAME.txt).
        split: the list that is taken of a VOC root.
    """
    if path.suffix == ".json" and path.is_file():
        return read_coco(path)
    if is_voc_root(path):
        return read_voc(path, split)
    if path.suffix == ".txt" and path.parent.name == "Main" and is_voc_root(path.parents[2]):
        return read_voc(path.parents[2], path.stem)
    return None


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
    try:
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        images = [index.path(i) for i in range(len(index))]
        for i, (image, stem) in enumerate(zip(images, free_stems(images), strict=True)):
            link = folder / "images" / split / f"{stem}{image.suffix}"
            if link.is_symlink():
                link.unlink()
            if not link.exists():
                link_or_copy(image, link)
            elif not (link.samefile(image) or filecmp.cmp(link, image, shallow=False)):
                raise UserError(f"{link} is in the way: another image of that name; choose another convertor_path")
            classes, boxes = index.labels(i)
            rows: list[str] = []
            for label, box in zip(classes.tolist(), boxes.astype(np.float64), strict=True):
                name = index.names[label]
                if name in number_of:
                    rows.append(label_row(number_of[name], box, ".8g"))
                else:
                    left_out[name] += 1
            (folder / "labels" / split / f"{stem}.txt").write_text("".join(rows), encoding="utf-8")
            listed.append(f"./images/{split}/{link.name}\n")
        file = folder / f"{split}.txt"
        file.write_text("".join(listed), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write converted labels into {folder}: {error.strerror or error}") from error
    for name, count in left_out.items():
        _log.warning("%s: %d boxes of %r are left out, which is none of the names", split, count, name)
    return file


Format = Literal["yolo", "coco", "voc"]
FORMATS = {"yolo": write_labels, "coco": write_coco, "voc": write_voc}


def convert_data(
    source: str | Path, target: str | Path, to: Format, *, copy: bool = False, compat: Compat = "faithful"
) -> dict[str, DataIndex]:
    """Write every split of a data set in another format, with its images linked or copied.

    YOLO and COCO get a `data.yaml`; a VOC folder names its splits by itself. Images without boxes stay, images and rows
    that training leaves out are left out, and said. Boxes are clipped to the image where the format counts pixels.

    Args:
        source: data yaml, Darknet `.data`, VOC root or COCO json; a json by itself is the split that its name says
            (val, test), else train.
        target: a new folder, or an empty one. It is there as a whole, or not at all.
        to: the format.
        copy: copy images instead of linking them.
        compat: "fixed" mends two defects of the published reading of labels, see yolo_txt.

    Returns:
        what was written, by split.

    Raises:
        UserError: the source cannot be read or has no split, its splits name different classes, a name that the format
            cannot hold, or the target is not free.
    """
    if to not in FORMATS:
        raise UserError(f"convert data --to takes {', '.join(FORMATS)}, not {to!r}")
    folder = Path(target).expanduser().absolute()
    require_free(folder)
    splits = _read(source, compat)
    names = _names(source, splits, to)
    with whole_folder(folder) as made:
        written = FORMATS[to](splits, made, copy=copy)
        if to != "voc":
            write_data_yaml(made / "data.yaml", written.sources, names)
    if written.boxes_outside:
        _log.warning("boxes outside of their image, left out: %d", written.boxes_outside)
    if written.polygons_lost:
        reason = "VOC cannot hold one" if to == "voc" else "its extent is not the box, which a YOLO label takes from it"
        _log.warning("polygons of which only the box is kept: %d (%s)", written.polygons_lost, reason)
    return splits


def write_data_yaml(file: Path, sources: Mapping[str, str], names: tuple[str, ...]) -> None:
    """Write a data yaml with sources relative to it."""
    text = yaml.safe_dump({**sources, "names": dict(enumerate(names))}, sort_keys=False, allow_unicode=True)
    file.write_text(text, encoding="utf-8")


def _read(source: str | Path, compat: Compat) -> dict[str, DataIndex]:
    splits = splits_of(source)
    if not splits:
        there = (
            sorted(file.stem for file in Path(source).glob("ImageSets/Main/*.txt")) if is_voc_root(Path(source)) else ()
        )
        hint = f"; its lists are {', '.join(there)}" if there else ""
        raise UserError(f"{source} has none of the splits train, val and test{hint}")
    indices: dict[str, DataIndex] = {}
    for split in splits:
        name = split
        if Path(source).suffix == ".json":  # the name of a COCO json tells its split: instances_val2017.json is val
            stem = Path(source).stem.removeprefix("instances_").lower()
            name = "val" if stem.startswith("val") else "test" if stem.startswith("test") else "train"
        indices[name] = open_dataset(source, split, compat=compat)
        for problem in indices[name].problems:
            if problem.kind == "set aside":
                _log.warning("%s: %s; they are not written", name, problem)
    return indices


def _names(source: str | Path, splits: Mapping[str, DataIndex], to: Format) -> tuple[str, ...]:
    (first, index), *others = splits.items()
    names = index.names
    for split, other in others:
        if other.names != names:
            raise UserError(
                f"{source}: {first} and {split} name different classes or in another order "
                f"({', '.join(names[:5])}, and {', '.join(other.names[:5])}); give names in a data yaml"
            )
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None and to != "yolo":
        raise UserError(f"{source}: two classes are called {twice!r}, which {to} cannot tell apart")
    return names
