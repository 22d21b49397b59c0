"""Pascal VOC folders: Annotations/*.xml, ImageSets/Main/SPLIT.txt, JPEGImages.

VOC corners count pixels from 1 and include both ends (the VOC development kit), so xmin 1, xmax W covers an image of
width W: left = xmin - 1, right = xmax. A box with xmax <= xmin has no area. Class names are those of `classes.txt`, one
a line, if there is one, then the sorted names of all other objects of all annotations, whatever the split. Objects
marked difficult are not trained on or scored, as published for YOLOv5. Entities and
document types are refused, so that no xml can grow or reach out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from boxwright.data.data_yaml import read_lines
from boxwright.data.files import in_threads
from boxwright.data.images import IMAGE_SUFFIXES, BrokenImageError, image_size
from boxwright.data.index import DataIndex, PixelObject, Problem, Record, pixel_record
from boxwright.errors import UserError

_CORNERS = ("bndbox/xmin", "bndbox/ymin", "bndbox/xmax", "bndbox/ymax")
_SET_LISTS = Path("ImageSets", "Main")
CLASSES_FILE = "classes.txt"


def is_voc_root(path: Path) -> bool:
    """Tell whether a folder is laid out as a VOC data set."""
    return (path / "Annotations").is_dir() and (path / _SET_LISTS).is_dir()


def split_file(root: Path, split: str) -> Path:
    """Return the list of a split's images; raise a UserError if there is none."""
    file = root / _SET_LISTS / f"{split}.txt"
    if not file.is_file():
        there = ", ".join(sorted(other.stem for other in file.parent.glob("*.txt"))) or "none"
        raise UserError(f"there is no {split} split in {root}: {file} is missing; there are {there}")
    return file


def annotation_files(root: Path) -> list[Path]:
    """List all annotations of the data set, sorted."""
    return sorted((root / "Annotations").glob("*.xml"))


def read_voc_names(root: Path) -> tuple[str, ...]:
    """Read names in the order of `classes.txt`, then the sorted names of other classes in the annotations."""
    listed = [*dict.fromkeys(filter(None, read_lines(classes_file(root))))] if classes_file(root).is_file() else []
    names: set[str] = set()
    for file in annotation_files(root):
        try:
            names.update(item.text["name"] for item in _parse(file).objects if item.text.get("name"))
        except _AnnotationError:
            continue  # said by read_voc, with the file's name
    if not names and not listed:
        raise UserError(f"{root / 'Annotations'} holds no object of any class")
    return (*listed, *sorted(names.difference(listed)))


def classes_file(root: Path) -> Path:
    """Return the file that may hold the order of the classes."""
    return root / CLASSES_FILE


def read_voc(root: Path, split: str, *, decode: bool = False) -> DataIndex:
    """Read one image set.

    Args:
        root: the VOC folder.
        split: name of a list in ImageSets/Main.
        decode: decode every image to find damage.

    Raises:
        UserError: the list of the split is missing.
    """
    list_file = split_file(root, split)
    lines = [*filter(None, read_lines(list_file))]
    names = read_voc_names(root)
    class_of = {name: i for i, name in enumerate(names)}
    results = in_threads(lambda line: _read_one(root, line, class_of, decode), lines)
    records = [record for record, _, _ in results if record is not None]
    problems = [problem for _, found, _ in results for problem in found]
    num_difficult = sum(count for _, _, count in results)
    if num_difficult:
        text = f"{num_difficult} objects marked difficult are not trained on or scored"
        problems.append(Problem("set aside", list_file, 0, text))
    return DataIndex.from_records(records, names, problems=problems)


class _AnnotationError(Exception):
    """The xml cannot be used; the text says why."""

    def __init__(self, text: str, line: int = 0) -> None:
        super().__init__(text)
        self.line = line


@dataclass(slots=True)
class _Item:
    line: int
    text: dict[str, str] = field(default_factory=dict[str, str])  # path below the object, e.g. bndbox/xmin -> text


@dataclass(slots=True)
class _Annotation:
    """What is read of an xml file, filled by the parser's calls."""

    objects: list[_Item] = field(default_factory=list[_Item])
    text: dict[str, str] = field(default_factory=dict[str, str])  # path below the root, e.g. size/width -> text
    open_tags: list[str] = field(default_factory=list[str])
    words: str = ""

    def start(self, tag: str, line: int) -> None:
        self.open_tags.append(tag)
        self.words = ""
        if self.open_tags[1:] == ["object"]:
            self.objects.append(_Item(line))

    def end(self) -> None:
        path = self.open_tags[1:]
        if path[:1] == ["object"]:
            self.objects[-1].text.setdefault("/".join(path[1:]), self.words.strip())
        else:
            self.text.setdefault("/".join(path), self.words.strip())
        self.open_tags.pop()
        self.words = ""

    def add_words(self, words: str) -> None:
        self.words += words


def _parse(file: Path) -> _Annotation:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise _AnnotationError(f"cannot be read ({error.strerror})") from error
    annotation = _Annotation()
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise _AnnotationError("has a document type or entities, which are not read", parser.CurrentLineNumber)

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = lambda tag, _: annotation.start(tag, parser.CurrentLineNumber)
    parser.EndElementHandler = lambda _: annotation.end()
    parser.CharacterDataHandler = annotation.add_words
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter for encodings
        raise _AnnotationError(f"is not valid xml ({error})", getattr(error, "lineno", 0)) from error
    return annotation


def _read_one(
    root: Path, listed: str, class_of: Mapping[str, int], decode: bool
) -> tuple[Record | None, list[Problem], int]:
    """Record and problems of one line of a list, and the number of difficult objects."""
    image = _image_of(root, listed)
    if image is None:
        path = root / "JPEGImages" / f"{listed}.jpg"
        return None, [Problem("missing image", path, 0, "there is no such file; the image is left out", "image")], 0
    try:
        size = image_size(image, decode=decode)
    except BrokenImageError as error:
        return None, [Problem("corrupt image", image, 0, f"{error}; the image is left out", "image")], 0
    file = root / "Annotations" / f"{image.stem}.xml"
    if not file.is_file():
        record, _ = pixel_record(image, size, (0, 0), [], file)
        text = "there is no annotation; the image counts as background"
        return record, [Problem("missing label", file, 0, text)], 0
    try:
        annotation = _parse(file)
    except _AnnotationError as error:
        text = f"{error}; the image is left out"
        return None, [Problem("unreadable label", file, error.line, text, "image")], 0
    easy = [item for item in annotation.objects if item.text.get("difficult", "0") != "1"]
    objects, problems = _objects(easy, file, class_of)
    try:
        declared = int(annotation.text["size/height"]), int(annotation.text["size/width"])
    except (KeyError, ValueError):
        declared = 0, 0
    record, more = pixel_record(image, size, declared, objects, file)
    if not annotation.objects:
        more.append(Problem("empty label", file, 0, "the annotation has no object; the image counts as background"))
    return record, problems + more, len(annotation.objects) - len(easy)


def _image_of(root: Path, listed: str) -> Path | None:
    """Find the image of a line: its stem, which a flag may follow (`000012  1` in the lists of a class)."""
    for stem in dict.fromkeys((listed, listed.split()[0])):
        for suffix in (".jpg", "", *sorted(IMAGE_SUFFIXES)):
            place = root / "JPEGImages" / f"{stem}{suffix}"
            if place.is_file():
                return place
    return None


def _objects(
    items: Sequence[_Item], file: Path, class_of: Mapping[str, int]
) -> tuple[list[PixelObject], list[Problem]]:
    objects: list[PixelObject] = []
    problems: list[Problem] = []
    for item in items:
        name = item.text.get("name", "")
        if name not in class_of:
            text = "the object has no name; it is left out"
            problems.append(Problem("unknown class", file, item.line, text, "row"))
            continue
        try:
            left, top, right, bottom = (float(item.text[tag]) for tag in _CORNERS)
        except (KeyError, ValueError):
            text = f"the {name} lacks a corner, or it is no number; it is left out"
            problems.append(Problem("unreadable label", file, item.line, text, "row"))
            continue
        is_flat = right <= left or bottom <= top  # a single column too: no annotator draws one on purpose
        corners = (left, top, left, top) if is_flat else (left - 1, top - 1, right, bottom)
        objects.append(PixelObject(f"the {name}", item.line, class_of[name], corners))
    return objects, problems
