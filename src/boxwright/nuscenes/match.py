"""What counts in the nuScenes detection metric, and which prediction counts as which annotation.

The rule: predictions take turns by falling score; each takes the nearest annotation of its key frame that is still
free, if that is closer than a threshold. All annotations thus prefer the same predictions, and then turns give the same
pairs as deferred acceptance, in which all predictions ask at once: each asks its nearest annotation, an annotation
keeps the best that asked, the refused ask their next nearest. A round is a few array operations over all key frames:
4.4 ms instead of 126 ms of a loop of turns, for 6,000 boxes of one class.

Source: nuScenes (arXiv 1903.11027, section 3.1), its configuration detection_cvpr_2019; docs/spec/centerfusion.md, C12;
Gale and Shapley 1962 for deferred acceptance: where one side has one order of preference, the stable pairs are unique
and are those of taking turns.

Legend: N boxes, S key frames, R bicycle racks; P predictions, M annotations, Q pairs of both that are closer than the
largest threshold, T thresholds. All in the global frame, metres.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise, starmap

import numpy as np

from boxwright.errors import UserError
from boxwright.nuscenes.geometry import rotation_matrices
from boxwright.nuscenes.structures import CLASS_NAMES, GlobalBoxes
from boxwright.ops.arrays import Bools, Floats, Ints

MAX_BOXES_PER_SAMPLE = 500
CLASS_RANGES = dict(zip(CLASS_NAMES, (50, 50, 50, 50, 50, 40, 40, 40, 30, 30), strict=True))
"""Metres from the ego vehicle in which boxes of a class count, by name."""
_PARKED_IN_RACKS = ("motorcycle", "bicycle")


def keep_counted(
    boxes: GlobalBoxes, label: int, ego_positions: Floats, racks: GlobalBoxes | None
) -> tuple[Ints, Floats]:
    """Select the boxes of one class that count.

    Args:
        ego_positions: (S, 2) or (S, 3) where the vehicle is.
        racks: motorcycles and bicycles whose centre is inside of one do not count.

    Returns:
        (K,) positions, in order, and (K,) horizontal distance to the vehicle; strictly less than the class's range.
    """
    own, name = (boxes.labels == label).nonzero()[0], CLASS_NAMES[label]
    offsets = boxes.centers.take(own, axis=0)[:, :2] - ego_positions.take(boxes.samples[own], axis=0)[:, :2]
    distances = np.sqrt(offsets[:, 0] ** 2 + offsets[:, 1] ** 2)
    counted = (distances < CLASS_RANGES[name]) & (boxes.num_points[own] != 0)
    if name in _PARKED_IN_RACKS and racks is not None:
        counted &= ~inside_racks(boxes.samples[own], boxes.centers[own], racks)
    return own[counted], distances[counted]


def inside_racks(samples: Ints, centers: Floats, racks: GlobalBoxes) -> Bools:
    """Whether a rack of the same key frame (N,) holds each centre (N, 3), faces included."""
    # Sorted racks make the racks of a box an interval: no loop over key frames.
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
    """Refuse boxes that the metric has no number for; of `predicted` ones check scores and number per sample too.

    Raises:
        UserError: names the first box at fault.
    """
    sizes, samples, labels = boxes.sizes, boxes.samples, boxes.labels
    values = {"centre": boxes.centers, "size": sizes, "rotation": boxes.rotations}
    if predicted:
        values["score"] = boxes.scores[:, None]
    rules = [
        *((~np.isfinite(value).all(axis=1), f"its {name} is not a finite number") for name, value in values.items()),
        ((sizes <= 0).any(axis=1), "its size {size} should be larger than 0"),
        ((samples < 0) | (samples >= num_samples), f"the split has {num_samples} samples"),
        ((labels < 0) | (labels >= len(CLASS_NAMES)), f"class {{label}} is not one of {len(CLASS_NAMES)}"),
    ]
    for wrong, problem in rules:
        if wrong.any():
            row = int(wrong.argmax())
            said = problem.format(size=sizes[row].tolist(), label=labels[row])
            raise UserError(f"{what} {row} (sample {samples[row]} of the split): {said}")
    if predicted and len(boxes):
        counts = np.bincount(boxes.samples)
        if counts.max() > MAX_BOXES_PER_SAMPLE:
            raise UserError(
                f"sample {counts.argmax()} of the split has {counts.max()} predicted boxes; the nuScenes metric takes "
                f"{MAX_BOXES_PER_SAMPLE} at most"
            )


_MAX_PAIRS = 1 << 20  # candidates held at once, about 50 MB with all temporaries


def ranking(scores: Floats) -> Ints:
    """Rank positions (P,) by falling score; of equal ones the later first, as published."""
    return scores.argsort(kind="stable")[::-1]


def match(
    samples: Ints, centers: Floats, truth_samples: Ints, truth_centers: Floats, thresholds: Sequence[float]
) -> Ints:
    """Give annotations of one class away to predictions.

    Args:
        samples: (P,) key frame of each prediction, best prediction first.
        centers: (P, 2) metres, horizontal.
        truth_samples: (M,) key frame of each annotation.
        truth_centers: (M, 2) metres. Of equally near annotations the first is taken.
        thresholds: T distances in metres, ascending; a match is strictly closer.

    Returns:
        (T, P) position of the annotation that each prediction has got, -1 for none.
    """
    matches = np.full((len(thresholds), len(samples)), -1, np.int64)
    close = _close_pairs(samples, centers, truth_samples, truth_centers, thresholds[-1])
    for predictions, annotations, distances in close:
        asking, starts = np.unique(predictions, return_index=True)
        for row, threshold in zip(matches, thresholds, strict=True):
            closer = np.add.reduceat(distances < threshold, starts, dtype=np.int64)
            some = closer > 0
            prediction, truth = _defer(starts[some], starts[some] + closer[some], annotations)
            row[asking[some][prediction]] = truth
    return matches


def _close_pairs(
    samples: Ints, centers: Floats, truth_samples: Ints, truth_centers: Floats, reach: float
) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Find the pairs of one key frame that are closer than `reach`, in groups of whole key frames.

    Yields:
        predictions, annotations and distances (Q,), by prediction, then distance, then annotation.
    """
    if not len(samples) or not len(truth_samples):
        return
    # One line holds all key frames one after another, by x; candidates of a prediction are an interval of it.
    low = min(centers[:, 0].min(), truth_centers[:, 0].min())
    high = max(centers[:, 0].max(), truth_centers[:, 0].max())
    # Key frames stand so far apart on the line that no interval reaches into another one.
    pitch = high - low + 4 * reach
    line = samples * pitch + (centers[:, 0] - low)
    truth_line = truth_samples * pitch + (truth_centers[:, 0] - low)
    order, truth_order = line.argsort(), truth_line.argsort()
    line, truth_line = line[order], truth_line[truth_order]
    # Rounding of the line's coordinate grows with its length; the exact distance below decides.
    margin = reach * 1.001 + 4 * np.spacing(max(abs(line[-1]), abs(truth_line[-1]), pitch))
    first = np.searchsorted(truth_line, line - margin, "left")
    counts = np.searchsorted(truth_line, line + margin, "right") - first
    (x, y), (truth_x, truth_y) = centers[order].T.copy(), truth_centers[truth_order].T.copy()
    # Groups of few candidates end between key frames. One key frame alone may have more than that; it is never cut, as
    # its predictions compete.
    ends = np.append((np.diff(samples[order]) > 0).nonzero()[0] + 1, len(samples))  # of each key frame
    filled = counts.cumsum()[ends - 1] // _MAX_PAIRS
    bounds = [0, *ends[np.append(np.diff(filled) > 0, True)].tolist()]
    for group in starmap(slice, pairwise(bounds)):
        of_group, before = counts[group], counts[group].cumsum()
        places = np.arange(before[-1]) + np.repeat(first[group] - before + of_group, of_group)
        offset_x = np.repeat(x[group], of_group) - truth_x[places]
        offset_y = np.repeat(y[group], of_group) - truth_y[places]
        distance = np.sqrt(offset_x**2 + offset_y**2)
        close = (distance < reach).nonzero()[0]
        if len(close):
            prediction, truth = np.repeat(order[group], of_group)[close], truth_order[places[close]]
            distance = distance[close]
            by_turn = np.lexsort((truth, distance, prediction))
            yield prediction[by_turn], truth[by_turn], distance[by_turn]


def _defer(cursors: Ints, ends: Ints, truth: Ints) -> tuple[Ints, Ints]:
    """Match by deferred acceptance.

    Args:
        cursors, ends: (A,) where the wishes of each prediction begin and end in `truth`; best prediction first.
        truth: (Q,) annotations, nearest first within a prediction.

    Returns:
        who was accepted (K,), and by which annotation (K,).
    """
    nobody = len(cursors)
    cursors = cursors.copy()
    holder = np.full(int(truth.max()) + 1, nobody, np.int64)
    asking = np.arange(nobody)
    while len(asking):
        wanted = truth[cursors[asking]]
        cursors[asking] += 1
        before = holder[wanted]
        # Lowest number is best prediction: an annotation keeps the smallest of all that ask in this round.
        np.minimum.at(holder, wanted, asking)
        accepted = holder[wanted] == asking
        sent_away = before[accepted]
        # Who was refused, and who lost its place to a better one, ask their next nearest in the next round.
        asking = np.concatenate((asking[~accepted], sent_away[sent_away < nobody]))
        asking = asking[cursors[asking] < ends[asking]]
    taken = (holder < nobody).nonzero()[0]
    return holder[taken], taken
