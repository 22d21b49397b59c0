"""What exported YOLO files are: the graph that is written, NMS behind it, the file as a network, its verification.

Every file gives rows, (B, R, 5 + classes) as `Network.decode` gives them, or with NMS in the graph detections, (N, 7):
image number, cxcywh in input pixels, score, class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from boxwright.data.structures import Detections
from boxwright.errors import UserError
from boxwright.inference.exported import ExportInfo, largest_difference, open_exported, require, save_onnx
from boxwright.ops.boxes import pairwise_iou
from boxwright.terminal import counted
from boxwright.yolo.detection import DetectionModel, Network
from boxwright.yolo.head import decode_level
from boxwright.yolo.postprocess import YoloPostprocess
from boxwright.yolo.published import CURRENT, RELEASES

ROWS, DETECTIONS = "rows", "detections"
_SAME_IOU = 0.9  # of two detections that count as the same


@dataclass(frozen=True, slots=True)
class YoloInfo(ExportInfo):
    """What an exported YOLO file says about itself."""

    system: ClassVar[str] = "YOLO"

    strides: tuple[int, ...]  # input pixels per cell of each level
    output: str  # "rows" or "detections"
    release: str = CURRENT  # whose letterbox, NMS and validation predict and val take; older files do not say it
    imgsz: tuple[int, int] | None = None  # height, width that it was exported for; files of older versions have none

    def __post_init__(self) -> None:
        if self.release not in RELEASES:
            raise ValueError(self.release)


class ExportedNetwork(Network):
    """A file in the place of a checkpoint's network. Its rows come decoded; `decode` passes them on.

    Args:
        path: `.onnx`, `.torchscript`, `.xml` or a folder `*_openvino_model`.
        device: where TorchScript runs; the other two run on the CPU.

    Raises:
        UserError: missing, unreadable, not exported by Boxwright, or its library is not installed.
    """

    size_is: ClassVar[str] = "exported for"

    def __init__(self, path: str | Path, device: torch.device) -> None:
        super().__init__()
        metadata, self._run = open_exported(Path(path), device)
        self.info = YoloInfo.from_json(metadata, Path(path))
        self.names, self.input_size, self.release = self.info.names, self.info.input_size, self.info.release
        self.strides, self.trained_size = self.info.strides, self.info.imgsz

    def forward(self, images: Tensor) -> list[Tensor]:
        if self.input_size is not None and tuple(images.shape[2:]) != self.input_size:
            height, width = self.input_size
            raise UserError(f"this file takes images of {width}x{height} pixels only: it was exported with --static")
        (found,) = self._run({"images": images.float()}).values()
        if self.info.output == DETECTIONS:
            found = rows_of_detections(found, len(images), self.num_classes)
        return [found.to(images.device)]

    def decode(self, raw: list[Tensor]) -> Tensor:
        return raw[0]


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


class ExportRows(nn.Module):
    """Images to decoded rows: the numbers of `DetectionModel.decode` by plain operators, nothing written in place.

    Args:
        model: fused, in eval mode.
    """

    anchors: Tensor  # (L, A, 2) width, height in input pixels

    def __init__(self, model: DetectionModel) -> None:
        super().__init__()
        self.network = model
        self.register_buffer("anchors", model.anchors.float() * torch.tensor(model.strides).view(-1, 1, 1))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Compute (B, rows, 5 + classes) float32, cxcywh in input pixels and scores, from (B, 3, H, W) in 0..1."""
        dtype = next(self.network.parameters()).dtype
        network = self.network
        levels = zip(network(images.to(dtype)), self.anchors, network.strides, network.box_codings, strict=True)
        return torch.cat([decode_level(*level) for level in levels], dim=1)


def append_nms(
    path: Path, info: YoloInfo, *, score_threshold: float, iou_threshold: float, max_detections: int
) -> None:
    """Put the standard NonMaxSuppression operator behind the rows of a file: one class a box, per class suppression.

    Args:
        path: an ONNX file with output "rows"; it is changed.
        info: with output "detections".
        score_threshold: lowest objectness times class score.
        iou_threshold: overlap above which the weaker box goes.
        max_detections: most boxes of a class in an image.
    """
    onnx = require("onnx")
    model = onnx.load(str(path))
    node, array = onnx.helper.make_node, onnx.numpy_helper.from_array
    constants: dict[str, Any] = {
        "nms/parts": np.array([4, 1, len(info.names)]),
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
    nodes = [
        node("Split", [ROWS, "nms/parts"], ["nms/boxes", "nms/objectness", "nms/classes"], axis=2),
        node("Mul", ["nms/objectness", "nms/classes"], ["nms/scores"]),
        # The operator takes every class of a box by itself: scores of all but the best class become 0.
        node("ReduceMax", ["nms/scores", "nms/last"], ["nms/best"], keepdims=1),
        node("Equal", ["nms/scores", "nms/best"], ["nms/is_best"]),
        node("Where", ["nms/is_best", "nms/scores", "nms/zero"], ["nms/one_class"]),
        node("Transpose", ["nms/one_class"], ["nms/by_class"], perm=[0, 2, 1]),
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
        node("Gather", ["nms/selected", "nms/class"], ["nms/labels"], axis=1),
        node("Cast", ["nms/images"], ["nms/image_numbers"], to=onnx.TensorProto.FLOAT),
        node("Cast", ["nms/labels"], ["nms/class_numbers"], to=onnx.TensorProto.FLOAT),
        node(
            "Concat",
            ["nms/image_numbers", "nms/kept_boxes", "nms/kept_scores", "nms/class_numbers"],
            [DETECTIONS],
            axis=1,
        ),
    ]
    model.graph.node.extend(nodes)
    del model.graph.output[:]
    output = onnx.helper.make_tensor_value_info(DETECTIONS, onnx.TensorProto.FLOAT, ["found", 7])
    model.graph.output.append(output)
    save_onnx(model, path, info)


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
