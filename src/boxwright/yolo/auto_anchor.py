"""The check before training: do the anchors of the network fit the labels, and if not, which do?

Source: published YOLOv5 v7.0 auto-anchor (spec B6): when it searches, and when it takes what it found.
"""

from __future__ import annotations

import numpy as np

from boxwright.data.index import DataIndex
from boxwright.errors import UserError
from boxwright.yolo.anchor_search import AnchorFit, Sizes, fit, label_sizes, random_numbers, search, usable
from boxwright.yolo.build import with_anchors
from boxwright.yolo.detection import DetectionModel
from boxwright.yolo.recipe import V3
from boxwright.yolo.settings import RunConfig

GENERATIONS = 1000
_ENOUGH = 0.98  # best possible recall above which anchors stay; published v7.0


def with_fitting_anchors(model: DetectionModel, data: DataIndex, config: RunConfig) -> DetectionModel:
    """The network itself, or the same one with anchors that more labels can be matched with. Prints which, in one line.

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
    if config.noautoanchor or ((config.loss.recipe or model.recipe) == V3 and not to_find):
        return model
    sizes = label_sizes(data, config.imgsz, random_numbers(config.seed))
    shaping = usable(label_sizes(data, config.imgsz))
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
    """Best possible recall of the anchors of a network, measured as `with_fitting_anchors` does."""
    sizes = label_sizes(data, config.imgsz, random_numbers(config.seed))
    return fit(sizes, anchors_of(model), config.loss.anchor_t).recall


def anchors_of(model: DetectionModel) -> Sizes:
    """(K, 2) width, height in pixels, of all levels."""
    pixels = model.anchors.detach().cpu().numpy() * np.array(model.strides, np.float32).reshape(-1, 1, 1)
    return pixels.reshape(-1, 2)


def in_levels(anchors: Sizes, levels: int) -> list[list[float]]:
    """(K, 2) anchors by area in the form of a model yaml, small ones first.

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
