"""Pascal VOC folders: Annotations/*.xml, ImageSets/Main/SPLIT.txt, JPEGImages.

VOC corners count pixels from 1 and include both ends (the VOC development kit), so xmin 1, xmax W covers an image of
width W: left = xmin - 1, right = xmax. A box with xmax <= xmin has no area. Class names are those of `classes.txt`, one
a line, if there is one, then the sorted names of all other objects of all annotations, whatever the split. Objects
marked difficult are not trained on or scored, as published for YOLOv5. Entities and
document types are refused, so that no xml can grow or reach out.
"""

from collections.abc import Mapping
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from boxwright.data.data_yaml import read_lines
from boxwright.data.files import in_threads
from boxwright.data.images import IMAGE_SUFFIXES
from boxwright.data.index import DataIndex, PixelObject, Problem, Record, pixel_record, read_records
from boxwright.errors import UserError

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_SET_LISTS = Path("ImageSets", "Main")
CLASSES_FILE = "classes.txt"  # may hold the order of the classes


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
    file = root / CLASSES_FILE
    listed = [*dict.fromkeys(filter(None, read_lines(file)))] if file.is_file() else []
    names: set[str] = set()
    for file in annotation_files(root):
        try:
            names.update(map(_name, _parse(file).iterfind("object")))
        except _AnnotationError:
            continue  # said by read_voc, with the file's name
    names.discard("")
    if not names and not listed:
        raise UserError(f"{root / 'Annotations'} holds no object of any class")
    return (*listed, *sorted(names.difference(listed)))


def read_voc(root: Path, split: str, *, decode: bool = False) -> DataIndex:
    """Read one image set.

    Args:
        root: the VOC folder.
        split: name of a list in ImageSets/Main.
        decode: decode every image to find damage.

    Raises:
        UserError: the list of the split is missing.
    """

    def image_of(listed: str) -> Path:
        # A line is the stem of an image, which a flag may follow (`000012  1` in the lists of a class).
        stems = dict.fromkeys((listed, listed.split()[0]))
        places = [
            root / "JPEGImages" / f"{stem}{end}" for stem in stems for end in (".jpg", "", *sorted(IMAGE_SUFFIXES))
        ]
        return next((place for place in places if place.is_file()), places[0])

    list_file = split_file(root, split)
    lines = [*filter(None, read_lines(list_file))]
    names = read_voc_names(root)
    class_of = {name: i for i, name in enumerate(names)}
    difficult: list[int] = []
    images = in_threads(image_of, lines)
    records, problems = read_records(
        images, lambda i, size: _read_one(root, images[i], size, class_of, difficult), decode=decode
    )
    if any(difficult):
        text = f"{sum(difficult)} objects marked difficult are not trained on or scored"
        problems.append(Problem("set aside", list_file, 0, text))
    return DataIndex.from_records(records, names, problems=problems)


class _AnnotationError(Exception):
    """The xml cannot be used: why, and the line of it."""


def _parse(file: Path) -> Element:
    """Read an annotation as elements with an attribute `line`."""
    builder = TreeBuilder()
    parser = expat.ParserCreate()

    def start(tag: str, _: object) -> None:
        builder.start(tag, {"line": str(parser.CurrentLineNumber)})

    def refuse(*_: object) -> None:
        raise _AnnotationError("has a document type or entities, which are not read", parser.CurrentLineNumber)

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(file.read_bytes(), True)
    except OSError as error:
        raise _AnnotationError(f"cannot be read ({error.strerror})", 0) from error
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter for encodings
        raise _AnnotationError(f"is not valid xml ({error})", getattr(error, "lineno", 0)) from error
    return builder.close()


def _name(item: Element) -> str:
    return item.findtext("name", "").strip()


def _read_one(
    root: Path, image: Path, size: tuple[int, int], class_of: Mapping[str, int], difficult: list[int]
) -> tuple[Record | None, list[Problem]]:
    """Read the annotation of an image; the number of its difficult objects is added to `difficult`."""
    file = root / "Annotations" / f"{image.stem}.xml"
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
    if not items:
        more.append(Problem("empty label", file, 0, "the annotation has no object; the image counts as background"))
    return record, problems + more
