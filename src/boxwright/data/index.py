"""The data index: one split's images and labels as flat arrays, which workers share and whose memory does not grow.

Objects with corners in pixels (COCO, VOC) become normalised rows on the way: clipped, without empty or double ones.
What is not here: reading labels (yolo_txt, coco, voc), keeping the index on disk (cache).

Legend: N images, T boxes of all images, P polygon vertices of all boxes.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from boxwright.data.files import in_threads
from boxwright.data.identity import describe_images
from boxwright.data.images import TURNED, BrokenImageError, image_size, orientation
from boxwright.errors import UserError
from boxwright.ops.arrays import Array, Floats, Ints
from boxwright.reading import parsing, place_in_tar
from boxwright.terminal import one_line

ProblemKind = Literal[
    "missing image",
    "corrupt image",
    "missing label",
    "empty label",
    "unreadable label",
    "out of range",
    "column count",
    "duplicate",
    "unknown class",
    "degenerate box",
    "shared image",
    "fractional class",
    "mixed rows",
    "size mismatch",
    "shared label",
    "label without image",
    "set aside",
    "mask as box",
    "no box",
    "root category",
    "category twice",
    "repeated id",
    "other image",
    "unreadable split",
    "missing split",
    "missing table",
    "unreadable table",
    "missing radar sweep",
    "corrupt radar sweep",
    "sample without camera",
    "sample without radar",
    "doubtful intrinsics",
    "class without boxes",
]

MOST_CLASSES = 100_000  # of a data set


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a data set."""

    kind: ProblemKind  # what it is
    path: Path  # the file that has it
    line: int  # 1-based line in that file; 0 for the file as a whole
    text: str  # one sentence for the user
    # "image" or "row" when training leaves it out, "" when it is only worth knowing
    drops: Literal["", "row", "image"] = ""
    count: int = 1  # objects that it stands for

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else str(self.path)
        return one_line(f"{place}: {self.text}")


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One image on its way into the index."""

    path: Path  # image file
    height: int  # pixels after EXIF rotation
    width: int
    classes: NDArray[np.int32]  # (n,) class indices
    boxes: NDArray[np.float32]  # (n, 4) cxcywh, normalised to the image
    polygons: tuple[NDArray[np.float32], ...] = ()  # per box (k, 2) normalised vertices, empty where there is none
    image_id: int = -1  # identifier in a COCO ground truth; -1 if it has none


@dataclass(frozen=True, slots=True, eq=False)
class DataIndex:
    """A split of a data set. Its arrays are read-only: they may be a file that is mapped into memory."""

    names: tuple[str, ...]  # class names
    path_bytes: NDArray[np.uint8]  # image paths in the file system's encoding, one after the other
    path_offsets: Ints  # (N + 1,) where each path begins in path_bytes
    sizes: NDArray[np.int32]  # (N, 2) int32 height, width after EXIF rotation
    box_offsets: Ints  # (N + 1,) int64; boxes of image i are rows box_offsets[i] to box_offsets[i + 1]
    classes: NDArray[np.int32]  # (T,) int32
    boxes: NDArray[np.float32]  # (T, 4) float32 cxcywh, normalised to the image
    point_offsets: Ints  # (T + 1,) int64 into points
    points: NDArray[np.float32]  # (P, 2) float32 polygon vertices, normalised
    image_ids: Ints  # (N,) int64 COCO image ids, or positions
    category_ids: tuple[int, ...]  # COCO category id of each class
    annotations: Path | None = None  # COCO ground truth to evaluate against, if there is one
    problems: tuple[Problem, ...] = field(default=(), repr=False)  # what was found while reading

    def __post_init__(self) -> None:
        for name in ARRAYS:
            getattr(self, name).flags.writeable = False

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def path(self, image: int) -> Path:
        """Return the file of image number `image`."""
        start, stop = self.path_offsets[image], self.path_offsets[image + 1]
        return Path(os.fsdecode(self.path_bytes[start:stop].tobytes()))

    @property
    def paths(self) -> list[Path]:
        return [self.path(image) for image in range(len(self))]

    def labels(self, image: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return classes (n,) and normalised cxcywh boxes (n, 4) of an image; views, not to be written to."""
        rows = slice(self.box_offsets[image], self.box_offsets[image + 1])
        return self.classes[rows], self.boxes[rows]

    def polygons(self, image: int) -> list[NDArray[np.float32]]:
        """Return normalised vertices (k, 2) of each box of an image, k = 0 where a box has no polygon."""
        bounds = self.point_offsets[self.box_offsets[image] : self.box_offsets[image + 1] + 1]
        return [self.points[start:stop] for start, stop in pairwise(bounds)]

    def records(self) -> list[Record]:
        """Return the images one by one, with their labels."""
        ids: list[int] = self.image_ids.tolist()
        return [
            Record(path, int(height), int(width), *self.labels(i), tuple(self.polygons(i)), ids[i])
            for i, (path, (height, width)) in enumerate(zip(self.paths, self.sizes, strict=True))
        ]

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint notes of these images, see `identity`."""
        sizes = self.sizes.astype(np.int32)
        names = (os.fsencode(path.name) + size.tobytes() for path, size in zip(self.paths, sizes, strict=True))
        return describe_images(names, [self.box_offsets.tobytes(), self.classes.tobytes(), self.boxes.tobytes()])

    def as_single_class(self) -> "DataIndex":
        """Return the same images with every box of one class: `item`, or the only name there is."""
        names = self.names if len(self.names) == 1 else ("item",)
        return replace(self, names=names, classes=np.zeros_like(self.classes), category_ids=(1,), annotations=None)

    @classmethod
    def from_records(
        cls,
        records: Sequence[Record],
        names: Sequence[str],
        *,
        category_ids: Sequence[int] | None = None,
        annotations: Path | None = None,
        problems: Sequence[Problem] = (),
    ) -> "DataIndex":
        """Pack records into flat arrays, in their order.

        Raises:
            UserError: more than `MOST_CLASSES`, which is a slip of the finger or worse.
        """
        if len(names) > MOST_CLASSES:
            raise UserError(f"a data set of {len(names):,} classes; at most {MOST_CLASSES:,} are possible")
        image_ids = np.array([record.image_id for record in records], dtype=np.int64)
        stems = {record.path.stem for record in records}
        if (image_ids < 0).any():
            # No ids of a ground truth: the file stems if all are distinct numbers, as in COCO, else positions.
            image_ids = np.arange(len(records), dtype=np.int64)
            if all(stem.isascii() and stem.isdigit() and len(stem) < 19 for stem in stems):
                numbers = np.array([int(record.path.stem) for record in records], dtype=np.int64)
                image_ids = numbers if len(np.unique(numbers)) == len(numbers) else image_ids
        encoded = [os.fsencode(record.path) for record in records]
        polygons = [points for record in records for points in record.polygons or (_NO_POINTS,) * len(record.classes)]
        return cls(
            names=tuple(map(one_line, names)),
            path_bytes=np.frombuffer(b"".join(encoded), dtype=np.uint8),
            path_offsets=_offsets([len(path) for path in encoded]),
            sizes=np.array([(record.height, record.width) for record in records], dtype=np.int32).reshape(-1, 2),
            box_offsets=_offsets([len(record.classes) for record in records]),
            classes=_joined([record.classes for record in records], (0,), np.int32),
            boxes=_joined([record.boxes for record in records], (0, 4), np.float32),
            point_offsets=_offsets([len(polygon) for polygon in polygons]),
            points=_joined(polygons, (0, 2), np.float32),
            image_ids=image_ids,
            category_ids=tuple(category_ids) if category_ids is not None else tuple(range(1, len(names) + 1)),
            annotations=annotations,
            problems=tuple(problems),
        )


# What the cache maps from its file, in this order.
ARRAYS = tuple("path_bytes path_offsets sizes box_offsets classes boxes point_offsets points image_ids".split())


def _offsets(counts: Sequence[int]) -> Ints:
    return np.concatenate(([0], np.cumsum(counts, dtype=np.int64))).astype(np.int64)


def _joined(parts: Sequence[Array], empty: tuple[int, ...], dtype: type) -> Array:
    return np.concatenate([np.zeros(empty, dtype), *(np.asarray(p, dtype).reshape(-1, *empty[1:]) for p in parts)])


def join_records(first: Record, second: Record) -> Record:
    """Return an image with the boxes of two records of it, each box once."""
    rows = [*zip(first.classes.tolist(), map(tuple, first.boxes.tolist()), strict=True)]
    new = [row not in rows for row in zip(second.classes.tolist(), map(tuple, second.boxes.tolist()), strict=True)]
    polygons = [record.polygons or (_NO_POINTS,) * len(record.classes) for record in (first, second)]
    return replace(
        first,
        classes=np.concatenate((first.classes, second.classes[new])),
        boxes=np.concatenate((first.boxes, second.boxes[new])),
        polygons=(*polygons[0], *(points for points, is_new in zip(polygons[1], new, strict=True) if is_new)),
    )


_NO_POINTS = np.zeros((0, 2), np.float32)


def read_records(
    images: Sequence[Path],
    read: Callable[[int, tuple[int, int]], tuple[Record | None, list[Problem]]],
    *,
    decode: bool = False,
) -> tuple[list[Record], list[Problem]]:
    """Read sizes and labels of image files, in threads. Broken images are left out and named among the problems.

    Args:
        images: image files.
        read: reads the labels of an image, given its position in `images` and its height and width.
        decode: decode every image to find damage.
    """

    def read_one(i: int) -> tuple[Record | None, list[Problem]]:
        try:
            size = image_size(images[i], decode=decode)
        except BrokenImageError as error:
            is_there = os.path.lexists(images[i]) or place_in_tar(images[i])
            kind = "corrupt image" if is_there else "missing image"
            return None, [Problem(kind, images[i], 0, f"{error.why}; the image is left out", "image")]
        with parsing(images[i], "annotation"):
            return read(i, size)

    results = in_threads(read_one, range(len(images)))
    records = [record for record, _ in results if record is not None]
    return records, [problem for _, problems in results for problem in problems]


_LARGEST_SIDE = 1 << 31  # pixels; a larger number in an annotation is none
_OUTSIDE = 1.0  # pixels that a box may stick out before it is worth a word


@dataclass(frozen=True, slots=True)
class PixelObject:
    """One labelled object."""

    label: str  # what to call it in messages, e.g. `annotation 17`.
    line: int  # its line in the annotation file, 0 if unknown
    class_index: int  # position in the names
    # left, top, right, bottom in pixels; edges, so that 0 and the width are the image's borders
    corners: tuple[float, float, float, float]
    polygon: Floats | None = None  # (k, 2) vertices in pixels, or None


def _turned(item: PixelObject, turn: int, height: int, width: int) -> PixelObject:
    """Turn an object with its image of this size as an EXIF orientation that swaps its sides does."""

    def point(x: Floats, y: Floats) -> Floats:
        across, down = (height - y if turn in (6, 7) else y), (width - x if turn in (7, 8) else x)
        return np.stack((across, down), axis=-1)

    x, y = np.array(item.corners[0::2]), np.array(item.corners[1::2])
    ends = point(x, y)
    corners = (*ends.min(axis=0).tolist(), *ends.max(axis=0).tolist())
    polygon = None if item.polygon is None else point(*item.polygon.T)
    return replace(item, corners=cast("tuple[float, float, float, float]", corners), polygon=polygon)


def pixel_record(
    image: Path,
    size: tuple[int, int],
    declared: tuple[int, int],
    objects: Sequence[PixelObject],
    file: Path,
    image_id: int = -1,
) -> tuple[Record, list[Problem]]:
    """Make a record of an image's objects.

    Args:
        image: image file.
        size: its height and width in pixels.
        declared: height and width that the annotation gives; zeros if it gives none. Corners are in its pixels.
        objects: what was annotated.
        file: the annotation, for messages.
        image_id: COCO id of the image, -1 without.
    """
    problems: list[Problem] = []
    frame = declared if min(declared) > 0 and max(declared) < _LARGEST_SIDE else size
    if frame != size:
        done = "boxes are scaled"
        if frame == size[::-1]:
            # Drawn on the image as it is stored, or width and height were mistaken for each other.
            turn = orientation(image)
            objects = [_turned(item, turn, *frame) for item in objects] if turn in TURNED else objects
            done = "boxes are turned with it, as its EXIF entry says" if turn in TURNED else "boxes stay as they are"
            frame = size
        text = f"says that {image.name} has {declared[1]} x {declared[0]} pixels, it has {size[1]} x {size[0]}; {done}"
        problems.append(Problem("size mismatch", file, 0, text))
    height, width = float(frame[0]), float(frame[1])
    rows: dict[tuple[float, ...], NDArray[np.float32]] = {}  # class and box -> polygon, in order
    for item in objects:  # plain numbers: quicker than arrays of four
        left, top, right, bottom = item.corners
        x1, y1, x2, y2 = max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)
        if not (x2 > x1 and y2 > y1):  # also NaN
            text = f"{item.label} has no area in {image.name}; it is left out"
            problems.append(Problem("degenerate box", file, item.line, text, "row"))
            continue
        centre = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height)
        row = (item.class_index, *centre, (x2 - x1) / width, (y2 - y1) / height)
        if row in rows:
            text = f"{item.label} stands there a second time; it is left out"
            problems.append(Problem("duplicate", file, item.line, text, "row"))
            continue
        if max(x1 - left, y1 - top, right - x2, bottom - y2) > _OUTSIDE:
            problems.append(Problem("out of range", file, item.line, f"{item.label} reaches out of {image.name}"))
        polygon = np.zeros((0, 2)) if item.polygon is None else np.clip(item.polygon / (width, height), 0, 1)
        rows[row] = polygon.astype(np.float32)
    table = np.array(list(rows), dtype=np.float64).reshape(-1, 5)
    classes, boxes = table[:, 0].astype(np.int32), table[:, 1:].astype(np.float32)
    return Record(image, *size, classes, boxes, tuple(rows.values()), image_id), problems
