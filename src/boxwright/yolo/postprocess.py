"""From decoded rows to detections: score filter and NMS, test-time augmentation, and several networks as one.

Boxes stay in network-input pixels.

Source: published YOLOv5 behaviour (docs/spec/yolov5.md, B9, B10): augmentation looks at an image at three sizes, once
mirrored (v2.0 to v7.0, and YOLOv3-SPP); the rows of several networks go through one NMS.
"""

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


@dataclass(frozen=True)
class YoloPostprocess:
    """Settings of the filter, named as those of `batched_nms`; the defaults are those of `boxwright predict`."""

    score_threshold: float = 0.25  # lowest objectness times class score
    iou_threshold: float = 0.45  # overlap above which the weaker box goes
    max_detections: int = 1000  # per image
    multi_label: bool = False  # one row may count for several classes (validation does so)
    agnostic: bool = False  # boxes of different classes suppress each other
    classes: tuple[int, ...] | None = None  # keep only these class indices; None keeps all
    rules: NmsRules = CURRENT_RULES

    def __call__(self, decoded: Tensor, known: Sequence[Tensor] | None = None) -> list[Detections]:
        """Find the detections of each image, in pixels of the network input; arguments as of `batched_nms`."""
        return [
            Detections(rows[:, :4], rows[:, 4], rows[:, 5].long())
            for rows in batched_nms(decoded, known=known, **vars(self))
        ]


MEAN_GREY = 0.447  # of ImageNet: 0.485, 0.456, 0.406 averaged; the published border


def scale_images(images: Tensor, factor: float, *, same_shape: bool = False, multiple: int = 32) -> Tensor:
    """Resize a batch by a factor and pad it at the right and bottom with grey, so that a network takes it.

    Args:
        images: (B, C, H, W) in 0..1.
        factor: new size over old size; 1 gives the images themselves.
        same_shape: the result has the shape of the images; of larger ones it is the top left part.
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
    bottom, right = height, width
    if not same_shape:
        bottom, right = (math.ceil(side * factor / multiple) * multiple for side in (height, width))
    return pad(resized, (0, right - resized.shape[3], 0, bottom - resized.shape[2]), value=MEAN_GREY)


PASSES = ((1.0, False), (0.83, True), (0.67, False))  # size over that of the image, and whether mirrored left-right


class AugmentedNetwork(Network):
    """A network, in eval mode, that takes three looks at every image. `forward` decodes, `decode` hands rows on."""

    def __init__(self, network: DetectionModel) -> None:
        super().__init__()
        self.network = network
        self.names = network.names
        self.release = network.release
        self.strides, self.trained_size = network.strides, network.trained_size
        self.trims = not RELEASES[network.release].layers.early

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images (B, 3, H, W) to the rows of all passes, one (B, rows, 5 + classes) in pixels of the images."""
        strides, width = self.strides, images.shape[3]
        # From v6.0 on a level that a pass is too coarse or too fine for is left out: the largest stride of the
        # full-size pass and the smallest stride of the last one. Earlier releases, and YOLOv3-SPP, keep all rows.
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


_SAME_CLASSES = "networks that run together need the same classes"


class Ensemble(Network):
    """Networks in eval mode, on one device. `forward` gives the decoded rows of all, `decode` hands them on.

    Raises:
        UserError: their classes differ, or the image sizes that they are bound to.
    """

    def __init__(self, networks: Sequence[Network], sources: Sequence[str]) -> None:
        super().__init__()
        first = networks[0]
        for network, source in zip(networks, sources, strict=True):
            if len(network.names) != len(first.names):
                counts = f"{source} has {len(network.names)} classes but {sources[0]} has {len(first.names)}"
                raise UserError(f"{counts}: {_SAME_CLASSES}")
            for i, (theirs, ours) in enumerate(zip(network.names, first.names, strict=True)):
                if theirs != ours:
                    raise UserError(
                        f"class {i} is {theirs!r} in {source} but {ours!r} in {sources[0]}: {_SAME_CLASSES}"
                    )
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
        # Trained at different sizes, all run at the largest: there the one of the small size loses least.
        trained = [network.trained_size for network in networks if network.trained_size is not None]
        self.trained_size = max(trained, key=max, default=None)
        # Those of the network with the largest, so that its multiples suit every network.
        self.strides = max((network.strides for network in networks), key=max)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        for network in self.networks:
            assert isinstance(network, Network)
            found.append(network.decode([level.float() for level in network(images)]))
        return [torch.cat(found, dim=1)]

    def decode(self, raw: list[Tensor]) -> Tensor:
        return raw[0]
