"""A trained network that is ready to use: images to boxes in original pixels.

detector = load("best.pt")
result = detector.predict("photo.jpg")
result.boxes, result.scores, result.labels
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from boxwright.data.images import IMAGE_SUFFIXES, read_image
from boxwright.data.letterbox import letterbox
from boxwright.drawing.boxes import draw_boxes
from boxwright.drawing.text import class_name
from boxwright.engine.device import select_device
from boxwright.errors import UserError
from boxwright.inference.classify import keep_agreed, load_second_stage
from boxwright.inference.sources import DEFAULT_FPS, Frame, open_source
from boxwright.ops.arrays import Image, Ints
from boxwright.ops.boxes import scale_back
from boxwright.settings.load import load as load_settings
from boxwright.yolo.detection import DetectionModel, Network
from boxwright.yolo.input_size import choose_size
from boxwright.yolo.postprocess import YoloPostprocess
from boxwright.yolo.published import RELEASES
from boxwright.yolo.settings import PredictConfig, ReleaseName
from boxwright.yolo.weights import open_networks, ready


@dataclass(frozen=True)
class Speed:
    """Milliseconds that an image took in each stage."""

    preprocess: float
    inference: float
    nms: float
    classify: float = 0.0  # second stage, where there is one


@dataclass(frozen=True)
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

    def __len__(self) -> int:
        return len(self.boxes)

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
            image: (H, W, 3) RGB; by default the file is read again.
            line_thickness: pixels.
        """
        if image is None:
            if self.path is None:
                raise UserError("this result comes from an array: give draw() the image")
            image = read_image(self.path)[..., ::-1]
        drawn = draw_boxes(image[..., ::-1], self.boxes, self.captions(), self.labels, line_thickness=line_thickness)
        return np.ascontiguousarray(drawn[..., ::-1])


class Detector:
    """A network on a device, batch norms folded.

    Args:
        model: in any mode and on any device, it is copied; or one that `open_networks` has made ready.
        device: where to run; None: the CPU.
        half: compute in fp16 (GPU) or bf16 (CPU). Boxes are decoded in float32 all the same.
        classifier: second stage, see inference/classify.py. It has the network's classes, is moved to the device and
            runs in float32.
        release: take letterbox and NMS of this release; empty: of the network's.
        name: of the weights, for messages.
    """

    def __init__(
        self,
        model: Network,
        *,
        name: str = "the network",
        device: torch.device | None = None,
        half: bool = False,
        classifier: nn.Module | None = None,
        release: str = "",
    ) -> None:
        self.device = device or torch.device("cpu")
        self.model = ready(model, self.device) if isinstance(model, DetectionModel) else model
        self.dtype = torch.float32
        if half:
            self.dtype = torch.float16 if self.device.type == "cuda" else torch.bfloat16
            for module in self.model.modules():  # not the anchors: bf16 would move them
                if isinstance(module, nn.Conv2d):
                    module.to(self.dtype)
        self.classifier = classifier.to(self.device).eval() if classifier is not None else None
        self._release = RELEASES[release or self.model.release]
        self.name = name
        self._sizes: dict[tuple[int, ...], tuple[int, int]] = {}  # by what was asked for: what is said is said once

    @property
    def names(self) -> tuple[str, ...]:
        return self.model.names

    def predict(
        self,
        source: str | Path | Image | Sequence[str | Path | Image],
        *,
        imgsz: int | Sequence[int] | None = None,
        score_threshold: float = 0.25,
        iou_threshold: float = 0.45,
        max_detections: int = 1000,
        classes: Sequence[int] | None = None,
        agnostic: bool = False,
    ) -> Result | list[Result]:
        """Find objects.

        Args:
            source: an image file or an (H, W, 3) uint8 RGB array (one result), or a list of those, a folder, glob, list
                file or video (a list of results).
            imgsz: longer side of the network input in pixels, or height and width; None: as the network was trained,
                640 where it does not say.
            score_threshold: lowest score.
            iou_threshold: overlap above which the weaker of two boxes goes.
            max_detections: most boxes per image.
            classes: keep only these class numbers.
            agnostic: let boxes of different classes suppress each other.

        Raises:
            UserError: nothing is there, an image cannot be read, or a setting is out of its range.
        """
        given = {"imgsz": imgsz, "conf_thres": score_threshold, "iou_thres": iou_threshold, "max_det": max_detections}
        settings = load_settings(PredictConfig, {**given, "classes": classes, "agnostic_nms": agnostic})
        postprocess = self.postprocess(settings)
        many = isinstance(source, list | tuple)
        items = cast(Sequence[str | Path | Image], source) if many else [cast(str | Path | Image, source)]
        size = self.input_size(settings.imgsz)
        results = [self.run(frame, size, postprocess) for item in items for frame in _frames(item)]
        return results[0] if not many and _is_one(items[0]) else results

    def postprocess(self, settings: PredictConfig) -> YoloPostprocess:
        """Build the filter that the settings ask for; raise a UserError if the network lacks one of the classes."""
        wrong = [c for c in settings.classes or () if not 0 <= c < len(self.names)]
        if wrong:
            raise UserError(f"class {wrong[0]} is not one of the network's, which go from 0 to {len(self.names) - 1}")
        return YoloPostprocess(
            score_threshold=settings.conf_thres,
            iou_threshold=settings.iou_thres,
            max_detections=settings.max_det,
            multi_label=False,
            agnostic=settings.agnostic_nms,
            classes=settings.classes,
            rules=self._release.nms,
        )

    def input_size(self, imgsz: Sequence[int] = ()) -> tuple[int, int]:
        """Choose height and width of the input for a side, for both, or for none, see `choose_size`."""
        asked = tuple(imgsz)
        if asked not in self._sizes:
            multiple = self._release.letterbox.multiple_for(max(self.model.strides))
            self._sizes[asked] = choose_size(asked, self.model, self.name, multiple)
        return self._sizes[asked]

    @torch.inference_mode()
    def run(self, frame: Frame, size: tuple[int, int], postprocess: YoloPostprocess) -> Result:
        """Predict on one frame at an `input_size`, see `predict`."""
        times = [self._clock()]
        images, scale_yx, pad_yx = self._prepare(frame.image, size)
        times.append(self._clock())
        decoded = self.model.decode(self.model(images))
        times.append(self._clock())
        found = postprocess(decoded)[0]
        height, width = frame.image.shape[:2]
        found = replace(found, boxes=scale_back(found.boxes, scale_yx, pad_yx, (height, width))).cpu()
        times.append(self._clock())
        if self.classifier is not None:
            found = keep_agreed(self.classifier, frame.image, found, self.device)
        times.append(self._clock())
        return Result(
            boxes=found.boxes.float().numpy(),
            scores=found.scores.float().numpy(),
            labels=found.labels.numpy(),
            names=self.names,
            path=frame.path,
            image_size=(height, width),
            input_size=(images.shape[2], images.shape[3]),
            speed=Speed(*((end - start) * 1e3 for start, end in pairwise(times))),
        )

    def _prepare(self, image: Image, size: tuple[int, int]) -> tuple[Tensor, tuple[float, float], tuple[float, float]]:
        """Letterbox an image and move it to the device, (1, 3, H, W) RGB in 0..1; return scale and pad of y, x, too."""
        multiple = self._release.letterbox.multiple_for(max(self.model.strides))
        padded, scale_yx, pad_yx = letterbox(image, size, auto=self.model.input_size is None, stride=multiple)
        # As published: these releases worked the way back out from the sizes alone; half pixels of border differ.
        if self._release.letterbox.by_longer_side:
            scale = self._release.letterbox.scale_between(image.shape[:2], padded.shape[:2])
            scale_yx = (scale, scale)
            pad_yx = ((padded.shape[0] - image.shape[0] * scale) / 2, (padded.shape[1] - image.shape[1] * scale) / 2)
        # Bytes are sent, a quarter of what floats would be.
        pixels = torch.from_numpy(np.ascontiguousarray(padded[..., ::-1])).to(self.device)
        images = pixels.permute(2, 0, 1)[None]  # in memory still HWC, which is channels_last
        return images.to(self.dtype).div_(255), scale_yx, pad_yx

    def _clock(self) -> float:
        """Return seconds, after all work on the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # waits on purpose: else a stage would be timed before it has run
        return time.perf_counter()


def load(
    weights: str | Path | Sequence[str | Path],
    *,
    model: str = "",
    device: str = "",
    half: bool = False,
    augment: bool = False,
    classifier: str = "",
    classifier_weights: str | Path = "",
    release: ReleaseName = "",
) -> Detector:
    """Load a Boxwright or published checkpoint, or an exported file.

    Args:
        weights: the file; several run as one network: NMS goes over what all of them found.
        model: cfg or name of the network that Darknet's `.weights` belong to; by default the cfg beside them, or the
            published network of their name.
        device: "cpu", "0", "cuda:1"; empty: the first GPU, else the CPU.
        half: compute in fp16 (GPU) or bf16 (CPU).
        augment: test-time augmentation: look at each image at three sizes, one of them mirrored.
        classifier: name of a torchvision classifier as second stage: drop detections that it takes for another class.
        classifier_weights: its state dict; its classes are those of the network, in the same order.
        release: take letterbox and NMS of this release; empty: of the network's.

    Raises:
        UserError: no readable checkpoint, several of different classes, no such device, augment is asked of an
            exported file, or the classifier or its weights are wrong.
    """
    if bool(classifier) != bool(classifier_weights):
        raise UserError("a second stage needs both --classifier, a name, and --classifier-weights, a file")
    where = select_device(device)
    paths = [weights] if isinstance(weights, str | Path) else weights
    network = open_networks(paths, where, model, half=half, augment=augment)
    second = load_second_stage(classifier, len(network.names), classifier_weights) if classifier else None
    name = ", ".join(map(str, paths))
    return Detector(network, name=name, device=where, half=half, classifier=second, release=release)


def _is_one(item: str | Path | Image) -> bool:
    """Return whether this stands for exactly one image."""
    return isinstance(item, np.ndarray) or (Path(item).is_file() and Path(item).suffix.lower() in IMAGE_SUFFIXES)


def _frames(item: str | Path | Image) -> Iterator[Frame]:
    """Yield what `open_source` would; an image that was asked for by itself must be readable."""
    if isinstance(item, np.ndarray):
        if item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3 or not item.size:
            raise UserError(f"an image must be an (H, W, 3) uint8 RGB array, not {item.shape} {item.dtype}")
        yield Frame(item[..., ::-1], None, None, DEFAULT_FPS, "array")
    elif _is_one(item):
        yield Frame(read_image(Path(item)), Path(item), None, DEFAULT_FPS, "image")
    else:
        yield from open_source(item)
