"""Detections of six cameras to a nuScenes submission: boxes in the global frame, and the file of them.

Source: the published CenterFusion behaviour, docs/spec/centerfusion.md, C11; the submission format of the nuScenes
detection task.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from boxwright.data.files import whole_file
from boxwright.errors import UserError
from boxwright.nuscenes.geometry import rectangle_corners, suppress
from boxwright.nuscenes.match import MAX_BOXES_PER_SAMPLE
from boxwright.nuscenes.structures import (
    ATTRIBUTE_NAMES,
    CLASS_NAMES,
    Detections3d,
    GlobalBoxes,
    ImageRecord,
    sensors_used,
)
from boxwright.nuscenes.tables import stream_members
from boxwright.ops.arrays import Array, Floats, Ints

_SUPPRESSION_REACH = 2.0  # m; boxes farther apart are never compared
_AT_ONCE = 1 << 18  # boxes
_FAMILIES = {
    **dict.fromkeys(("motorcycle", "bicycle"), "cycle."),
    "pedestrian": "pedestrian.",
    **dict.fromkeys(("traffic_cone", "barrier"), "none"),
}
_OF_FAMILY = np.array(  # (10, 8) which attributes a class may have
    [[name.startswith(_FAMILIES.get(label, "vehicle.")) for name in ATTRIBUTE_NAMES] for label in CLASS_NAMES]
)


@dataclass(frozen=True, slots=True)
class SeenBoxes(GlobalBoxes):
    """Predictions that remember their camera."""

    sensors: Ints  # (N,) int64 camera 1..6, see `nuscenes.structures.CAMERAS`


def to_global(
    detections: Sequence[Detections3d],
    records: Sequence[ImageRecord],
    *,
    fixed: bool,
    max_boxes: int = MAX_BOXES_PER_SAMPLE,
    iou_thresh: float = 0.0,
) -> SeenBoxes:
    """Move boxes of all cameras to the global frame: by key frame, then by falling score, equal ones in given order.

    Args:
        detections: of each image, camera frame.
        records: of the same images.
        fixed: False has two published defects: the centre is that of the top face, half a height too high, and the
            box lies on its side, its height across and its width upright. The metric sees neither: it takes no z, and
            of the rotation the direction of the length.
        max_boxes: best boxes of a key frame that are kept.
        iou_thresh: where above 0, a box goes whose overlap from above with a better one of any class within 2 m is at
            least this. The boxes that lie on their side are compared as they lie.
    """
    counts = [len(each) for each in detections]
    images = np.repeat(np.arange(len(records)), counts)
    scores, labels = _column(detections, "scores"), _column(detections, "labels").astype(np.int64)
    samples = np.array([record.sample for record in records], np.int64)[images]
    order = np.lexsort((-scores, samples))
    ordered = samples[order]
    best = order[np.arange(len(order)) - np.searchsorted(ordered, ordered) < max_boxes]  # rank within the key frame
    images, samples, scores, labels = images[best], samples[best], scores[best], labels[best]
    names = ("locations", "dims", "rotation_y", "velocity", "attributes")
    locations, dims, rotation_y, velocity, logits = (_column(detections, name)[best] for name in names)
    global_from_cam = np.array([record.global_from_cam for record in records], np.float64).reshape(-1, 4, 4)
    # Quaternions of the images, indexed by box: a Rotation of each box would be made of as many matrices. The published
    # ones take the camera's axes for those of the box, so that z of the box points forward.
    cameras = Rotation.from_matrix(global_from_cam[:, :3, :3]).as_quat()[images] if len(best) else np.empty((0, 4))
    turns = Rotation.from_rotvec(np.multiply.outer(rotation_y, [0.0, 1.0, 0.0]))
    if fixed:
        turns = turns * Rotation.from_rotvec([np.pi / 2, 0.0, 0.0])
    rotations = (Rotation.from_quat(cameras) * turns).as_quat(scalar_first=True)
    centers = locations.copy()
    # y points down, so up is minus; the published code goes up by the whole height.
    centers[:, 1] -= dims[:, 0] / (2 if fixed else 1)
    boxes = SeenBoxes(
        samples=samples,
        labels=labels,
        centers=_turned(global_from_cam, images, centers) + global_from_cam[images, :3, 3],
        sizes=dims[:, [1, 2, 0]],
        rotations=rotations,
        velocities=_turned(global_from_cam, images, velocity)[:, :2],
        attributes=likeliest_attributes(labels, logits),
        scores=scores,
        num_points=np.full(len(best), -1, np.int64),
        sensors=np.array([record.sensor for record in records], np.int64)[images],
    )
    if iou_thresh <= 0:
        return boxes
    across = 0 if fixed else 2  # width; or height, where the box lies on its side
    w, x, y, z = boxes.rotations.T
    yaw = np.arctan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z))
    middle = boxes.centers[:, :2]
    corners = rectangle_corners(middle, boxes.sizes[:, [1, across]], yaw)
    return boxes.take(suppress(boxes.samples, middle, corners, iou_thresh, _SUPPRESSION_REACH))


def likeliest_attributes(labels: Ints, logits: Floats) -> Ints:
    """Choose of logits (N, 8) the likeliest attribute (N,) of the family that a class has.

    -1 for classes without attributes, and for networks without.
    """
    of_family = _OF_FAMILY[labels] & ~np.isnan(logits)
    return np.where(of_family.any(axis=1), np.where(of_family, logits, -np.inf).argmax(axis=1), -1)


def write_submission(path: Path, boxes: GlobalBoxes, sample_tokens: Sequence[str], use_radar: bool) -> None:
    """Write a file that the official devkit evaluates; every key frame of the split is in it, with boxes or without.

    One key frame at a time goes into a temporary file, which takes the place of the old one when it is whole.

    Args:
        boxes: `samples` point into `sample_tokens`; at most 500 of a key frame.
        use_radar: what the file says the boxes were made from, beside cameras.

    Raises:
        UserError: the file cannot be written.
    """
    most = int(np.bincount(boxes.samples, minlength=1).max())
    if most > MAX_BOXES_PER_SAMPLE:
        raise ValueError(f"{most} boxes of one key frame; nuScenes takes {MAX_BOXES_PER_SAMPLE}")
    with whole_file(path, make_folder=True) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f'{{"meta": {json.dumps(sensors_used(use_radar))}, "results": {{')
        order = np.argsort(boxes.samples, kind="stable")
        bounds = np.searchsorted(boxes.samples[order], np.arange(len(sample_tokens) + 1))
        for sample, token in enumerate(map(json.dumps, sample_tokens)):
            own = boxes.take(order[bounds[sample] : bounds[sample + 1]])
            names = [CLASS_NAMES[label] for label in own.labels.tolist()]
            attributes = ["" if place < 0 else ATTRIBUTE_NAMES[place] for place in own.attributes.tolist()]
            scores = own.scores.tolist()
            camera = [f', "sensor_id": {one}' for one in own.sensors.tolist()] if isinstance(own, SeenBoxes) else None
            # Numbers are read back to the bit. NaN and Infinity are the words that json and the devkit know.
            lists = (
                [text.replace("nan", "NaN").replace("inf", "Infinity") if "n" in text else text for text in texts]
                for texts in (map(repr, getattr(own, name).tolist()) for name in _LISTS)
            )
            rows = zip(*lists, names, attributes, scores, names, scores, camera or [""] * len(own), strict=True)
            text = ",\n ".join([f'{{"sample_token": {token}, {_ROW % row}}}' for row in rows])
            file.write(f"{', ' if sample else ''}\n{token}: [{text}]")
        file.write("\n}}\n")


def read_submission(path: Path, sample_tokens: Sequence[str]) -> GlobalBoxes:
    """Read the boxes of a submission, in the order of the file; memory holds the arrays and one key frame.

    Raises:
        UserError: the file is no submission of the nuScenes detection task, or has not exactly these key frames.
    """
    positions = {token: position for position, token in enumerate(sample_tokens)}
    seen: set[str] = set()
    parts = [_boxes([], "", 0)]
    for token, rows in stream_members(path, "results"):
        if token not in positions:
            raise UserError(f"{path} has key frame {token}, which is not in this split of {len(positions)}")
        if token in seen:
            raise UserError(f"{path} has key frame {token} twice; each may stand there once")
        seen.add(token)
        if not isinstance(rows, list) or len(rows) > MAX_BOXES_PER_SAMPLE:
            raise UserError(
                f"{path}, key frame {token}: there should be a list of at most {MAX_BOXES_PER_SAMPLE} boxes"
            )
        try:
            parts.append(_boxes(rows, token, positions[token]))
        except ValueError as error:
            raise UserError(f"{path}, key frame {token}: {error}") from error
    missing = [token for token in sample_tokens if token not in seen]
    if missing:
        raise UserError(
            f"{path} lacks {len(missing)} of the {len(positions)} key frames of the split, {missing[0]} first; "
            "each needs a list of boxes, an empty one where nothing is found"
        )
    return GlobalBoxes(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(GlobalBoxes))
    )


def says_radar(path: Path) -> bool:
    """Whether the `meta` of a submission says that radar was used.

    Raises:
        UserError: it has no `meta`.
    """
    return dict(stream_members(path, "meta")).get("use_radar") is True


def _column(detections: Sequence[Detections3d], name: str) -> Array:
    """Join one field of all detections; float64, whole numbers too, so that an empty list has a type."""
    shape = {"locations": (0, 3), "dims": (0, 3), "velocity": (0, 3), "attributes": (0, 8)}.get(name, (0,))
    parts: list[torch.Tensor] = [getattr(each, name).detach().cpu() for each in detections]
    return np.concatenate([np.empty(shape), *(part.double().numpy() for part in parts)])


def _turned(global_from_cam: Floats, images: Ints, vectors: Floats) -> Floats:
    """Rotate vectors (N, 3) of cameras into the global frame."""
    turned = np.empty_like(vectors)
    for start in range(0, len(vectors), _AT_ONCE):  # a matrix a box would cost more than the boxes
        part = slice(start, start + _AT_ONCE)
        turned[part] = np.einsum("nij,nj->ni", global_from_cam[images[part], :3, :3], vectors[part])
    return turned


_LISTS = ("centers", "sizes", "rotations", "velocities")
_ROW = (
    '"translation": %s, "size": %s, "rotation": %s, "velocity": %s, "detection_name": "%s", "attribute_name": "%s", '
    '"detection_score": %r, "tracking_name": "%s", "tracking_score": %r, "tracking_id": 1%s, "det_id": -1'
)


_KEYS = {"translation": 3, "size": 3, "rotation": 4, "velocity": 2}  # lists of numbers, and how many
_FIELDS = ("sample_token", "detection_name", "attribute_name", "detection_score", *_KEYS)
_LABELS = {name: label for label, name in enumerate(CLASS_NAMES)}
_ATTRIBUTES = {"": -1} | {name: place for place, name in enumerate(ATTRIBUTE_NAMES)}
_UNIT = 1e-9  # a quaternion this near to length 1 is left as it is


def _boxes(rows: list[Any], token: str, position: int) -> GlobalBoxes:
    """Convert the boxes of one key frame to arrays; a ValueError says what is wrong with them."""
    try:
        tokens, names, attributes, scores, *lists = ([row[field] for row in rows] for field in _FIELDS)
    except (KeyError, TypeError) as error:
        raise ValueError(f"each box needs the entries {', '.join(_FIELDS)}") from error
    # Tokens inside boxes are redundant; where they disagree one of them is wrong, and guessing would hide it.
    if set(tokens) - {token}:
        raise ValueError(f"a box names another sample_token, {next(one for one in tokens if one != token)!r}")
    centers, sizes, rotations, velocities = (
        _floats(column, name, (len(rows), count)) for column, (name, count) in zip(lists, _KEYS.items(), strict=True)
    )
    if not (sizes > 0).all():
        raise ValueError("each size should be three lengths above 0: width, length, height in metres")
    length = np.linalg.norm(rotations, axis=1, keepdims=True)
    if not length.all():
        raise ValueError("a rotation of length 0 has no direction; it should be a unit quaternion w, x, y, z")
    return GlobalBoxes(
        samples=np.full(len(rows), position, np.int64),
        labels=_indices(names, _LABELS, "detection_name"),
        centers=centers,
        sizes=sizes,
        # Unit ones keep their bits, so that a file that was written and read again measures the same.
        rotations=rotations / np.where(np.abs(length - 1) > _UNIT, length, 1),
        velocities=velocities,
        attributes=_indices(attributes, _ATTRIBUTES, "attribute_name"),
        scores=_floats(scores, "detection_score", (len(rows),)),
        num_points=np.full(len(rows), -1, np.int64),
    )


def _floats(column: Sequence[Any], name: str, shape: tuple[int, ...]) -> Floats:
    numbers = "a number" if len(shape) == 1 else f"{shape[1]} numbers"
    try:
        values = np.array(column or np.empty(shape), np.float64)
    except (ValueError, TypeError):
        values = None
    if values is None or values.shape != shape:
        raise ValueError(f"each {name} should be {numbers}")
    if name != "velocity" and not np.isfinite(values).all():  # the metric knows velocities that are not known
        raise ValueError(f"each {name} should be finite")
    return values


def _indices(column: Sequence[Any], known: dict[str, int], name: str) -> Ints:
    try:
        return np.array([known[value] for value in column], np.int64)
    except (KeyError, TypeError) as error:
        wrong = next(value for value in column if not isinstance(value, str) or value not in known)
        raise ValueError(f"{name} {wrong!r} is not known; it may be {', '.join(map(repr, known))}") from error
