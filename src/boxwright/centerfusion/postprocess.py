"""Raw outputs of CenterFusion to 3-D detections in the camera frame: peaks, flip test, back-projection.

Legend: B images, K peaks an image, H W the output grid. Everything is batched; only the last step, which cuts each
image's list to what is kept, has shapes that depend on values.

Source: Zhou et al. 2019, Objects as Points (arXiv:1904.07850); Nabati and Qi 2020, CenterFusion (arXiv:2011.04841);
published CenterFusion behaviour, docs/spec/centerfusion.md, C10.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from boxwright.centerfusion.heads import (
    at_cells,
    at_least_float32,
    decode_rotation,
    depth_from_raw,
    peaks,
    raw_from_depth,
    rotation_from_alpha,
)
from boxwright.centerfusion.structures import RawHeads
from boxwright.engine.device import widest_floats
from boxwright.nuscenes.structures import ATTRIBUTE_NAMES, Detections3d


@dataclass(frozen=True, slots=True)
class CenterPeaks:
    """The K best peaks of each image, best first, in grid cells."""

    scores: Tensor  # (B, K) in 0..1
    labels: Tensor  # (B, K) int64 class
    cells: Tensor  # (B, K, 2) int64 x, y
    boxes: Tensor  # (B, K, 4) xyxy
    depth: Tensor  # (B, K) metres
    rotation: Tensor  # (B, K, 8) two bins, see `heads.decode_rotation`
    dims: Tensor  # (B, K, 3) metres
    amodel_offset: Tensor  # (B, K, 2) from the middle of the box to the projected 3-D centre
    attributes: Tensor  # (B, K, 8) logits; NaN without such a head
    velocity: Tensor  # (B, K, 3) m/s; 0 without such a head, as published


def run_network(model: nn.Module, images: Tensor, radar: Tensor | None, calibs: Tensor, *, flip_test: bool) -> RawHeads:
    """Compute the raw heads of a batch on its device; with the flip test, merged with those of its mirror images.

    Args:
        model: called as model(images, radar, calibs).
        images: (B, 3, h, w).
        radar: (B, 3, H, W); None: the model has no radar input.
        calibs: (B, 3, 4).
    """
    if not flip_test:
        return model(images, radar, calibs)
    # The camera matrix is not mirrored, as published: its principal point lies in the middle but for a few pixels.
    both = None if radar is None else with_mirror(radar, radar=True)
    return merge_flipped(model(with_mirror(images), both, calibs.repeat(2, 1, 1)))


def decode(heads: RawHeads, k: int = 100) -> CenterPeaks:
    """Decode the K best peaks of the heat map with what the other heads say there.

    Depth and rotation of the second stage replace those of the first where the model has them. With fewer cells than K
    there are fewer peaks.
    """
    found = peaks(at_least_float32(heads["hm"]).sigmoid(), k, suppress=True)
    width = heads["hm"].shape[3]

    def read(name: str) -> Tensor:
        """Read a head at the peaks."""
        return at_least_float32(at_cells(heads[name], found.cells))

    def read_or(value: float, name: str, channels: int) -> Tensor:
        """Read a head that some networks lack; they give a value in its place."""
        return read(name) if name in heads else found.scores.new_full((*found.scores.shape, channels), value)

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
        attributes=read_or(float("nan"), "nuscenes_att", len(ATTRIBUTE_NAMES)),
        velocity=read_or(0.0, "velocity", 3),
    )


def detect(
    heads: RawHeads, image_from_grid: Tensor, calibs: Tensor, num_peaks: int, score_threshold: float, radar: bool
) -> list[Detections3d]:
    """Decode the detections of each image on the host, see `decode` and `to_detections`."""
    best = decode(heads, num_peaks)
    return to_detections(best, image_from_grid, calibs, score_threshold=score_threshold, radar=radar)


def with_mirror(maps: Tensor, *, radar: bool = False) -> Tensor:
    """Extend images or radar maps (B, C, H, W) by their mirror images: (2B, C, H, W), for `merge_flipped`.

    Args:
        radar: the channels are depth, velocity right, velocity forward; the second changes its sign.
    """
    mirror = maps.flip(3)
    if radar:
        mirror = torch.cat((mirror[:, :1], -mirror[:, 1:2], mirror[:, 2:]), dim=1)
    return torch.cat((maps, mirror))


def merge_flipped(heads: RawHeads) -> RawHeads:
    """Merge the raw heads of B images and, behind them, their B mirror images, to (B, C, H, W).

    Scores, depths (in metres), sizes and dimensions become the mean of both; so does amodel_offset with its x turned
    round; the other heads are those of the plain images. Means of scores and depths are put back through the inverse
    of their activation, in float64, so that what comes out is read like any other raw heads.
    """
    merged: RawHeads = {}
    for name, values in heads.items():
        half, wide = values.shape[0] // 2, widest_floats(values.device)
        plain, mirror = values[:half], values[half:].flip(3)
        if name == "hm":
            mean = ((plain.to(wide).sigmoid() + mirror.to(wide).sigmoid()) / 2).logit()
        elif name in ("dep", "dep_sec"):
            mean = raw_from_depth((depth_from_raw(plain.to(wide)) + depth_from_raw(mirror.to(wide))) / 2)
        elif name in ("wh", "dim"):
            mean = (plain + mirror) / 2
        elif name == "amodel_offset":
            mean = (plain + torch.cat((-mirror[:, :1], mirror[:, 1:]), dim=1)) / 2
        else:
            merged[name] = plain
            continue
        merged[name] = mean.to(torch.promote_types(plain.dtype, torch.float32))
    return merged


def unproject(pixels: Tensor, depth: Tensor, calibs: Tensor) -> Tensor:
    """Return the points (..., 3) in the camera frame that are seen at pixels (..., 2) at depths (...) in metres.

    Args:
        calibs: (..., 3, 4) camera matrices without skew, which broadcast against the pixels.
    """
    z = depth - calibs[..., 2, 3]
    x = (pixels[..., 0] * depth - calibs[..., 0, 3] - calibs[..., 0, 2] * z) / calibs[..., 0, 0]
    y = (pixels[..., 1] * depth - calibs[..., 1, 3] - calibs[..., 1, 2] * z) / calibs[..., 1, 1]
    return torch.stack((x, y, z), dim=-1)


def to_detections(
    found: CenterPeaks, image_from_grid: Tensor, calibs: Tensor, *, score_threshold: float, radar: bool
) -> list[Detections3d]:
    """Convert peaks to detections on the host, in the camera's frame: those above the threshold of positive dimensions.

    Args:
        image_from_grid: (B, 2, 3) affine map of grid cells to pixels of the original image.
        calibs: (B, 3, 4) camera matrix, pixels.
        score_threshold: scores must be higher.
        radar: the velocity keeps its speed over ground but points along the box, as published for radar models.
    """
    linear, shift = image_from_grid[:, None, :, :2], image_from_grid[:, None, :, 2]
    corners = found.boxes.unflatten(-1, (2, 2))
    boxes = (linear[:, :, None] @ corners[..., None])[..., 0] + shift[:, :, None]
    centers = (linear @ (corners.mean(-2) + found.amodel_offset)[..., None])[..., 0] + shift
    locations = unproject(centers, found.depth, calibs[:, None])
    # The bottom face lies half a height below the centre, and y points down.
    locations = torch.stack((locations[..., 0], locations[..., 1] + found.dims[..., 0] / 2, locations[..., 2]), dim=-1)
    alpha = decode_rotation(found.rotation)
    rotation_y = rotation_from_alpha(alpha, centers[..., 0], calibs[:, None, 0, 2], calibs[:, None, 0, 0])
    velocity = found.velocity
    if radar:
        speed = torch.hypot(velocity[..., 0], velocity[..., 2])
        along = (speed * rotation_y.cos(), velocity[..., 1], -speed * rotation_y.sin())
        velocity = torch.stack(along, dim=-1)
    keep = (found.scores > score_threshold) & (found.dims > 0).all(-1)
    columns = (
        found.scores,
        found.labels,
        boxes.flatten(-2),
        locations,
        found.dims,
        rotation_y,
        alpha,
        velocity,
        found.attributes,
    )
    # On the host before anything is left out: each choice by a mask would be waited for.
    narrow = [column.cpu() if column.dtype == torch.int64 else column.float().cpu() for column in columns]
    return [Detections3d(*(column[image][mask] for column in narrow)) for image, mask in enumerate(keep.cpu())]
