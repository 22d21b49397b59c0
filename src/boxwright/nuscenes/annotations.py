"""What each camera image shows: boxes of the global frame as the published conversion of CenterFusion writes them.

Source: published CenterFusion behaviour (conversion of nuScenes), visibility rule of the nuScenes devkit: a box is
shown if a corner is inside the image and more than 1 m ahead, and all corners are more than 0.1 m ahead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.nuscenes.layout import BIKE_RACK, SEEN
from boxwright.nuscenes.poses import inverses, rotation_matrices

Array = NDArray[np.float64]

_NEAREST_SEEN, _NEAREST_CORNER = 1.0, 0.1  # metres
_CORNERS = np.array([(x, y, z) for x in (0.5, -0.5) for y in (0.5, -0.5) for z in (0.5, -0.5)])


def published_intrinsics(intrinsics: NDArray[Any]) -> Array:
    """Camera matrices with the digits of the published conversion, which keeps single precision."""
    return intrinsics.astype(np.float32).astype(np.float64)


def seen_in_images(
    images: NDArray[Any], intrinsics: Array, annotations: NDArray[Any], pairs: tuple[NDArray[Any], NDArray[Any]]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Of pairs of image and annotation, those that the image shows.

    Args:
        images: rows of `layout.IMAGE`.
        intrinsics: (len(images), 3, 3).
        annotations: rows of `layout.ANNOTATION`.
        pairs: (P,) positions in images and (P,) in annotations, by image.

    Returns:
        rows of `layout.SEEN`, with positions in `annotations` and `hidden` not yet set, and the image of each.
    """
    image, annotation = pairs
    rows = annotations[annotation]
    cam_from_global = inverses(images["global_from_cam"])
    depth = (cam_from_global[image, 2, :3] * rows["center"]).sum(1) + cam_from_global[image, 2, 3]
    ahead = (depth > 0) & (rows["label"] != BIKE_RACK)  # no box that is seen has its centre behind the camera
    image, annotation, rows = image[ahead], annotation[ahead], rows[ahead]
    center, axes, corners = boxes_in_camera(rows, cam_from_global[image])
    camera = intrinsics[image]
    pixels = _project(corners, camera)
    size = np.stack([images["width"], images["height"]], -1)[image].astype(np.float64)
    inside = ((pixels > 0) & (pixels < size[:, None])).all(-1) & (corners[..., 2] > _NEAREST_SEEN)
    shown = inside.any(1) & (corners[..., 2] > _NEAREST_CORNER).all(1)
    image, center, camera, pixels, size = image[shown], center[shown], camera[shown], pixels[shown], size[shown]
    made = np.zeros(len(image), SEEN)
    made["annotation"] = annotation[shown]
    low, high = np.clip(pixels.min(1), 0, size), np.clip(pixels.max(1), 0, size)
    made["box"] = np.concatenate([low, high - low], -1)
    made["location"] = center
    made["location"][:, 1] += rows["size"][shown, 2] / 2
    made["rotation_y"] = -np.arctan2(axes[shown, 2, 0], axes[shown, 0, 0])
    camera = published_intrinsics(camera)  # the box is cut with all digits, the rest is not
    beside = (low[:, 0] + high[:, 0]) / 2 - camera[:, 0, 2]
    made["alpha"] = _wrap(made["rotation_y"] - np.arctan2(beside, camera[:, 0, 0]))
    made["amodel_center"] = _project(center[:, None], camera)[:, 0]
    made["velocity"] = np.einsum("pij,pj->pi", cam_from_global[image, :3, :3], rows["velocity"][shown])
    return made, image


def boxes_in_camera(annotations: NDArray[Any], cam_from_global: Array) -> tuple[Array, Array, Array]:
    """Boxes of the global frame in that of a camera.

    Args:
        annotations: (P,) rows of `layout.ANNOTATION`.
        cam_from_global: (P, 4, 4).

    Returns:
        centers (P, 3); axes (P, 3, 3), whose columns point along length, width and height; corners (P, 8, 3); metres.
    """
    turn = cam_from_global[:, :3, :3]
    center = np.einsum("pij,pj->pi", turn, annotations["center"]) + cam_from_global[:, :3, 3]
    axes = turn @ rotation_matrices(annotations["rotation"])
    half = _CORNERS * annotations["size"][:, None, [1, 0, 2]]  # from width, length, height to the order of the axes
    return center, axes, center[:, None] + half @ axes.swapaxes(1, 2)


def hidden_behind_others(boxes_xywh: Array, depths: Array, sizes: Array) -> NDArray[np.bool_]:
    """(N,) True where a box lies strictly inside another one's that stands wholly before it.

    Args:
        boxes_xywh: (N, 4) pixels.
        depths: (N,) metres.
        sizes: (N, 3) metres, in any order.
    """
    low, high = boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]
    inside = ((low[:, None] > low[None]) & (high[:, None] < high[None])).all(-1)
    front = depths - sizes.min(-1, initial=np.inf) / 2
    back = depths + sizes.max(-1, initial=-np.inf) / 2
    return (inside & (front[:, None] > back[None])).any(1)


def _project(points: Array, camera: Array) -> Array:
    """(P, c, 2) pixels of points (P, c, 3) in the camera frame; of points behind the camera they mean nothing."""
    seen = np.einsum("pij,pcj->pci", camera, points)
    with np.errstate(divide="ignore", invalid="ignore"):
        return seen[..., :2] / seen[..., 2:]


def _wrap(angle: Array) -> Array:
    angle = np.where(angle > np.pi, angle - 2 * np.pi, angle)
    return np.where(angle < -np.pi, angle + 2 * np.pi, angle)
