"""Find a data set by its name; tell which split a file is of by the words in names: train2017, valid, instances_test.

Does not import numpy, so that the error for a missing data set appears at once.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from boxwright.errors import UserError
from boxwright.terminal import say_once

Form = Literal["yolo", "coco", "csv", "voc", "shards"]
FORMS: dict[str, Form] = {".json": "coco", ".csv": "csv"}
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
_SPLIT_OF_WORD: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def is_voc_root(path: Path) -> bool:
    """Tell whether a folder is laid out as the VOC development kit."""
    return (path / "Annotations").is_dir() and (path / "ImageSets").is_dir()


def find_dataset(data: str | Path) -> Path:
    """Find the file or folder of a data set.

    Args:
        data: folder, data yaml (also without its suffix), json, csv, or a Darknet .data file (also without the folder
            `data` before it, as published).

    Raises:
        UserError: it is not there.
    """
    path = Path(data).expanduser().absolute()
    places = [path]
    if path.suffix == ".data":
        places.append(path.parent / "data" / path.name)
    elif path.suffix not in (".yaml", ".yml", *FORMS) and not is_voc_root(path):
        places.append(path.with_name(f"{path.name}.yaml"))
    file = next((place for place in places if place.is_file()), path if path.is_dir() else None)
    if file is None:
        raise UserError(f"there is no data set {data}; looked at {' and '.join(map(str, places))}")
    return file


def split_of(names: Iterable[str]) -> Split | None:
    """Return the split that the first of some names has as a word of its own, if any."""
    words = (word for name in names for word in re.findall("[a-z]+", name.lower()))
    return next((_SPLIT_OF_WORD[word] for word in words if word in _SPLIT_OF_WORD), None)


def by_folder(files: Sequence[Path], root: Path) -> Sequence[Split | None]:
    """Return the split of each file by the folders below the root that it is in.

    Without a folder of val or test all are train; else files in no such folder are train if there is no folder train,
    and of no split, with a word, if there is one.
    """
    splits: list[Split | None] = [split_of(file.relative_to(root).parts[:-1]) for file in files]
    if "train" not in splits or not {"val", "test"} & {*splits}:
        return [split or "train" for split in splits]
    if outside := [file for file, split in zip(files, splits, strict=True) if split is None]:
        text = "images are in no folder of a split (train, val, test) and are left out, such as"
        say_once(f"{root}: {len(outside)} {text} {outside[0]}")
    return splits
