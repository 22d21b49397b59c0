"""Annotations of one image to what the heads shall say of it.

Source: published CenterFusion behaviour (docs/spec/centerfusion.md, C8; tests/parity).
Legend: M slots, N annotations, grid W x H.
"""

from dataclasses import replace
from typing import Final

import numpy as np
import torch

from boxwright.centerfusion.augment import map_points
from boxwright.centerfusion.heads import draw_gaussians, gaussian_radius
from boxwright.centerfusion.structures import Targets3d
from boxwright.nuscenes.structures import ATTRIBUTE_NAMES, CLASS_NAMES, ImageAnnotations
from boxwright.ops.arrays import Array, Floats, Ints

_SLOTS: Final = 128  # for objects of an image; the first ones are taken
_FAMILY_OF_ATTRIBUTE: Final = np.array([name.split(".")[0] for name in ATTRIBUTE_NAMES])


def room_for_targets(grid_hw: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return shape and type of each array of one image, by name, see `Targets3d`."""
    slots, real, whole, flag = _SLOTS, torch.float32, torch.int64, torch.bool
    return {
        "heatmap": ((len(CLASS_NAMES), *grid_hw), real),
        "cell": ((slots,), whole),
        "label": ((slots,), whole),
        "valid": ((slots,), flag),
        "boxes": ((slots, 4), real),
        "offset": ((slots, 2), real),
        "size": ((slots, 2), real),
        "depth": ((slots, 1), real),
        "depth_valid": ((slots, 1), flag),
        "dims": ((slots, 3), real),
        "amodel_offset": ((slots, 2), real),
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
    """Flip the annotations of an image from left to right.

    Args:
        annotations: of the image.
        width: of the image, pixels.
        fixed: mirror the velocity along the camera's x, too. The published loader mirrors another velocity, which no
            head is taught, so its network learns velocities of mirrored images with the wrong sign.
    """
    boxes, centers = annotations.boxes_xywh.copy(), annotations.amodel_centers.copy()
    boxes[:, 0] = width - boxes[:, 0] - boxes[:, 2] - 1
    centers[:, 0] = width - centers[:, 0] - 1
    # A mirrored angle is pi less it; the sign keeps it within -pi..pi.
    alpha = np.where(annotations.alpha > 0, np.pi, -np.pi) - annotations.alpha
    velocity = annotations.velocity_cam.copy()
    if fixed:
        velocity[:, 0] *= -1
    return replace(annotations, boxes_xywh=boxes, amodel_centers=centers, alpha=alpha, velocity_cam=velocity)


def write_targets(
    annotations: ImageAnnotations, grid_from_image: Floats, depth_factor: float, out: Targets3d[Array]
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
    # Boxes around their four mapped corners, clipped to the middles of the outer cells; in single precision, as
    # published.
    x1, y1, box_width, box_height = annotations.boxes_xywh[:count].T
    x2, y2 = x1 + box_width, y1 + box_height
    corners = np.stack([np.stack([x1, y1]), np.stack([x2, y1]), np.stack([x2, y2]), np.stack([x1, y2])])
    mapped = map_points(corners.transpose(2, 0, 1), grid_from_image).astype(np.float32)
    limit = np.array([width - 1, height - 1], np.float32)
    boxes = np.concatenate([np.clip(mapped.min(axis=1), 0, limit), np.clip(mapped.max(axis=1), 0, limit)], axis=1)
    crowd = annotations.is_crowd[:count]
    sizes = boxes[:, 2:] - boxes[:, :2]
    kept = np.flatnonzero(~crowd & (sizes > 0).all(axis=1))
    centers = (boxes[kept, :2] + boxes[kept, 2:]) / 2
    cells = centers.astype(np.int64)
    radii = np.maximum(gaussian_radius(sizes[kept, 1], sizes[kept, 0]), 0).astype(np.int64)
    draw_gaussians(out.heatmap, labels[kept], cells, radii)
    # No loss shall tell the network that nothing is where a crowd is: its cells are 1, both ends of the box included.
    for label, (left, top, right, bottom) in zip(labels[crowd], boxes[crowd].astype(np.int64), strict=True):
        out.heatmap[label, top : bottom + 1, left : right + 1] = 1

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
    for flags in (out.valid, out.depth_valid, out.rot_valid):
        flags[kept] = True
    velocities, attributes = annotations.velocity_cam[kept], annotations.attributes[kept]
    moves = ~np.isnan(velocities).any(axis=1)
    out.velocity[kept[moves]] = velocities[moves]
    out.velocity_valid[kept[moves]] = True
    # Only the attributes of the object's own family are taught: a car is no cyclist, with or without a rider.
    rows, named = kept[attributes >= 0], attributes[attributes >= 0]
    out.attributes[rows, named] = 1
    out.attributes_valid[rows] = _FAMILY_OF_ATTRIBUTE[named][:, None] == _FAMILY_OF_ATTRIBUTE


def rotation_bins(alpha: Floats) -> tuple[Ints, Floats]:
    """Assign angles to two bins, which overlap, and measure how far they are from the middle of each.

    Args:
        alpha: (N,) rad in -pi..pi.

    Returns:
        (N, 2) 0 or 1, and (N, 2) rad, 0 outside the bin.
    """
    sixth = np.pi / 6
    bins = np.stack([(alpha < sixth) | (alpha > 5 * sixth), (alpha > -sixth) | (alpha < -5 * sixth)], axis=1)
    residuals = alpha[:, None] + np.array([np.pi / 2, -np.pi / 2])
    return bins.astype(np.int64), np.where(bins, residuals, 0.0)
