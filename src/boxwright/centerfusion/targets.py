"""Annotations of one image to what the heads shall say of it.

Source: published CenterFusion behaviour (spec C8, golden targets and tiny_targets). M slots, N annotations, grid W x H.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from boxwright.centerfusion.heatmap import draw_gaussians, gaussian_radius
from boxwright.centerfusion.warp import map_points
from boxwright.nuscenes.structures import ATTRIBUTE_NAMES, CLASS_NAMES, ImageAnnotations
from boxwright.ops.arrays import Floats as Array

_FAMILY_OF_ATTRIBUTE: Final = np.array([name.split(".")[0] for name in ATTRIBUTE_NAMES])
_VX: Final = 0


@dataclass(frozen=True, slots=True)
class TargetArrays:
    """One image's share of `centerfusion.structures.FusionTargets`, without the batch dimension; see there."""

    heatmap: npt.NDArray[np.float32]
    cell: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    valid: npt.NDArray[np.bool_]
    boxes: npt.NDArray[np.float32]
    offset: npt.NDArray[np.float32]
    offset_valid: npt.NDArray[np.bool_]
    size: npt.NDArray[np.float32]
    size_valid: npt.NDArray[np.bool_]
    depth: npt.NDArray[np.float32]
    depth_valid: npt.NDArray[np.bool_]
    dims: npt.NDArray[np.float32]
    dims_valid: npt.NDArray[np.bool_]
    amodel_offset: npt.NDArray[np.float32]
    amodel_valid: npt.NDArray[np.bool_]
    velocity: npt.NDArray[np.float32]
    velocity_valid: npt.NDArray[np.bool_]
    attributes: npt.NDArray[np.float32]
    attributes_valid: npt.NDArray[np.bool_]
    rot_bins: npt.NDArray[np.int64]
    rot_residuals: npt.NDArray[np.float32]
    rot_valid: npt.NDArray[np.bool_]
    annotation_depth: npt.NDArray[np.float32]
    alpha: npt.NDArray[np.float32]

    def row(self, index: int) -> TargetArrays:
        """The targets of one image, to be written to, where these are those of a batch."""
        return TargetArrays(*(getattr(self, field.name)[index] for field in fields(self)))


def room_for_targets(slots: int, grid_hw: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of each array of one image, by name."""
    real, whole, flag = torch.float32, torch.int64, torch.bool
    return {
        "heatmap": ((len(CLASS_NAMES), *grid_hw), real),
        "cell": ((slots,), whole),
        "label": ((slots,), whole),
        "valid": ((slots,), flag),
        "boxes": ((slots, 4), real),
        "offset": ((slots, 2), real),
        "offset_valid": ((slots, 2), flag),
        "size": ((slots, 2), real),
        "size_valid": ((slots, 2), flag),
        "depth": ((slots, 1), real),
        "depth_valid": ((slots, 1), flag),
        "dims": ((slots, 3), real),
        "dims_valid": ((slots, 3), flag),
        "amodel_offset": ((slots, 2), real),
        "amodel_valid": ((slots, 2), flag),
        "velocity": ((slots, 3), real),
        "velocity_valid": ((slots, 3), flag),
        "attributes": ((slots, len(ATTRIBUTE_NAMES)), real),
        "attributes_valid": ((slots, len(ATTRIBUTE_NAMES)), flag),
        "rot_bins": ((slots, 2), whole),
        "rot_residuals": ((slots, 2), real),
        "rot_valid": ((slots,), flag),
        "annotation_depth": ((slots,), real),
        "alpha": ((slots,), real),
    }


def mirror_annotations(annotations: ImageAnnotations, width: int, *, fixed: bool) -> ImageAnnotations:
    """What a mirrored image shows.

    Args:
        annotations: of the image.
        width: of the image, pixels.
        fixed: mirror the velocity along the camera's x, too. The published loader mirrors another velocity, which no
            head is taught, so its network learns velocities of mirrored images with the wrong sign.
    """
    boxes, centers = annotations.boxes_xywh.copy(), annotations.amodel_centers.copy()
    boxes[:, 0] = width - boxes[:, 0] - boxes[:, 2] - 1
    centers[:, 0] = width - centers[:, 0] - 1
    alpha = np.where(annotations.alpha > 0, np.pi, -np.pi) - annotations.alpha
    velocity = annotations.velocity_cam.copy()
    if fixed:
        velocity[:, _VX] *= -1
    return replace(annotations, boxes_xywh=boxes, amodel_centers=centers, alpha=alpha, velocity_cam=velocity)


def write_targets(
    annotations: ImageAnnotations, grid_from_image: Array, depth_factor: float, out: TargetArrays
) -> None:
    """Fill the slots of one image in the order of its annotations; those beyond the last slot are left out.

    Args:
        annotations: mirrored where the image is.
        grid_from_image: (2, 3) map of pixels to cells.
        depth_factor: factor of the augmentation on depths.
        out: zeroed arrays, see `room_for_targets`. Crowds and boxes outside the grid leave their slot empty.
    """
    slots, (height, width) = len(out.valid), out.heatmap.shape[1:]
    labels, count = annotations.labels[:slots], min(len(annotations), slots)
    boxes = _boxes_in_grid(annotations.boxes_xywh[:count], grid_from_image, (height, width))
    crowd = annotations.is_crowd[:count]
    sizes = boxes[:, 2:] - boxes[:, :2]
    kept = np.flatnonzero(~crowd & (sizes > 0).all(axis=1))
    centers = (boxes[kept, :2] + boxes[kept, 2:]) / 2
    cells = centers.astype(np.int64)
    _draw_heatmap(out.heatmap, labels[kept], cells, sizes[kept])
    _fill_crowds(out.heatmap, labels[crowd], boxes[crowd].astype(np.int64))

    out.cell[kept] = cells[:, 1] * width + cells[:, 0]
    out.label[kept] = labels[kept]
    out.boxes[kept] = boxes[kept]
    out.offset[kept] = centers - cells
    out.size[kept] = sizes[kept]
    out.depth[kept, 0] = annotations.depths[kept] * depth_factor
    out.annotation_depth[kept] = annotations.depths[kept]
    out.dims[kept] = annotations.dims[kept]
    out.amodel_offset[kept] = map_points(annotations.amodel_centers[kept], grid_from_image) - cells
    out.alpha[kept] = annotations.alpha[kept]
    out.rot_bins[kept], out.rot_residuals[kept] = rotation_bins(annotations.alpha[kept])
    for flags in (out.valid, out.offset_valid, out.size_valid, out.depth_valid, out.dims_valid, out.amodel_valid):
        flags[kept] = True
    out.rot_valid[kept] = True
    _write_velocities(out, kept, annotations.velocity_cam[kept])
    _write_attributes(out, kept, annotations.attributes[kept])


def rotation_bins(alpha: Array) -> tuple[npt.NDArray[np.int64], Array]:
    """Whether angles lie in each of two bins, which overlap, and how far they are from the bin's middle.

    Args:
        alpha: (N,) rad in -pi..pi.

    Returns:
        (N, 2) 0 or 1, and (N, 2) rad, 0 outside the bin.
    """
    sixth = np.pi / 6
    bins = np.stack([(alpha < sixth) | (alpha > 5 * sixth), (alpha > -sixth) | (alpha < -5 * sixth)], axis=1)
    residuals = alpha[:, None] + np.array([np.pi / 2, -np.pi / 2])
    return bins.astype(np.int64), np.where(bins, residuals, 0.0)


def _boxes_in_grid(boxes_xywh: Array, grid_from_image: Array, grid_hw: tuple[int, int]) -> npt.NDArray[np.float32]:
    """(N, 4) xyxy around the four mapped corners, clipped to the middles of the outer cells."""
    x1, y1, width, height = boxes_xywh.T
    x2, y2 = x1 + width, y1 + height
    corners = np.stack([np.stack([x1, y1]), np.stack([x2, y1]), np.stack([x2, y2]), np.stack([x1, y2])])
    mapped = map_points(corners.transpose(2, 0, 1), grid_from_image).astype(np.float32)
    limit = np.array([grid_hw[1] - 1, grid_hw[0] - 1], np.float32)
    low, high = mapped.min(axis=1), mapped.max(axis=1)
    return np.concatenate([np.clip(low, 0, limit), np.clip(high, 0, limit)], axis=1)


def _draw_heatmap(
    heatmap: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    cells: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.float32],
) -> None:
    radii = np.maximum(gaussian_radius(sizes[:, 1], sizes[:, 0]), 0).astype(np.int64)
    draw_gaussians(heatmap, labels, cells, radii)


def _write_velocities(out: TargetArrays, kept: npt.NDArray[np.int64], velocities: Array) -> None:
    known = ~np.isnan(velocities).any(axis=1)
    out.velocity[kept[known]] = velocities[known]
    out.velocity_valid[kept[known]] = True


def _write_attributes(out: TargetArrays, kept: npt.NDArray[np.int64], attributes: npt.NDArray[np.int64]) -> None:
    known = attributes >= 0
    rows, named = kept[known], attributes[known]
    out.attributes[rows, named] = 1
    out.attributes_valid[rows] = _FAMILY_OF_ATTRIBUTE[named][:, None] == _FAMILY_OF_ATTRIBUTE


def _fill_crowds(heatmap: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], boxes: npt.NDArray[np.int64]) -> None:
    """Set the cells of boxes (N, 4), both ends included, to 1: no loss tells the network that nothing is there."""
    if not len(boxes):
        return
    rows, columns = np.arange(heatmap.shape[1]), np.arange(heatmap.shape[2])
    down = (rows >= boxes[:, 1:2]) & (rows <= boxes[:, 3:4])
    across = (columns >= boxes[:, 0:1]) & (columns <= boxes[:, 2:3])
    crowd, row, column = np.nonzero(down[:, :, None] & across[:, None, :])
    heatmap[labels[crowd], row, column] = 1
