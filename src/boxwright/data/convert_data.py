"""A data set of one format written as another: YOLO labels, COCO json or a VOC folder, all splits at once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import yaml

from boxwright.data.data_yaml import Split
from boxwright.data.dataset import open_dataset, splits_of
from boxwright.data.index import DataIndex
from boxwright.data.placed_images import require_free, whole_folder
from boxwright.data.voc import is_voc_root
from boxwright.data.written_coco import write_coco
from boxwright.data.written_labels import Written, write_labels
from boxwright.data.written_voc import write_voc
from boxwright.errors import UserError
from boxwright.settings.base import Compat

Format = Literal["yolo", "coco", "voc"]
FORMATS = {"yolo": write_labels, "coco": write_coco, "voc": write_voc}
_log = logging.getLogger("boxwright.data")


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
    _say_what_is_lost(written, to)
    return splits


def write_data_yaml(file: Path, sources: Mapping[str, str], names: tuple[str, ...]) -> None:
    """A data yaml with sources relative to it."""
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
        name = _name_of(source) if Path(source).suffix == ".json" else split
        indices[name] = open_dataset(source, split, compat=compat)
        for problem in indices[name].problems:
            if problem.kind == "set aside":
                _log.warning("%s: %s; they are not written", name, problem)
    return indices


def _name_of(file: str | Path) -> Split:
    """The split that the name of a COCO json tells: instances_val2017.json is val."""
    stem = Path(file).stem.removeprefix("instances_").lower()
    return "val" if stem.startswith("val") else "test" if stem.startswith("test") else "train"


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


def _say_what_is_lost(written: Written, to: Format) -> None:
    if written.boxes_outside:
        _log.warning("%d box(es) lie outside of their image and are left out", written.boxes_outside)
    if written.polygons_lost:
        reason = (
            "VOC has no place for one" if to == "voc" else "its extent is not the box, which a YOLO label takes from it"
        )
        _log.warning("of %d polygon(s) only the box is kept: %s", written.polygons_lost, reason)
