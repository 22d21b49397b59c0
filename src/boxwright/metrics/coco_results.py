"""COCO evaluation of a file of results against a file of ground truth: boxes, masks or keypoints, by hotcoco.

The numbers are those of pycocotools. What is not here: evaluation while a model runs (coco.py).
"""

import json
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import hotcoco

from boxwright.errors import UserError
from boxwright.metrics.coco import BOX_LINES, SummaryLine, summarise

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
# What a record of the ground truth needs besides its id, by kind. Masks are rendered at the size of their image.
_IMAGE_KEYS: dict[IouType, tuple[str, ...]] = {"bbox": (), "segm": ("height", "width"), "keypoints": ()}
_TRUTH_KEYS: dict[IouType, tuple[str, ...]] = {
    "bbox": ("bbox",),
    "segm": ("segmentation", "area"),
    "keypoints": ("keypoints", "num_keypoints", "area"),
}


def _is_id(value: Any) -> bool:
    """Whether a value is a whole number; json's true and false are not, which are of type int in Python."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Whether a value is a number; NaN, which Python's reader of json lets pass, is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _are_numbers(count: int) -> Callable[[Any], bool]:
    """Make the check for a list of a given number of numbers."""
    return lambda value: (
        isinstance(value, list) and len(cast(list[Any], value)) == count and all(map(_is_number, value))
    )


# What a value may be, by its key; hotcoco itself stops with an error of its own language, or measures nonsense.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "id": (_is_id, "a whole number"),
    "image_id": (_is_id, "a whole number"),
    "category_id": (_is_id, "a whole number"),
    "score": (_is_number, "a number"),
    "bbox": (_are_numbers(4), "a list of 4 numbers (left, top, width, height)"),
    "keypoints": (
        _are_numbers(3 * NUM_KEYPOINTS),
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


def evaluate_files(results: Path, annotations: Path, iou_type: IouType = "bbox") -> tuple[Number, ...]:
    """Measure COCO results.

    Args:
        results: json list of results, each with image_id, category_id, score and bbox, segmentation or keypoints.
        annotations: COCO ground truth; all its images count, whether there are results for them or not.
        iou_type: what is compared.

    Returns:
        the 12 numbers of the COCO summary in their order, 10 for keypoints.

    Raises:
        UserError: a file cannot be read, lacks a key that this type needs, or the results name images or categories
            that the ground truth does not list.
    """
    truth = _read_truth(annotations, iou_type)
    rows = _read_results(results, iou_type)
    for key, table in (("image_id", "images"), ("category_id", "categories")):
        known = {row["id"] for row in truth[table]}
        strangers = {row[key] for row in rows} - known
        if strangers:
            raise UserError(
                f"{results} has {len(strangers)} {key} that {annotations} does not list: {_first(strangers)}; "
                f"the {table} there are {_first(known)}"
            )
    try:
        ground_truth = hotcoco.COCO(truth)
        # Results of nothing are allowed, but load_res takes its kind from the first record.
        found = ground_truth.load_res(rows) if rows else hotcoco.COCO(truth | {"annotations": []})
        evaluation = hotcoco.COCOeval(ground_truth, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise UserError(f"{results} cannot be measured against {annotations} as {iou_type}: {error}") from error
    lines, limits = _KEYPOINT_LINES if iou_type == "keypoints" else BOX_LINES, evaluation.params.max_dets
    values = zip(lines, summarise(evaluation, lines), strict=True)
    return tuple(Number(line.name, line.iou, line.area, limits[line.limit], value) for line, value in values)


def _read(path: Path) -> Any:
    """Read a json file."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid json: {error}") from error


def _read_truth(path: Path, iou_type: IouType) -> dict[str, Any]:
    """Read the three lists of a ground truth, every record with the keys that this type needs."""
    content = _read(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} is no COCO ground truth: it is a list or a value, not images, annotations, categories")
    truth: dict[str, Any] = {}
    needed = {
        "images": ("id", *_IMAGE_KEYS[iou_type]),
        "annotations": ("id", "image_id", "category_id", *_TRUTH_KEYS[iou_type]),
        "categories": ("id",),
    }
    for table, keys in needed.items():
        rows = cast(dict[str, Any], content).get(table)
        if not isinstance(rows, list):
            raise UserError(f"{path} is no COCO ground truth: the key {table!r} is missing or no list")
        truth[table] = [
            _checked(row, keys, f"{path}: entry {i} of {table}") for i, row in enumerate(cast(list[Any], rows))
        ]
    for row in truth["annotations"]:
        row.setdefault("iscrowd", 0)
        if "area" not in row:
            row["area"] = float(row["bbox"][2]) * float(row["bbox"][3])
    for row in truth["categories"]:
        row.setdefault("name", str(row["id"]))
    return truth


def _read_results(path: Path, iou_type: IouType) -> list[dict[str, Any]]:
    """Read a list of results, every record with what this type compares."""
    rows = _read(path)
    if not isinstance(rows, list):
        raise UserError(f"{path} holds no list of COCO results (records with image_id, category_id, score)")
    field = FIELD[iou_type]
    read: list[dict[str, Any]] = []
    for i, row in enumerate(cast(list[Any], rows)):
        place = f"{path}: entry {i} of the results"
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
    record = dict(cast(dict[str, Any], row))
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
        UserError: see `evaluate_files`.
    """
    if not annotations:
        raise UserError("val --json needs --annotations: the COCO ground truth of these results")
    numbers = evaluate_files(Path(results), Path(annotations), iou_type)
    print(f"COCO metric of {results} against {annotations} ({iou_type})")
    print(f"{'':<8}{'IoU':>10}{'area':>10}{'at most':>9}{'value':>9}")
    for n in numbers:
        print(f"{n.name:<8}{n.iou:>10}{n.area:>10}{n.max_detections:>9}{n.value:>9.3f}")
    return numbers
