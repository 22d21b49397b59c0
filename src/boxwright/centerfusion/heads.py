"""What the raw heads of a centre network mean: peaks, depth, rotation; and the Gaussians that teach the heat map.

`alpha` is the rotation of an object as seen along the ray to it, `rotation_y` that about the camera's y axis (rad).
They differ by the direction of the ray, atan2(x - cx, fx).
Source: Zhou et al., "Objects as Points", 2019 (arXiv:1904.07850); Law and Deng, "CornerNet", 2018, for the radius;
Mousavian et al., "3D Bounding Box Estimation Using Deep Learning and Geometry", 2017, for the rotation; published
CenterFusion behaviour.

Legend: B images, C classes or channels, H W grid, K peaks, M cells, N objects.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from boxwright.ops.arrays import Array, Floats, Ints

_DEPTH_EPS = 1e-6  # keeps the depth below a thousand kilometres
_TURN = 2 * math.pi


def at_cells(maps: Tensor, cells: Tensor) -> Tensor:
    """Read values (B, M, C) of maps (B, C, H, W) at cells (B, M), each y * W + x."""
    flat = maps.flatten(2)
    return flat.gather(2, cells[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)


def at_least_float32(values: Tensor) -> Tensor:
    """Convert half precision to float32; leave wider values as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def depth_from_raw(raw: Tensor) -> Tensor:
    """Convert raw values of a depth head to metres."""
    return 1 / (raw.sigmoid() + _DEPTH_EPS) - 1


def raw_from_depth(depth: Tensor) -> Tensor:
    """Invert `depth_from_raw`; best given float64."""
    return (1 / (depth + 1) - _DEPTH_EPS).clamp(0, 1).logit()


def decode_rotation(channels: Tensor) -> Tensor:
    """Decode alpha (...) in rad, within [-1.5 pi, 1.5 pi], from raw `rot` outputs (..., 8).

    Channels 0-3 are of the bin around -pi/2, 4-7 of that around pi/2: two logits (no, yes), then sine and cosine of the
    angle from the middle of the bin to alpha. The bin with the greater "yes" counts.
    """
    first = torch.atan2(channels[..., 2], channels[..., 3]) - math.pi / 2
    second = torch.atan2(channels[..., 6], channels[..., 7]) + math.pi / 2
    return torch.where(channels[..., 1] > channels[..., 5], first, second)


def rotation_from_alpha(alpha: Tensor, x: Tensor, cx: Tensor, fx: Tensor) -> Tensor:
    """Convert alpha (...) to the rotation about the camera's y axis, in [-pi, pi].

    Args:
        alpha: (...) rad.
        x: (...) column of the object's centre, in the pixels of cx and fx; those broadcast against it.
    """
    rotation = alpha + torch.atan2(x - cx, fx.expand_as(x))
    # Whole turns are taken off, so that an angle that is inside already keeps its bits.
    return rotation - _TURN * torch.round(rotation / _TURN)


class Peaks(NamedTuple):
    """The best cells of each image, highest score first; equal scores in the order of class, row and column."""

    scores: Tensor  # (B, K) values of the heat map
    labels: Tensor  # (B, K) int64 class
    cells: Tensor  # (B, K) int64, y * W + x


def peaks(heatmap: Tensor, k: int, *, suppress: bool = True) -> Peaks:
    """Select the k best cells over all classes of heat maps (B, C, H, W); fewer where there are fewer cells.

    Args:
        suppress: cells that are not the greatest of their 3 x 3 neighbours count as 0, so the heat map has to be one of
            probabilities; else each cell counts as it is.
    """
    if suppress:
        heatmap = heatmap * (max_pool2d(heatmap, 3, stride=1, padding=1) == heatmap)
    flat = heatmap.flatten(1)
    size = flat.shape[1]
    # The k best cells lie in the k runs of cells of the greatest maxima, which spares a sort of the whole map. Runs
    # keep the order of the cells, so the first of equal cells lies in the first of equal runs.
    length = next(count for count in range(64, 0, -1) if size % count == 0)
    runs = _first_best(flat.unflatten(1, (-1, length)).amax(2), k).sort(dim=1).values
    members = (runs[..., None] * length + torch.arange(length, device=flat.device)).flatten(1)
    values = flat.gather(1, members)
    best = _first_best(values, k)
    found = members.gather(1, best)
    plane = heatmap.shape[2] * heatmap.shape[3]
    return Peaks(values.gather(1, best), found // plane, found % plane)


def _first_best(values: Tensor, k: int) -> Tensor:
    """Find the indices (B, k) of the k greatest of each row (B, N), the first of equal ones first."""
    k = min(k, values.shape[1])
    if torch.onnx.is_in_onnx_export():
        return values.topk(k).indices  # ONNX promises this order of equal ones, torch does not
    return values.sort(dim=1, descending=True, stable=True).indices[:, :k]


def gaussian_radius(height: Array | float, width: Array | float, overlap: float = 0.7) -> Floats:
    """Compute the radius in cells within which a moved box keeps about `overlap` IoU, for boxes of given sides (...).

    Sides are rounded up first. Cut the radius to whole cells for drawing.
    """
    h, w = np.ceil(np.asarray(height, np.float64)), np.ceil(np.asarray(width, np.float64))
    total, area = h + w, h * w
    # Roots of the three quadratics of CornerNet: one corner moved out and one in, both in, both out. The published
    # code leaves out the factor `a` of the denominator 2 a, so the last two radii are not what geometry says; weights
    # were trained with these.
    moved = (total + np.sqrt(total**2 - 4 * area * (1 - overlap) / (1 + overlap))) / 2
    inside = (2 * total + np.sqrt(4 * total**2 - 16 * (1 - overlap) * area)) / 2
    around = (-2 * overlap * total + np.sqrt(4 * overlap**2 * total**2 - 16 * overlap * (overlap - 1) * area)) / 2
    return np.minimum(np.minimum(moved, inside), around)


def draw_gaussians(heatmap: npt.NDArray[np.float32], labels: Ints, centers: Ints, radii: Ints) -> None:
    """Raise heat maps to a Gaussian at each object, in place; the greater value stands.

    Args:
        heatmap: (C, H, W).
        labels: (N,) class.
        centers: (N, 2) x, y cell; it may lie outside.
        radii: (N,) cells, at least 0: the Gaussian has standard deviation (2 r + 1) / 6 and ends in a square of side
            2 r + 1.
    """
    _, height, width = heatmap.shape
    reach = radii[:, None].astype(np.int64)
    size = np.array([width, height])
    start = np.clip(centers - reach, 0, size)
    sides = np.clip(centers + reach + 1, 0, size) - start
    # The cells of all squares in one list, and whose each is: no loop over objects.
    counts = sides.prod(axis=1)
    owner = np.repeat(np.arange(len(counts)), counts)
    inner = np.arange(len(owner)) - np.repeat(counts.cumsum() - counts, counts)
    x = start[owner, 0] + inner % sides[owner, 0]
    y = start[owner, 1] + inner // sides[owner, 0]
    sigma = (2 * radii.astype(np.float64) + 1) / 6
    distance = (x - centers[owner, 0]) ** 2 + (y - centers[owner, 1]) ** 2
    values = np.exp(-distance / (2 * sigma[owner] ** 2)).astype(heatmap.dtype)
    # `at` goes through repeated cells one by one; an assignment would keep only the last of them.
    np.maximum.at(heatmap, (labels[owner], y, x), values)
