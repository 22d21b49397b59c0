"""Which boxes the nuScenes detection metric counts: range of the class, points inside, bicycle racks.

Source: nuScenes (arXiv 1903.11027, section 3.1) and its published configuration detection_cvpr_2019; spec C12.

Legend: N boxes, S key frames, R bicycle racks. All in the global frame, metres.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import UserError
from boxwright.nuscenes.poses import rotation_matrices
from boxwright.nuscenes.structures import CLASS_NAMES, GlobalBoxes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_BOXES_PER_SAMPLE = 500
CLASS_RANGES = {
    "car": 50,
    "truck": 50,
    "bus": 50,
    "trailer": 50,
    "construction_vehicle": 50,
    "pedestrian": 40,
    "motorcycle": 40,
    "bicycle": 40,
    "traffic_cone": 30,
    "barrier": 30,
}
"""Metres from the ego vehicle in which boxes of a class count, by name."""
_PARKED_IN_RACKS = ("motorcycle", "bicycle")
_BLOCK = 1 << 18  # boxes looked at together: keeps temporaries at a few megabytes


class BikeRacks(NamedTuple):
    """Bicycle racks of a split.

    Args:
        samples: (R,) int64 position of the rack's key frame.
        centers: (R, 3).
        sizes: (R, 3) width, length, height.
        rotations: (R, 4) quaternion w, x, y, z.
    """

    samples: Ints
    centers: Floats
    sizes: Floats
    rotations: Floats

    @classmethod
    def none(cls) -> BikeRacks:
        return cls(np.zeros(0, np.int64), np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 4)))


def positions_by_class(boxes: GlobalBoxes) -> list[Ints]:
    """Positions of the boxes of each class, in order."""
    labels = boxes.labels.astype(np.uint8)  # one byte: numpy sorts it by counting
    order = labels.argsort(kind="stable")
    bounds = np.searchsorted(labels, np.arange(len(CLASS_NAMES) + 1), sorter=order)
    return [order[first:last] for first, last in pairwise(bounds)]


def keep_counted(
    boxes: GlobalBoxes, positions: Ints, label: int, ego_positions: Floats, racks: BikeRacks
) -> tuple[Ints, Floats]:
    """Those of some boxes of one class that count.

    Args:
        boxes: annotations or predictions.
        positions: (N,) where the boxes of the class are in it.
        label: the class.
        ego_positions: (S, 2) or (S, 3) where the vehicle is.
        racks: bicycle racks; motorcycles and bicycles whose centre is inside of one do not count.

    Returns:
        (K,) positions, in order, and (K,) horizontal distance to the vehicle; strictly less than the class's range.
    """
    name = CLASS_NAMES[label]
    kept: list[Ints] = [np.zeros(0, np.int64)]
    distances: list[Floats] = [np.zeros(0)]
    for first in range(0, len(positions), _BLOCK):
        part = positions[first : first + _BLOCK]
        offsets = boxes.centers.take(part, axis=0)[:, :2] - ego_positions.take(boxes.samples[part], axis=0)[:, :2]
        distance = np.sqrt(offsets[:, 0] ** 2 + offsets[:, 1] ** 2)
        counted = (distance < CLASS_RANGES[name]) & (boxes.num_points[part] != 0)
        if name in _PARKED_IN_RACKS and len(racks.samples):
            counted &= ~inside_racks(boxes.samples[part], boxes.centers[part], racks)
        kept.append(part[counted])
        distances.append(distance[counted])
    return np.concatenate(kept), np.concatenate(distances)


def inside_racks(samples: Ints, centers: Floats, racks: BikeRacks) -> NDArray[np.bool_]:
    """Whether a rack of the same key frame holds each centre, faces included.

    Args:
        samples: (N,) key frames.
        centers: (N, 3).
        racks: any number of them.
    """
    order = racks.samples.argsort(kind="stable")
    first = np.searchsorted(racks.samples, samples, "left", sorter=order)
    counts = np.searchsorted(racks.samples, samples, "right", sorter=order) - first
    box = np.repeat(np.arange(len(samples)), counts)
    rack = order[np.arange(len(box)) + np.repeat(first - (counts.cumsum() - counts), counts)]
    axes = rotation_matrices(racks.rotations)[rack]
    offsets = centers[box] - racks.centers[rack]
    local = np.einsum("nij,ni->nj", axes, offsets)  # the inverse of a rotation is its transpose
    half_lwh = racks.sizes[rack][:, [1, 0, 2]] / 2
    inside = np.zeros(len(samples), np.bool_)
    inside[box[(np.abs(local) <= half_lwh).all(axis=1)]] = True
    return inside


def check_boxes(boxes: GlobalBoxes, num_samples: int, what: str, *, predicted: bool) -> None:
    """Stop at boxes that the metric has no number for.

    Args:
        boxes: annotations or predictions.
        num_samples: how many key frames the split has.
        what: a word for them in the message.
        predicted: whether scores and the limit of boxes a sample are checked too.

    Raises:
        UserError: names the first box at fault.
    """
    values = [("centre", boxes.centers), ("size", boxes.sizes), ("rotation", boxes.rotations)]
    for name, value in [*values, ("score", boxes.scores[:, None])] if predicted else values:
        if not np.isfinite(value).all():
            row = int((~np.isfinite(value)).any(axis=1).argmax())
            raise UserError(f"{_which(boxes, row, what)}: its {name} is not a finite number")
    if len(boxes) and boxes.sizes.min() <= 0:
        row = int((boxes.sizes <= 0).any(axis=1).argmax())
        raise UserError(f"{_which(boxes, row, what)}: its size {boxes.sizes[row].tolist()} should be larger than 0")
    if len(boxes) and not 0 <= boxes.samples.min() <= boxes.samples.max() < num_samples:
        row = int(((boxes.samples < 0) | (boxes.samples >= num_samples)).argmax())
        raise UserError(f"{_which(boxes, row, what)}: the split has {num_samples} samples")
    if len(boxes) and not 0 <= boxes.labels.min() <= boxes.labels.max() < len(CLASS_NAMES):
        row = int(((boxes.labels < 0) | (boxes.labels >= len(CLASS_NAMES))).argmax())
        raise UserError(f"{_which(boxes, row, what)}: class {boxes.labels[row]} is not one of {len(CLASS_NAMES)}")
    if predicted and len(boxes):
        counts = np.bincount(boxes.samples)
        if counts.max() > MAX_BOXES_PER_SAMPLE:
            raise UserError(
                f"sample {counts.argmax()} of the split has {counts.max()} predicted boxes; the nuScenes metric takes "
                f"{MAX_BOXES_PER_SAMPLE} at most"
            )


def _which(boxes: GlobalBoxes, row: int, what: str) -> str:
    return f"{what} {row} (sample {boxes.samples[row]} of the split)"
