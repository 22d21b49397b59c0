"""Heat maps of object centres: the Gaussians of the targets, and the peaks of what a network says.

Source: Zhou et al., Objects as Points (2019); Law and Deng, CornerNet (2018) for the radius; published CenterFusion
behaviour.

Legend: B images, C classes, H W grid, K peaks, N objects.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]


class Peaks(NamedTuple):
    """The best cells of each image, highest score first; which of equal ones comes first is not said.

    Args:
        scores: (B, K) values of the heat map.
        labels: (B, K) int64 class.
        cells: (B, K) int64, y * W + x.
    """

    scores: Tensor
    labels: Tensor
    cells: Tensor


def peaks(heatmap: Tensor, k: int, *, suppress: bool = True) -> Peaks:
    """The k best cells over all classes of heat maps (B, C, H, W); fewer where there are fewer cells.

    Args:
        suppress: cells that are not the greatest of their 3 x 3 neighbours count as 0, so the heat map has to be one of
            probabilities; else each cell counts as it is.
    """
    if suppress:
        heatmap = heatmap * (max_pool2d(heatmap, 3, stride=1, padding=1) == heatmap)
    flat = heatmap.flatten(1)
    size = flat.shape[1]
    # The k best cells lie in the k sets of the greatest maxima, which spares a search through the whole map. A set has
    # one cell of each part, so that the maxima are taken of whole parts at once.
    parts = next(count for count in range(64, 0, -1) if size % count == 0)
    stride = size // parts
    sets = _places_of_best(flat.unflatten(1, (parts, stride)).amax(1), min(k, stride))
    starts = torch.arange(0, size, stride, device=flat.device)
    members = (sets[:, None] + starts[:, None]).flatten(1)
    values = flat.gather(1, members)
    places = _places_of_best(values, min(k, members.shape[1]))
    scores, order = values.gather(1, places).sort(dim=1, descending=True)
    found = members.gather(1, places.gather(1, order))
    plane = heatmap.shape[2] * heatmap.shape[3]
    return Peaks(scores, found // plane, found % plane)


def _places_of_best(values: Tensor, k: int) -> Tensor:
    """Places (B, k) of the k greatest of each row (B, N), in any order."""
    in_numpy = values.dtype in (torch.float32, torch.float64)  # it has no bfloat16
    if values.device.type == "cpu" and in_numpy and not torch.compiler.is_compiling():
        # NumPy's partition takes a third of the time of torch's.
        return torch.from_numpy(np.argpartition(-values.detach().numpy(), k - 1, axis=1)[:, :k])
    return values.topk(k, sorted=False).indices


def gaussian_radius(
    height: Floats | Integers | float, width: Floats | Integers | float, overlap: float = 0.7
) -> Floats:
    """Radius in cells within which a box moved by it keeps about `overlap` IoU, for boxes of the given sides (...).

    Sides are rounded up first. The published formulae leave out the factor `a` of the quadratic's denominator, which
    weights were trained with: two of three radii are not what the geometry says. Cut to whole cells for drawing.
    """
    h, w = np.ceil(np.asarray(height, np.float64)), np.ceil(np.asarray(width, np.float64))
    total, area = h + w, h * w
    moved = (total + np.sqrt(total**2 - 4 * area * (1 - overlap) / (1 + overlap))) / 2
    inside = (2 * total + np.sqrt(4 * total**2 - 16 * (1 - overlap) * area)) / 2
    around = (-2 * overlap * total + np.sqrt(4 * overlap**2 * total**2 - 16 * overlap * (overlap - 1) * area)) / 2
    return np.minimum(np.minimum(moved, inside), around)


def draw_gaussians(heatmap: npt.NDArray[np.float32], labels: Integers, centers: Integers, radii: Integers) -> None:
    """Raise heat maps to a Gaussian at each object, in place: the greater value stands.

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
    counts = sides.prod(axis=1)
    owner = np.repeat(np.arange(len(counts)), counts)
    inner = np.arange(len(owner)) - np.repeat(counts.cumsum() - counts, counts)
    x = start[owner, 0] + inner % sides[owner, 0]
    y = start[owner, 1] + inner // sides[owner, 0]
    sigma = (2 * radii.astype(np.float64) + 1) / 6
    distance = (x - centers[owner, 0]) ** 2 + (y - centers[owner, 1]) ** 2
    values = np.exp(-distance / (2 * sigma[owner] ** 2)).astype(heatmap.dtype)
    np.maximum.at(heatmap, (labels[owner], y, x), values)
