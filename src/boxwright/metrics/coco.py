"""The COCO metric: the numbers of pycocotools, bit for bit, computed by hotcoco, which only this file knows: of boxes
while a model runs, and of a file of results (boxes, masks or keypoints) against a file of ground truth.

Detections of a model are rounded as they are written to predictions.json (boxes 3 decimals, scores 5), so that the
numbers printed are the ones that any other COCO evaluator finds for that file. Where there is nothing to measure (no
label of that size) a number is -1, as in pycocotools.
"""

import json
import logging
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, cast

import hotcoco
import numpy as np
from torch import Tensor

from boxwright.data.index import DataIndex
from boxwright.data.structures import Detections
from boxwright.errors import UserError
from boxwright.metrics.matching import flatten, truth_of
from boxwright.ops.arrays import Array, Floats
from boxwright.reading import read_bytes, why

_BOX_DECIMALS, _SCORE_DECIMALS = 3, 5
_ALL_IOU = "0.50:0.95"
_THRESHOLDS = {_ALL_IOU: slice(None), "0.50": slice(0, 1), "0.75": slice(5, 6)}  # of the ten from .5 to .95
_ALL_AREAS, _HUNDRED = 0, -1  # positions in the lists of area ranges and of detection limits

_log = logging.getLogger("boxwright.evaluation")


@dataclass(frozen=True, slots=True)
class SummaryLine:
    """One line of the COCO summary: which part of which table is averaged."""

    name: str
    table: str  # "precision" or "recall"
    iou: str = _ALL_IOU
    area: str = "all"
    limit: int = _HUNDRED  # position in the list of detection limits, 1, 10, 100 for boxes


BOX_LINES = (
    SummaryLine("AP", "precision"),
    SummaryLine("AP50", "precision", "0.50"),
    SummaryLine("AP75", "precision", "0.75"),
    SummaryLine("APs", "precision", area="small"),
    SummaryLine("APm", "precision", area="medium"),
    SummaryLine("APl", "precision", area="large"),
    SummaryLine("AR1", "recall", limit=0),
    SummaryLine("AR10", "recall", limit=1),
    SummaryLine("AR100", "recall"),
    SummaryLine("ARs", "recall", area="small"),
    SummaryLine("ARm", "recall", area="medium"),
    SummaryLine("ARl", "recall", area="large"),
)
STAT_NAMES = tuple(line.name for line in BOX_LINES)


def summarise(evaluation: hotcoco.COCOeval, lines: Sequence[SummaryLine]) -> list[float]:
    """Average the parts of accumulated tables that `lines` name; -1 for a part without any value."""
    # By the same sums as pycocotools; made here because hotcoco's own summary is printed, not returned.
    tables, areas = evaluation.eval, list(evaluation.params.area_rng_lbl)
    assert tables is not None
    return [
        _mean(np.asarray(tables[line.table])[_THRESHOLDS[line.iou]][..., areas.index(line.area), line.limit])
        for line in lines
    ]


def _mean(values: Floats) -> float:
    """Average the values that are there; -1 marks what has no label, and is the mean of nothing."""
    present = values[values > -1]
    return float(present.mean()) if present.size else -1.0


@dataclass(frozen=True, slots=True)
class CocoTruth:
    """Ground truth in COCO form, grouped by image."""

    images: Mapping[int, dict[str, Any]]  # image record by id
    annotations: Mapping[int, list[dict[str, Any]]]  # by image id; an image without any may be missing
    categories: tuple[dict[str, Any], ...]
    from_labels: bool = False  # ids of images are our own: nobody else knows them

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
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
    def from_file(cls, path: Path) -> Self:
        """Read a COCO json file; UserError if it is none."""
        try:
            return cls.from_json(_read_json(path))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"{path} is no COCO ground truth of boxes: it has no usable {error}") from error

    @classmethod
    def from_index(cls, index: DataIndex) -> Self:
        """Make ground truth of the labels themselves: area is width times height, nothing is a crowd."""
        flat = truth_of(index, range(len(index)))
        corners = flat.boxes.astype(np.float64)
        boxes = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)
        image_ids, category_ids = index.image_ids[flat.images], np.asarray(index.category_ids, np.int64)[flat.labels]
        rows = zip(image_ids.tolist(), category_ids.tolist(), boxes.tolist(), strict=True)
        sides = zip(index.image_ids.tolist(), index.sizes.tolist(), strict=True)
        truth = cls.from_json(
            {
                "images": [{"id": number, "width": width, "height": height} for number, (height, width) in sides],
                "annotations": [{"image_id": image, "category_id": label, "bbox": box} for image, label, box in rows],
                "categories": [
                    {"id": number, "name": name} for number, name in zip(index.category_ids, index.names, strict=True)
                ],
            }
        )
        return replace(truth, from_labels=True)


def truth_for(index: DataIndex) -> CocoTruth:
    """Read the ground truth file of a split if it has one that knows all its images; else take its labels."""
    if index.annotations is None:
        return CocoTruth.from_index(index)
    truth = CocoTruth.from_file(index.annotations)
    # A file of another split, or of images that were numbered anew, would silently make every number 0.
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
    """What the COCO evaluation gives; -1 where there is nothing to measure."""

    stats: Floats  # (12,) in the order of STAT_NAMES
    ap_per_class: Floats  # (C,) by class index of the data set
    ap50_per_class: Floats  # (C,)
    predictions: Floats  # (N, 7) image id, x, y, width, height, score, category id, as evaluated
    precision: Floats  # (10 IoU thresholds, 101 recalls, categories, 4 area ranges, 3 detection limits)

    def named(self) -> dict[str, float]:
        """Return the 12 numbers by name."""
        return dict(zip(STAT_NAMES, self.stats.tolist(), strict=True))


class BoxEvaluator:
    """Matches detections as they come; only images that were processed count."""

    def __init__(self, index: DataIndex, truth: CocoTruth) -> None:
        self.index = index
        self.truth = truth
        self._stream = hotcoco.StreamingEval(list(truth.categories), iou_type="bbox")
        self._rows: list[Floats] = [np.zeros((0, 7))]

    def process(self, detections: Sequence[Detections], indices: Sequence[int]) -> None:
        """Take the detections of images, on the host, and the positions of these images in the index."""
        flat = flatten(detections, indices)
        corners = flat.boxes.astype(np.float64)
        rows = np.empty((len(flat), 7))
        rows[:, 0] = self.index.image_ids[flat.images]
        # Rounded before they are measured, not only when they are written: see above.
        rows[:, 1:3] = corners[:, :2].round(_BOX_DECIMALS)
        rows[:, 3:5] = (corners[:, 2:] - corners[:, :2]).round(_BOX_DECIMALS)
        rows[:, 5] = flat.scores.astype(np.float64).round(_SCORE_DECIMALS)
        rows[:, 6] = np.asarray(self.index.category_ids, np.int64)[flat.labels]
        image_ids = self.index.image_ids[np.asarray(indices, np.int64)].tolist()
        images = [self.truth.images[image_id] for image_id in image_ids]
        annotations = [row for image_id in image_ids for row in self.truth.annotations.get(image_id, ())]
        # hotcoco refuses categories that the ground truth does not list; pycocotools passes them over.
        known = np.isin(rows[:, 6], [category["id"] for category in self.truth.categories])
        self._stream.update(images, annotations, rows[known])
        self._rows.append(rows)

    def evaluate(self) -> CocoMetrics:
        """Accumulate what was matched; all numbers are -1 if that is nothing."""
        evaluation = self._stream.finalize()
        evaluation.accumulate()
        assert evaluation.eval is not None
        precision = np.asarray(evaluation.eval["precision"])
        # hotcoco sorts categories by id, and knows only those of the ground truth.
        columns = {category_id: k for k, category_id in enumerate(evaluation.params.cat_ids)}
        per_class = [
            _mean(precision[:part, :, columns[category_id], _ALL_AREAS, _HUNDRED]) if category_id in columns else -1.0
            for part in (None, 1)  # all ten thresholds, and .5 alone
            for category_id in self.index.category_ids
        ]
        ap, ap50 = np.array(per_class).reshape(2, -1)
        stats = np.array(summarise(evaluation, BOX_LINES))
        return CocoMetrics(stats, ap, ap50, np.concatenate(self._rows), precision)


def as_json(predictions: Floats) -> list[dict[str, Any]]:
    """Convert rows of CocoMetrics.predictions to COCO result records, the content of predictions.json."""
    return [
        {"image_id": int(row[0]), "category_id": int(row[6]), "bbox": row[1:5], "score": row[5]}
        for row in predictions.tolist()
    ]


IouType = Literal["bbox", "segm", "keypoints"]
FIELD: dict[IouType, str] = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}  # of a result
NUM_KEYPOINTS = 17  # the COCO metric has one tolerance for each of the joints of a person
_KEYPOINT_LINES = (
    SummaryLine("AP", "precision"),
    SummaryLine("AP50", "precision", "0.50"),
    SummaryLine("AP75", "precision", "0.75"),
    SummaryLine("APm", "precision", area="medium"),
    SummaryLine("APl", "precision", area="large"),
    SummaryLine("AR", "recall"),
    SummaryLine("AR50", "recall", "0.50"),
    SummaryLine("AR75", "recall", "0.75"),
    SummaryLine("ARm", "recall", area="medium"),
    SummaryLine("ARl", "recall", area="large"),
)
# What an annotation needs besides its ids, by kind.
_TRUTH_KEYS: dict[IouType, tuple[str, ...]] = {
    "bbox": ("bbox",),
    "segm": ("segmentation", "area"),
    "keypoints": ("keypoints", "num_keypoints", "area"),
}


def _is_number(value: Any) -> bool:
    """Whether a value is a number; NaN, which Python's reader of json lets pass, is none, nor are true and false."""
    return type(value) in (int, float) and value == value


def _are_numbers(value: Any, count: int) -> bool:
    """Tell whether a value is a list of `count` numbers."""
    return isinstance(value, list) and len(cast(list[Any], value)) == count and all(map(_is_number, value))


# What a value may be, by its key; hotcoco itself stops with an error of its own language, or measures nonsense.
_ID: tuple[Callable[[Any], bool], str] = (lambda value: type(value) is int, "a whole number")
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "id": _ID,
    "image_id": _ID,
    "category_id": _ID,
    "score": (_is_number, "a number"),
    "bbox": (lambda value: _are_numbers(value, 4), "a list of 4 numbers (left, top, width, height)"),
    "keypoints": (
        lambda value: _are_numbers(value, 3 * NUM_KEYPOINTS),
        f"a list of {3 * NUM_KEYPOINTS} numbers (x, y and visibility of {NUM_KEYPOINTS} joints)",
    ),
    "segmentation": (lambda value: isinstance(value, dict | list), "a run-length code or polygons"),
}


@dataclass(frozen=True, slots=True)
class Number:
    """One line of the COCO summary; value is -1 where there is nothing to measure."""

    name: str
    iou: str
    area: str
    max_detections: int
    value: float


def measure_results(results: Any, truth: Any, iou_type: IouType = "bbox") -> tuple[Number, ...]:
    """Measure COCO results.

    Args:
        results: a json file or a list of results, each with image_id, category_id, score and bbox, segmentation or
            keypoints; or an array or tensor (N, 6 or 7) of image id, left, top, width, height,
            score and category id (else 1).
        truth: COCO ground truth: a json file, its content, or an object that has it as `dataset`, as those of
            pycocotools. All its images count, whether there are results for them or not.
        iou_type: what is compared.

    Returns:
        the 12 numbers of the COCO summary in their order, 10 for keypoints.

    Raises:
        UserError: a file cannot be read, lacks a key that this type needs, or the results name images or categories
            that the ground truth does not list.
    """
    named, against = place_of(results, "results"), place_of(truth, "truth")
    content, rows = read_truth(truth, iou_type), _read_results(results, iou_type)
    for key, table in (("image_id", "images"), ("category_id", "categories")):
        known = {row["id"] for row in content[table]}
        strangers = {row[key] for row in rows} - known
        if strangers:
            raise UserError(
                f"{named} has {len(strangers)} {key} that {against} does not list: {_first(strangers)}; "
                f"the {table} there are {_first(known)}"
            )
    return measure_rows(content, rows, iou_type, f"{named} cannot be measured against {against}")


def measure_rows(
    truth: dict[str, Any], rows: list[dict[str, Any]], iou_type: IouType, problem: str
) -> tuple[Number, ...]:
    """Measure result records against a ground truth, both checked; `problem` begins the sentence of an error.

    Raises:
        UserError: hotcoco finds something that was not checked, such as a run-length code that is none.
    """
    try:
        ground_truth = hotcoco.COCO(truth)
        # Results of nothing are allowed, but load_res takes its kind from the first record.
        found = ground_truth.load_res(rows) if rows else hotcoco.COCO(truth | {"annotations": []})
        evaluation = hotcoco.COCOeval(ground_truth, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
    except (ValueError, TypeError, KeyError, RuntimeError, OverflowError) as error:
        raise UserError(f"{problem} as {iou_type}: {error}") from error
    lines, limits = _KEYPOINT_LINES if iou_type == "keypoints" else BOX_LINES, evaluation.params.max_dets
    values = zip(lines, summarise(evaluation, lines), strict=True)
    return tuple(Number(line.name, line.iou, line.area, limits[line.limit], value) for line, value in values)


def place_of(value: Any, name: str) -> str:
    """Name a file or, of what is handed over in memory, the argument."""
    return str(value) if isinstance(value, str | Path) else name


def _content(value: Any) -> Any:
    """Return what a json file holds, or what is handed over in its place."""
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    return _read_json(Path(value)) if isinstance(value, str | Path) else value


def _read_json(path: Path) -> Any:
    """Read a json file."""
    content = read_bytes(path)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid json: {why(error)}") from error


def read_truth(source: Any, iou_type: IouType) -> dict[str, Any]:
    """Read the three lists of a ground truth, every record with the keys that this type needs."""
    place, content = place_of(source, "truth"), _content(source)
    content = getattr(content, "dataset", content)  # of pycocotools' COCO
    if not isinstance(content, Mapping):
        raise UserError(
            f"{place} is no COCO ground truth: it is a list or a value, not images, annotations, categories"
        )
    truth: dict[str, Any] = {}
    needed = {
        "images": ("id", "height", "width") if iou_type == "segm" else ("id",),  # masks are rendered at that size
        "annotations": ("id", "image_id", "category_id", *_TRUTH_KEYS[iou_type]),
        "categories": ("id",),
    }
    for table, keys in needed.items():
        rows = cast(Mapping[str, Any], content).get(table)
        if not isinstance(rows, list):
            raise UserError(f"{place} is no COCO ground truth: the key {table!r} is missing or no list")
        truth[table] = [
            _checked(row, keys, f"{place}: entry {i} of {table}") for i, row in enumerate(cast(list[Any], rows))
        ]
    for row in truth["annotations"]:
        row.setdefault("iscrowd", 0)
        if "area" not in row:
            row["area"] = float(row["bbox"][2]) * float(row["bbox"][3])
    for row in truth["categories"]:
        row.setdefault("name", str(row["id"]))
    return truth


_ARRAY_COLUMNS = 7  # image id, left, top, width, height, score, category id


def _rows_of_array(array: Array, iou_type: IouType) -> list[dict[str, Any]]:
    """Read an array of boxes, as pycocotools takes them, as result records."""
    if iou_type != "bbox" or array.ndim != 2 or array.shape[1] not in (_ARRAY_COLUMNS - 1, _ARRAY_COLUMNS):
        raise UserError(
            f"results as an array have the shape (N, 6 or 7), a box a row, for bbox; not {array.shape} for {iou_type}"
        )
    ids = array[:, [0, *range(6, array.shape[1])]]
    if not np.isfinite(array).all() or (ids != np.round(ids)).any():
        raise UserError("results: the array holds numbers that are not finite, or ids that are no whole numbers")
    rows = array.astype(np.float64)
    if array.shape[1] < _ARRAY_COLUMNS:
        rows = np.concatenate((rows, np.ones((len(rows), 1))), axis=1)
    return as_json(rows)


def _read_results(source: Any, iou_type: IouType) -> list[dict[str, Any]]:
    """Read a list of results, every record with what this type compares."""
    named, rows = place_of(source, "results"), _content(source)
    if isinstance(rows, np.ndarray):
        return _rows_of_array(cast(Array, rows), iou_type)
    if not isinstance(rows, list):
        raise UserError(f"{named} holds no list of COCO results (records with image_id, category_id, score)")
    field = FIELD[iou_type]
    read: list[dict[str, Any]] = []
    for i, row in enumerate(cast(list[Any], rows)):
        place = f"{named}: entry {i} of the results"
        checked = _checked(row, ("image_id", "category_id", "score"), place)
        if field not in checked:
            others = [kind for kind, name in FIELD.items() if name in checked]
            hint = f"; it can be measured with --iou-type {others[0]}" if others else ""
            raise UserError(f"{place} has no {field}, which --iou-type {iou_type} compares{hint}")
        read.append(_checked(checked, (field,), place))
    return read


def _checked(row: Any, keys: Sequence[str], place: str) -> dict[str, Any]:
    """Copy a record; refuse one that lacks a key or has something else there than the rules say."""
    if not isinstance(row, dict):
        raise UserError(f"{place} is no record with {', '.join(keys)}")
    # What is handed over in memory often has numbers and boxes of NumPy.
    items = cast(dict[str, Any], row).items()
    record = {key: value.tolist() if isinstance(value, np.generic | np.ndarray) else value for key, value in items}
    missing = [key for key in keys if key not in record]
    if missing:
        raise UserError(f"{place} has no {', '.join(missing)}; it needs {', '.join(keys)}")
    for key in keys:
        holds, meaning = _RULES.get(key, (None, ""))
        if holds is not None and not holds(record[key]):
            raise UserError(f"{place}: {key} is {meaning}, not {reprlib.repr(record[key])}")
    return record


def _first(ids: set[int]) -> str:
    """List the three lowest ids."""
    return ", ".join(map(str, sorted(ids)[:3])) + (" ..." if len(ids) > 3 else "") or "none"


def val_results(results: str, annotations: str, iou_type: IouType = "bbox") -> tuple[Number, ...]:
    """Measure COCO results, print the numbers in the COCO order, and return them.

    Raises:
        UserError: see `measure_results`.
    """
    if not annotations:
        raise UserError("val --json needs --annotations: the COCO ground truth of these results")
    numbers = measure_results(results, annotations, iou_type)
    print(f"COCO metric of {results} against {annotations} ({iou_type})\n{table_of(numbers)}")
    return numbers


def table_of(numbers: Sequence[Number]) -> str:
    """Format the COCO summary, one line a number."""
    lines = [f"{'':<8}{'IoU':>10}{'area':>10}{'at most':>9}{'value':>9}"]
    lines += [f"{n.name:<8}{n.iou:>10}{n.area:>10}{n.max_detections:>9}{n.value:>9.3f}" for n in numbers]
    return "\n".join(lines)
