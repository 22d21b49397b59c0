"""Anchors: how well they fit the labels of a data set, a search for better ones, and the check before training.

A label can be learned where the larger ratio of its sides to those of an anchor stays below `anchor_t`. The measure is
the inverse of that ratio, in 0..1, so a label is matched where it exceeds 1 / anchor_t.

Source: published YOLOv5 v7.0 auto-anchor (docs/spec/yolov5.md, B6): the measure, the fitness, k-means, 1000 genetic
steps, when it searches and when it takes what it found.
Deviation: the search runs on logarithms of sides, where the measure is a distance; it keeps several starts and tries
several mutations a step, some of a few sides only. It reaches a higher fitness (tests/parity/test_anchors.py).
Legend: N labels, K anchors, S starts, C children; (.., 2) is width and height in pixels at the training size.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwright.data.index import DataIndex
from boxwright.errors import UserError
from boxwright.yolo.detection import DetectionModel
from boxwright.yolo.published import V3, loss_release
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.zoo import with_anchors

Sizes = NDArray[np.float32]

SMALLEST_SIDE = 2.0  # pixels: labels with both sides below it do not shape the anchors, and no anchor side is below it
TINY_SIDE = 3.0  # pixels: labels with a side below it are worth a word
_JITTER = 0.1  # published: the check scales each image by 1 +- this
_THINNEST = 1e-3  # pixels: what a side of no length counts as
_DECIMALS = 2  # of found sides

_MOST_LABELS = 10_000  # a random choice of so many stands for a larger data set in the search
_CLUSTERINGS, _STARTS = 12, 4  # k-means runs, and how many of them the genetic steps go on with
_CHILDREN = 8  # mutations a step of each start, fewer where there are many labels:
_MOST_DISTANCES = 1 << 18  # of labels to anchors a step
_RATES = (0.9, 0.3, 0.1)  # share of the sides that a mutation changes; .9 is published, small ones refine
_SPREAD = 0.1  # published: relative change of a side, times a random number of 0..1 for the mutation as a whole


@dataclass(frozen=True)
class AnchorFit:
    """How well anchors fit labels."""

    recall: float  # best possible recall, the share of labels that at least one anchor matches
    per_label: float  # mean number of anchors that match a label
    fitness: float  # mean over labels of the best measure, 0 where it is no match; what the search maximises
    mean_measure: float  # over all labels and anchors
    mean_best: float  # over all labels, of the best anchor


def measure(sizes: Sizes, anchors: Sizes) -> Sizes:
    """Return (N, K) in 0..1: the smallest ratio of sides, either way, of each label and anchor; 1 is equal."""
    with np.errstate(divide="ignore"):  # anchors that are still to be found are 0, and fit nothing
        ratio = sizes[:, None] / anchors[None]
        return np.minimum(ratio, 1 / ratio).min(axis=2)


def fit(sizes: Sizes, anchors: Sizes, anchor_t: float) -> AnchorFit:
    """Measure how well anchors fit labels.

    Args:
        sizes: (N, 2), N > 0, sides above 0.
        anchors: (K, 2).
        anchor_t: largest side ratio that matches.
    """
    measures = measure(sizes, anchors)
    best = measures.max(axis=1)
    matched = best > 1 / anchor_t
    return AnchorFit(
        recall=float(matched.mean()),
        per_label=float((measures > 1 / anchor_t).sum(axis=1).mean()),
        fitness=float((best * matched).mean()),
        mean_measure=float(measures.mean()),
        mean_best=float(best.mean()),
    )


def label_sizes(index: DataIndex, imgsz: int, rng: np.random.Generator | None = None) -> Sizes:
    """Return (N, 2) sides of all labels when the longer side of each image is imgsz.

    Args:
        index: the training images.
        imgsz: pixels.
        rng: scales each image by 1 +- 0.1, as the published check does; None leaves them.
    """
    sides = index.sizes[:, ::-1].astype(np.float64)  # width, height
    sides *= imgsz / sides.max(axis=1, keepdims=True, initial=1)
    if rng is not None:
        sides *= rng.uniform(1 - _JITTER, 1 + _JITTER, (len(sides), 1))
    per_label = np.repeat(sides, np.diff(index.box_offsets), axis=0)
    return np.maximum(index.boxes[:, 2:4] * per_label, _THINNEST).astype(np.float32)


def random_numbers(seed: int) -> np.random.Generator:
    """Make a generator from the seed of a run; negative ones are taken modulo 2^64."""
    return np.random.default_rng(seed % 2**64)


def usable(sizes: Sizes) -> Sizes:
    """Select the labels that shape anchors: at least one side of SMALLEST_SIDE."""
    return sizes[(sizes >= SMALLEST_SIDE).any(axis=1)]


def search(
    sizes: Sizes, *, num_anchors: int, anchor_t: float, generations: int, seed: int, verbose: bool = False
) -> Sizes:
    """Find anchors for labels: k-means, then genetic steps.

    Args:
        sizes: (N, 2).
        num_anchors: K; may be larger than N.
        anchor_t: largest side ratio that matches.
        generations: genetic steps; 0: k-means only.
        seed: the same seed and sizes give the same anchors.
        verbose: print the fitness after k-means, and of each generation that is better.

    Returns:
        (K, 2) by area, in hundredths of a pixel.

    Raises:
        UserError: no label is usable.
    """
    sizes = usable(sizes)
    if not len(sizes):
        raise UserError(
            f"no label has a side of {SMALLEST_SIDE:g} pixels or more, so there is nothing to fit anchors to"
        )
    rng = random_numbers(seed)
    if len(sizes) > _MOST_LABELS:
        sizes = sizes[rng.choice(len(sizes), _MOST_LABELS, replace=False)]
    logs = np.log(np.maximum(sizes, _THINNEST))
    starts = np.stack([_cluster(logs, num_anchors, rng) for _ in range(_CLUSTERINGS)])
    anchors = np.exp(_evolve(logs, starts, np.log(anchor_t), generations, rng, verbose)).round(_DECIMALS)
    return anchors[np.argsort(anchors.prod(axis=1), kind="stable")].astype(np.float32)


def _cluster(logs: Sizes, num_anchors: int, rng: np.random.Generator) -> Sizes:
    """Return (K, 2) centres of one k-means run; where distinct labels are too few, points near labels fill up."""
    from scipy.cluster.vq import kmeans  # imported where it is used: it takes as long as half of torch

    centres = kmeans(logs, num_anchors, iter=1, rng=rng)[0] if len(logs) > num_anchors else logs
    fill = rng.integers(len(logs), size=num_anchors - len(centres))
    near = logs[fill] + _SPREAD * rng.standard_normal((len(fill), 2))
    return np.maximum(np.concatenate([centres, near]), np.log(SMALLEST_SIDE)).astype(np.float32)


def _evolve(
    logs: Sizes, starts: Sizes, reach: float, generations: int, rng: np.random.Generator, verbose: bool
) -> Sizes:
    """Return (K, 2), the best of (S, K, 2) starts after each is replaced by better children."""
    fitness = _fitness(logs, starts, reach)
    order = np.argsort(-fitness, kind="stable")[:_STARTS]
    parents, best = starts[order], fitness[order]
    num_starts, num_anchors, _ = parents.shape
    children = int(np.clip(_MOST_DISTANCES // (num_starts * len(logs) * num_anchors), 1, _CHILDREN))
    shape = (num_starts, children, num_anchors, 2)
    shown = float(best.max())
    if verbose:
        print(f"k-means: fitness {shown:.5f}")
    for generation in range(1, generations + 1):
        changed = rng.random(shape) < rng.choice(_RATES, (*shape[:2], 1, 1))
        step = changed * rng.random((*shape[:2], 1, 1)) * rng.standard_normal(shape) * _SPREAD
        tried = np.maximum(parents[:, None] + step, np.log(SMALLEST_SIDE)).astype(np.float32)
        fitness = _fitness(logs, tried.reshape(-1, num_anchors, 2), reach).reshape(num_starts, children)
        for start, child in enumerate(fitness.argmax(axis=1)):
            if fitness[start, child] > best[start]:
                parents[start], best[start] = tried[start, child], fitness[start, child]
        if verbose and best.max() > shown:
            shown = float(best.max())
            print(f"generation {generation}/{generations}: fitness {shown:.5f}")
    return parents[best.argmax()]


def _fitness(logs: Sizes, anchors: Sizes, reach: float) -> Sizes:
    """Return the (C,) fitness of (C, K, 2) logarithms of anchors.

    The measure is exp of minus the larger difference of the logarithms of a side.
    """
    nearest = np.full((len(anchors), len(logs)), np.inf, np.float32)
    for anchor in anchors.swapaxes(0, 1):  # (C, 2): a minimum over the last axis of K numbers would take longer
        distance = np.abs(logs[:, 0] - anchor[:, :1])  # (C, N)
        np.maximum(distance, np.abs(logs[:, 1] - anchor[:, 1:]), out=distance)
        np.minimum(nearest, distance, out=nearest)
    return (np.exp(-nearest) * (nearest < reach)).mean(axis=1)


GENERATIONS = 1000
_ENOUGH = 0.98  # best possible recall above which anchors stay; published v7.0


def with_fitting_anchors(model: DetectionModel, data: DataIndex, config: RunConfig) -> DetectionModel:
    """Return the network, with better anchors where a search finds some, and print which in one line.

    Its anchors stay unless those of a search reach a higher best possible recall. Those that only say how many there
    are never stay. Recipe v3 matches by overlap, and its releases changed no anchors: there nothing else is checked.

    Args:
        model: to be trained.
        data: labels to train on.
        config: `imgsz`, `loss.anchor_t`, `seed`, `noautoanchor`.

    Raises:
        UserError: anchors must be found, but there is no label to find them for or `noautoanchor` forbids it.
    """
    count, to_find, anchor_t = len(anchors_of(model)), model.spec.anchors_to_find, config.loss.anchor_t
    if config.noautoanchor and to_find:
        raise UserError(
            f"`anchors: {count // len(model.strides)}` asks for anchors that are found before training, which "
            "--noautoanchor forbids: leave it out, or write the anchors themselves (`boxwright anchors` finds them)"
        )
    if config.noautoanchor or (loss_release(config, model.release) == V3 and not to_find):
        return model
    sizes = label_sizes(data, config.train_side, random_numbers(config.seed))
    shaping = usable(label_sizes(data, config.train_side))
    now = fit(sizes, anchors_of(model), anchor_t)
    if now.recall > _ENOUGH and not to_find:
        print(f"anchors: they fit, {_in_words(now)}")
        return model
    if not len(shaping) and not to_find:
        print(f"anchors: {_in_words(now)}; the labels are too small to find better ones")
        return model
    found = search(shaping, num_anchors=count, anchor_t=anchor_t, generations=GENERATIONS, seed=config.seed)
    then = fit(sizes, found, anchor_t)
    if then.recall <= now.recall and not to_find:
        print(f"anchors: they stay, {_in_words(now)}; a search found none with more recall")
        return model
    levels = in_levels(found, len(model.strides))
    had = "" if to_find else f"{_in_words(now)}; changed (--noautoanchor keeps them) to "
    print(f"anchors: {had}{levels}, {_in_words(then)}")
    return with_anchors(model, levels)


def recall_of_anchors(model: DetectionModel, data: DataIndex, config: RunConfig) -> float:
    """Return the best possible recall of the anchors of a network, measured as `with_fitting_anchors` does."""
    sizes = label_sizes(data, config.train_side, random_numbers(config.seed))
    return fit(sizes, anchors_of(model), config.loss.anchor_t).recall


def anchors_of(model: DetectionModel) -> Sizes:
    """Return (K, 2) width, height in pixels, of all levels."""
    pixels = model.anchors.detach().cpu().numpy() * np.array(model.strides, np.float32).reshape(-1, 1, 1)
    return pixels.reshape(-1, 2)


def in_levels(anchors: Sizes, levels: int) -> list[list[float]]:
    """Return (K, 2) anchors by area in the form of a model yaml, small ones first.

    Raises:
        UserError: they cannot be spread evenly over so many levels.
    """
    if len(anchors) % levels:
        near = len(anchors) // levels * levels
        fitting = f"{near} or {near + levels}" if near else str(levels)
        raise UserError(
            f"{len(anchors)} anchors cannot be spread over the {levels} levels of the model; take {fitting}"
        )
    return [[round(float(side), 2) for side in level.flat] for level in anchors.reshape(levels, -1, 2)]


def _in_words(found: AnchorFit) -> str:
    return f"best possible recall {found.recall:.4f}, {found.per_label:.2f} anchors a label"
