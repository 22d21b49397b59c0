"""Curves of the nuScenes metric over recall, and what is read from them: AP and the five true-positive errors.

Source: nuScenes (arXiv 1903.11027, section 3.1), detection_cvpr_2019; spec C12.

Legend: P predictions of a class, best first; K of them matched; X = 101 recalls; E = 5 errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwright.nuscenes.structures import CLASS_NAMES, GlobalBoxes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ERROR_NAMES = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")
"""Metres, 1 - IoU, radians, metres a second, 1 - accuracy."""
UNDEFINED = {"traffic_cone": ("orient_err", "vel_err", "attr_err"), "barrier": ("vel_err", "attr_err")}
RECALLS: Floats = np.linspace(0, 1, 101)
MIN_RECALL, MIN_PRECISION = 0.1, 0.1
_FIRST = round(100 * MIN_RECALL) + 1  # the first recall that counts


@dataclass(frozen=True, slots=True)
class Curve:
    """One class at one matching distance, at `RECALLS`.

    Args:
        precision: (X,) 0 beyond the recall that is reached.
        confidence: (X,) score at which the recall is reached, 0 beyond.
        errors: (E, X) mean of each error over the matches down to that score; 1 everywhere where nothing matches.
    """

    precision: Floats
    confidence: Floats
    errors: Floats

    @classmethod
    def empty(cls) -> Curve:
        return cls(np.zeros(len(RECALLS)), np.zeros(len(RECALLS)), np.ones((len(ERROR_NAMES), len(RECALLS))))

    def average_precision(self) -> float:
        """Mean precision above 0.1, at recalls above 0.1; from 0 to 1 but for rounding."""
        above = np.maximum(self.precision[_FIRST:] - MIN_PRECISION, 0)
        return float(above.mean()) / (1 - MIN_PRECISION)

    def mean_errors(self) -> Floats:
        """Mean (E,) of each error from recall 0.1 to the highest reached; 1 if that is not beyond 0.1."""
        reached = self.confidence.nonzero()[0]
        last = int(reached[-1]) if len(reached) else 0
        if last < _FIRST:
            return np.ones(len(ERROR_NAMES))
        return np.array([row[_FIRST : last + 1].mean() for row in self.errors])


def make_curve(matched: NDArray[np.bool_], scores: Floats, errors: Floats, num_truth: int) -> Curve:
    """Follow a class from its best prediction down.

    Args:
        matched: (P,) whether each prediction, best first, is true.
        scores: (P,).
        errors: (E, K) of those that are; NaN where unknown.
        num_truth: annotations of the class.
    """
    if num_truth == 0 or errors.shape[1] == 0:
        return Curve.empty()
    hits = matched.cumsum().astype(np.float64)
    recall = hits / num_truth
    precision = np.interp(RECALLS, recall, hits / np.arange(1, len(hits) + 1), right=0)
    confidence = np.interp(RECALLS, recall, scores, right=0)
    rising = scores[matched][::-1]  # np.interp wants an ascending abscissa
    means = [np.interp(confidence[::-1], rising, _running_mean(row)[::-1])[::-1] for row in errors]
    return Curve(precision, confidence, np.stack(means))


def _running_mean(values: Floats) -> Floats:
    """Mean of all values so far; NaN is skipped; 0 before the first number; 1 where there is none at all."""
    known = ~np.isnan(values)
    if not known.any():
        return np.ones(len(values))
    counts = known.cumsum()
    return np.divide(np.nancumsum(values), counts, out=np.zeros(len(values)), where=counts > 0)


def match_errors(truth: GlobalBoxes, truth_at: Ints, found: GlobalBoxes, found_at: Ints, label: int) -> Floats:
    """The five errors (E, K) of predictions at positions (K,) against the annotations they matched, of one class."""
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
    """Direction (N,) of the x axis of boxes in the horizontal plane, rad, of quaternions (N, 4) w, x, y, z."""
    w, x, y, z = quaternions.T
    return np.arctan2(2 * (x * y + w * z), w * w + x * x - y * y - z * z)
