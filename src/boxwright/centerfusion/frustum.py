"""Frustum association: which radar return belongs to which object, painted as a map that the second heads read.

For each object the nearest return inside its 2-D box whose depth fits the object's; its depth and velocity are painted
into a window about the centre of the box. The inference takes objects from the first heads, the training the annotated
ones.
Source: Nabati and Qi, CenterFusion (2020), section 4; published CenterFusion behaviour, quirks included, which its
weights were trained with. `FrustumOptions.fixed` mends them.

Legend: B images, K or M objects an image, H W grid, P radar cells. Boxes are xyxy in grid cells, depths metres, the
camera frame has x right, y down, z forward, dimensions are (height, width, length).
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from boxwright.centerfusion.heads import (
    at_cells,
    at_least_float32,
    decode_rotation,
    depth_from_raw,
    peaks,
    rotation_from_alpha,
)
from boxwright.centerfusion.rectangles import first_inside, paint_in_turn
from boxwright.centerfusion.settings import FrustumConfig, FusionConfig
from boxwright.centerfusion.structures import Batch3d

_NO_RETURN = int(np.array(np.inf, np.float32).view(np.int32)) << 32  # the key of a cell at infinity


class FrustumOptions(FrustumConfig):
    """How returns are associated: the settings, and what the rest of a run says of them. Exported files hold it."""

    max_depth: float = 60.0  # metres, by which painted depths are divided
    # Mends what the published code does by mistake: a depth threshold of 1.5 times the half extent of the box along z
    # instead of the half extent; boxes over the left or top border that wrap around; a window one column too wide; and,
    # when switched off, the first image divided by `max_depth` instead of the depth of all.
    fixed: bool = False

    @classmethod
    def of(cls, config: FusionConfig) -> Self:
        """Collect how radar is associated with objects in a run.

        Switched off, inference passes the radar map on as training does: the published code stops in training then, so
        no weights need what it does at inference, where only the first image of a batch is divided, in all channels.
        """
        fixed = config.fixed or not config.frustum.enabled
        return cls(**dict(config.frustum), max_depth=config.radar.max_depth, fixed=fixed)


class FrustumObjects(NamedTuple):
    """Objects to associate returns with, in the order in which they are painted."""

    boxes: Tensor  # (B, K, 4) xyxy, grid cells
    depth: Tensor  # (B, K) metres
    thresholds: Tensor  # (B, K) metres by which the depth of a return may differ from it


def associate(
    heads: Mapping[str, Tensor], radar: Tensor, calibs: Tensor, options: FrustumOptions, k: int = 100
) -> Tensor:
    """Paint the radar map (B, 3, H, W) of the objects that the first heads see; nothing flows back.

    Args:
        heads: raw outputs `hm` (B, C, H, W), `wh` (B, 2, H, W), `dep` (B, 1, H, W), `dim` (B, 3, H, W) and `rot`
            (B, 8, H, W).
        radar: (B, 3, H, W) depth in metres (0: no return), velocity to the right and forward in m/s.
        calibs: (B, 3, 4) camera matrices of the original images; (1, 3, 4) is one for all of the batch, as published,
            where a batch is one image, alone or with its mirror image. Batches of several cameras stop there.
        k: the best cells that count as objects, those beside a peak included.
    """
    if not options.enabled:
        return _pass_on(radar, options, fixed=options.fixed)
    return paint(found_objects(heads, calibs, options, k), radar, options)


def associate_targets(batch: Batch3d, options: FrustumOptions) -> Tensor:
    """Paint the radar map (B, 3, H, W) of the annotated objects of a batch, in the order of the annotations.

    Each image has its own camera matrix, as published; switched off, the depth of every image is normalised (the
    published code stops there).
    """
    if not options.enabled:
        return _pass_on(batch.radar, options, fixed=True)
    targets = batch.targets
    thresholds = depth_thresholds(targets.boxes, targets.dims, targets.alpha, batch.calibs, options)
    objects = FrustumObjects(targets.boxes, targets.annotation_depth, thresholds)
    return paint(objects, batch.radar, options, targets.valid)


def found_objects(heads: Mapping[str, Tensor], calibs: Tensor, options: FrustumOptions, k: int) -> FrustumObjects:
    """Read the k best cells of the first heads as objects, see `associate`."""
    hm, wh, dep, dim, rot = (heads[name].detach() for name in ("hm", "wh", "dep", "dim", "rot"))
    cells = peaks(hm, k, suppress=False).cells
    width = hm.shape[-1]
    size, raw_depth, dims, rotation = (
        at_least_float32(at_cells(head, cells))
        for head in (wh, dep, dim, rot)  # half is too coarse for cells
    )
    centers = torch.stack((cells % width, cells // width), dim=-1) + 0.5
    half = size.clamp(min=0) / 2
    boxes = torch.cat((centers - half, centers + half), dim=-1)
    depth = depth_from_raw(raw_depth[..., 0])
    objects = FrustumObjects(boxes, depth, depth_thresholds(boxes, dims, decode_rotation(rotation), calibs, options))
    if not options.by_depth:
        return objects
    _, order = _sort(depth)
    return FrustumObjects(
        boxes.gather(1, order[..., None].expand(-1, -1, 4)), depth.gather(1, order), objects.thresholds.gather(1, order)
    )


def depth_thresholds(boxes: Tensor, dims: Tensor, alpha: Tensor, calibs: Tensor, options: FrustumOptions) -> Tensor:
    """Compute by how many metres (B, K) the depth of a return may differ from that of boxes (B, K, 4).

    The column of the box is that of the grid, while the matrix is that of the original image: published so at inference
    and in training, hence the same in both modes.
    """
    x = (boxes[..., 0] + boxes[..., 2]) / 2
    rotation = rotation_from_alpha(alpha, x, calibs[:, 0, 2, None].to(x.dtype), calibs[:, 0, 0, None].to(x.dtype))
    _, width, length = dims.abs().unbind(-1)
    # Half of what the box covers along z: its corners lie half a length and half a width from the centre.
    half_extent = (rotation.sin().abs() * length + rotation.cos().abs() * width) / 2
    # The published threshold is the greatest z of the corners less half the least, which is its negative.
    return half_extent * ((1.0 if options.fixed else 1.5) * (1 + options.expansion_ratio))


def paint(objects: FrustumObjects, radar: Tensor, options: FrustumOptions, valid: Tensor | None = None) -> Tensor:
    """Paint the radar map (B, 3, H, W) of objects; later ones cover earlier ones.

    Args:
        valid: (B, K) bool; False marks padding.
    """
    boxes, depth, thresholds = objects
    height, width = radar.shape[2:]
    if not boxes.shape[1]:
        return torch.zeros_like(radar)
    grid = (height, width)
    # The nearest return between near and far: radar cells are sorted by depth, so it is the first inside the box from
    # the position on that bisection gives.
    near, far = (depth - thresholds).clamp(min=0), depth + thresholds
    depths, rows, columns = _sort_cells(radar[:, 0], near.dtype)
    if torch.onnx.is_in_onnx_export():  # ONNX has no bisection
        after = (depths[:, None] <= near[..., None]).sum(-1)
    else:
        after = torch.searchsorted(depths, near, right=True)
    regions, windows = _regions_and_windows(boxes, options, grid)
    first = first_inside(rows, columns, depths.isfinite(), after, regions, grid)
    index = first.clamp(max=depths.shape[1] - 1)
    hit = (first < depths.shape[1]) & (depths.gather(1, index) < far)
    if valid is not None:
        hit = hit & valid
    cell = rows.gather(1, index) * width + columns.gather(1, index)
    values = radar.flatten(2).gather(2, cell[:, None].expand(-1, 3, -1))
    return paint_in_turn(_normalize(values, options), windows, hit, grid)


def _sort_cells(depth: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Sort the radar cells of maps (B, H, W), nearest first, equal ones as they come: depth, row and column (B, P).

    All cells take part, those without a return at infinity, so that shapes are static; on the CPU, where nothing has to
    be waited for, only as many as the fullest image has.
    """
    width = depth.shape[-1]
    dtype = torch.promote_types(depth.dtype, dtype)
    if depth.device.type == "cpu" and depth.dtype == torch.float32 and not torch.compiler.is_compiling():
        # NumPy sorts integers many times faster than torch does floats. Bits of positive floats rise with them, and the
        # cell below them settles ties.
        maps = depth.detach().flatten(1).numpy()
        images, size = maps.shape
        found = np.flatnonzero(maps > 0)
        counts = np.diff(np.searchsorted(found, np.arange(images + 1) * size))
        bits = maps.reshape(-1)[found].view(np.int32).astype(np.int64)
        keys = np.full((images, max(1, counts.max(initial=0))), _NO_RETURN)
        own_cells = found - np.repeat(np.arange(images) * size, counts)
        keys[np.arange(keys.shape[1]) < counts[:, None]] = bits << 32 | own_cells
        keys.sort(axis=1)
        depths, cells = (keys >> 32).astype(np.int32).view(np.float32), keys.astype(np.int32)  # upper and lower half
        rows = cells // width
        rows, columns = rows.astype(np.int64), (cells - rows * width).astype(np.int64)
        return torch.from_numpy(depths).to(dtype), torch.from_numpy(rows), torch.from_numpy(columns)
    depth = depth.flatten(1)
    depths, order = _sort(torch.where(depth > 0, depth, torch.inf))
    return depths.to(dtype), order // width, order % width


def _sort(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sort values (B, N); return them and their indices, equal ones as they came."""
    if torch.onnx.is_in_onnx_export():
        return values.sort(dim=1)  # becomes TopK, of which ONNX promises that equal ones stay in order
    return values.sort(dim=1, stable=True)


def _regions_and_windows(boxes: Tensor, options: FrustumOptions, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Compute the cells that boxes (B, K, 4) touch, and those in which they are painted: (y0, y1, x0, x1) (B, K, 4)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    center, reach = (low + high) / 2, options.window_ratio * (high - low) / 2
    start = torch.stack((low.floor(), (center - reach).trunc()))  # (2, B, K, 2 of x y)
    stop = torch.stack((high.ceil(), (center + reach).trunc())) + 1
    rows = _slice(start[..., 1], stop[..., 1], grid[0], fixed=options.fixed)
    ends = stop[..., 0] if options.fixed else torch.stack((stop[0, ..., 0], stop[1, ..., 0] + 1))
    columns = _slice(start[..., 0], ends, grid[1], fixed=options.fixed)
    regions, windows = torch.cat((rows, columns), dim=-1).unbind()
    return regions, windows


def _slice(start: Tensor, stop: Tensor, length: int, *, fixed: bool) -> Tensor:
    """Resolve slices of an axis, given as whole numbers in floats, to (..., 2) int64 within 0 to `length`.

    Published as slices of an array, where negative numbers count from the far end; `fixed` cuts them at 0.
    """
    # Cut before they become integers, which hold no infinity; what is beyond either end means the same as the end.
    ends = torch.stack((start, stop), dim=-1).clamp(-length, length).nan_to_num(0.0).long()
    return ends.clamp(min=0) if fixed else torch.where(ends < 0, ends + length, ends)


def _normalize(values: Tensor, options: FrustumOptions) -> Tensor:
    """Divide the depth of values (B, 3, ...) by the greatest."""
    if not options.normalize_depth:
        return values
    return torch.cat((values[:, :1] / options.max_depth, values[:, 1:]), dim=1)


def _pass_on(radar: Tensor, options: FrustumOptions, *, fixed: bool) -> Tensor:
    """Return the radar map without association, its depth normalised."""
    if fixed or not options.normalize_depth:
        return _normalize(radar, options)
    # Published: the division meant for the channel of depth takes the first image instead.
    return torch.cat((radar[:1] / options.max_depth, radar[1:]))
