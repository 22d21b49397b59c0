"""The anchor head of YOLOv5: 1x1 convolutions to raw maps, and their decoding to boxes.

Legend: B images, L levels, A anchors a level, H W height and width of a level's grid.
Source: published YOLOv5 6.x behaviour (raw map layout, decode, bias prior); the prior itself: Lin et al., "Focal Loss
for Dense Object Detection", 2017 (arXiv:1708.02002), section 4.1.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from boxwright.yolo.detection import BoxCoding, DetectionModel, Network

Anchors = Sequence[Sequence[Sequence[float]]]  # (L, A, 2): width, height in pixels of the network input

NOMINAL_SIDE = 640  # pixels: the input side at which an image is expected to hold...
NOMINAL_OBJECTS = 8  # ...this many objects; sets the prior of objectness


def prior_bias(stride: float, num_classes: int, class_margin: float) -> tuple[float, float]:
    """Return what is added to the random bias of objectness and of each class, to start near the expected rates."""
    objectness = math.log(NOMINAL_OBJECTS / (NOMINAL_SIDE / stride) ** 2)
    return objectness, math.log(0.6 / (num_classes - class_margin))


def add_prior(predictor: nn.Conv2d, num_anchors: int, objectness: float, classes: float) -> None:
    """Add the priors, as logits, to the bias of a convolution whose outputs are a raw map."""
    assert predictor.bias is not None
    bias = predictor.bias.detach().view(num_anchors, -1)  # shares the parameter's memory
    bias[:, 4] += objectness
    bias[:, 5:] += classes


@torch.no_grad()
def begin_with_frequencies(biases: Iterable[Tensor], counts: Tensor, class_margin: float) -> None:
    """Let the class biases of a new head stand for how often each class occurs, not all for the same rate.

    Args:
        biases: (anchors * (5 + classes),) of each predictor, which hold the prior of `prior_bias`.
        counts: (classes,) boxes of each class; one more is counted, so that a class without any has a logarithm.
        class_margin: that the prior was made with.
    """
    shares = (counts + 1).double() / (counts + 1).sum()
    _, same_for_all = prior_bias(1, len(counts), class_margin)
    for bias in biases:
        bias.view(-1, 5 + len(counts))[:, 5:] += (shares.log() - same_for_all).to(bias)


def decode_level(
    raw: Tensor, anchors: Tensor, stride: int, coding: BoxCoding, cells: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Decode one level by plain operators, nothing written in place, as exported graphs need it.

    Args:
        raw: (B, A, H, W, 5 + classes).
        anchors: (A, 2) width, height in input pixels.
        stride: input pixels a cell.
        coding: how its raw boxes are meant.
        cells: column and row of each cell, from 0, in the shape of `raw` with one value; by default counted here.

    Returns:
        (B, A * H * W, 5 + classes) float32: cxcywh in input pixels, scores in 0..1.
    """
    # In float32 whatever the network computes in: fp16 holds no half pixel above 1024.
    raw = raw.float()
    _, num_anchors, height, width, _ = raw.shape
    anchors = anchors.view(1, num_anchors, 1, 1, 2)
    columns, rows = cells or (
        torch.arange(width, dtype=torch.float32, device=raw.device).view(1, 1, 1, width, 1),
        torch.arange(height, dtype=torch.float32, device=raw.device).view(1, 1, height, 1, 1),
    )
    scores = raw.sigmoid()
    shift = (coding.scale_xy - 1) / 2
    x = (scores[..., 0:1] * coding.scale_xy + (columns - shift)) * stride
    y = (scores[..., 1:2] * coding.scale_xy + (rows - shift)) * stride
    doubled = scores[..., 2:4] * 2
    # Not a power, which older ONNX opsets write in other ways.
    sides = (doubled * doubled if coding.squared else raw[..., 2:4].exp()) * anchors
    return torch.cat((x, y, sides, scores[..., 4:]), dim=-1).flatten(1, 3)


_MARGIN = 1 - 1e-6  # the sigmoid of one number is rounded otherwise than that of a row: the threshold is asked again
_FEW = 8  # if more than one row in 8 passes, as in a new network, decoding all rows at once is cheaper


@torch.no_grad()
def decode_above(model: Network, raw: list[Tensor], threshold: float) -> Tensor:
    """Decode as `Network.decode`, in the same order, but leave out rows whose objectness is below a threshold.

    Images with fewer rows than others are filled up with rows of zeros; where it saves nothing, all rows are decoded.
    With 80 classes it is memory traffic that decoding costs: 3.1 of 3.4 ms of one image of 640 px.
    """
    # A GPU would have to wait for the number of rows, and decodes all in no time.
    if not isinstance(model, DetectionModel) or raw[0].device.type != "cpu":
        return model.decode(raw)
    masks = [level[..., 4].float().sigmoid() >= threshold * _MARGIN for level in raw]
    if sum(int(mask.count_nonzero()) for mask in masks) * _FEW > sum(mask.numel() for mask in masks):
        return model.decode(raw)
    found: list[Tensor] = []
    images: list[Tensor] = []
    codings = zip(model.anchors.float(), model.strides, model.box_codings, strict=True)
    for level, mask, (anchors, stride, coding) in zip(raw, masks, codings, strict=True):
        image, anchor, row, column = mask.nonzero(as_tuple=True)
        # As one image whose every anchor has one cell.
        cells = column.float().view(1, -1, 1, 1, 1), row.float().view(1, -1, 1, 1, 1)
        picked = level[image, anchor, row, column].view(1, -1, 1, 1, level.shape[-1])
        found.append(decode_level(picked, (anchors * stride)[anchor], stride, coding, cells)[0])
        images.append(image)
    image = torch.cat(images)
    order = image.argsort(stable=True)  # rows of an image stay in the order of levels
    counts = image.bincount(minlength=len(raw[0])).tolist()
    return pad_sequence(list(torch.cat(found)[order].split(counts)), batch_first=True)


class DetectHead(nn.Module):
    """One 1x1 convolution a level; raw maps of (B, A, H, W, 5 + classes): box, objectness, classes.

    Args:
        num_classes: number of classes.
        anchors: (L, A, 2) width, height in input pixels, levels in the order of the inputs.
        in_channels: channels of each level's feature map; empty: the maps come predicted already, as in v1.0.

    The head is ready after `calibrate`, which knows the strides.
    """

    anchors: Tensor  # (L, A, 2) in cells of the level's grid

    def __init__(self, num_classes: int, anchors: Anchors, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_outputs = num_classes + 5
        self.num_anchors = len(anchors[0])
        self.strides: tuple[int, ...] = (1,) * len(anchors)
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32))
        self.m = nn.ModuleList([nn.Conv2d(c, self.num_anchors * self.num_outputs, 1) for c in in_channels])

    def calibrate(self, strides: Sequence[int], predictors: Sequence[nn.Conv2d], *, class_margin: float) -> None:
        """Give a new head its strides: anchors go from pixels to cells, biases get their prior. Call once.

        Args:
            strides: input pixels a cell of each level.
            predictors: the convolutions whose outputs are the raw maps.
            class_margin: keeps the class prior finite for one class.
        """
        # Anchors listed from large to small against strides from small to large are turned round, as published.
        areas = [float(level[..., 0].mul(level[..., 1]).mean()) for level in self.anchors]
        runs_against = (areas[-1] - areas[0]) * (strides[-1] - strides[0]) < 0
        pixels = self.anchors.flip(0) if runs_against else self.anchors
        self.strides = tuple(strides)
        self.anchors = pixels / torch.tensor(self.strides, dtype=torch.float32).view(-1, 1, 1)
        for conv, stride in zip(predictors, self.strides, strict=True):
            add_prior(conv, self.num_anchors, *prior_bias(stride, self.num_classes, class_margin))

    def keep_anchor_grid(self) -> None:
        """Hold the anchors once more in pixels, as the files of releases up to v5.0 do. Nothing reads it here."""
        pixels = self.anchors * torch.tensor(self.strides, dtype=torch.float32).view(-1, 1, 1)
        self.register_buffer("anchor_grid", pixels.view(len(pixels), 1, -1, 1, 1, 2).clone())

    def forward(self, *features: Tensor) -> list[Tensor]:
        raw: list[Tensor] = []
        for i, feature in enumerate(features):
            x = self.m[i](feature) if len(self.m) else feature
            batch, _, height, width = x.shape
            # A view: in channels_last memory the values of one cell already lie side by side.
            raw.append(x.view(batch, self.num_anchors, self.num_outputs, height, width).permute(0, 1, 3, 4, 2))
        return raw

    @torch.no_grad()
    def decode(self, raw: list[Tensor]) -> Tensor:
        """Turn raw maps into boxes and scores, in float32 whatever the network ran in; carries no gradient.

        Args:
            raw: one (B, A, H, W, 5 + classes) map a level, as `forward` gives them.

        Returns:
            (B, rows, 5 + classes): centre x, centre y, width, height in pixels of the network input, then objectness
            and class scores in 0..1. Rows run over levels, anchors, y, x.
        """
        # One copy, then in place: with 80 classes the memory traffic is what decoding costs.
        rows = torch.cat([x.flatten(1, 3) for x in raw], dim=1).float().sigmoid_()
        counts = [x.shape[1] * x.shape[2] * x.shape[3] for x in raw]
        for level, (x, part) in enumerate(zip(raw, rows.split(counts, dim=1), strict=True)):
            boxes, stride = part[..., :4].unflatten(1, x.shape[1:4]), self.strides[level]  # (B, A, H, W, 4)
            _, num_anchors, height, width, _ = boxes.shape
            # Doubling lets a centre leave its cell by half a cell, and a side reach four anchors.
            cell_x = torch.arange(width, device=boxes.device, dtype=torch.float32) - 0.5
            cell_y = torch.arange(height, device=boxes.device, dtype=torch.float32).view(-1, 1) - 0.5
            boxes[..., 0].mul_(2).add_(cell_x).mul_(stride)
            boxes[..., 1].mul_(2).add_(cell_y).mul_(stride)
            anchor_sizes = (self.anchors[level].float() * stride).view(1, num_anchors, 1, 1, 2)
            boxes[..., 2:].mul_(2).square_().mul_(anchor_sizes)
        return rows
