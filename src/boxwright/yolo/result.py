"""What was found in one image: arrays, and the forms that other tools read.

result.boxes, result.scores, result.labels
for found in result: print(found.name, found.score, found.box)
"""

import importlib
import operator
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex, cast, overload

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageShow

from boxwright.data.images import IMAGE_SUFFIXES, read_image
from boxwright.drawing.boxes import draw_boxes
from boxwright.drawing.canvas import write_image
from boxwright.drawing.text import class_name
from boxwright.engine.run_folder import new_run_folder
from boxwright.errors import UserError
from boxwright.ops.arrays import Array, Image, Ints

WRITABLE_SUFFIXES = (".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")  # others are saved as .jpg
_CROP_GAIN, _CROP_PAD = 1.02, 10  # a crop is this much larger than its box, plus pixels; as published
_COLUMNS = ("xmin", "ymin", "xmax", "ymax")  # of a table, as published
_OTHER_NAMES = {  # what results of other tools have -> what this one has
    "xyxy": "boxes",
    "xywh": "boxes_cxcywh",
    "xyxyn": "boxes_norm",
    "xywhn": "boxes_cxcywh_norm",
    "conf": "scores",
    "cls": "labels",
    "pred": "boxes, scores and labels",
    "ims": "image",
    "imgs": "image",
    "orig_img": "image",
    "orig_shape": "image_size",
    "pandas": "to_dataframe()",
    "to_df": "to_dataframe()",
    "to_json": "to_coco()",
    "tojson": "to_coco()",
    "tolist": "to_coco()",
    "render": "draw()",
    "plot": "draw()",
    "save_crop": "crop(folder=...)",
    "verbose": "print()",
}


@dataclass(frozen=True)
class Speed:
    """Milliseconds that an image took in each stage."""

    preprocess: float
    inference: float
    nms: float
    classify: float = 0.0  # second stage, where there is one


class Found(NamedTuple):
    """One box of a result."""

    box: NDArray[np.float32]  # (4,) xyxy, pixels of the original image
    score: float  # 0..1
    label: int  # class number
    name: str  # of the class


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What was found in one image, best first."""

    boxes: NDArray[np.float32]  # (N, 4) xyxy, pixels of the original image
    scores: NDArray[np.float32]  # (N,) 0..1
    labels: Ints  # (N,) class numbers
    names: tuple[str, ...]  # of the classes of the network
    path: Path | None  # the file, where there was one
    image_size: tuple[int, int]  # height, width of the original image
    input_size: tuple[int, int]  # height, width that the network saw
    speed: Speed
    number: int | None = None  # of the frame in its video, from 1
    image: Image | None = None  # (H, W, 3) RGB, kept where no image file has it

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[Found]:
        """Yield the boxes one by one, best first."""
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, which: SupportsIndex) -> Found: ...
    @overload
    def __getitem__(self, which: slice | Sequence[int] | Array) -> "Result": ...
    def __getitem__(self, which: SupportsIndex | slice | Sequence[int] | Array) -> "Found | Result":
        """Return one box, or a result with some of them: a slice, indices, or a mask as `result.scores > 0.5`."""
        try:
            at = range(len(self))[operator.index(cast(SupportsIndex, which))]  # an IndexError for what is beyond
        except TypeError:  # no single number
            chosen = which if isinstance(which, slice) else np.asarray(which)
            if isinstance(chosen, np.ndarray) and not chosen.size:
                chosen = slice(0, 0)  # an empty list has no type
            return replace(self, boxes=self.boxes[chosen], scores=self.scores[chosen], labels=self.labels[chosen])
        label = int(self.labels[at])
        return Found(self.boxes[at], float(self.scores[at]), label, self.names[label])

    def __getattr__(self, name: str) -> Any:
        """Name what stands here for an attribute that results of other tools have."""
        hint = f": it is {_OTHER_NAMES[name]} here" if name in _OTHER_NAMES else ""
        raise AttributeError(f"a Result has no {name}{hint}")

    def __repr__(self) -> str:
        return f"<Result of {self.described()}>"

    def described(self) -> str:
        """Say image, size and number of boxes of each class in one line."""
        place = "an array" if self.path is None else str(self.path)
        frame = "" if self.number is None else f", frame {self.number}"
        counts = ", ".join(f"{number} {name}" for name, number in self.counts().items()) or "nothing found"
        return f"{place}{frame}, {self.image_size[1]}x{self.image_size[0]}: {counts}"

    @property
    def boxes_cxcywh(self) -> NDArray[np.float32]:
        """(N, 4) centre, width and height in pixels of the original image."""
        corners, far = self.boxes[:, :2], self.boxes[:, 2:]
        return np.concatenate(((corners + far) / 2, far - corners), axis=1)

    @property
    def boxes_norm(self) -> NDArray[np.float32]:
        """(N, 4) xyxy as shares of width and height."""
        return self.boxes / self._sides

    @property
    def boxes_cxcywh_norm(self) -> NDArray[np.float32]:
        """(N, 4) centre, width and height as shares of width and height, as in YOLO label files."""
        return self.boxes_cxcywh / self._sides

    @property
    def _sides(self) -> NDArray[np.float32]:
        height, width = self.image_size
        return np.array((width, height, width, height), np.float32)

    def counts(self) -> dict[str, int]:
        """Count the boxes of each class, in the order of the classes."""
        found, numbers = np.unique(self.labels, return_counts=True)
        return {self.names[int(label)]: int(n) for label, n in zip(found, numbers, strict=True)}

    def captions(self, *, names: bool = True, scores: bool = True) -> list[str]:
        """Write a label for each box, as pictures can show it."""
        return [
            f"{class_name(self.names, int(label))}{f' {score:.2f}' if scores else ''}" if names else ""
            for label, score in zip(self.labels, self.scores, strict=True)
        ]

    def draw(self, image: Image | None = None, *, line_thickness: int = 3) -> Image:
        """Return the image with its boxes, (H, W, 3) RGB.

        Args:
            image: (H, W, 3) RGB; by default the one that was predicted on, a file is read again.
            line_thickness: pixels.
        """
        pixels = self._pixels("draw", image)
        drawn = draw_boxes(pixels[..., ::-1], self.boxes, self.captions(), self.labels, line_thickness=line_thickness)
        return np.ascontiguousarray(drawn[..., ::-1])

    def crop(self, image: Image | None = None, *, folder: str | Path = "", stem: str = "") -> list[Image]:
        """Cut out each box with a narrow border, (h, w, 3) RGB; with a folder, write them to it as CLASS/STEM_i.jpg.

        Args:
            image: (H, W, 3) RGB; by default the one that was predicted on.
            folder: where to write them; empty: nowhere.
            stem: beginning of the file names; empty: the name of the image.
        """
        pixels = self._pixels("crop", image)
        height, width = self.image_size
        crops: list[Image] = []
        for i, (box, label) in enumerate(zip(self.boxes, self.labels, strict=True)):
            centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * _CROP_GAIN + _CROP_PAD / 2
            left, top = np.maximum(centre - half, 0).astype(int)
            right, bottom = np.minimum(centre + half, (width, height)).astype(int)
            crops.append(np.ascontiguousarray(pixels[top:bottom, left:right]))
            if folder and crops[-1].size:
                # A class name comes from a weight file and must not lead out of the folder.
                place = Path(folder) / (re.sub(r"[^\w .-]", "_", self.names[int(label)]).strip(". ") or "_")
                place.mkdir(parents=True, exist_ok=True)
                write_image(place / f"{stem or self._stem}_{i}.jpg", crops[-1][..., ::-1])
        return crops

    def save(self, target: str | Path = "", *, line_thickness: int = 3) -> Path:
        """Write the image with its boxes; return the file.

        Args:
            target: an image file by its suffix, else a folder; empty: a new run folder below runs/predict.
            line_thickness: pixels.
        """
        file = Path(target)
        drawn = self.draw(line_thickness=line_thickness)
        if file.suffix.lower() not in WRITABLE_SUFFIXES:
            folder = file if str(target) else new_run_folder("runs/predict", "exp", False)
            suffix = self.path.suffix.lower() if self.path and self.number is None else ""
            file = folder / f"{self._stem}{suffix if suffix in WRITABLE_SUFFIXES else '.jpg'}"
        if self.path is not None and file.exists() and self.path.exists() and file.samefile(self.path):
            raise UserError(f"{file} is the image itself; name another file or folder")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_image(file, drawn[..., ::-1])
        return file

    def show(self) -> None:
        """Show the image with its boxes: in a notebook below the cell, else in the system's picture viewer."""
        picture = PIL.Image.fromarray(self.draw())
        notebook = sys.modules.get("IPython")
        if notebook is not None and getattr(notebook.get_ipython(), "kernel", None) is not None:
            notebook.display.display(picture)
        elif not ImageShow.show(picture, title=self._stem):
            raise UserError("there is no program to show pictures with here: save() writes the image to a file")

    def print(self) -> None:
        """Print image, size, number of boxes of each class and time in one line."""
        print(f"{self.described()}, {self.speed.inference:.1f} ms")

    def to_coco(self, image_id: int | None = None, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """List the boxes in COCO results form: box as left, top, width, height in pixels, best first.

        Args:
            image_id: of the ground truth; by default the number that the file is named by. Where there is none, the
                name of the file stands in its place and as `file_name`.
            category_ids: of the ground truth, one a class; by default the number of the class.
        """
        stem = self.path.stem if self.path is not None else ""
        number = int(stem) if image_id is None and stem.isdecimal() else image_id
        place: dict[str, Any] = {"image_id": stem if number is None else number}
        if self.path is not None:
            place["file_name"] = str(self.path)
        if self.number is not None:
            place["frame"] = self.number
        return [
            {
                **place,
                "category_id": int(label) if category_ids is None else int(category_ids[int(label)]),
                "category": self.names[int(label)],
                "bbox": [round(float(n), 3) for n in (*box[:2], *(box[2:] - box[:2]))],
                "score": round(float(score), 5),
            }
            for box, score, label in zip(self.boxes, self.scores, self.labels, strict=True)
        ]

    def to_dataframe(self) -> Any:
        """Make a pandas table: xmin, ymin, xmax, ymax, confidence, class, name.

        Raises:
            UserError: pandas is not installed.
        """
        pandas = _library("pandas", "to_dataframe()")
        columns = dict(zip(_COLUMNS, self.boxes.T, strict=True))
        names = np.array([self.names[int(label)] for label in self.labels], dtype=object)  # text also without boxes
        return pandas.DataFrame({**columns, "confidence": self.scores, "class": self.labels, "name": names})

    def to_supervision(self) -> Any:
        """Make a `supervision.Detections`.

        Raises:
            UserError: supervision is not installed.
        """
        supervision = _library("supervision", "to_supervision()")
        names = np.array([self.names[int(label)] for label in self.labels], dtype=str)
        return supervision.Detections(
            xyxy=self.boxes, confidence=self.scores, class_id=self.labels.astype(int), data={"class_name": names}
        )

    def to_label_studio(self, image: str) -> dict[str, Any]:
        """Make a task of Label Studio with the boxes as its pre-annotation.

        Args:
            image: address that Label Studio finds the image at.
        """
        height, width = self.image_size
        marks: list[dict[str, Any]] = []
        for i, (box, score, label) in enumerate(zip(self.boxes_norm, self.scores, self.labels, strict=True)):
            left, top, right, bottom = (float(side) * 100 for side in box)
            place = {"x": left, "y": top, "width": right - left, "height": bottom - top, "rotation": 0}
            mark = {
                "id": str(i),
                "type": "rectanglelabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {**place, "rectanglelabels": [self.names[int(label)]]},
                "score": float(score),
            }
            marks.append(mark)
        score = float(self.scores.mean()) if len(self) else 0.0
        return {
            "data": {"image": image},
            "predictions": [{"model_version": "boxwright", "score": score, "result": marks}],
        }

    @property
    def _stem(self) -> str:
        """Return the name of the image for files that are made of it."""
        stem = "array" if self.path is None else self.path.stem
        return stem if self.number is None else f"{stem}_{self.number}"

    def _pixels(self, action: str, given: Image | None) -> Image:
        """Return the image, (H, W, 3) RGB: the given one, the kept one, or the file read again."""
        image = self.image if given is None else given
        if image is None and self.path is not None and self.path.suffix.lower() in IMAGE_SUFFIXES:
            image = read_image(self.path)[..., ::-1]
        if image is None:
            origin = f"frame {self.number} of {self.path}" if self.path else "an array"
            kept = " (stream=True keeps each frame while it is used)" if self.path else ""
            raise UserError(f"this result comes from {origin}: give {action}() the image{kept}")
        if image.shape[:2] != self.image_size:
            height, width = self.image_size
            raise UserError(f"{action}() needs the image of this result, {width}x{height}, not one of {image.shape}")
        return image


def _library(name: str, method: str) -> Any:
    """Import a library that only some use.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{method} needs {name}: pip install {name}") from error
