"""Open a split of a data set of any known format as one index.

Formats: data yaml with YOLO txt labels or COCO json splits, a Darknet `.data` file, a VOC root folder, a COCO json by
itself.
"""

import logging
from collections import Counter
from functools import partial
from pathlib import Path

from boxwright.data.cache import cached_index, digest
from boxwright.data.coco import read_coco, read_coco_names, with_annotations
from boxwright.data.data_yaml import (
    SPLITS,
    DataYaml,
    Split,
    find_source,
    list_images,
    read_darknet_data,
    read_data_yaml,
    read_lines,
)
from boxwright.data.index import DataIndex
from boxwright.data.voc import CLASSES_FILE, annotation_files, is_voc_root, read_voc, read_voc_names, split_file
from boxwright.data.yolo_txt import label_file, read_yolo
from boxwright.errors import UserError
from boxwright.settings.base import Compat

_log = logging.getLogger("boxwright.data")


def open_dataset(
    data: str | Path,
    split: Split,
    *,
    single_cls: bool = False,
    compat: Compat = "faithful",
    cache_dir: Path | None = None,
) -> DataIndex:
    """Read one split, leaving out broken images and rows and saying how many.

    Args:
        data: data yaml, Darknet .data file, VOC root (Annotations, ImageSets/Main, JPEGImages) or COCO json.
        split: which part; a COCO json by itself is every split.
        single_cls: treat all classes as one.
        compat: "fixed" mends two defects of the published label reading, see yolo_txt.
        cache_dir: where indexes are kept; None is the user's cache folder.

    Raises:
        UserError: nothing there, a format that is not known, or a split without images.
    """
    index = read_split(data, split, compat=compat, cache_dir=cache_dir)
    say_what_is_left_out(index, split)
    if not len(index):
        first = next((problem for problem in index.problems if problem.drops == "image"), None)
        reason = f": all images are left out, the first because {first}" if first else ""
        raise UserError(f"the {split} split of {data} has no usable image{reason}")
    if split != "train" and not single_cls:
        index = with_annotations(index)
    return index.as_single_class() if single_cls else index


def read_names(data: str | Path) -> tuple[str, ...]:
    """Read the class names of a data set."""
    described = _described(_located(data))
    if is_voc_root(described.file):
        return read_voc_names(described.file)
    if described.names:
        return described.names
    file = next(source for sources in described.splits.values() for source in sources if source.endswith(".json"))
    return read_coco_names(find_source(file, described.root, described.file))


def labelled_images(data: str | Path) -> tuple[list[Path], tuple[str, ...]]:
    """List images of all splits of a data set with YOLO labels, each once and sorted, and its class names.

    Raises:
        UserError: the labels do not lie beside the images, as those of VOC and COCO do not.
    """
    described = _described(_located(data))
    sources = [source for named in described.splits.values() for source in named]
    if is_voc_root(described.file) or any(source.endswith(".json") for source in sources):
        raise UserError(f"{data} has no YOLO labels; write them by `boxwright convert data {data} FOLDER --to yolo`")
    return list_images(sources, described.root, described.file), described.names


def splits_of(data: str | Path) -> tuple[Split, ...]:
    """Return the splits that a data set names. A COCO json by itself is one set of images, here called train."""
    return tuple(_described(_located(data)).splits)


def count_images(data: str | Path, split: Split) -> int:
    """Count the images that a split names, also broken ones, without reading a label file."""
    path = _located(data)
    described = _described(path)
    sources = described.splits.get(split, ())
    if is_voc_root(path):
        return sum(len(list(read_lines(Path(file)))) for file in sources)
    if path.suffix == ".json" or any(source.endswith(".json") for source in sources):
        return sum(
            len(read_coco(find_source(source, described.root, path), names=described.names)) for source in sources
        )
    return len(list_images(sources, described.root, path))


def read_split(
    data: str | Path,
    split: Split,
    *,
    compat: Compat = "faithful",
    decode: bool = False,
    cache_dir: Path | None = None,
) -> DataIndex:
    """Read one split, from the cache if nothing has changed. It may come out empty when all its images are broken.

    Args:
        decode: decode every image to find damage (`boxwright check`); the cache is passed over.
    """
    path = _located(data)
    described = _described(path)
    sources = described.splits.get(split, ())
    # What shapes the index but the image files, and how it is read.
    if is_voc_root(path):
        # The names come from all annotations, so that any edit of one may renumber the classes.
        contents = [split_file(path, split), path / CLASSES_FILE, *annotation_files(path)]
        shaped_by, read = partial(digest, ["voc", split], [], contents), partial(read_voc, path, split)
    elif path.suffix == ".json" or any(source.endswith(".json") for source in sources):
        if len(sources) > 1:
            raise UserError(f"{path}: a split is one COCO json, not several files")
        file = path if path.suffix == ".json" else find_source(next(iter(sources)), described.root, path)
        images = find_source(described.images, described.root, path) if described.images else None
        shaped_by = partial(digest, ["coco", described.names, str(images)], [], [file])
        read = partial(read_coco, file, names=described.names, images=images)
    else:
        if not sources:
            raise UserError(f"{path} names no {split} split; it has {', '.join(described.splits) or 'none at all'}")
        listed = list_images(sources, described.root, path)
        if not listed:
            raise UserError(f"the {split} split of {path} ({', '.join(sources)}) holds no image")
        shaped_by = partial(digest, ["yolo", described.names, compat], listed, [*map(label_file, listed)])
        read = partial(read_yolo, listed, described.names, compat=compat)
    return read(decode=True) if decode else cached_index(f"{path} {split} {compat}", shaped_by, read, cache_dir)


def _described(path: Path) -> DataYaml:
    """Return what a data yaml would say of a data set; that of VOC and of a json has no names."""
    if is_voc_root(path):
        lists = path / "ImageSets" / "Main"
        splits: dict[Split, tuple[str, ...]] = {
            split: (f"{lists / split}.txt",) for split in SPLITS if (lists / f"{split}.txt").is_file()
        }
        return DataYaml(path, path, splits, ())
    if path.suffix == ".json":
        return DataYaml(path, path.parent, {"train": (path.name,)}, ())
    return read_darknet_data(path) if path.suffix == ".data" else read_data_yaml(path)


def _located(data: str | Path) -> Path:
    """Return the data set as an absolute path: a VOC root, a json, a yaml, or a Darknet .data file."""
    path = Path(data).expanduser().absolute()
    if path.is_file() or is_voc_root(path):
        return path
    if path.suffix == ".data":  # published: the leading data/ may be left out
        places = [path, path.parent / "data" / path.name]
    elif path.suffix in (".yaml", ".yml", ".json"):
        places = [path]
    else:
        places = [path, path.with_name(f"{path.name}.yaml")]
    for place in places[1:]:
        if place.is_file():
            return place
    if path.is_dir():
        inside = sorted((*path.glob("*.yaml"), *path.glob("*.yml")))
        if len(inside) == 1:
            return inside[0]
        found = ", ".join(file.name for file in inside) or "no yaml file"
        raise UserError(
            f"{path} is a folder with {found}, and no VOC data set (Annotations, ImageSets/Main, JPEGImages); "
            "name the data yaml"
        )
    raise UserError(f"there is no data set {data}; looked at {' and '.join(map(str, places))}")


def say_what_is_left_out(index: DataIndex, split: str) -> None:
    """Log how many images and rows of a split are left out, and the first of them."""
    images = {problem.path: problem for problem in index.problems if problem.drops == "image"}  # each once
    rows = [problem for problem in index.problems if problem.drops == "row"]
    for what, found in (("image(s)", list(images.values())), ("row(s)", rows)):
        if found:
            kinds = Counter(problem.kind for problem in found)
            reasons = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
            _log.warning("%s: %d %s left out (%s), the first: %s", split, len(found), what, reasons, found[0])
