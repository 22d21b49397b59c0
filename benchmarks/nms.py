"""How much faster the batched NMS is than one image after the other, with equal results.

The other side is what most code does: for each image, pick the rows above the threshold, sort, shift the boxes by
class and call torchvision.ops.nms once over all candidates. Predictions have the published shape of 32 images at 640 px
(25,200 rows, 80 classes); they are drawn around 12 objects an image and overlap more than those of a trained network.
Settings of validation (score 0.001, IoU 0.6, multi-label) and of prediction (0.25, 0.45), and the worst case, in which
every row is a candidate (score 0, best class); one thread; CPU time, runs alternating, medians.

    python benchmarks/nms.py [--rounds 5] [--predictions FILE]     FILE: a tensor (B, R, 85) saved by torch.save
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from torch import Tensor
from torchvision.ops import nms

from boxwright.ops.boxes import xyxy_from_cxcywh
from boxwright.ops.nms import batched_nms

SETTINGS = {"val": (0.001, 0.6, True), "predict": (0.25, 0.45, False), "all rows": (0.0, 0.6, False)}
MAX_DETECTIONS, CLASS_OFFSET = 300, 7680.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--predictions", help="tensor to use instead of drawn predictions")
    options = parser.parse_args()
    torch.set_num_threads(1)
    predictions = torch.load(options.predictions) if options.predictions else draw_predictions()
    print(f"NMS of {predictions.shape[0]} images, {predictions.shape[1]} rows, one thread")
    print(f"{'settings':10}{'candidates':>12}{'loop ms':>10}{'batched ms':>12}{'ratio':>8}{'equal':>8}")
    for name, (score, iou, multi_label) in SETTINGS.items():
        times: dict[str, list[float]] = {"loop": [], "batched": []}
        one_by_one: list[Tensor] = []
        together: list[Tensor] = []
        for _ in range(options.rounds):
            start = time.process_time()
            one_by_one = [loop_nms(rows, score, iou, multi_label) for rows in predictions]
            middle = time.process_time()
            together = batched_nms(
                predictions,
                score_threshold=score,
                iou_threshold=iou,
                max_detections=MAX_DETECTIONS,
                multi_label=multi_label,
            )
            times["loop"].append(middle - start)
            times["batched"].append(time.process_time() - middle)
        equal = all(torch.equal(a, b) for a, b in zip(one_by_one, together, strict=True))
        loop, batched = (1000 * median(times[key]) for key in ("loop", "batched"))
        count = sum(len(candidates(rows, score, multi_label)) for rows in predictions)
        print(f"{name:10}{count:12}{loop:10.1f}{batched:12.1f}{loop / batched:8.2f}{equal!s:>8}")


def candidates(rows: Tensor, score_threshold: float, multi_label: bool) -> Tensor:
    """Candidates (n, 6) of one image, best first."""
    rows = rows[rows[:, 4] > score_threshold]
    scores = rows[:, 5:] * rows[:, 4:5]
    if multi_label:
        index, labels = (scores > score_threshold).nonzero(as_tuple=True)
        best = scores[index, labels]
    else:
        best, labels = scores.max(dim=1)
        index = (best > score_threshold).nonzero(as_tuple=True)[0]
        best, labels = best[index], labels[index]
    found = torch.cat((xyxy_from_cxcywh(rows[index, :4]), best[:, None], labels[:, None].float()), dim=1)
    return found[best.argsort(descending=True, stable=True)[:30_000]]


def loop_nms(rows: Tensor, score_threshold: float, iou_threshold: float, multi_label: bool) -> Tensor:
    found = candidates(rows, score_threshold, multi_label)
    kept = nms(found[:, :4] + found[:, 5:6] * CLASS_OFFSET, found[:, 4], iou_threshold)
    return found[kept[:MAX_DETECTIONS]]


def draw_predictions(num_images: int = 32, num_rows: int = 25_200, num_classes: int = 80) -> Tensor:
    """Boxes scattered around objects, of which most have a negligible objectness."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    objects = torch.rand(num_images, 12, 4, generator=generator) * torch.tensor([640.0, 640, 200, 200]) + 10
    which = torch.randint(0, 12, (num_images, num_rows), generator=generator)
    predictions = torch.empty(num_images, num_rows, 5 + num_classes)
    boxes = objects.gather(1, which[..., None].expand(-1, -1, 4))
    predictions[..., :2] = boxes[..., :2] + normal(num_images, num_rows, 2) * boxes[..., 2:] * 0.3
    predictions[..., 2:4] = boxes[..., 2:] * (normal(num_images, num_rows, 2) * 0.4).exp()
    predictions[..., 4] = (normal(num_images, num_rows) * 2.2 - 9.5).sigmoid()
    predictions[..., 5:] = (normal(num_images, num_rows, num_classes) * 1.5 - 4.5).sigmoid()
    return predictions


if __name__ == "__main__":
    main()
