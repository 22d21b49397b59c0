"""COCO evaluation of a file of results against a file of ground truth: boxes, masks or keypoints, by hotcoco.

The numbers are those of pycocotools. What is not here: evaluation while a model runs (coco.py).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import hotcoco
import numpy as np
from numpy.typing import NDArray

from boxwright.errors import UserError

IouType = Literal["bbox", "segm", "keypoints"]
FIELD: dict[IouType, str] = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}  # of a result
NUM_KEYPOINTS = 17  # the COCO metric has one tolerance for each of the joints of a person
_IMAGE_KEYS: dict[IouType, tuple[str, ...]] = {"bbox": ("id",), "segm": ("id", "height", "width"), "keypoints": ("id",)}
_TRUTH_KEYS: dict[IouType, tuple[str, ...]] = {
    "bbox": ("bbox",),
    "segm": ("segmentation", "area"),
    "keypoints": ("keypoints", "num_keypoints", "area"),
}
_ALL_IOU = "0.50:0.95"
_THRESHOLDS = {_ALL_IOU: slice(None), "0.50": slice(0, 1), "0.75": slice(5, 6)}  # of the ten from .5 to .95


@dataclass(frozen=True, slots=True)
class Number:
    """One line of the COCO summary; value is -1 where there is nothing to measure."""

    name: str
    iou: str
    area: str
    max_detections: int
    value: float


@dataclass(frozen=True, slots=True)
class _Line:
    """Where a number comes from: the table "precision" or "recall", and which part of it is averaged."""

    table: str
    name: str
    iou: str = _ALL_IOU
    area: str = "all"
    limit: int = -1  # place in the list of detection limits


_BOX_LINES = (
    _Line("precision", "AP"),
    _Line("precision", "AP50", "0.50"),
    _Line("precision", "AP75", "0.75"),
    _Line("precision", "APs", area="small"),
    _Line("precision", "APm", area="medium"),
    _Line("precision", "APl", area="large"),
    _Line("recall", "AR1", limit=0),
    _Line("recall", "AR10", limit=1),
    _Line("recall", "AR100", limit=2),
    _Line("recall", "ARs", area="small"),
    _Line("recall", "ARm", area="medium"),
    _Line("recall", "ARl", area="large"),
)
_KEYPOINT_LINES = (
    _Line("precision", "AP"),
    _Line("precision", "AP50", "0.50"),
    _Line("precision", "AP75", "0.75"),
    _Line("precision", "APm", area="medium"),
    _Line("precision", "APl", area="large"),
    _Line("recall", "AR"),
    _Line("recall", "AR50", "0.50"),
    _Line("recall", "AR75", "0.75"),
    _Line("recall", "ARm", area="medium"),
    _Line("recall", "ARl", area="large"),
)


def evaluate_files(results: Path, annotations: Path, iou_type: IouType = "bbox") -> tuple[Number, ...]:
    """Measure COCO results.

    Args:
        results: json list of results, each with image_id, category_id, score and bbox, segmentation or keypoints.
        annotations: COCO ground truth; all its images count, whether there are results for them or not.
        iou_type: what is compared.

    Returns:
        the 12 numbers of the COCO summary in their order, 10 for keypoints.

    Raises:
        UserError: a file cannot be read, lacks a key that this type needs, or the results speak of images or categories
            that the ground truth does not know.
    """
    truth = _read_truth(annotations, iou_type)
    rows = _read_results(results, iou_type)
    _check_ids(rows, truth, results, annotations)
    try:
        ground_truth = hotcoco.COCO(truth)
        found = ground_truth.load_res(rows) if rows else hotcoco.COCO(truth | {"annotations": []})
        evaluation = hotcoco.COCOeval(ground_truth, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise UserError(f"{results} cannot be measured against {annotations} as {iou_type}: {error}") from error
    arrays = evaluation.eval
    assert arrays is not None
    areas, limits = list(evaluation.params.area_rng_lbl), list(evaluation.params.max_dets)
    tables = {kind: np.asarray(arrays[kind]) for kind in ("precision", "recall")}
    lines = _KEYPOINT_LINES if iou_type == "keypoints" else _BOX_LINES
    return tuple(_number(line, tables[line.table], areas, limits) for line in lines)


def _number(line: _Line, table: NDArray[np.float64], areas: list[str], limits: list[int]) -> Number:
    """Mean of the part of (IoU thresholds, ..., area ranges, detection limits) that holds something, else -1."""
    part = table[_THRESHOLDS[line.iou]][..., areas.index(line.area), line.limit]
    present = part[part > -1]
    value = float(present.mean()) if present.size else -1.0
    return Number(line.name, line.iou, line.area, limits[line.limit], value)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid json: {error}") from error


def _read_truth(path: Path, iou_type: IouType) -> dict[str, Any]:
    """The three lists of a ground truth, every record with the keys that this type needs."""
    content = _read(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is no COCO ground truth: it is a list or a value, not images, annotations, categories")
    content = cast(dict[str, Any], content)
    truth: dict[str, Any] = {}
    needed = {
        "images": _IMAGE_KEYS[iou_type],
        "annotations": ("id", "image_id", "category_id", *_TRUTH_KEYS[iou_type]),
        "categories": ("id",),
    }
    for table, keys in needed.items():
        rows = content.get(table)
        if not isinstance(rows, list):
            raise UserError(f"{path} is no COCO ground truth: the key {table!r} is missing or no list")
        truth[table] = [_checked(row, keys, f"{path}: entry {i} of {table}") for i, row in enumerate(rows)]  # pyright: ignore
    for row in truth["annotations"]:
        row.setdefault("iscrowd", 0)
        if "area" not in row:
            row["area"] = float(row["bbox"][2]) * float(row["bbox"][3])
    for row in truth["categories"]:
        row.setdefault("name", str(row["id"]))
    return truth


def _read_results(path: Path, iou_type: IouType) -> list[dict[str, Any]]:
    rows = _read(path)
    if not isinstance(rows, list):
        raise UserError(f"{path} holds no list of COCO results (records with image_id, category_id, score)")
    keys, field = ("image_id", "category_id", "score"), FIELD[iou_type]
    read: list[dict[str, Any]] = []
    for i, row in enumerate(cast(list[Any], rows)):
        place = f"{path}: entry {i} of the results"
        checked = _checked(row, keys, place)
        if field not in checked:
            others = [kind for kind, name in FIELD.items() if name in checked]
            hint = f"; it can be measured with --iou-type {others[0]}" if others else ""
            raise UserError(f"{place} has no {field}, which --iou-type {iou_type} compares{hint}")
        _check_shape(checked[field], iou_type, place)
        score = checked["score"]
        if isinstance(score, bool) or not isinstance(score, int | float) or score != score:
            raise UserError(f"{place}: score is a number, not {score!r}")
        read.append(checked)
    return read


def _checked(row: Any, keys: Sequence[str], place: str) -> dict[str, Any]:
    """A copy of a record, which has these keys."""
    if not isinstance(row, dict):
        raise UserError(f"{place} is no record with {', '.join(keys)}")
    record = dict(cast(dict[str, Any], row))
    missing = [key for key in keys if key not in record]
    if missing:
        raise UserError(f"{place} has no {', '.join(missing)}; it needs {', '.join(keys)}")
    for key in ("id", "image_id", "category_id"):
        if key in keys and (isinstance(record[key], bool) or not isinstance(record[key], int)):
            raise UserError(f"{place}: {key} is a whole number, not {record[key]!r}")
    if "bbox" in keys:
        _check_shape(record["bbox"], "bbox", place)
    if "keypoints" in keys:
        _check_shape(record["keypoints"], "keypoints", place)
    return record


def _check_shape(value: Any, iou_type: IouType, place: str) -> None:
    """Boxes are four numbers, keypoints 17 triples; masks are checked by the engine."""
    if iou_type == "segm":
        if not isinstance(value, dict | list):
            raise UserError(f"{place}: segmentation is a run-length code or polygons, not {value!r}")
        return
    count = 4 if iou_type == "bbox" else 3 * NUM_KEYPOINTS
    numbers = cast(list[Any], value) if isinstance(value, list) else []
    if len(numbers) != count or not all(isinstance(n, int | float) and n == n for n in numbers):
        what = "left, top, width, height" if iou_type == "bbox" else "x, y and visibility of 17 joints"
        raise UserError(f"{place}: {FIELD[iou_type]} is a list of {count} numbers ({what})")


def _check_ids(rows: Sequence[dict[str, Any]], truth: dict[str, Any], results: Path, annotations: Path) -> None:
    for key, table in (("image_id", "images"), ("category_id", "categories")):
        known = {row["id"] for row in truth[table]}
        strangers = {row[key] for row in rows} - known
        if strangers:
            raise UserError(
                f"{results} has {len(strangers)} {key} that {annotations} does not list: {_first(strangers)}; "
                f"the {table} there are {_first(known)}"
            )


def _first(ids: set[int]) -> str:
    return ", ".join(map(str, sorted(ids)[:3])) + (" ..." if len(ids) > 3 else "") or "none"


def val_results(results: str, annotations: str, iou_type: str = "bbox") -> tuple[Number, ...]:
    """Measure COCO results, print the numbers in the COCO order, and return them.

    Args:
        results: json list of COCO results.
        annotations: COCO ground truth.
        iou_type: bbox, segm or keypoints.

    Raises:
        UserError: see `evaluate_files`.
    """
    if not annotations:
        raise UserError("val --json needs --annotations: the COCO ground truth of these results")
    kinds: dict[str, IouType] = {kind: kind for kind in FIELD}
    if iou_type not in kinds:
        raise UserError(f"--iou-type {iou_type}: it is one of {', '.join(kinds)}")
    numbers = evaluate_files(Path(results), Path(annotations), kinds[iou_type])
    print(f"COCO metric of {results} against {annotations} ({iou_type})")
    print(f"{'':<8}{'IoU':>10}{'area':>10}{'at most':>9}{'value':>9}")
    for n in numbers:
        print(f"{n.name:<8}{n.iou:>10}{n.area:>10}{n.max_detections:>9}{n.value:>9.3f}")
    return numbers
