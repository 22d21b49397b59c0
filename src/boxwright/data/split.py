"""The images of a data set divided anew into train, val and test: list files and a data yaml; no image is moved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwright.data.check import content_groups
from boxwright.data.convert_data import write_data_yaml
from boxwright.data.data_yaml import SPLITS, Split
from boxwright.data.dataset import labelled_images, say_what_is_left_out
from boxwright.data.image_list import list_images, read_lines
from boxwright.data.index import DataIndex
from boxwright.data.placed_images import require_free, whole_folder
from boxwright.data.stratify import list_sizes, stratify
from boxwright.data.voc import is_voc_root
from boxwright.data.yolo_dataset import read_yolo
from boxwright.errors import UserError
from boxwright.settings.base import Compat

_MOST_CLASSES = 10_000  # of a folder that does not say its classes


def split_data(
    data: str | Path,
    target: str | Path = "",
    *,
    shares: Sequence[float] = (0.9, 0.1, 0.0),
    seed: int = 0,
    compat: Compat = "faithful",
) -> tuple[Path, dict[Split, list[Path]]]:
    """Divide labelled images by class into lists, the same ones for the same seed.

    Images of the same content go to the same list. Images that training leaves out are in none, and said.

    Args:
        data: data yaml, whose splits are thrown together, or a folder of images with YOLO labels; its class names are
            those of a `classes.txt` in it or beside its labels, else class0, class1, ...
        target: a new or empty folder for `train.txt`, `val.txt`, `test.txt` and `data.yaml`; empty: `NAME_split`
            beside the data. Images below the folder that it lies in are listed relative to it.
        shares: of train, val and test; a list without a share is not written.
        seed: of the draw.
        compat: "fixed" mends two defects of the published reading of labels, see yolo_txt.

    Returns:
        the folder, and the images of each list.

    Raises:
        UserError: no labelled images, shares that do not sum to 1, fewer images than lists, or the target is taken.
    """
    if len(shares) != len(SPLITS):
        raise UserError(f"shares are three numbers, of train, val and test, not {len(shares)}")
    list_sizes(len(shares), shares)  # so that a wrong share is said before anything is read
    source = Path(data).expanduser().absolute()
    folder = Path(target).expanduser().absolute() if str(target) else source.with_name(f"{source.stem}_split")
    require_free(folder)
    index = _read(source, compat)
    say_what_is_left_out(index, "all")
    chosen = _choose(index, shares, seed)
    images = [index.path(i) for i in range(len(index))]
    lists: dict[Split, list[Path]] = {}
    for number, split in enumerate(SPLITS):
        if shares[number] > 0:
            lists[split] = [image for image, of in zip(images, chosen.tolist(), strict=True) if of == number]
    with whole_folder(folder) as made:
        for split, members in lists.items():
            (made / f"{split}.txt").write_text("".join(_line(image, folder) for image in members), encoding="utf-8")
        write_data_yaml(made / "data.yaml", {split: f"{split}.txt" for split in lists}, index.names)
    return folder, lists


def _read(source: Path, compat: Compat) -> DataIndex:
    if not source.is_dir() or is_voc_root(source) or any((*source.glob("*.yaml"), *source.glob("*.yml"))):
        images, names = labelled_images(source)
        return read_yolo(images, names, compat=compat)
    images = list_images([str(source)], source, source)
    if not images:
        raise UserError(f"{source} holds no image")
    names = _listed_names(source)
    index = read_yolo(images, names or [f"class{i}" for i in range(_MOST_CLASSES)], compat=compat)
    if not len(index.boxes):
        raise UserError(f"{source}: no image has a label; that of images/x.jpg is labels/x.txt, that of x.jpg is x.txt")
    count = len(names) or int(index.classes.max()) + 1
    return replace(index, names=index.names[:count], category_ids=index.category_ids[:count])


def _listed_names(folder: Path) -> list[str]:
    """Class names that annotation tools leave beside the labels."""
    for place in (folder, folder / "labels", folder.parent, folder.parent / "labels"):
        if (place / "classes.txt").is_file():
            return [*filter(None, read_lines(place / "classes.txt"))]
    return []


def _choose(index: DataIndex, shares: Sequence[float], seed: int) -> NDArray[np.int64]:
    """Number of the list of each image."""
    groups = np.array(content_groups([index.path(i) for i in range(len(index))]), dtype=np.int64)
    sizes = list_sizes(len(index), shares)
    firsts, members, weights = np.unique(groups, return_inverse=True, return_counts=True)
    if len(firsts) < sum(size > 0 for size in sizes):
        raise UserError(f"{len(firsts)} different image(s) are too few for {sum(size > 0 for size in sizes)} lists")
    present = np.zeros((len(firsts), index.num_classes), dtype=np.bool_)
    present[members.repeat(np.diff(index.box_offsets)), index.classes] = True
    return stratify(present, weights.astype(np.int64), sizes, seed)[members]


def _line(image: Path, folder: Path) -> str:
    """An image as a line of a list in the folder: relative if it lies beside the folder, so that both can be moved."""
    if image.is_relative_to(folder.parent):
        return f"./../{os.fspath(image.relative_to(folder.parent))}\n"
    return f"{image}\n"
