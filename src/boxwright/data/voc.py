"""Pascal VOC annotations: one xml an image, in any of the folders that tools write.

- the VOC development kit: Annotations/x.xml, JPEGImages/x.jpg, and lists ImageSets/Main/SPLIT.txt
- the same without lists, also with folders of other names (images, annots) and with sub-folders (LabelImg, Kaggle)
- xml beside the images, in folders train, valid and test (Roboflow)

The image of x.xml is the one called x, with any suffix; where there is none, the one that `<filename>` says.

VOC corners count pixels from 1 and include both ends (the VOC development kit), so xmin 1, xmax W covers an image of
width W: left = xmin - 1, right = xmax. A box with xmax <= xmin has no area. Class names are those of `classes.txt`, one
a line, if there is one, then the sorted names of all other objects of all annotations, whatever the split. Objects
marked difficult are not trained on or scored, as published for YOLOv5. Entities and
document types are refused, so that no xml can grow or reach out.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from boxwright.data.files import files_below, in_any_case, in_threads, read_lines
from boxwright.data.images import IMAGE_SUFFIXES, images_below
from boxwright.data.index import DataIndex, PixelObject, Problem, Record, pixel_record, read_records
from boxwright.data.split_names import SPLITS, Split, by_folder
from boxwright.errors import UserError
from boxwright.reading import decoded, is_utf16, parsing, read_bytes
from boxwright.terminal import say_once

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
CLASSES_FILE = "classes.txt"  # may hold the order of the classes
# Folders that only tell images from annotations, so that images/a/x.jpg belongs to annots/a/x.xml.
_ROLES = frozenset(
    "annotations annotation annots annot xml xmls labels label jpegimages images image imgs img pictures photos".split()
)
_Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VocSplit:
    """The images of a split, each with its annotation; either may be a file that is not there."""

    pairs: list[tuple[Path, Path]] = field(default_factory=list[tuple[Path, Path]])  # image, xml
    problems: list[Problem] = field(default_factory=list[Problem])  # annotations that are left out


@dataclass(frozen=True, slots=True)
class VocFolder:
    """All annotations of a folder."""

    root: Path
    xmls: list[Path]  # also those of no split
    splits: dict[Split, VocSplit]


def annotation_files(root: Path) -> list[Path]:
    """List all VOC annotations of a folder and its sub-folders, sorted; xml files of other kinds are passed over."""
    files = [Path(file) for file in sorted(files_below(root, {".xml"}))]
    return [file for file, is_voc in zip(files, in_threads(_may_be_voc, files), strict=True) if is_voc]


def _may_be_voc(file: Path) -> bool:
    """Tell whether the first element is `annotation`, or cannot be told."""
    try:
        first = re.search(r"<([A-Za-z_][\w.:-]*)[\s/>]", decoded(read_bytes(file, first=4096), "ignore"))
    except UserError:
        return True
    return first is None or first[1] == "annotation"


def voc_folder(root: Path) -> VocFolder:
    """Find the images and annotations of each split. Without lists and folders that name splits, all is `train`."""
    xmls = annotation_files(root)
    images = [Path(file) for file in images_below(root)]
    image_of, twice = _matched(xmls, images, root)
    if lists := _split_lists(root):
        find = _list_reader(image_of, images, root)
        return VocFolder(root, xmls, {split: find(lines) for split, lines in lists.items() if lines})
    labelled = {image.parent for image in image_of.values()}
    owners = set(image_of.values())
    owned = {(image.parent, image.stem): (image, xml) for xml, image in image_of.items()}
    bare = [image for image in images if image not in owners and image.parent in labelled]  # others may be masks
    shared = [(image, *owned[key]) for image in bare if (key := (image.parent, image.stem)) in owned]
    pairs = [(image_of.get(xml) or _expected_image(root, xml), xml) for xml in xmls if xml not in twice]
    others = {image for image, *_ in shared}
    pairs += [(image, _expected_xml(image, xmls, root)) for image in bare if image not in others]
    found: dict[Split, VocSplit] = {}
    splits = by_folder([image if image.is_relative_to(root) else xml for image, xml in pairs], root)
    for (image, xml), split in sorted(zip(pairs, splits, strict=True), key=lambda item: item[0]):
        if split is not None:
            found.setdefault(split, VocSplit()).pairs.append((image, xml))
    if found:
        next(iter(found.values())).problems.extend(
            Problem("duplicate", xml, 0, f"{image.name} has another annotation; this one is left out", "image")
            for xml, image in twice.items()
        )
        next(iter(found.values())).problems.extend(
            Problem("duplicate", image, 0, f"{xml.name} is the annotation of {of.name}; the image is left out", "image")
            for image, of, xml in shared
        )
    return VocFolder(root, xmls, {split: found[split] for split in SPLITS if split in found})


def voc_list(file: Path) -> VocSplit:
    """Find the images and annotations of a list in a development kit, whatever its name."""
    root = file.parents[2]
    images = [Path(image) for image in images_below(root)]
    image_of, _ = _matched(annotation_files(root), images, root)
    return _list_reader(image_of, images, root)([*filter(None, read_lines(file))])


def _split_lists(root: Path) -> dict[Split, list[str]]:
    """Read the lists of a development kit; `trainval`, or the only list there is, stands in for a missing `train`."""
    places = (str(root / "ImageSets/Main"), str(root / "ImageSets"))
    folder = next(
        (f for f in map(Path, map(in_any_case, places)) if f.name and f.is_dir() and any(f.glob("*.txt"))), None
    )
    if folder is None:
        return {}
    files = {file.stem.lower(): file for file in sorted(folder.glob("*.txt"))}
    named: dict[Split, Path] = {}
    for split in SPLITS:
        words = [split, *(stem for stem in files if stem != "trainval" and stem in _OTHER_LISTS.get(split, ()))]
        if file := next((files[word] for word in words if word in files), None):
            named[split] = file
    whole = files.get("trainval") or files.get("default") or (next(iter(files.values())) if len(files) == 1 else None)
    lists = {split: [*filter(None, read_lines(file))] for split, file in named.items()}
    if "train" not in named and whole is not None and whole not in named.values():
        others = {line for split in named for line in lists[split]}
        lists["train"] = [line for line in filter(None, read_lines(whole)) if line not in others]
        say_once(f"{root} has no list train.txt: train is what {whole.name} lists")
    return {split: lists[split] for split in SPLITS if split in lists}


_OTHER_LISTS: dict[Split, tuple[str, ...]] = {
    "train": ("training",),
    "val": ("valid", "validation"),
    "test": ("testing",),
}


def _list_reader(
    image_of: Mapping[Path, Path], images: Sequence[Path], root: Path
) -> Callable[[Sequence[str]], VocSplit]:
    """Return a function that finds what a list names: images or annotations by their stem."""
    xml_of_key = {_key(xml, root): xml for xml in image_of}
    xml_of_image = {image: xml for xml, image in image_of.items()}
    image_of_key = defaultdict[_Key, list[Path]](list)
    for image in images:
        image_of_key[_key(image, root)].append(image)

    def pair(line: str) -> tuple[Path, Path]:
        first = line.split()[0]
        for stem in dict.fromkeys((line, first)):  # a flag may follow (`000012  1`)
            plain = os.path.splitext(stem)[0] if os.path.splitext(stem)[1].lower() in IMAGE_SUFFIXES else stem
            *folders, last = PureWindowsPath(plain).parts
            key = (*_folders(folders[folders[:1] == [root.name] :]), last.lower())
            if key in xml_of_key:
                return image_of[xml_of_key[key]], xml_of_key[key]
            if key in image_of_key:
                image = _likeliest(image_of_key[key], last, "")
                return image, xml_of_image.get(image, root / "Annotations" / f"{plain}.xml")
        xml = root / "Annotations" / f"{first}.xml"
        return _expected_image(root, xml), xml

    return lambda lines: VocSplit([*map(pair, lines)])


def _key(file: Path, root: Path) -> _Key:
    """Return what an image and its annotation have in common: the folders that tell no role, and the stem."""
    # Text, not paths: a large data set has many.
    *folders, name = os.fspath(file)[len(os.fspath(root)) + 1 :].split(os.sep)
    return (*_folders(folders), os.path.splitext(name)[0].lower())


def _folders(parts: Iterable[str]) -> _Key:
    return tuple(folder.lower() for folder in parts if folder.lower() not in _ROLES)


def _matched(xmls: Sequence[Path], images: Sequence[Path], root: Path) -> tuple[dict[Path, Path], dict[Path, Path]]:
    """Find the image of each annotation, and that of annotations whose image has another one already."""
    by_key, by_stem, by_name = (defaultdict[object, list[Path]](list) for _ in range(3))
    for image in images:
        by_key[_key(image, root)].append(image)
        by_stem[image.stem.lower()].append(image)
        by_name[image.name.lower()].append(image)
    image_of: dict[Path, Path] = {}
    owner: dict[Path, Path] = {}
    twice: dict[Path, Path] = {}
    for xml in xmls:
        same = by_key.get(_key(xml, root), [])
        if same:
            image = _likeliest(same, xml.stem, _named_image(xml) if len(same) > 1 else "")
            if owner.setdefault(image, xml) == xml:
                image_of[xml] = image
    for xml in (xml for xml in xmls if xml not in image_of):
        # Other folders, or another name: only what is unmistakable.
        free = [image for image in by_stem.get(xml.stem.lower(), []) if image not in owner]
        named = by_name.get(_named_image(xml).lower(), [])
        beside = [image for image in named if _key(image, root)[:-1] == _key(xml, root)[:-1]]
        image = next((found[0] for found in (free, beside, named) if len(found) == 1), None)
        if image is None:
            continue
        if owner.setdefault(image, xml) == xml:
            image_of[xml] = image
        else:
            twice[xml] = image
    return image_of, twice


def _likeliest(images: Sequence[Path], stem: str, named: str) -> Path:
    """Choose among images whose stems differ at most in case: the one that is named, then JPEG files."""

    def rank(image: Path) -> tuple[bool, bool, bool, str]:
        return image.stem != stem, image.name.lower() != named.lower(), image.suffix.lower() != ".jpg", image.name

    return min(images, key=rank)


def _expected_image(root: Path, xml: Path) -> Path:
    """Return where the image of an annotation without one should be, for messages."""
    folder = root / "JPEGImages" if (root / "JPEGImages").is_dir() else xml.parent
    return folder / ((_named_image(xml) if xml.is_file() else "") or f"{xml.stem}.jpg")


def _expected_xml(image: Path, xmls: Sequence[Path], root: Path) -> Path:
    """Return where the annotation of an image without one should be, for messages."""
    beside = any(xml.parent == image.parent for xml in xmls)
    folder = image.parent if beside or not (root / "Annotations").is_dir() else root / "Annotations"
    return folder / f"{image.stem}.xml"


def read_voc_names(root: Path, xmls: Iterable[Path]) -> tuple[str, ...]:
    """Read names in the order of `classes.txt`, then the sorted names of other classes in the annotations."""
    file = root / CLASSES_FILE
    listed = [*dict.fromkeys(filter(None, read_lines(file)))] if file.is_file() else []
    names, broken = set[str](), ""
    for file in xmls:
        try:
            names.update(map(_name, _parse(file).iterfind("object")))
        except _AnnotationError as error:
            broken = broken or f"{file} {error.args[0]}"  # read_voc says all of them
    names.discard("")
    if not names and not listed:
        why = f": {broken}" if broken else ""
        raise UserError(f"the annotations of {root} hold no object of any class{why}")
    return (*listed, *sorted(names.difference(listed)))


def read_voc(split: VocSplit, names: Sequence[str], *, decode: bool = False) -> DataIndex:
    """Read the images and annotations of a split.

    Args:
        split: see voc_folder.
        names: the classes.
        decode: decode every image to find damage.
    """
    class_of = {name: i for i, name in enumerate(names)}
    difficult: list[int] = []
    pairs = split.pairs
    records, problems = read_records(
        [image for image, _ in pairs], lambda i, size: _read_one(*pairs[i], size, class_of, difficult), decode=decode
    )
    if any(difficult):
        text = f"{sum(difficult)} objects marked difficult are not trained on or scored"
        problems.append(Problem("set aside", pairs[0][1].parent, 0, text, count=sum(difficult)))
    return DataIndex.from_records(records, names, problems=[*split.problems, *problems])


class _AnnotationError(Exception):
    """The xml cannot be used: why, and the line of it."""


# An annotation of a thousand objects has ten thousand elements and half a megabyte.
_LARGEST, _MOST_ELEMENTS, _DEEPEST = 16 << 20, 200_000, 50


def _parse(file: Path) -> Element:
    """Read an annotation as elements with an attribute `line`."""
    builder = TreeBuilder()
    parser = expat.ParserCreate()

    depth = count = 0

    def start(tag: str, _: object) -> None:
        nonlocal depth, count
        depth, count = depth + 1, count + 1
        if depth > _DEEPEST or count > _MOST_ELEMENTS:
            what = f"is nested deeper than {_DEEPEST}" if depth > _DEEPEST else f"has more than {_MOST_ELEMENTS:,}"
            raise _AnnotationError(f"{what} elements", parser.CurrentLineNumber)
        builder.start(tag, {"line": str(parser.CurrentLineNumber)})

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        raise _AnnotationError("has a document type or entities, which are not read", parser.CurrentLineNumber)

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    try:
        with parsing(file, "xml"):
            content = read_bytes(file, _LARGEST)
            parser.Parse(decoded(content) if is_utf16(content) else content, True)  # text, whatever it declares
    except UserError as error:
        cause = error.__cause__
        if isinstance(cause, _AnnotationError):
            raise cause from None
        text, line = f"cannot be read ({error})", 0
        if isinstance(cause, expat.ExpatError | ValueError | LookupError):  # the latter for encodings
            text, line = f"is not valid xml ({cause})", getattr(cause, "lineno", 0)
        raise _AnnotationError(text, line) from error
    return builder.close()


def _named_image(file: Path) -> str:
    """Return the file name of the image that an annotation gives, which may be a path of another system; or nothing."""
    try:
        return PureWindowsPath(_parse(file).findtext("filename", "").strip()).name
    except _AnnotationError:
        return ""


def _name(item: Element) -> str:
    return item.findtext("name", "").strip()


def _read_one(
    image: Path, file: Path, size: tuple[int, int], class_of: Mapping[str, int], difficult: list[int]
) -> tuple[Record | None, list[Problem]]:
    """Read the annotation of an image; the number of its difficult objects is added to `difficult`."""
    if not file.is_file():
        record, _ = pixel_record(image, size, (0, 0), [], file)
        return record, [Problem("missing label", file, 0, "there is no annotation; the image counts as background")]
    try:
        annotation = _parse(file)
    except _AnnotationError as error:
        why, line = error.args
        return None, [Problem("unreadable label", file, line, f"{why}; the image is left out", "image")]
    items = annotation.findall("object")
    easy = [item for item in items if item.findtext("difficult", "0").strip() != "1"]
    difficult.append(len(items) - len(easy))
    objects: list[PixelObject] = []
    problems: list[Problem] = []
    for item in easy:
        name, line = _name(item), int(item.attrib["line"])
        if name not in class_of:
            problems.append(Problem("unknown class", file, line, "the object has no name; it is left out", "row"))
            continue
        try:
            left, top, right, bottom = (float(item.findtext(f"bndbox/{tag}", "")) for tag in _CORNERS)
        except ValueError:
            text = f"the {name} lacks a corner, or it is no number; it is left out"
            problems.append(Problem("unreadable label", file, line, text, "row"))
            continue
        is_flat = right <= left or bottom <= top  # a single column too: no annotator draws one on purpose
        corners = (left, top, left, top) if is_flat else (left - 1, top - 1, right, bottom)
        objects.append(PixelObject(f"the {name}", line, class_of[name], corners))
    try:
        declared = int(annotation.findtext("size/height", "")), int(annotation.findtext("size/width", ""))
    except ValueError:
        declared = 0, 0
    record, more = pixel_record(image, size, declared, objects, file)
    named = PureWindowsPath(annotation.findtext("filename", "").strip()).name
    if named and Path(named).stem != image.stem and os.path.isfile(image.parent / named):
        text = f"it says that its image is {named}, which is another one; it is read for {image.name}, as it is called"
        more.append(Problem("other image", file, 0, text))
    if not items:
        more.append(Problem("empty label", file, 0, "the annotation has no object; the image counts as background"))
    return record, problems + more
