"""A trained network that is ready to use: images to boxes in original pixels.

detector = load("best.pt")
result = detector.predict("photo.jpg")
result.boxes, result.scores, result.labels
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from boxwright.data.letterbox import letterbox
from boxwright.data.structures import Detections
from boxwright.engine.device import select_device
from boxwright.errors import UserError
from boxwright.inference.classify import keep_agreed, load_second_stage
from boxwright.inference.inputs import OTHER_NAMES, Source, frames_of, is_one, own_name
from boxwright.inference.streams import Frame
from boxwright.ops.arrays import Image
from boxwright.ops.boxes import scale_back
from boxwright.settings.flags import did_you_mean
from boxwright.settings.load import load as load_settings
from boxwright.yolo.detection import DetectionModel, Network
from boxwright.yolo.head import decode_above
from boxwright.yolo.input_size import choose_size
from boxwright.yolo.postprocess import YoloPostprocess
from boxwright.yolo.published import RELEASES
from boxwright.yolo.result import Result, Speed
from boxwright.yolo.settings import PredictConfig, ReleaseName
from boxwright.yolo.weights import open_networks, pack, ready

_log = logging.getLogger("boxwright.predict")
_NAMED, _LISTED = 3, 12  # classes that a detector shows of itself, and that a message lists


_DEFAULTS = ("imgsz", "conf_thres", "iou_thres", "max_det", "classes", "agnostic_nms")  # may be set on a detector
_ELSEWHERE = {  # what detectors of other tools have -> what does it here
    **dict.fromkeys(("to", "cuda", "cpu"), "bw.load(weights, device=...)"),
    "half": "bw.load(weights, half=True)",
    "augment": "bw.load(weights, augment=True)",
    **{verb: f"bw.{verb}(...)" for verb in ("train", "val", "export", "info")},
}


class UnknownAttributeError(UserError, AttributeError):
    """A detector has no attribute or setting of this name."""


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

    The settings of `predict` are attributes, too: `detector.conf_thres = 0.4` holds for every later call.
    """

    __slots__ = (
        *("model", "name", "device", "dtype", "classifier", "settings", "_release", "_sizes"),
        "__weakref__",
    )
    imgsz: tuple[int, ...]  # empty: as the network was trained
    conf_thres: float
    iou_thres: float
    max_det: int
    classes: tuple[int | str, ...] | None
    agnostic_nms: bool

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
        if isinstance(self.model, DetectionModel) and self.device.type == "cpu" and not half:
            pack(self.model)
        of_half = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        self.dtype = of_half if half else torch.float32
        self.settings = PredictConfig()
        if half:
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

    def __repr__(self) -> str:
        names = ", ".join(self.names[:_NAMED]) + (", ..." if len(self.names) > _NAMED else "")
        classes = f"{len(self.names)} class{'' if len(self.names) == 1 else 'es'} ({names})"
        thresholds = f"conf_thres {self.conf_thres:g}, iou_thres {self.iou_thres:g}"
        return f"<Detector {self.name}: {classes}, {self.device}, {thresholds}>"

    def __getattr__(self, name: str) -> Any:
        """Return the default of a setting."""
        own = OTHER_NAMES.get(name, name)
        if own in _DEFAULTS:
            return getattr(self.settings, own)
        hint = f": use {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
        raise AttributeError(f"a Detector has no {name}{hint}")

    def __setattr__(self, name: str, value: Any) -> None:
        """Set the default of a setting for later calls; nothing else can be set."""
        own = OTHER_NAMES.get(name, name)
        if own in _DEFAULTS:
            value = self._settings({own_name(name, _DEFAULTS): value})
            self.postprocess(value)  # a class that is not there is refused here, not at a later call
            name = "settings"
        elif name not in self.__slots__ or hasattr(self, name):
            hint = f"use {_ELSEWHERE[name]}" if name in _ELSEWHERE else f"settings are {', '.join(_DEFAULTS)}"
            raise UnknownAttributeError(f"{name} of a Detector cannot be set{did_you_mean(name, _DEFAULTS)}; {hint}")
        object.__setattr__(self, name, value)

    def predict(
        self,
        source: Source,
        *,
        stream: bool = False,
        bgr: bool = False,
        vid_stride: int = 1,
        imgsz: int | Sequence[int] | None = None,
        conf_thres: float | None = None,
        iou_thres: float | None = None,
        max_det: int | None = None,
        classes: int | str | Sequence[int | str] | None = None,
        agnostic_nms: bool | None = None,
        **other_names: Any,
    ) -> Result | list[Result] | Iterator[Result]:
        """Find objects. A detector can be called instead: `detector(source)`.

        Args:
            source: path of an image, a Pillow image, an (H, W, 3) uint8 RGB array or a (3, H, W) tensor (one result); a
                (B, 3, H, W) tensor, a list or generator of images, a folder, glob, list file or video (a list of
                results). Tensors are RGB: bytes, or floats in 0..1. With `stream` also an address or camera number.
            stream: return a generator of results, which predicts on the next image when the next result is asked for
                and keeps none of them.
            bgr: channels of arrays and tensors are blue, green, red, as `cv2.imread` gives them.
            vid_stride: take every n-th frame of a video.
            imgsz: longer side of the network input in pixels, or height and width; by default as the network was
                trained, 640 where it does not say.
            conf_thres: lowest score.
            iou_thres: overlap above which the weaker of two boxes goes.
            max_det: most boxes per image.
            classes: keep only these classes, by name or number.
            agnostic_nms: let boxes of different classes suppress each other.
            other_names: `conf`, `iou`, `size` and others are taken with a warning that says their name here.

        The settings that are not given are those of the detector.

        Raises:
            UserError: nothing is there, an image cannot be read, or a setting is unknown or out of its range.
        """
        asked = {
            "imgsz": imgsz,
            "conf_thres": conf_thres,
            "iou_thres": iou_thres,
            "max_det": max_det,
            "classes": classes,
            "agnostic_nms": agnostic_nms,
            "vid_stride": vid_stride,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        for name, value in other_names.items():
            own = own_name(name, _DEFAULTS, _ELSEWHERE)
            if own in given:
                raise UserError(f"predict was given {own} twice, the second time as {name}")
            given[own] = value
        settings = self._settings(given)
        postprocess = self.postprocess(settings)
        size = self.input_size(settings.imgsz)
        frames = frames_of(source, bgr=bgr, video_stride=settings.vid_stride, live=stream)
        # Files can be read again; other images are kept with their results, unless these are gathered.
        results = (self.run(frame, size, postprocess, keep_image=frame.path is None or stream) for frame in frames)
        if stream:
            return results
        return next(results) if is_one(source) else list(results)

    __call__ = predict

    def _settings(self, given: Mapping[str, Any]) -> PredictConfig:
        """Return the detector's settings with others in place of some."""
        plain = {name: _plain(value) for name, value in given.items()}
        return load_settings(PredictConfig, {**self.settings.model_dump(exclude_unset=True), **plain})

    def postprocess(self, settings: PredictConfig) -> YoloPostprocess:
        """Build the filter that the settings ask for; raise a UserError if the network lacks one of the classes."""
        if settings.classes == ():
            raise UserError("classes is empty: name classes to keep, or leave it out (in Python None) to keep all")
        classes = tuple(self._class_number(name) for name in settings.classes or ())
        return YoloPostprocess(
            score_threshold=settings.conf_thres,
            iou_threshold=settings.iou_thres,
            max_detections=settings.max_det,
            multi_label=False,
            agnostic=settings.agnostic_nms,
            classes=classes or None,
            rules=self._release.nms,
        )

    def input_size(self, imgsz: Sequence[int] = ()) -> tuple[int, int]:
        """Choose height and width of the input for a side, for both, or for none, see `choose_size`."""
        asked = tuple(imgsz)
        if asked not in self._sizes:
            self._sizes[asked] = choose_size(asked, self.model, self.name, max(self.model.strides))
        return self._sizes[asked]

    def _class_number(self, name: int | str) -> int:
        """Return the number of a class that is given by its name, or by its number."""
        if isinstance(name, int):
            if not 0 <= name < len(self.names):
                raise UserError(f"class {name} is not one of the network's, which go from 0 to {len(self.names) - 1}")
            if str(name) in self.names and self.names[name] != str(name):
                other = self.names.index(str(name))
                _log.warning("class %d is %r; the one that is named so is number %d", name, self.names[name], other)
            return name
        if name in self.names:
            return self.names.index(name)
        names = ", ".join(self.names[:_LISTED]) + (", ..." if len(self.names) > _LISTED else "")
        raise UserError(f"the network has no class {name!r}{did_you_mean(name, self.names)}; it has {names}")

    def run(
        self, frame: Frame, size: tuple[int, int], postprocess: YoloPostprocess, *, keep_image: bool = False
    ) -> Result:
        """Predict on one frame at an `input_size`, see `predict`; keep its image with the result if asked for."""
        return self.run_batch([frame], size, postprocess, keep_image=keep_image)[0]

    @torch.inference_mode()
    def run_batch(
        self, frames: Sequence[Frame], size: tuple[int, int], postprocess: YoloPostprocess, *, keep_image: bool = False
    ) -> list[Result]:
        """Predict on several frames; those of one shape after the letterbox go through the network together.

        So each image has the border that it has alone, and what is found in it does not depend on the others.
        """
        prepared: list[tuple[Tensor, tuple[float, float], tuple[float, float], float]] = []
        alike: dict[torch.Size, list[int]] = {}  # by shape: positions of the frames
        for i, frame in enumerate(frames):
            start = self._clock()
            images, scale_yx, pad_yx = self._prepare(frame.image, size)
            prepared.append((images, scale_yx, pad_yx, self._clock() - start))
            alike.setdefault(images.shape, []).append(i)
        results: dict[int, Result] = {}
        for positions in alike.values():
            start = self._clock()
            batch = [prepared[i][0] for i in positions]
            raw = self.model(torch.cat(batch) if len(batch) > 1 else batch[0])
            decoded = decode_above(self.model, raw, postprocess.score_threshold)
            middle = self._clock()
            detections = postprocess(decoded)
            after = self._clock()
            shares = (middle - start) / len(batch), (after - middle) / len(batch)
            for i, found in zip(positions, detections, strict=True):
                results[i] = self._result(frames[i], found, prepared[i], shares, keep_image)
        return [results[i] for i in range(len(frames))]

    def _result(
        self,
        frame: Frame,
        found: Detections,
        prepared: tuple[Tensor, tuple[float, float], tuple[float, float], float],
        shares: tuple[float, float],
        keep_image: bool,
    ) -> Result:
        """Bring detections back to the pixels of their frame; `shares` are seconds of the network and of NMS."""
        images, scale_yx, pad_yx, preprocess = prepared
        start = self._clock()
        size = (frame.image.shape[0], frame.image.shape[1])
        found = replace(found, boxes=scale_back(found.boxes, scale_yx, pad_yx, size)).cpu()
        middle = self._clock()
        if self.classifier is not None:
            found = keep_agreed(self.classifier, frame.image, found, self.device)
        end = self._clock()
        seconds = (preprocess, shares[0], shares[1] + middle - start, end - middle)
        return Result(
            boxes=found.boxes.float().numpy(),
            scores=found.scores.float().numpy(),
            labels=found.labels.numpy(),
            names=self.names,
            path=frame.path,
            image_size=size,
            input_size=(images.shape[2], images.shape[3]),
            speed=Speed(*(1e3 * value for value in seconds)),
            number=frame.number,
            image=frame.image[..., ::-1] if keep_image else None,
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


def _plain(value: Any) -> Any:
    """Return numbers of numpy, also in lists, as Python's own."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple | set | frozenset | range) else value
