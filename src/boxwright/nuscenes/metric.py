"""The nuScenes detection metric (detection_cvpr_2019): mAP, five true-positive errors and NDS.

Equal to the published evaluation to rounding. Beyond it there is a table by distance to the vehicle: a match belongs to
the range of its annotation, a prediction without one to its own, so no match is lost at the border of two ranges.

Source: nuScenes (arXiv 1903.11027, section 3.1); docs/spec/centerfusion.md, C12. `match` decides what counts
and what matches; `metric_report` makes text, tables and curves.

Legend: C = 10 classes, T = 4 matching distances, E = 5 errors, R = 5 ranges, X = 101 recalls; P predictions of a class,
best first, K of them matched.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from boxwright.data.files import whole_file
from boxwright.nuscenes.match import (
    CLASS_RANGES,
    MAX_BOXES_PER_SAMPLE,
    check_boxes,
    keep_counted,
    match,
    ranking,
)
from boxwright.nuscenes.structures import CLASS_NAMES, GlobalBoxes, sensors_used
from boxwright.ops.arrays import Bools, Floats, Ints

ERROR_NAMES = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")
"""Metres, 1 - IoU, radians, metres a second, 1 - accuracy."""
SHORT_ERRORS = {"trans_err": "ATE", "scale_err": "ASE", "orient_err": "AOE", "vel_err": "AVE", "attr_err": "AAE"}
UNDEFINED = {"traffic_cone": ("orient_err", "vel_err", "attr_err"), "barrier": ("vel_err", "attr_err")}
RECALLS: Floats = np.linspace(0, 1, 101)
MIN_RECALL, MIN_PRECISION = 0.1, 0.1
_FIRST = round(100 * MIN_RECALL) + 1  # the first recall that counts


@dataclass(frozen=True, slots=True)
class Curve:
    """One class at one matching distance, at `RECALLS`."""

    precision: Floats  # (X,) 0 beyond the recall that is reached
    confidence: Floats  # (X,) score at which the recall is reached, 0 beyond
    errors: Floats  # (E, X) mean of each error over the matches down to that score; 1 everywhere where nothing matches

    def average_precision(self) -> float:
        """Average the precision above 0.1, at recalls above 0.1; from 0 to 1 but for rounding."""
        # Precision below 0.1 counts as 0 and the rest is scaled back to 0..1, as published.
        above = np.maximum(self.precision[_FIRST:] - MIN_PRECISION, 0)
        return float(above.mean()) / (1 - MIN_PRECISION)

    def mean_errors(self) -> Floats:
        """Average (E,) each error from recall 0.1 to the highest reached; 1 if that is not beyond 0.1."""
        reached = self.confidence.nonzero()[0]
        last = int(reached[-1]) if len(reached) else 0
        if last < _FIRST:
            return np.ones(len(ERROR_NAMES))
        return np.array([row[_FIRST : last + 1].mean() for row in self.errors])


def make_curve(matched: Bools, scores: Floats, errors: Floats, num_truth: int) -> Curve:
    """Follow a class from its best prediction down.

    Args:
        matched: (P,) whether each prediction, best first, is true.
        scores: (P,).
        errors: (E, K) of those that are; NaN where unknown.
        num_truth: annotations of the class.
    """
    means = np.ones((len(ERROR_NAMES), len(RECALLS)))
    if num_truth == 0 or errors.shape[1] == 0:
        return Curve(np.zeros(len(RECALLS)), np.zeros(len(RECALLS)), means)
    hits = matched.cumsum().astype(np.float64)
    recall = hits / num_truth
    # Interpolated, not the running maximum of COCO: precision may rise again along recall.
    precision = np.interp(RECALLS, recall, hits / np.arange(1, len(hits) + 1), right=0)
    confidence = np.interp(RECALLS, recall, scores, right=0)
    rising = scores[matched][::-1]  # np.interp wants an ascending abscissa
    for mean, row in zip(means, errors, strict=True):
        counts = (~np.isnan(row)).cumsum()
        if counts[-1]:  # else 1 throughout
            # The mean of all values so far; 0 before the first that is known.
            so_far = np.divide(np.nancumsum(row), counts, out=np.zeros(len(row)), where=counts > 0)
            mean[:] = np.interp(confidence[::-1], rising, so_far[::-1])[::-1]
    return Curve(precision, confidence, means)


def match_errors(truth: GlobalBoxes, truth_at: Ints, found: GlobalBoxes, found_at: Ints, label: int) -> Floats:
    """Measure the five errors (E, K) of predictions at positions (K,) against the annotations they matched."""
    sizes, found_sizes = truth.sizes.take(truth_at, axis=0), found.sizes.take(found_at, axis=0)
    smaller = _volume(np.minimum(sizes, found_sizes))
    overlap = smaller / (_volume(sizes) + _volume(found_sizes) - smaller)
    period = np.pi if CLASS_NAMES[label] == "barrier" else 2 * np.pi  # a barrier has no front
    turn = yaw(truth.rotations.take(truth_at, axis=0)) - yaw(found.rotations.take(found_at, axis=0))
    attributes = truth.attributes[truth_at]
    wrong = (attributes != found.attributes[found_at]).astype(np.float64)
    return np.stack(
        (
            _length(found.centers.take(found_at, axis=0) - truth.centers.take(truth_at, axis=0)),
            1 - overlap,
            np.abs((turn + period / 2) % period - period / 2),
            _length(found.velocities.take(found_at, axis=0) - truth.velocities.take(truth_at, axis=0)),
            np.where(attributes < 0, np.nan, wrong),
        )
    )


def _length(vectors: Floats) -> Floats:
    return np.sqrt(vectors[:, 0] ** 2 + vectors[:, 1] ** 2)  # horizontal


def _volume(sizes: Floats) -> Floats:
    return sizes[:, 0] * sizes[:, 1] * sizes[:, 2]  # several times faster than a product along so short an axis


def yaw(quaternions: Floats) -> Floats:
    """Compute the direction (N,) of the x axis of boxes, horizontal, rad, of quaternions (N, 4) w, x, y, z."""
    w, x, y, z = quaternions.T
    return np.arctan2(2 * (x * y + w * z), w * w + x * x - y * y - z * z)


DISTANCES = (0.5, 1.0, 2.0, 4.0)
"""Matching distances in metres; errors are those of matches at `ERROR_DISTANCE`."""
ERROR_DISTANCE = 2.0
AT_ERROR_DISTANCE = DISTANCES.index(ERROR_DISTANCE)
RANGE_EDGES = (0, 10, 20, 30, 40, 50)
"""Metres from the vehicle: borders of the R ranges of the table by distance."""
_MAP_WEIGHT = 5
_DETAIL_ORDER = ("trans_err", "vel_err", "scale_err", "orient_err", "attr_err")  # as published files have it


@dataclass(frozen=True, slots=True)
class NuscenesMetrics:
    """What the nuScenes metric says of the predictions of a split; classes in the order of `CLASS_NAMES`."""

    aps: Floats  # (C, T) average precision; 0 for a class without annotations
    errors: Floats  # (C, E) true-positive errors; NaN where not defined for the class
    num_truth: Ints  # (C,) annotations that count
    num_predictions: Ints  # (C,) predictions that count
    curves: tuple[tuple[Curve, ...], ...]  # (C, T) what the numbers were read from
    # The same by distance to the vehicle; NaN where a class has no annotations in a range.
    range_truth: Ints  # (C, R) annotations
    range_aps: Floats  # (C, R) mean over the matching distances
    range_errors: Floats  # (C, R, E) at `ERROR_DISTANCE`; NaN too where an error is not defined for a class
    eval_time: float  # seconds it took

    @property
    def class_aps(self) -> Floats:
        """Average (C,) over the matching distances."""
        return self.aps.mean(axis=1)

    @property
    def mean_ap(self) -> float:
        return float(self.class_aps.mean())

    @property
    def tp_errors(self) -> dict[str, float]:
        """Average each error over the classes that have it."""
        return dict(zip(ERROR_NAMES, np.nanmean(self.errors, axis=0).tolist(), strict=True))

    @property
    def tp_scores(self) -> dict[str, float]:
        return {name: max(0.0, 1.0 - error) for name, error in self.tp_errors.items()}

    @property
    def nd_score(self) -> float:
        """Compute the nuScenes detection score, 0 to 1: mAP counts as much as the five errors together."""
        scores = self.tp_scores.values()
        return (_MAP_WEIGHT * self.mean_ap + sum(scores)) / (_MAP_WEIGHT + len(scores))

    def summary(self, *, use_radar: bool = True) -> dict[str, Any]:
        """Make the content of metrics_summary.json, with the keys of the published evaluation."""
        return {
            "label_aps": _by_class(self.aps, DISTANCES),
            "mean_dist_aps": dict(zip(CLASS_NAMES, self.class_aps.tolist(), strict=True)),
            "mean_ap": self.mean_ap,
            "label_tp_errors": _by_class(self.errors, ERROR_NAMES),
            "tp_errors": self.tp_errors,
            "tp_scores": self.tp_scores,
            "nd_score": self.nd_score,
            "eval_time": self.eval_time,
            "cfg": {
                "class_range": dict(CLASS_RANGES),
                "dist_fcn": "center_distance",
                "dist_ths": list(DISTANCES),
                "dist_th_tp": ERROR_DISTANCE,
                "min_recall": MIN_RECALL,
                "min_precision": MIN_PRECISION,
                "max_boxes_per_sample": MAX_BOXES_PER_SAMPLE,
                "mean_ap_weight": _MAP_WEIGHT,
            },
            "meta": sensors_used(use_radar),
        }

    def details(self) -> dict[str, dict[str, list[float]]]:
        """Make the content of metrics_details.json: every curve by `CLASS:DISTANCE`, at 101 recalls."""
        return {
            f"{name}:{distance}": {
                "recall": RECALLS.tolist(),
                "precision": curve.precision.tolist(),
                "confidence": curve.confidence.tolist(),
            }
            | {error: curve.errors[ERROR_NAMES.index(error)].tolist() for error in _DETAIL_ORDER}
            for name, curves in zip(CLASS_NAMES, self.curves, strict=True)
            for distance, curve in zip(DISTANCES, curves, strict=True)
        }

    def scalars(self) -> dict[str, float]:
        """Return what is logged, by tag: AP in percent, overall and per class; the five errors; NDS."""
        aps = {"overall": self.mean_ap} | dict(zip(CLASS_NAMES, self.class_aps.tolist(), strict=True))
        tags = {f"AP/{name}": 100 * ap for name, ap in aps.items()}
        return (
            tags | {f"Scores/{name}": value for name, value in self.tp_errors.items()} | {"Scores/NDS": self.nd_score}
        )

    def write(self, folder: Path, *, use_radar: bool = True) -> None:
        """Write metrics_summary.json and metrics_details.json, each whole or not at all.

        As in published files, an error that is not defined for a class is the word NaN.

        Raises:
            UserError: the folder cannot be written to.
        """
        contents = {"metrics_summary": self.summary(use_radar=use_radar), "metrics_details": self.details()}
        for name, content in contents.items():
            with whole_file(folder / f"{name}.json", make_folder=True) as temporary:
                temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")


def evaluate(
    annotations: GlobalBoxes, predictions: GlobalBoxes, ego_positions: Floats, bike_racks: GlobalBoxes | None = None
) -> NuscenesMetrics:
    """Measure the predictions of a split.

    Args:
        annotations: what is there.
        predictions: at most 500 a key frame, in any order; of equal scores the later box counts as the better.
        ego_positions: (S, 2) or (S, 3) where the vehicle is in each key frame, metres, global frame.
        bike_racks: motorcycles and bicycles inside of one do not count; None: there are none.

    Raises:
        UserError: a box has no finite place, size, rotation or score, or a key frame has too many.
    """
    start = time.perf_counter()
    check_boxes(annotations, len(ego_positions), "annotation", predicted=False)
    check_boxes(predictions, len(ego_positions), "prediction", predicted=True)
    counts = np.zeros((2, len(CLASS_NAMES)), np.int64)
    curves: list[list[Curve]] = []  # by class, then by matching distance
    range_truth = np.zeros((len(CLASS_NAMES), len(RANGE_EDGES) - 1), np.int64)
    range_curves: list[list[list[Curve]]] = []  # and then by range
    for label in range(len(CLASS_NAMES)):
        truth_at, truth_distances = keep_counted(annotations, label, ego_positions, bike_racks)
        found_at, found_distances = keep_counted(predictions, label, ego_positions, bike_racks)
        turns = ranking(predictions.scores[found_at])
        best_first = found_at[turns]
        scores = predictions.scores[best_first]
        matches = match(
            predictions.samples[best_first],
            predictions.centers.take(best_first, axis=0)[:, :2],
            annotations.samples[truth_at],
            annotations.centers.take(truth_at, axis=0)[:, :2],
            DISTANCES,
        )
        truth_ranges, own_ranges = _range_of(truth_distances), _range_of(found_distances)[turns]
        range_truth[label] = np.bincount(truth_ranges, minlength=range_truth.shape[1])
        counts[:, label] = len(truth_at), len(found_at)
        curves.append([])
        range_curves.append([])
        all_errors = _errors_by_distance(annotations, truth_at, predictions, found_at, turns, matches, label)
        for match_of, errors in zip(matches, all_errors, strict=True):
            matched = match_of >= 0
            curves[-1].append(make_curve(matched, scores, errors, len(truth_at)))
            # A match belongs to the range of its annotation, so a prediction across the border is no false one.
            ranges = own_ranges.copy()
            ranges[matched] = truth_ranges[match_of[matched]]
            parts = [(ranges == number, int(count)) for number, count in enumerate(range_truth[label])]
            range_curves[-1].append(
                [make_curve(matched[own], scores[own], errors[:, own[matched]], count) for own, count in parts]
            )
    # Adding NaN marks what is not defined without touching the numbers beside it.
    undefined = [[np.nan if error in UNDEFINED.get(name, ()) else 0.0 for error in ERROR_NAMES] for name in CLASS_NAMES]
    nothing_there = np.where(range_truth == 0, np.nan, 0.0)
    range_aps = [[[curve.average_precision() for curve in row] for row in rows] for rows in range_curves]
    range_errors = [[curve.mean_errors() for curve in rows[AT_ERROR_DISTANCE]] for rows in range_curves]
    return NuscenesMetrics(
        aps=np.array([[curve.average_precision() for curve in row] for row in curves]),
        errors=np.array([row[AT_ERROR_DISTANCE].mean_errors() for row in curves]) + undefined,
        num_truth=counts[0],
        num_predictions=counts[1],
        curves=tuple(map(tuple, curves)),
        range_truth=range_truth,
        range_aps=np.mean(range_aps, axis=1) + nothing_there,
        range_errors=np.array(range_errors) + nothing_there[..., None] + np.array(undefined)[:, None],
        eval_time=time.perf_counter() - start,
    )


def _errors_by_distance(
    truth: GlobalBoxes, truth_at: Ints, found: GlobalBoxes, found_at: Ints, turns: Ints, matches: Ints, label: int
) -> Iterator[Floats]:
    """Yield the errors (E, K) of the matches at each distance, best prediction first.

    Most pairs are the same at each distance: only new ones are computed, and in the order of the boxes in memory. That
    takes 15 % off the whole evaluation of 1,500 key frames with 500 boxes.
    """
    known = np.full(len(found_at), -1, np.int64)  # the annotation that a column of `errors` is about
    errors = np.zeros((len(ERROR_NAMES), len(found_at)))
    match_of = np.empty(len(found_at), np.int64)
    for row in matches:
        match_of[turns] = row
        new = ((match_of >= 0) & (match_of != known)).nonzero()[0]
        errors[:, new] = match_errors(truth, truth_at[match_of[new]], found, found_at[new], label)
        known[new] = match_of[new]
        yield errors.take(turns[row >= 0], axis=1)


def _range_of(distances: Floats) -> Ints:
    """Find the range (N,) of distances to the vehicle."""
    return np.searchsorted(RANGE_EDGES[1:-1], distances, side="right").astype(np.int64)


def _by_class(rows: Floats, names: tuple[Any, ...]) -> dict[str, dict[Any, float]]:
    """Name the numbers of each class."""
    return {label: dict(zip(names, row, strict=True)) for label, row in zip(CLASS_NAMES, rows.tolist(), strict=True)}
