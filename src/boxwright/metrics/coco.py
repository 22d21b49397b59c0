"""The COCO metric: the 12 numbers of pycocotools, bit for bit, computed by hotcoco. Only this file and coco_results.py
know hotcoco.

Detections are rounded as they are written to predictions.json (boxes 3 decimals, scores 5), so that the numbers printed
are the ones that any other COCO evaluator finds for that file. Where there is nothing to measure (no label of that
size) a number is -1, as in pycocotools.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray

from boxwright.data.index import DataIndex
from boxwright.data.structures import Detections
from boxwright.errors import UserError
from boxwright.metrics.matching import flatten, truth_of

STAT_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_BOX_DECIMALS, _SCORE_DECIMALS = 3, 5
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)  # area ranges, in hotcoco's order
_ONE, _TEN, _HUNDRED = range(3)  # detections an image that count
_AP50, _AP75 = 0, 5  # columns of the IoU thresholds .5 to .95

_log = logging.getLogger("boxwright.evaluation")


@dataclass(frozen=True, slots=True)
class CocoTruth:
    """Ground truth in COCO form, grouped by image.

    Args:
        images: image record by id.
        annotations: what is in each image; an image without any may be missing.
        categories: category records.
    """

    images: Mapping[int, dict[str, Any]]
    annotations: Mapping[int, list[dict[str, Any]]]
    categories: tuple[dict[str, Any], ...]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CocoTruth:
        """Take what box evaluation needs out of a COCO ground truth; KeyError where a needed field is missing."""
        grouped: dict[int, list[dict[str, Any]]] = {}
        for number, row in enumerate(content["annotations"], start=1):
            box = [float(value) for value in row["bbox"]]
            grouped.setdefault(row["image_id"], []).append(
                {
                    "id": row.get("id", number),
                    "image_id": row["image_id"],
                    "category_id": row["category_id"],
                    "bbox": box,
                    "area": float(row.get("area", box[2] * box[3])),
                    "iscrowd": int(row.get("iscrowd", 0)),
                }
            )
        # Sizes and ids of annotations are written by most tools, but boxes are evaluated without them.
        images = {
            row["id"]: {"id": row["id"], "width": row.get("width", 0), "height": row.get("height", 0)}
            for row in content["images"]
        }
        names = [{"id": row["id"], "name": str(row.get("name", row["id"]))} for row in content["categories"]]
        return cls(images, grouped, tuple(names))

    @classmethod
    def from_file(cls, path: Path) -> CocoTruth:
        """Read a COCO json file; UserError if it is none."""
        try:
            return cls.from_json(json.loads(path.read_bytes()))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read as COCO ground truth: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no COCO ground truth of boxes: it has no usable {error}") from error

    @classmethod
    def from_index(cls, index: DataIndex) -> CocoTruth:
        """Ground truth made of the labels themselves: area is width times height, nothing is a crowd."""
        flat = truth_of(index, range(len(index)))
        corners = flat.boxes.astype(np.float64)
        boxes = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)
        grouped: dict[int, list[dict[str, Any]]] = {}
        columns = (index.image_ids[flat.images], np.asarray(index.category_ids, np.int64)[flat.labels], boxes)
        for number, (image_id, category_id, box) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), start=1
        ):
            grouped.setdefault(image_id, []).append(
                {
                    "id": number,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
        images = {
            image_id: {"id": image_id, "width": width, "height": height}
            for image_id, (height, width) in zip(index.image_ids.tolist(), index.sizes.tolist(), strict=True)
        }
        names = [{"id": i, "name": name} for i, name in zip(index.category_ids, index.names, strict=True)]
        return cls(images, grouped, tuple(names))


def truth_for(index: DataIndex) -> CocoTruth:
    """The ground truth file of a split if it has one that knows all its images, else its labels."""
    if index.annotations is None:
        return CocoTruth.from_index(index)
    truth = CocoTruth.from_file(index.annotations)
    strangers = [i for i, image_id in enumerate(index.image_ids.tolist()) if image_id not in truth.images]
    if not strangers:
        return truth
    _log.warning(
        "%s does not know %d of the %d images (%s ...): the COCO metric is taken against the label files",
        index.annotations,
        len(strangers),
        len(index),
        index.path(strangers[0]).name,
    )
    return CocoTruth.from_index(index)


@dataclass(frozen=True, slots=True)
class CocoMetrics:
    """What the COCO evaluation gives.

    Args:
        stats: the 12 numbers in their usual order (STAT_NAMES); -1 where there is nothing to measure.
        ap_per_class, ap50_per_class: (C,) by class index of the data set; -1 for classes without labels.
        predictions: (N, 7) float64 image id, x, y, width, height, score, category id, as evaluated.
        precision: (10 IoU thresholds, 101 recalls, categories, 4 area ranges, 3 detection limits); -1: nothing there.
    """

    stats: NDArray[np.float64]
    ap_per_class: NDArray[np.float64]
    ap50_per_class: NDArray[np.float64]
    predictions: NDArray[np.float64]
    precision: NDArray[np.float64]

    def named(self) -> dict[str, float]:
        return dict(zip(STAT_NAMES, self.stats.tolist(), strict=True))


class CocoEvaluator:
    """Matches detections as they come; only images that were processed count.

    Args:
        index: says which COCO image and category the positions and class indices stand for.
        truth: what to measure against.
    """

    def __init__(self, index: DataIndex, truth: CocoTruth) -> None:
        self.index = index
        self.truth = truth
        self.reset()

    def reset(self) -> None:
        self._stream = hotcoco.StreamingEval(list(self.truth.categories), iou_type="bbox")
        self._rows: list[NDArray[np.float64]] = [np.zeros((0, 7))]

    def process(self, detections: Sequence[Detections], indices: Sequence[int]) -> None:
        rows = self._coco_rows(detections, indices)
        image_ids = self.index.image_ids[np.asarray(indices, np.int64)].tolist()
        images = [self.truth.images[image_id] for image_id in image_ids]
        annotations = [row for image_id in image_ids for row in self.truth.annotations.get(image_id, ())]
        known = np.isin(rows[:, 6], [category["id"] for category in self.truth.categories])
        self._stream.update(images, annotations, rows[known])
        self._rows.append(rows)

    def evaluate(self) -> CocoMetrics:
        evaluation = self._stream.finalize()
        evaluation.accumulate()
        arrays = evaluation.eval
        assert arrays is not None
        precision, recall = np.asarray(arrays["precision"]), np.asarray(arrays["recall"])
        columns = {category_id: k for k, category_id in enumerate(evaluation.params.cat_ids)}
        per_class = [
            _mean(precision[:part, :, columns[category_id], _ALL, _HUNDRED]) if category_id in columns else -1.0
            for part in (None, 1)
            for category_id in self.index.category_ids
        ]
        ap, ap50 = np.array(per_class).reshape(2, -1)
        return CocoMetrics(_twelve(precision, recall), ap, ap50, np.concatenate(self._rows), precision)

    def _coco_rows(self, detections: Sequence[Detections], indices: Sequence[int]) -> NDArray[np.float64]:
        """Detections as (N, 7) rows of the ground truth's ids, rounded as they are written."""
        flat = flatten(detections, indices)
        corners = flat.boxes.astype(np.float64)
        rows = np.empty((len(flat), 7))
        rows[:, 0] = self.index.image_ids[flat.images]
        rows[:, 1:3] = corners[:, :2].round(_BOX_DECIMALS)
        rows[:, 3:5] = (corners[:, 2:] - corners[:, :2]).round(_BOX_DECIMALS)
        rows[:, 5] = flat.scores.astype(np.float64).round(_SCORE_DECIMALS)
        rows[:, 6] = np.asarray(self.index.category_ids, np.int64)[flat.labels]
        return rows


def as_json(predictions: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Rows of CocoMetrics.predictions as COCO result records, the content of predictions.json."""
    return [
        {"image_id": int(row[0]), "category_id": int(row[6]), "bbox": row[1:5], "score": row[5]}
        for row in predictions.tolist()
    ]


def _twelve(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> NDArray[np.float64]:
    """The numbers of pycocotools' summary, by the same sums; made here because hotcoco prints its own."""
    sizes = (_ALL, _SMALL, _MEDIUM, _LARGE)
    parts: Iterable[NDArray[np.float64]] = (
        precision[..., _ALL, _HUNDRED],
        precision[_AP50, ..., _ALL, _HUNDRED],
        precision[_AP75, ..., _ALL, _HUNDRED],
        *(precision[..., size, _HUNDRED] for size in sizes[1:]),
        *(recall[..., _ALL, limit] for limit in (_ONE, _TEN, _HUNDRED)),
        *(recall[..., size, _HUNDRED] for size in sizes[1:]),
    )
    return np.array([_mean(part) for part in parts])


def _mean(values: NDArray[np.float64]) -> float:
    present = values[values > -1]
    return float(present.mean()) if present.size else -1.0
