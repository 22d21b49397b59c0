"""Open a split of a data set of any known format as one index.

Formats: data yaml with YOLO txt labels or COCO json splits, a VOC root folder, a COCO json by itself.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

from boxwright.data.annotations import with_annotations
from boxwright.data.cache import cached_index
from boxwright.data.coco import read_coco, read_coco_names
from boxwright.data.image_list import list_images
from boxwright.data.index import DataIndex
from boxwright.data.voc import is_voc_root, read_voc, read_voc_names
from boxwright.data.yaml_file import DataYaml, Split, read_data_yaml
from boxwright.data.yolo_dataset import label_files, read_yolo
from boxwright.errors import UserError

_log = logging.getLogger("boxwright.data")


def open_dataset(
    data: str | Path, split: Split, *, single_cls: bool = False, cache_dir: Path | None = None, decode: bool = False
) -> DataIndex:
    """Read one split, leaving out broken images and rows and saying how many.

    Args:
        data: data yaml, VOC root (Annotations, ImageSets/Main, JPEGImages) or COCO json.
        split: which part; a COCO json by itself is every split.
        single_cls: treat all classes as one.
        cache_dir: where indexes are kept; None is the user's cache folder.
        decode: decode every image to find damage (`boxwright check`); the cache is passed over.

    Raises:
        UserError: nothing there, a format that is not known, or a split without images.
    """
    index = _read(Path(data).expanduser(), split, cache_dir, decode)
    if not len(index):
        raise UserError(f"the {split} split of {data} has no usable image{_first_problem(index)}")
    if not decode:
        _say_what_is_left_out(index, split)
    if split != "train" and not single_cls:
        index = with_annotations(index)
    return index.as_single_class() if single_cls else index


def read_names(data: str | Path) -> tuple[str, ...]:
    """Class names of a data set."""
    path = Path(data).expanduser()
    if is_voc_root(path):
        return read_voc_names(path)
    if path.suffix == ".json":
        return read_coco_names(path)
    return read_data_yaml(_existing_yaml(path)).names


def has_split(data: str | Path, split: Split) -> bool:
    """Whether the data set names this split."""
    path = Path(data).expanduser()
    if is_voc_root(path):
        return (path / "ImageSets" / "Main" / f"{split}.txt").is_file()
    return path.suffix == ".json" or split in read_data_yaml(_existing_yaml(path)).splits


def _read(path: Path, split: Split, cache_dir: Path | None, decode: bool) -> DataIndex:
    if is_voc_root(path):
        return read_voc(path, split, decode=decode)
    if path.suffix == ".json":
        return read_coco(path, decode=decode)
    data_yaml = read_data_yaml(_existing_yaml(path))
    if split not in data_yaml.splits:
        raise UserError(f"{path} names no {split} split; it has {', '.join(data_yaml.splits) or 'none at all'}")
    sources = data_yaml.splits[split]
    if any(source.endswith(".json") for source in sources):
        return _read_coco_split(data_yaml, sources, decode)
    images = list_images(sources, data_yaml.root, data_yaml.file)
    if not images:
        raise UserError(f"the {split} split of {path} ({', '.join(sources)}) holds no image")
    if decode:
        return read_yolo(images, data_yaml.names, decode=True)
    return cached_index(images, label_files(images), data_yaml.names, cache_dir)


def _read_coco_split(data_yaml: DataYaml, sources: tuple[str, ...], decode: bool) -> DataIndex:
    if len(sources) > 1:
        raise UserError(f"{data_yaml.file}: a split is one COCO json, not several")
    images = data_yaml.root / data_yaml.images if data_yaml.images else None
    return read_coco(data_yaml.root / sources[0], names=data_yaml.names, images=images, decode=decode)


def _existing_yaml(path: Path) -> Path:
    looked_at = [path] if path.suffix in (".yaml", ".yml") else [path, path.with_name(f"{path.name}.yaml")]
    for place in looked_at:
        if place.is_file():
            return place
    if path.is_dir():
        raise UserError(
            f"{path} is a folder but no VOC data set (Annotations, ImageSets/Main, JPEGImages); name its data yaml"
        )
    places = ", ".join(str(place.absolute()) for place in looked_at)
    raise UserError(f"there is no data set {path}; looked at {places}")


def _first_problem(index: DataIndex) -> str:
    for first in index.problems:
        return f"; the first of {len(index.problems)} problems is {first}"
    return ""


def _say_what_is_left_out(index: DataIndex, split: str) -> None:
    for what in ("image", "row"):
        kinds = Counter(problem.kind for problem in index.problems if problem.drops == what)
        if kinds:
            reasons = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
            first = next(problem for problem in index.problems if problem.drops == what)
            _log.warning("%s: %d %ss left out (%s), first: %s", split, kinds.total(), what, reasons, first)
