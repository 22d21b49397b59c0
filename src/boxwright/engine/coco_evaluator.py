"""The COCO metric for the tensors of any model: an evaluator over ranks, and the ground truth of a torch data set.

Source: the evaluator of torchvision's detection references (docs/spec/yolov3-spp.md, A8), of which it has the methods
and what they take. Deviations: images are measured when they are accumulated, not batch by batch, and what ranks send
each other is no pickle.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

import hotcoco
import numpy as np
import torch
from torch import Tensor

from boxwright.engine.distributed import current_world
from boxwright.errors import UserError
from boxwright.metrics.coco import (
    FIELD,
    NUM_KEYPOINTS,
    IouType,
    Number,
    measure_rows,
    place_of,
    read_truth,
    table_of,
)
from boxwright.ops.arrays import Array
from boxwright.terminal import counted

_log = logging.getLogger("boxwright.evaluation")
_KEYS: dict[IouType, str] = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}  # of a prediction
_OF_OBJECTS = {"boxes", "area", "iscrowd", "masks", "keypoints"}  # entries of a target with a row for each object
_MASK_THRESHOLD = 0.5
Row = dict[str, Any]  # a COCO result


class CocoEvaluator:
    """Measures predictions as they come; only images that were handed over count, each of them once.

    Args:
        truth: COCO ground truth: what `coco_of` gives, a json file, its content, or a COCO object of pycocotools.
        iou_types: what is compared: bbox, segm, keypoints.

    Raises:
        UserError: the truth cannot be read, or lacks what a type needs.
    """

    def __init__(self, truth: Any, iou_types: IouType | Sequence[IouType] = "bbox") -> None:
        kinds = cast("list[IouType]", [iou_types] if isinstance(iou_types, str) else list(iou_types))
        if unknown := [kind for kind in kinds if kind not in FIELD]:
            raise UserError(f"iou_types: {unknown[0]!r} is none of {', '.join(FIELD)}")
        self.truths: dict[IouType, dict[str, Any]] = {kind: read_truth(truth, kind) for kind in kinds}
        first = next(iter(self.truths.values()), {"images": [], "categories": []})
        self._images = {image["id"]: image for image in first["images"]}
        self._categories = {category["id"] for category in first["categories"]}
        self._place = place_of(truth, "the ground truth")
        self._found: dict[int, dict[str, list[Row]]] = {}  # of each image, by type
        self._warned = False
        self.numbers: dict[IouType, tuple[Number, ...]] = {}  # after `accumulate`

    def update(self, predictions: Mapping[int, Mapping[str, Any]]) -> None:
        """Take what was found in some images.

        Args:
            predictions: by image id: `labels` (N,) category ids, `scores` (N,), and by type `boxes` (N, 4) xyxy pixels,
                `masks` (N, H, W) or (N, 1, H, W), part of the object above .5, `keypoints` (N, 17, 3). Tensors or
                arrays; an empty mapping found nothing. An image that was there before keeps its first predictions.

        Raises:
            UserError: an image that the truth does not list, a missing key, or a shape that does not fit.
        """
        if not isinstance(predictions, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # of users without types
            raise UserError(f"predictions are a mapping by image id, not a {type(predictions).__name__}")
        self.numbers = {}
        for key, prediction in predictions.items():
            image = int(key)
            if image not in self._images:
                raise UserError(f"{self._place} lists no image {image}: predictions are named by its image ids")
            if image in self._found:
                continue
            self._found[image] = {kind: self._rows(image, kind, prediction) for kind in self.truths}

    def synchronize(self) -> None:
        """Gather the predictions of all ranks in each of them; every rank has to call this."""
        self.numbers = {}
        parts = current_world().all(self._found)
        self._found = {image: rows for part in reversed(parts) for image, rows in part.items()}

    def accumulate(self) -> None:
        """Measure the images that were handed over; all numbers are -1 if those have no labels."""
        images = sorted(self._found)
        for kind, truth in self.truths.items():
            mine = {
                "images": [self._images[image] for image in images],
                "annotations": [row for row in truth["annotations"] if row["image_id"] in self._found],
                "categories": truth["categories"],
            }
            rows = [row for image in images for row in self._found[image][kind]]
            self.numbers[kind] = measure_rows(mine, rows, kind, f"predictions cannot be measured against {self._place}")

    def summarize(self) -> dict[IouType, tuple[Number, ...]]:
        """Print the numbers of each type, 12 or for keypoints 10, and return them; accumulates if that was not done."""
        if not self.numbers:
            self.accumulate()
        for kind, numbers in self.numbers.items():
            print(f"COCO metric of {counted(len(self._found), 'image')} ({kind})\n{table_of(numbers)}")
        return self.numbers

    def _rows(self, image: int, kind: IouType, prediction: Mapping[str, Any]) -> list[Row]:
        """Make the COCO results of an image."""
        if not prediction:
            return []
        missing = [key for key in (_KEYS[kind], "labels", "scores") if key not in prediction]
        if missing:
            raise UserError(f"the prediction of image {image} has no {', '.join(missing)}, which {kind} needs")
        labels, scores, found = (_array(prediction[key]) for key in ("labels", "scores", _KEYS[kind]))
        if kind == "segm" and found.ndim == 4 and found.shape[1] == 1:
            found = found[:, 0]
        sides = tuple(self._images[image].get(side, 0) for side in ("height", "width"))
        shape = {"bbox": (4,), "segm": sides, "keypoints": (NUM_KEYPOINTS, 3)}[kind]
        count = len(labels)
        if labels.shape != (count,) or scores.shape != (count,) or found.shape != (count, *shape):
            raise UserError(
                f"the prediction of image {image} has labels {labels.shape}, scores {scores.shape} and {_KEYS[kind]} "
                f"{found.shape}; they are (N,), (N,) and {('N', *shape)}".replace("'", "")
            )
        if not (np.isfinite(scores).all() and np.isfinite(found).all()):
            raise UserError(f"the prediction of image {image} holds scores or {_KEYS[kind]} that are not finite")
        known = np.isin(labels, list(self._categories))
        if not self._warned and not known.all():
            self._warned = True
            _log.warning(
                "label %s of image %d is no category of %s: such predictions are left out, as pycocotools does",
                *(labels[~known][0], image, self._place),
            )
        values = _values(kind, found[known])
        pairs = zip(labels[known].tolist(), scores[known].astype(np.float64).tolist(), values, strict=True)
        where = FIELD[kind]
        return [{"image_id": image, "category_id": int(label), where: value, "score": s} for label, s, value in pairs]


def _array(values: Any) -> Array:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
    return np.asarray(values)


def _values(kind: IouType, found: Array) -> list[Any]:
    """Convert boxes xyxy, masks or keypoints of an image to the form of COCO results."""
    if kind == "segm":
        return [run_length(mask) for mask in found > _MASK_THRESHOLD]
    values = found.astype(np.float64)
    if kind == "bbox":
        values = np.concatenate((values[:, :2], values[:, 2:] - values[:, :2]), axis=1)
    return [row.ravel().tolist() for row in values]


def run_length(mask: Array) -> dict[str, Any]:
    """Encode a mask (H, W) as COCO does."""
    code = hotcoco.mask.encode(np.asarray(mask, np.uint8))
    counts = code["counts"]
    return {"size": list(code["size"]), "counts": counts.decode() if isinstance(counts, bytes) else counts}


def coco_of(dataset: Any) -> dict[str, Any]:
    """Return the COCO ground truth of a torch data set, also of a Subset of one, or of a Subset of that.

    Args:
        dataset: torchvision's CocoDetection (anything with `coco` and `ids`), whose own truth is taken; or any data set
            of pairs (image, target), where target has `boxes` (N, 4) xyxy pixels and `labels` (N,), and perhaps
            `image_id` (else the position), `area` (else that of the box), `iscrowd`, `masks` (N, H, W) and
            `keypoints` (N, 17, 3). These are all read once.

    Raises:
        UserError: it is no such data set.
    """
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise UserError(f"coco_of takes a data set with a length and items by position, not a {type(dataset).__name__}")
    positions: Sequence[int] | None = None
    while hasattr(dataset, "indices") and hasattr(dataset, "dataset"):  # Subset
        own: Sequence[int] = [int(index) for index in dataset.indices]
        positions = own if positions is None else [own[position] for position in positions]
        dataset = dataset.dataset
    content = getattr(getattr(dataset, "coco", None), "dataset", None)
    if content is None:
        return _converted(dataset, range(len(dataset)) if positions is None else positions)
    ids = list(dataset.ids)
    wanted = set(ids if positions is None else (ids[position] for position in positions))
    return {
        **content,
        "images": [image for image in content["images"] if image["id"] in wanted],
        "annotations": [row for row in content.get("annotations", ()) if row["image_id"] in wanted],
    }


def _fields(sample: Any, place: str) -> dict[str, Array]:
    """Check the target of a pair (image, target), and return its fields as arrays."""
    target = sample[1] if isinstance(sample, tuple | list) and len(cast("Sequence[Any]", sample)) > 1 else None
    if not isinstance(target, Mapping) or not {"boxes", "labels"} <= cast("Mapping[str, Any]", target).keys():
        raise UserError(f"coco_of: {place} is no pair of an image and a target with boxes (N, 4) xyxy and labels (N,)")
    fields = {name: _array(value) for name, value in cast("Mapping[str, Any]", target).items() if value is not None}
    count = len(fields["labels"])
    for name in fields.keys() & _OF_OBJECTS:
        if len(fields[name]) != count:
            raise UserError(f"coco_of: the target of {place} has {len(fields[name])} {name}, but {count} labels")
    if "image_id" in fields and (fields["image_id"].size != 1 or fields["image_id"].dtype.kind not in "iuf"):
        raise UserError(f"coco_of: the image_id of {place} is no number")
    return fields


def _converted(dataset: Any, positions: Sequence[int]) -> dict[str, Any]:
    """Make a ground truth of pairs (image, target)."""
    images: dict[int, Row] = {}
    annotations: list[Row] = []
    for position in positions:
        sample, place = dataset[position], f"sample {position} of the {type(dataset).__name__}"
        fields = _fields(sample, place)
        image_id = int(fields["image_id"].item()) if "image_id" in fields else position
        if image_id in images:
            raise UserError(f"coco_of: {place} has the image_id {image_id} of one before it")
        images[image_id] = {"id": image_id} | _sides(sample[0])
        boxes = fields["boxes"].reshape(-1, 4).astype(np.float64)
        sizes = boxes[:, 2:] - boxes[:, :2]
        areas = fields.get("area", sizes[:, 0] * sizes[:, 1]).tolist()
        crowds = fields.get("iscrowd", np.zeros(len(boxes), np.int64)).tolist()
        for i, (box, label) in enumerate(zip(boxes, fields["labels"].tolist(), strict=True)):
            row: Row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": int(label)}
            row |= {"bbox": [*box[:2].tolist(), *sizes[i].tolist()], "area": areas[i], "iscrowd": int(crowds[i])}
            if "masks" in fields:
                row["segmentation"] = run_length(fields["masks"][i] > _MASK_THRESHOLD)
            if "keypoints" in fields:
                joints = fields["keypoints"][i].reshape(-1, 3).astype(np.float64)
                row |= {"keypoints": joints.ravel().tolist(), "num_keypoints": int((joints[:, 2] != 0).sum())}
            annotations.append(row)
    categories = sorted({row["category_id"] for row in annotations})
    return {
        "images": list(images.values()),
        "annotations": annotations,
        "categories": [{"id": category, "name": str(category)} for category in categories],
    }


def _sides(image: Any) -> dict[str, int]:
    """Return height and width of a tensor or array (..., H, W) or (H, W, 3), or of a Pillow image."""
    if hasattr(image, "shape"):
        shape = tuple(image.shape)
        height, width = shape[:2] if len(shape) == 3 and not isinstance(image, Tensor) else shape[-2:]
    else:
        width, height = image.size
    return {"height": int(height), "width": int(width)}
