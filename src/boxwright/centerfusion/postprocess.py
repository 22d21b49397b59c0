"""Raw outputs of CenterFusion to 3-D detections in the camera frame: peaks, flip test, back-projection.

Legend: B images, K peaks an image, H W the output grid. Everything is batched; only the last step, which cuts each
image's list to what is kept, has shapes that depend on values.

Source: Zhou et al. 2019, Objects as Points (arXiv 1904.07850); Nabati and Qi 2020, CenterFusion (arXiv 2011.04841);
the published CenterFusion behaviour, spec C10.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from boxwright.centerfusion import heatmap
from boxwright.centerfusion.angles import decode_rotation, rotation_from_alpha
from boxwright.centerfusion.head_values import at_cells, at_least_float32, depth_from_raw, raw_from_depth
from boxwright.centerfusion.structures import RawHeads
from boxwright.nuscenes.structures import Detections3d
from boxwright.ops.boxes3d import unproject

_AVERAGED = ("hm", "dep", "dep_sec", "wh", "dim")  # by the flip test, as they come out of their activation


@dataclass(frozen=True, slots=True)
class CenterPeaks:
    """The K best peaks of each image, best first, in grid cells.

    Args:
        scores: (B, K) in 0..1.
        labels: (B, K) int64 class.
        cells: (B, K, 2) int64 x, y.
        boxes: (B, K, 4) xyxy.
        depth: (B, K) metres.
        rotation: (B, K, 8) two bins, see `ops.angles`.
        dims: (B, K, 3) metres.
        amodel_offset: (B, K, 2) from the middle of the box to the projected 3-D centre.
        attributes: (B, K, 8) logits.
        velocity: (B, K, 3) m/s.
    """

    scores: Tensor
    labels: Tensor
    cells: Tensor
    boxes: Tensor
    depth: Tensor
    rotation: Tensor
    dims: Tensor
    amodel_offset: Tensor
    attributes: Tensor
    velocity: Tensor


def decode(heads: RawHeads, k: int = 100) -> CenterPeaks:
    """The K best peaks of the heat map with what the other heads say there.

    Depth and rotation of the second stage replace those of the first where the model has them. With fewer cells than K
    there are fewer peaks.
    """
    found = heatmap.peaks(at_least_float32(heads["hm"]).sigmoid(), k, suppress=True)
    width = heads["hm"].shape[3]

    def read(name: str) -> Tensor:
        return at_least_float32(at_cells(heads[name], found.cells))

    cells = torch.stack((found.cells % width, found.cells // width), dim=-1)
    centers = cells + read("reg")
    half = read("wh").clamp(min=0) / 2
    return CenterPeaks(
        scores=found.scores,
        labels=found.labels,
        cells=cells,
        boxes=torch.cat((centers - half, centers + half), dim=-1),
        depth=depth_from_raw(read("dep_sec" if "dep_sec" in heads else "dep"))[..., 0],
        rotation=read("rot_sec" if "rot_sec" in heads else "rot"),
        dims=read("dim"),
        amodel_offset=read("amodel_offset"),
        attributes=read("nuscenes_att"),
        velocity=read("velocity"),
    )


def with_mirror(maps: Tensor, *, radar: bool = False) -> Tensor:
    """Images or radar maps (B, C, H, W) and behind them their mirror images (2B, C, H, W), for `merge_flipped`.

    Args:
        radar: the channels are depth, velocity right, velocity forward; the second changes its sign.
    """
    mirror = maps.flip(3)
    if radar:
        mirror = torch.cat((mirror[:, :1], -mirror[:, 1:2], mirror[:, 2:]), dim=1)
    return torch.cat((maps, mirror))


def merge_flipped(heads: RawHeads) -> RawHeads:
    """Raw heads (B, C, H, W) of the flip test from those of B images and, behind them, their B mirror images.

    Scores, depths (in metres), sizes and dimensions become the mean of both; so does amodel_offset with its x turned
    round; the other heads are those of the plain images. Means of scores and depths are put back through the inverse
    of their activation, in float64, so that what comes out is read like any other raw heads.
    """
    merged: RawHeads = {}
    for name, values in heads.items():
        half = values.shape[0] // 2
        plain, mirror = values[:half], values[half:].flip(3)
        if name == "amodel_offset":
            mirror = torch.cat((-mirror[:, :1], mirror[:, 1:]), dim=1)
        merged[name] = _mean(name, plain, mirror) if name in (*_AVERAGED, "amodel_offset") else plain
    return merged


def _mean(name: str, plain: Tensor, mirror: Tensor) -> Tensor:
    if name == "hm":
        mean = ((plain.double().sigmoid() + mirror.double().sigmoid()) / 2).logit()
    elif name in ("dep", "dep_sec"):
        mean = raw_from_depth((depth_from_raw(plain.double()) + depth_from_raw(mirror.double())) / 2)
    else:
        mean = (plain + mirror) / 2
    return mean.to(torch.promote_types(plain.dtype, torch.float32))


def to_detections(
    peaks: CenterPeaks, image_from_grid: Tensor, calibs: Tensor, *, score_threshold: float, radar: bool
) -> list[Detections3d]:
    """Detections of each image in its camera's frame: those above the threshold whose dimensions are all positive.

    Args:
        image_from_grid: (B, 2, 3) affine map of grid cells to pixels of the original image.
        calibs: (B, 3, 4) camera matrix, pixels.
        score_threshold: scores must be higher.
        radar: the velocity keeps its length but points along the box, as published for radar models.
    """
    linear, shift = image_from_grid[:, None, :, :2], image_from_grid[:, None, :, 2]
    corners = peaks.boxes.unflatten(-1, (2, 2))
    boxes = (linear[:, :, None] @ corners[..., None])[..., 0] + shift[:, :, None]
    centers = (linear @ (corners.mean(-2) + peaks.amodel_offset)[..., None])[..., 0] + shift
    locations = unproject(centers, peaks.depth, calibs[:, None])
    # The bottom face lies half a height below the centre, and y points down.
    locations = torch.stack((locations[..., 0], locations[..., 1] + peaks.dims[..., 0] / 2, locations[..., 2]), dim=-1)
    alpha = decode_rotation(peaks.rotation)
    rotation_y = rotation_from_alpha(alpha, centers[..., 0], calibs[:, None, 0, 2], calibs[:, None, 0, 0])
    velocity = _along_heading(peaks.velocity, rotation_y) if radar else peaks.velocity
    keep = (peaks.scores > score_threshold) & (peaks.dims > 0).all(-1)
    columns = (
        peaks.scores,
        peaks.labels,
        boxes.flatten(-2),
        locations,
        peaks.dims,
        rotation_y,
        alpha,
        velocity,
        peaks.attributes,
    )
    narrow = [column if column.dtype == torch.int64 else column.float() for column in columns]
    return [Detections3d(*(column[image][mask] for column in narrow)) for image, mask in enumerate(keep)]


def _along_heading(velocity: Tensor, rotation_y: Tensor) -> Tensor:
    """The same speed over ground along the length of the box; the vertical part stays."""
    speed = torch.hypot(velocity[..., 0], velocity[..., 2])
    return torch.stack((speed * rotation_y.cos(), velocity[..., 1], -speed * rotation_y.sin()), dim=-1)
