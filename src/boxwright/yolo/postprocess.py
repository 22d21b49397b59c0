"""From decoded rows to detections: score filter and NMS, test-time augmentation, and several networks as one.

Boxes stay in network-input pixels.

Source: published YOLOv5 behaviour (docs/spec/yolov5.md, B9, B10): augmentation looks at an image at three sizes, once
mirrored (v2.0 to v7.0, and YOLOv3-SPP); the rows of several networks go through one NMS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from boxwright.data.structures import Detections
from boxwright.errors import UserError
from boxwright.ops.nms import CURRENT_RULES, NmsRules, batched_nms
from boxwright.yolo.detection import DetectionModel, Network
from boxwright.yolo.published import RELEASES


@dataclass(frozen=True, slots=True)
class YoloPostprocess:
    """Settings of the filter; the defaults are those of `boxwright predict`.

    Args:
        score_threshold: lowest objectness times class score.
        iou_threshold: overlap above which the weaker box goes.
        max_detections: most boxes an image.
        multi_label: one row may count for several classes (validation does so).
        agnostic: boxes of different classes suppress each other.
        classes: keep only these class indices; None keeps all.
        merge: kept boxes become the mean of those that they stand for, see `batched_nms`.
        rules: of a release.
    """

    score_threshold: float = 0.25
    iou_threshold: float = 0.45
    max_detections: int = 1000
    multi_label: bool = False
    agnostic: bool = False
    classes: tuple[int, ...] | None = None
    merge: bool = False
    rules: NmsRules = CURRENT_RULES

    def __call__(self, decoded: Tensor, known: Sequence[Tensor] | None = None) -> list[Detections]:
        """Find the detections of each image, boxes in pixels of the network input, from decoded (B, R, 5 + C).

        Args:
            decoded: cxcywh pixels, objectness and class scores of each row.
            known: for each image boxes (n, 5) that are known beforehand, see `batched_nms`.
        """
        found = batched_nms(
            decoded,
            score_threshold=self.score_threshold,
            iou_threshold=self.iou_threshold,
            max_detections=self.max_detections,
            multi_label=self.multi_label,
            agnostic=self.agnostic,
            classes=self.classes,
            merge=self.merge,
            known=known,
            rules=self.rules,
        )
        return [Detections(rows[:, :4], rows[:, 4], rows[:, 5].long()) for rows in found]


MEAN_GREY = 0.447  # of ImageNet: 0.485, 0.456, 0.406 averaged; the published border


def scale_images(images: Tensor, factor: float, *, multiple: int = 32) -> Tensor:
    """Resize a batch by a factor and pad it at the right and bottom with grey, so that a network takes it.

    Args:
        images: (B, C, H, W) in 0..1.
        factor: new size over old size; 1 gives the images themselves.
        multiple: sides of the result are multiples of this (the largest stride).

    Returns:
        (B, C, ceil(H * factor / multiple) * multiple, the same of W); the picture is the top left part of it.

    Source: published YOLOv5 test-time augmentation.
    """
    if factor == 1.0:
        return images
    height, width = images.shape[2:]
    resized = interpolate(
        images, size=(int(height * factor), int(width * factor)), mode="bilinear", align_corners=False
    )
    bottom, right = (math.ceil(side * factor / multiple) * multiple for side in (height, width))
    return pad(resized, (0, right - resized.shape[3], 0, bottom - resized.shape[2]), value=MEAN_GREY)


PASSES = ((1.0, False), (0.83, True), (0.67, False))  # size over that of the image, and whether mirrored left-right


class AugmentedNetwork(Network):
    """A network that takes three looks at every image. `forward` gives decoded rows, `decode` hands them on.

    From v6.0 on a level that a pass is too coarse or too fine for is left out: the largest stride of the full-size pass
    and the smallest stride of the last one. Earlier releases, and YOLOv3-SPP, keep all rows.

    Args:
        network: in eval mode; it is not copied.
    """

    def __init__(self, network: DetectionModel) -> None:
        super().__init__()
        self.network = network
        self.names = network.names
        self.release = network.release
        self.trims = not RELEASES[network.release].layers.early

    @property
    def strides(self) -> tuple[int, ...]:
        return self.network.strides

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images (B, 3, H, W) to the rows of all passes, one (B, rows, 5 + classes) in pixels of the images."""
        strides, width = self.strides, images.shape[3]
        unused = (max(strides), None, min(strides)) if self.trims else (None, None, None)
        found: list[Tensor] = []
        for (factor, mirrored), left_out in zip(PASSES, unused, strict=True):
            seen = scale_images(images.flip(3) if mirrored else images, factor, multiple=max(strides))
            raw = [level.float() for level in self.network(seen)]
            rows = self.network.decode(raw)
            rows[..., :4] /= factor
            if mirrored:
                rows[..., 0] = width - rows[..., 0]
            levels = rows.split([level.shape[1:4].numel() for level in raw], dim=1)
            found += [level for level, stride in zip(levels, strides, strict=True) if stride != left_out]
        return [torch.cat(found, dim=1)]

    def decode(self, raw: list[Tensor]) -> Tensor:
        return raw[0]


class Ensemble(Network):
    """Networks of the same classes. `forward` gives the decoded rows of all, `decode` hands them on.

    Args:
        networks: in eval mode, on one device; they are not copied.
        sources: where each comes from, for messages.

    Raises:
        UserError: their classes differ, or the image sizes that they are bound to.
    """

    def __init__(self, networks: Sequence[Network], sources: Sequence[str]) -> None:
        super().__init__()
        first = networks[0]
        for network, source in zip(networks, sources, strict=True):
            _check_classes(first.names, sources[0], network.names, source)
        sizes = {source: n.input_size for n, source in zip(networks, sources, strict=True) if n.input_size is not None}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{source} {width}x{height}" for source, (height, width) in sizes.items())
            raise UserError(f"networks run together on images of one size, but these take only their own: {listed}")
        self.networks = nn.ModuleList(networks)
        self.names = first.names
        # Rows of several networks go through one suppression, which can follow only one release.
        if len({network.release for network in networks}) == 1:  # else the rules of v7.0 hold for all
            self.release = first.release
        self.input_size = next(iter(sizes.values()), None)
        self._strides = max((network.strides for network in networks), key=max)

    @property
    def strides(self) -> tuple[int, ...]:
        """Return those of the network with the largest, so that its multiples suit every network."""
        return self._strides

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        for network in self.networks:
            assert isinstance(network, Network)
            found.append(network.decode([level.float() for level in network(images)]))
        return [torch.cat(found, dim=1)]

    def decode(self, raw: list[Tensor]) -> Tensor:
        return raw[0]


def _check_classes(wanted: tuple[str, ...], first: str, names: tuple[str, ...], source: str) -> None:
    """Check that networks that run together speak of the same classes, in the same order."""
    rule = "networks that run together need the same classes"
    if len(names) != len(wanted):
        raise UserError(f"{source} has {len(names)} classes but {first} has {len(wanted)}: {rule}")
    for i, (theirs, ours) in enumerate(zip(names, wanted, strict=True)):
        if theirs != ours:
            raise UserError(f"class {i} is {theirs!r} in {source} but {ours!r} in {first}: {rule}")
