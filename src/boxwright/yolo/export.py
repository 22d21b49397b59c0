"""What exported YOLO files are: the graph that is written, NMS behind it, the file as a network, its verification.

Every file gives rows, (B, R, 5 + classes) as `Network.decode` gives them, or with NMS in the graph detections, (N, 7):
image number, cxcywh in input pixels, score, class. NCNN's give the maps of the predictors, which are decoded here.
"""

import ast
import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from boxwright.data.structures import Detections
from boxwright.errors import UserError
from boxwright.inference.exported import ExportedFile, ExportInfo, largest_difference, open_exported, require
from boxwright.ops.boxes import pairwise_iou
from boxwright.reading import parsing
from boxwright.terminal import counted, one_line
from boxwright.yolo.darknet import YoloLayer
from boxwright.yolo.detection import LARGEST_SIDE, LARGEST_STRIDE, MOST_CLASSES, BoxCoding, DetectionModel, Network
from boxwright.yolo.head import DetectHead, decode_level
from boxwright.yolo.postprocess import YoloPostprocess
from boxwright.yolo.published import CURRENT, RELEASES

_log = logging.getLogger("boxwright.export")

ROWS, DETECTIONS, MAPS = "rows", "detections", "maps"
OUTPUT = "output0"  # the name that programs for published files look for
_PUBLISHED_STRIDE = 32  # where a published file says none
_LARGEST_BATCH = 4096
_SAME_IOU = 0.9  # of two detections that count as the same


@dataclass(frozen=True, slots=True)
class YoloInfo(ExportInfo):
    """What an exported YOLO file says about itself."""

    system: ClassVar[str] = "YOLO"

    strides: tuple[int, ...]  # input pixels per cell of each level
    output: str  # "rows", "detections" or "maps"
    release: str = CURRENT  # whose letterbox, NMS and validation predict and val take; older files do not say it
    imgsz: tuple[int, int] | None = None  # height, width that it was exported for; files of older versions have none
    batch: int | None = None  # images per call where that is fixed
    anchors: tuple[tuple[tuple[float, float], ...], ...] = ()  # of maps: width, height in input pixels
    codings: tuple[BoxCoding, ...] = ()  # of maps, one per level

    @property
    def published(self) -> dict[str, str]:
        return {"stride": str(max(self.strides)), "names": str(dict(enumerate(self.names)))}

    def __post_init__(self) -> None:
        if self.release not in RELEASES:
            raise ValueError(f"the release {self.release!r} is not known")
        if not 0 < len(self.names) <= MOST_CLASSES:
            raise ValueError(f"it has {len(self.names)} class names")
        if not self.strides or not all(1 <= stride <= LARGEST_STRIDE for stride in self.strides):
            raise ValueError(f"its strides are {list(self.strides)[:10]}")
        sides = (*(self.input_size or ()), *(self.imgsz or ()))
        if not all(1 <= side <= LARGEST_SIDE for side in sides) or not 1 <= (self.batch or 1) <= _LARGEST_BATCH:
            raise ValueError(f"its images are {sides[-1] if sides else 0} pixels wide, {self.batch or 1} at a time")
        if self.output not in (ROWS, DETECTIONS, MAPS):
            raise ValueError(f"its output is {self.output!r}")
        if self.output == MAPS and not len(self.anchors) == len(self.codings) == len(self.strides):
            raise ValueError("its anchors, strides and levels do not agree")


def read_published(file: ExportedFile, path: Path) -> YoloInfo:
    """Describe a file that a published YOLOv5 exported: literal class names and stride, and one output of rows.

    Raises:
        UserError: its output is something else, or what it says is malformed.
    """
    shape = next((shape for shape in file.outputs.values() if len(shape) == 3), None)
    width = shape[-1] if shape else None
    try:
        names = file.others.get("names")
        names = ast.literal_eval(names) if isinstance(names, str) else names
        if isinstance(names, Mapping):
            names = [name for _, name in sorted((int(k), v) for k, v in cast("dict[Any, Any]", names).items())]
        if names is None and width is not None and 5 < width <= 5 + MOST_CLASSES:
            names = range(width - 5)
            _log.warning("%s does not say its class names: they are the numbers 0 to %d", path, width - 6)
        names = TypeAdapter(tuple[str, ...]).validate_python([*map(str, names or ())])
        strides = (TypeAdapter(int).validate_python(file.others.get("stride", _PUBLISHED_STRIDE)),)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise UserError(f"{path}: its names or stride are no plain values") from error
    about = f"{path} is neither exported by Boxwright nor by a published YOLOv5"
    if not names or (file.outputs and not shape):
        raise UserError(f"{about}: it has no class names, or no output of rows (images, n, 5 + classes)")
    if width is not None and width != 5 + len(names):
        raise UserError(f"{about}: its rows have {width} numbers, not 5 + {len(names)} classes")
    images = file.inputs[0] if file.inputs else ()
    batch, height, across = (images[0], images[2], images[3]) if len(images) == 4 else (None, None, None)
    with parsing(path, "exported network"):
        return YoloInfo(names, (height, across) if height and across else None, strides, ROWS, batch=batch)


class ExportedNetwork(Network):
    """A file in the place of a checkpoint's network. Its rows come decoded; `decode` passes them on.

    Args:
        path: `.onnx`, `.torchscript`, `.xml`, or a folder `*_openvino_model` or `*_ncnn_model`, of ours or published.
        device: where it runs, see `open_exported`.

    Raises:
        UserError: missing, unreadable, of another kind of network, or its library is not installed.
    """

    size_is: str = "exported for"

    def __init__(self, path: str | Path, device: torch.device) -> None:
        super().__init__()
        file = open_exported(Path(path), device)
        self._run, self._path = file.run, Path(path)
        self.info = YoloInfo.from_json(file.metadata, Path(path)) if file.metadata else read_published(file, Path(path))
        self.names, self.release = tuple(map(one_line, self.info.names)), self.info.release
        self.input_size = self.info.input_size
        self.strides, self.trained_size = self.info.strides, self.info.imgsz

    def forward(self, images: Tensor) -> list[Tensor]:
        if self.input_size is not None and tuple(images.shape[2:]) != self.input_size:
            height, width = self.input_size
            raise UserError(f"this file takes images of {width}x{height} pixels only: it was exported with --static")
        size = self.info.batch or len(images)
        return [torch.cat([self._rows(part, size) for part in images.float().split(size)]).to(images.device)]

    def _rows(self, images: Tensor, size: int) -> Tensor:
        """Compute the rows of some images; a file of a fixed batch gets black ones besides."""
        with parsing(self._path, "YOLO network"):
            padding = images.new_zeros(size - len(images), *images.shape[1:])
            found = self._run({"images": torch.cat((images, padding))})
            if self.info.output == MAPS:
                return self._decode(list(found.values()))
            if self.info.output == DETECTIONS:
                (rows,) = found.values()
                of_form = rows.ndim == 2 and rows.shape[1] == 7
                if not of_form or not all_below(rows[:, 0], size) or not all_below(rows[:, 6], self.num_classes):
                    raise ValueError("its detections are no rows of image, x, y, width, height, score and class")
                return rows_of_detections(rows, size, self.num_classes)[: len(images)]
            # Published files may give their maps besides.
            rows = next((value for value in found.values() if value.ndim == 3), None)
            if rows is None or rows.shape[-1] != 5 + self.num_classes:
                raise UserError(
                    f"{self._path} gives no rows of 5 + {self.num_classes} numbers: it is another network's"
                )
            return rows[: len(images)].float()

    def _decode(self, maps: list[Tensor]) -> Tensor:
        rows: list[Tensor] = []
        levels = zip(maps, self.info.anchors, self.strides, self.info.codings, strict=True)
        for own, anchors, stride, coding in levels:
            raw = own.unflatten(1, (len(anchors), -1)).permute(0, 1, 3, 4, 2)
            rows.append(decode_level(raw, torch.tensor(anchors), stride, coding))
        return torch.cat(rows, dim=1)

    def decode(self, raw: list[Tensor]) -> Tensor:
        return raw[0]


def all_below(numbers: Tensor, count: int) -> bool:
    """Tell whether numbers of things, any shape, are from 0 to `count` - 1."""
    return bool(((numbers >= 0) & (numbers < count)).all())


def rows_of_detections(found: Tensor, num_images: int, num_classes: int) -> Tensor:
    """Turn (N, 7) detections into (B, R, 5 + classes) rows: objectness is the score, class scores are 1 and 0.

    So the NMS that every network goes through finds them again. Rows that an image does not need are 0.
    """
    image = found[:, 0].long()
    counts = torch.bincount(image, minlength=num_images)
    # Sorted by image, the row of a detection is its position less the number of detections of earlier images.
    order = torch.argsort(image, stable=True)
    image = image[order]
    position = torch.arange(len(image)) - (counts.cumsum(0) - counts)[image]
    rows = torch.zeros(num_images, int(counts.max()) if len(found) else 0, 5 + num_classes)
    rows[image, position, :5] = found[order, 1:6]
    rows[image, position, 5 + found[order, 6].long()] = 1
    return rows


class _MapsHead(DetectHead):
    """The head of a yaml network whose maps stay as they are."""

    def forward(self, *features: Tensor) -> list[Tensor]:
        return [conv(feature) for conv, feature in zip(self.m, features, strict=True)] if len(self.m) else [*features]


class _MapsLayer(YoloLayer):
    """An output of a cfg network whose map stays as it is."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def predict_maps(model: DetectionModel) -> DetectionModel:
    """Copy a network so that it gives the maps of its predictors as they are, (B, A * (5 + classes), H, W) a level.

    Views of five dimensions need sizes that a file with free sides would have to compute.
    """
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if isinstance(module, DetectHead):
            module.__class__ = _MapsHead
        elif isinstance(module, YoloLayer):
            module.__class__ = _MapsLayer
    return model


class ExportRows(nn.Module):
    """Images to decoded rows: the numbers of `DetectionModel.decode` by plain operators, nothing written in place.

    Args:
        model: fused, in eval mode; it is copied.
        free: cells are counted by running sums, which need no sizes: for an ONNX file of free sides.
    """

    anchors: Tensor  # (L, A, 2) width, height in input pixels

    def __init__(self, model: DetectionModel, *, free: bool = False) -> None:
        super().__init__()
        self.network, self.free = predict_maps(model), free
        self.register_buffer("anchors", model.anchors.float() * torch.tensor(model.strides).view(-1, 1, 1))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Compute (B, rows, 5 + classes) float32, cxcywh in input pixels and scores, from (B, 3, H, W) in 0..1."""
        dtype = next(self.network.parameters()).dtype
        network = self.network
        levels = zip(network(images.to(dtype)), self.anchors, network.strides, network.box_codings, strict=True)
        return torch.cat([self._decode(*level) for level in levels], dim=1)

    def _decode(self, maps: Tensor, anchors: Tensor, stride: int, coding: BoxCoding) -> Tensor:
        """Decode the map of a level with the cells of its grid as one dimension."""
        one = maps[:1, :1].float().sigmoid() * 0 + 1 if self.free else torch.ones_like(maps[:1, :1]).float()
        cells = tuple((one.cumsum(axis) - 1).reshape(1, 1, -1, 1, 1) for axis in (3, 2))
        rows = maps.reshape(maps.shape[0], len(anchors), self.network.num_classes + 5, -1).transpose(2, 3)
        return decode_level(rows.unsqueeze(3), anchors, stride, coding, (cells[0], cells[1]))


def append_nms(
    model: Any,
    num_classes: int,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    agnostic: bool = False,
) -> None:
    """Put the standard NonMaxSuppression operator behind the rows of a graph: one class a box.

    Args:
        model: an ONNX graph of opset 18 with output `OUTPUT`, (B, R, 5 + classes); it is changed.
        num_classes: of the network.
        score_threshold: lowest objectness times class score.
        iou_threshold: overlap above which the weaker box goes.
        max_detections: most boxes of a class in an image, or with `agnostic` of an image.
        agnostic: boxes of different classes suppress each other, too.
    """
    onnx = require("onnx")
    node, array = onnx.helper.make_node, onnx.numpy_helper.from_array
    constants: dict[str, Any] = {
        "nms/parts": np.array([4, 1, num_classes]),
        "nms/image": np.array([0]),
        "nms/last": np.array([-1]),
        "nms/image_and_box": np.array([0, 2]),
        "nms/class": np.array([1]),
        "nms/zero": np.array(0, np.float32),
        "nms/most": np.array(max_detections),
        "nms/iou": np.array(iou_threshold, np.float32),
        "nms/score": np.array(score_threshold, np.float32),
    }
    model.graph.initializer.extend(array(value, name) for name, value in constants.items())
    for own in model.graph.node:  # the rows are no output any more
        own.output[:] = ["nms/rows" if name == OUTPUT else name for name in own.output]
    model.graph.node.extend(_nms_nodes(node, onnx.TensorProto.FLOAT, agnostic=agnostic))
    del model.graph.output[:]
    output = onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["found", 7])
    model.graph.output.append(output)


def _nms_nodes(node: Callable[..., Any], number: int, *, agnostic: bool) -> list[Any]:
    """Return the nodes from "nms/rows" to `OUTPUT`; `node` makes one, `number` is the type of its numbers."""
    # The operator takes every class of a box by itself: scores of all but the best class become 0.
    one_class = [
        node("Equal", ["nms/scores", "nms/best"], ["nms/is_best"]),
        node("Where", ["nms/is_best", "nms/scores", "nms/zero"], ["nms/candidates"]),
    ]
    labels = [node("Gather", ["nms/selected", "nms/class"], ["nms/labels"], axis=1)]
    if agnostic:  # there is but one class of candidates: the best of each box
        one_class = [node("Identity", ["nms/best"], ["nms/candidates"])]
        labels = [
            node("ArgMax", ["nms/scores"], ["nms/best_class"], axis=2, keepdims=1),
            node("GatherND", ["nms/best_class", "nms/places"], ["nms/labels"]),
        ]
    return [
        node("Split", ["nms/rows", "nms/parts"], ["nms/boxes", "nms/objectness", "nms/classes"], axis=2),
        node("Mul", ["nms/objectness", "nms/classes"], ["nms/scores"]),
        node("ReduceMax", ["nms/scores", "nms/last"], ["nms/best"], keepdims=1),
        *one_class,
        node("Transpose", ["nms/candidates"], ["nms/by_class"], perm=[0, 2, 1]),
        node(
            "NonMaxSuppression",
            ["nms/boxes", "nms/by_class", "nms/most", "nms/iou", "nms/score"],
            ["nms/selected"],
            center_point_box=1,
        ),
        # It selects (image, class, row): boxes and scores are looked up by image and row.
        node("Gather", ["nms/selected", "nms/image_and_box"], ["nms/places"], axis=1),
        node("GatherND", ["nms/boxes", "nms/places"], ["nms/kept_boxes"]),
        node("GatherND", ["nms/best", "nms/places"], ["nms/kept_scores"]),
        node("Gather", ["nms/selected", "nms/image"], ["nms/images"], axis=1),
        *labels,
        node("Cast", ["nms/images"], ["nms/image_numbers"], to=number),
        node("Cast", ["nms/labels"], ["nms/class_numbers"], to=number),
        node(
            "Concat",
            ["nms/image_numbers", "nms/kept_boxes", "nms/kept_scores", "nms/class_numbers"],
            [OUTPUT],
            axis=1,
        ),
    ]


@dataclass(frozen=True, slots=True)
class YoloAgreement:
    """How well a file finds what its network finds, in the same images."""

    num_images: int
    box_pixels: float | None  # largest difference of x, y, width or height of rows that either takes for an object
    score: float | None  # the same of objectness and class scores; both None where only detections can be compared
    num_detections: int  # of the network
    num_same: int  # of those, found by the file too: same class, IoU of 0.9 at least
    num_extra: int  # found by the file only

    @property
    def fault(self) -> str:
        """Return why the file must not be kept; empty where it may."""
        no_number = self.box_pixels is not None and np.isnan(self.box_pixels)
        return "the network gives boxes that are no numbers" if no_number else ""

    def __str__(self) -> str:
        detections = f"{self.num_same} of {self.num_detections} detections the same, {self.num_extra} more"
        if self.box_pixels is not None:
            detections = f"boxes differ by at most {self.box_pixels:.2g} px, scores by {self.score:.2g}, {detections}"
        return f"{detections}, in {counted(self.num_images, 'image')}"


@torch.inference_mode()
def compare(
    network: Network, exported: Network, images: Sequence[Tensor], postprocess: YoloPostprocess, *, rows: bool
) -> YoloAgreement:
    """Run a network and its file on each image.

    Args:
        network: what was exported.
        exported: the file, opened.
        images: (1, 3, H, W) in 0..1 each.
        postprocess: makes the detections that are compared.
        rows: whether the file gives the same rows; else only detections can be compared.
    """
    differences: list[tuple[float, float]] = [(0.0, 0.0)]
    num_same = num_extra = num_detections = 0
    for image in images:
        expected, given = (one.decode(one(image)).float() for one in (network, exported))
        if rows:
            # Only rows that either takes for an object: sides of the others may be large, and are never looked at.
            scores = torch.maximum(*((r[0, :, 4] * r[0, :, 5:].amax(dim=1)) for r in (expected, given)))
            a, b = (r[0, scores >= postprocess.score_threshold] for r in (given, expected))
            differences.append((largest_difference(a[:, :4], b[:, :4]), largest_difference(a[:, 4:], b[:, 4:])))
        ours, theirs = postprocess(expected)[0], postprocess(given)[0]
        found = _num_matched(ours, theirs)
        num_same, num_detections = num_same + found, num_detections + len(ours)
        # Counted from both sides: one box of the file may be the partner of several of the network.
        num_extra += len(theirs) - _num_matched(theirs, ours)
    box, score = np.max(differences, axis=0).tolist() if rows else (None, None)
    return YoloAgreement(len(images), box, score, num_detections, num_same, num_extra)


def _num_matched(a: Detections, b: Detections) -> int:
    """Count the detections of a that have a partner in b."""
    close = (pairwise_iou(a.boxes, b.boxes) >= _SAME_IOU) & (a.labels[:, None] == b.labels[None])
    return int(close.any(dim=1).sum())
