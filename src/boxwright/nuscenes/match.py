"""Which prediction counts as which annotation: the greedy rule of the nuScenes metric, over a whole split at once.

The rule: predictions take turns by falling score; each takes the nearest annotation of its key frame that is still
free, if that is closer than a threshold. All annotations thus prefer the same predictions, and then turns give the same
pairs as deferred acceptance, in which all predictions ask at once: each asks its nearest annotation, an annotation
keeps the best that asked, the refused ask their next nearest. A round is a few array operations over all key frames.

Source: nuScenes (arXiv 1903.11027, section 3.1); Gale and Shapley 1962 for deferred acceptance: where one side has one
order of preference, the stable pairs are unique and are those of taking turns.

Legend: P predictions, M annotations, Q pairs of both that are closer than the largest threshold, T thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MAX_PAIRS = 1 << 20  # candidates held at once, about 50 MB with all temporaries


def ranking(scores: Floats) -> Ints:
    """Positions (P,) by falling score; of equal ones the later first, as published."""
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
    for pairs in _close_pairs(samples, centers, truth_samples, truth_centers, thresholds[-1]):
        asking, starts = np.unique(pairs.prediction, return_index=True)
        for row, threshold in zip(matches, thresholds, strict=True):
            closer = np.add.reduceat(pairs.distance < threshold, starts, dtype=np.int64)
            some = closer > 0
            prediction, truth = _defer(starts[some], starts[some] + closer[some], pairs.truth)
            row[asking[some][prediction]] = truth
    return matches


class _Pairs(NamedTuple):
    """Close pairs (Q,), by prediction, then distance, then annotation."""

    prediction: Ints
    truth: Ints
    distance: Floats


def _close_pairs(
    samples: Ints, centers: Floats, truth_samples: Ints, truth_centers: Floats, reach: float
) -> Iterator[_Pairs]:
    """Pairs of one key frame that are closer than `reach`, in groups of whole key frames."""
    if not len(samples) or not len(truth_samples):
        return
    # One line holds all key frames one after another, by x; candidates of a prediction are an interval of it.
    low = min(centers[:, 0].min(), truth_centers[:, 0].min())
    high = max(centers[:, 0].max(), truth_centers[:, 0].max())
    pitch = high - low + 4 * reach
    line = samples * pitch + (centers[:, 0] - low)
    truth_line = truth_samples * pitch + (truth_centers[:, 0] - low)
    order, truth_order = line.argsort(), truth_line.argsort()
    line, truth_line = line[order], truth_line[truth_order]
    margin = reach * 1.001 + 4 * np.spacing(max(abs(line[-1]), abs(truth_line[-1]), pitch))
    first = np.searchsorted(truth_line, line - margin, "left")
    counts = np.searchsorted(truth_line, line + margin, "right") - first
    (x, y), (truth_x, truth_y) = centers[order].T.copy(), truth_centers[truth_order].T.copy()
    for group in _groups(samples[order], counts):
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
            yield _Pairs(prediction[by_turn], truth[by_turn], distance[by_turn])


def _groups(samples: Ints, counts: Ints) -> list[slice]:
    """Cut predictions sorted by key frame between key frames, so that a group has few candidates.

    One key frame alone may have more than that; it is never cut, as its predictions compete.
    """
    ends = np.append((np.diff(samples) > 0).nonzero()[0] + 1, len(samples))  # of each key frame
    filled = counts.cumsum()[ends - 1]
    last = np.append(np.diff(filled // _MAX_PAIRS) > 0, True).nonzero()[0]
    bounds = [0, *ends[last].tolist()]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def _defer(cursors: Ints, ends: Ints, truth: Ints) -> tuple[Ints, Ints]:
    """Deferred acceptance.

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
        np.minimum.at(holder, wanted, asking)
        accepted = holder[wanted] == asking
        sent_away = before[accepted]
        asking = np.concatenate((asking[~accepted], sent_away[sent_away < nobody]))
        asking = asking[cursors[asking] < ends[asking]]
    taken = (holder < nobody).nonzero()[0]
    return holder[taken], taken
