"""Where the time of `boxwright val` goes, and what the metrics cost at the scale of COCO val2017.

First part: published yolov5n weights on coco_val164 (from BOXWRIGHT_SHARED, default ../shared), score threshold .001 as
in validation. Stages of one pass, medians over `--rounds` passes; the share outside the network is what matters:
loading, pre-processing, NMS and metrics against all. With `--workers 0` loading is done in this process and counts in
full.

Second part: random detections around random labels, 5,000 images with 36,000 labels and 300 detections each; seconds
for the published metric, the confusion matrix and the COCO metric. No network, nothing read.

    python benchmarks/val.py [--imgsz 640] [--batch-size 32] [--rounds 3] [--threads 2] [--workers 0] [--half]
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from boxwright.data.dataset import open_dataset
from boxwright.data.index import DataIndex, Record
from boxwright.data.structures import Detections
from boxwright.engine.device import resolve, select_device
from boxwright.engine.evaluate import Speeds
from boxwright.machine import keep_large_buffers
from boxwright.metrics.coco import BoxEvaluator, CocoTruth, truth_for
from boxwright.metrics.matching import ConfusionEvaluator
from boxwright.yolo.evaluation import evaluate
from boxwright.yolo.loader import make_val_loader
from boxwright.yolo.metric import YoloEvaluator
from boxwright.yolo.settings import ValConfig
from boxwright.yolo.weights import fuse, load_model

SHARED = Path(os.environ.get("BOXWRIGHT_SHARED", "../shared"))
STAGES = ("load", "preprocess", "inference", "nms", "metrics")


def whole_pass(options: argparse.Namespace) -> None:
    device = select_device(options.device)
    policy = resolve(("bf16" if device.type == "cpu" else "fp16") if options.half else "fp32", device)
    index = open_dataset(SHARED / "data" / "coco_val164" / "coco_val164.yaml", "val")
    model = fuse(load_model(SHARED / "weights" / "yolov5n.pt")).to(device, memory_format=torch.channels_last)
    loader = make_val_loader(
        index, imgsz=options.imgsz, batch_size=options.batch_size, stride=32, workers=options.workers
    )
    rounds: list[Speeds] = []
    for _ in range(options.rounds):
        found = evaluate(
            model, loader, index, ValConfig(), device=device, autocast=policy.autocast, coco_truth=truth_for(index)
        )
        rounds.append(found.speeds)
    loader.close()
    costs = {stage: median(getattr(speeds, stage) for speeds in rounds) for stage in STAGES}
    total = sum(costs.values())
    print(f"yolov5n, {len(index)} images at {options.imgsz}, batch {options.batch_size}, {device}, {policy.name}")
    for stage, cost in costs.items():
        print(f"  {stage:<12}{cost:8.2f} ms an image  {cost / total:6.1%}")
    print(f"  outside the network: {1 - costs['inference'] / total:.1%}   (mAP50-95 {found.map:.3f})")


def metrics_alone(num_images: int = 5000, num_labels: int = 36_000, per_image: int = 300) -> None:
    rng = np.random.default_rng(0)
    owners = rng.integers(0, num_images, num_labels)
    records: list[Record] = []
    detections: list[Detections] = []
    for image in range(num_images):
        count = int((owners == image).sum())
        boxes = np.concatenate((rng.uniform(0.2, 0.8, (count, 2)), rng.uniform(0.02, 0.3, (count, 2))), axis=1)
        classes = rng.integers(0, 80, count).astype(np.int32)
        records.append(Record(Path(f"{image}.jpg"), 480, 640, classes, boxes.astype(np.float32)))
        source = rng.integers(0, max(count, 1), per_image)
        around = (boxes if count else np.full((1, 4), 0.5))[source] * rng.normal(1, 0.1, (per_image, 4))
        centre, half = around[:, :2] * [640, 480], np.abs(around[:, 2:]) * [320, 240]
        labels = np.where(rng.random(per_image) < 0.5, classes[source] if count else 0, rng.integers(0, 80, per_image))
        scores = -np.sort(-rng.beta(0.3, 3, per_image)).astype(np.float32)
        corners = np.concatenate((centre - half, centre + half), axis=1).astype(np.float32)
        detections.append(Detections(*map(torch.from_numpy, (corners, scores, labels.astype(np.int64)))))
    index = DataIndex.from_records(records, [str(i) for i in range(80)])
    print(f"metrics alone: {num_images} images, {num_labels} labels, {num_images * per_image} detections")
    for name, evaluator in (
        ("published", YoloEvaluator(index, "v7.0")),
        ("confusion", ConfusionEvaluator(index, "v7.0")),
        ("COCO", BoxEvaluator(index, CocoTruth.from_index(index))),
    ):
        start = time.process_time()
        for first in range(0, num_images, 32):
            part = detections[first : first + 32]
            evaluator.process(part, range(first, first + len(part)))
        middle = time.process_time()
        evaluator.evaluate()
        print(
            f"  {name:<12}{middle - start:7.2f} s gathering {time.process_time() - middle:7.2f} s reducing (CPU time)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--half", action="store_true")
    options = parser.parse_args()
    keep_large_buffers()
    torch.set_num_threads(options.threads)
    whole_pass(options)
    metrics_alone()


if __name__ == "__main__":
    main()
