"""Open a split of a data set of any known format as one index.

Formats: a data yaml (of folders, lists or tar shards), a Darknet `.data` file, a COCO json or a csv by itself, or a
folder (folders.py).
"""

import contextlib
import logging
import shlex
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from boxwright.data.cache import cached_index, digest
from boxwright.data.coco import read_coco, read_coco_names, with_annotations
from boxwright.data.csv_boxes import read_csv, read_csv_names
from boxwright.data.data_yaml import DataYaml, find_source, list_images, read_darknet_data, read_data_yaml
from boxwright.data.folders import describe_folder
from boxwright.data.index import DataIndex
from boxwright.data.split_names import FORMS, Split, find_dataset
from boxwright.data.voc import CLASSES_FILE, VocFolder, read_voc, read_voc_names
from boxwright.data.yolo_txt import label_files, read_yolo
from boxwright.errors import UserError
from boxwright.settings.base import Compat, limit
from boxwright.terminal import one_line, say_once

_NOTES = ("root category", "category twice")  # said where a data set is opened, though nothing is lost
_ODD = {  # said with their number
    "size mismatch": "%d of %d annotations name another size than their image has",
    "shared label": "%d label files belong to several of %d images",
}
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
        data: data yaml, Darknet .data file, COCO json, csv, or a folder.
        split: which part; a json or csv by itself is every split.
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
    described = describe(data)
    names = described.names
    if not names and described.voc:
        names = read_voc_names(described.voc.root, described.voc.xmls)
    elif not names:
        files = _files(described, [source for sources in described.splits.values() for source in sources])
        names = read_coco_names(files) if described.form == "coco" else read_csv_names(files)
    return tuple(map(one_line, names))


def splits_of(data: str | Path) -> tuple[Split, ...]:
    """Return the splits that a data set names. A json or csv by itself is one set of images, here called train."""
    return tuple(describe(data).splits)


def count_images(data: str | Path, split: Split) -> int:
    """Count the images that a split names, also broken ones; of YOLO labels and VOC xml, none is read."""
    described = describe(data)
    if described.voc:
        return len(described.voc.splits[split].pairs) if split in described.voc.splits else 0
    if described.form == "yolo":
        return len(list_images(described.splits.get(split, ()), described.roots, described.file))
    return len(read_split(data, split))


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

    Raises:
        UserError: nothing there, or no such split.
    """
    described = describe(data)
    file, roots = described.file, described.roots
    sources = described.splits.get("train" if described.is_one_set else split, ())
    if not sources:
        raise UserError(no_split(data, described, split))
    named = [source for several in described.splits.values() for source in several]
    images = find_source(described.images, roots, file) if described.images else None
    # What shapes the index but the image files, and how it is read.
    if described.voc:
        # The names come from all annotations, so that any edit of one may renumber the classes.
        found = described.voc.splits[split]
        listed = [*(path for pair in found.pairs for path in pair), *(problem.path for problem in found.problems)]
        shaped_by = partial(digest, ["voc", split], listed, [file / CLASSES_FILE, *described.voc.xmls])
        read = partial(_read_voc, described.voc, split)
    elif described.form == "yolo":
        listed = list_images(sources, roots, file)
        if not listed:
            raise UserError(f"the {split} split of {file} ({', '.join(sources)}) holds no image")
        shaped_by = partial(digest, ["yolo", described.names, compat], listed, label_files(listed))
        read = partial(read_yolo, listed, described.names, compat=compat)
    elif described.form == "shards":
        from boxwright.data.shards import digest_shards, find_shards, read_shards  # few data sets are

        shards = find_shards(sources, roots, file)
        shaped_by = partial(digest_shards, shards, described.names, compat)
        read = partial(read_shards, shards, described.names, compat=compat)
    else:
        files = [find_source(source, roots, file) for source in sources]
        every = _files(described, named)  # the names come from all of them, in the same order for each split
        settings = [described.form, described.names, str(images)]
        shaped_by = partial(digest, settings, files, every)
        read_files = _read_csv if described.form == "csv" else read_coco
        read = partial(read_files, files, named_by=every, names=described.names, images=images)
    # With the limit: an image that is left out for it is in the index of another one.
    kept = f"{file} {split} {compat} {limit('max_pixels')}"
    index = read(decode=True) if decode else cached_index(kept, shaped_by, read, cache_dir)
    _say_alike(file, index.names)
    return index


def _say_alike(file: Path, names: Sequence[str]) -> None:
    """Say which classes may be one, as `Cat` and `cat` that two people have typed."""
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        alike.setdefault(" ".join(name.casefold().split()), []).append(name)
    for several in (several for several in alike.values() if len(several) > 1):
        same = " and ".join(map(repr, several))
        say_once(f"{file}: the classes {same} differ in capital letters or blanks alone; they stay different classes")


def _read_voc(voc: VocFolder, split: Split, *, decode: bool = False) -> DataIndex:
    return read_voc(voc.splits[split], read_voc_names(voc.root, voc.xmls), decode=decode)


def _read_csv(
    files: Sequence[Path], *, named_by: Sequence[Path], names: Sequence[str], images: Path | None, decode: bool = False
) -> DataIndex:
    return read_csv(files, names or read_csv_names(named_by), images=images, decode=decode)


def _files(described: DataYaml, sources: Sequence[str]) -> list[Path]:
    """Return the files of these sources that are there; of one that is not its own split tells."""
    found: list[Path] = []
    for source in sources:
        with contextlib.suppress(UserError):
            found.append(find_source(source, described.roots, described.file))
    return found


def no_split(data: str | Path, described: DataYaml, split: Split) -> str:
    """Say that a split is missing, what there is, and how to make one."""
    there = ", ".join(described.splits) or "none of train, val and test"
    unread = f"; keys that are not read: {', '.join(described.unread)}" if described.unread else ""
    return f"{data} names no {split} split; it has {there}{unread}; {divide_by(data, split)}"


def divide_by(data: str | Path, split: Split = "val") -> str:
    """Name the command that makes a split."""
    shares = " --shares .8 .1 .1" if split == "test" else ""
    return f"divide its images by `boxwright convert split {shlex.quote(str(data))}{shares}`"


def describe(data: str | Path) -> DataYaml:
    """Find a data set, see `find_dataset`, and describe it as a data yaml does.

    Raises:
        UserError: it is not there, or of no kind that is read.
    """
    file = find_dataset(data)
    if file.is_dir():
        return describe_folder(file)
    suffix = file.suffix.lower()
    if suffix in FORMS:
        return DataYaml(file, (file.parent,), {"train": (file.name,)}, form=FORMS[suffix])
    if suffix in (".yaml", ".yml"):
        return read_data_yaml(file)
    if suffix == ".data":
        return read_darknet_data(file)
    if suffix == ".tar":
        raise UserError(
            f"{file} is a tar; shards are named by a data yaml, which has the class names: train: {file.name}"
        )
    raise UserError(f"{file} is no data set; name a folder, a data yaml, a Darknet .data file, a COCO json or a csv")


def say_what_is_left_out(index: DataIndex, split: str) -> None:
    """Log how many images and boxes of a split are left out, and the first of them, and how many have no label."""
    images = {problem.path: problem for problem in index.problems if problem.drops == "image"}  # each once
    rows = [problem for problem in index.problems if problem.drops == "row"]
    for what, found, kept in (("images", [*images.values()], len(index)), ("boxes", rows, len(index.boxes))):
        if found:
            kinds = Counter(problem.kind for problem in found)
            reasons = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
            total = kept + len(found)
            text = "%s: %d of %d %s left out (%s), the first: %s"
            _log.warning(text, split, len(found), total, what, reasons, found[0])
    if bare := sum(problem.kind == "missing label" for problem in index.problems):
        text = "%s: %d of %d images have no label file and count as background"
        _log.log(logging.WARNING if 2 * bare >= len(index) else logging.INFO, text, split, bare, len(index))
    for kind, text in _ODD.items():
        if odd := [problem for problem in index.problems if problem.kind == kind]:
            _log.warning(f"%s: {text}, the first: %s", split, len(odd), len(index), odd[0])
    for note in (problem for problem in index.problems if problem.kind in _NOTES):
        _log.info("%s: %s", split, note)
