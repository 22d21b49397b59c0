"""`boxwright val --json`: a file of results against a file of ground truth, without a network."""

from __future__ import annotations

from pathlib import Path

from boxwright.errors import UserError
from boxwright.metrics.coco_results import FIELD, IouType, Number, evaluate_files


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
