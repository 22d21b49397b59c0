"""The nuscenes-devkit's side of benchmarks/nuscenes_eval.py; runs in an environment of its own, without boxwright.

    PYTHON benchmarks/nuscenes_devkit.py root FOLDER RESULTS.json SPLIT OUT     boxes before filters, published metric
    PYTHON benchmarks/nuscenes_devkit.py boxes IN.npz OUT                       metric of boxes drawn by us, CPU time

Writes OUT.npz (boxes; root only) and OUT.json (metrics, CPU seconds of matching and accumulation).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from typing import Any

import numpy as np
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.loaders import load_gt, load_prediction
from nuscenes.eval.detection.algo import accumulate, calc_ap, calc_tp
from nuscenes.eval.detection.data_classes import DetectionBox, DetectionMetrics
from nuscenes.eval.detection.evaluate import DetectionEval

CONFIG = config_factory("detection_cvpr_2019")
FIELDS = ("centers", "sizes", "rotations", "velocities")


def of_root(folder: str, results: str, split: str, out: str) -> None:
    root, version = os.path.split(folder)
    tables = NuScenes(version=version, dataroot=root, verbose=False)
    predictions, _ = load_prediction(results, CONFIG.max_boxes_per_sample, DetectionBox)
    annotations = load_gt(tables, split, DetectionBox)
    tokens = list(annotations.sample_tokens)
    ego, racks = [], []
    for token in tokens:
        sample = tables.get("sample", token)
        lidar = tables.get("sample_data", sample["data"]["LIDAR_TOP"])
        ego.append(tables.get("ego_pose", lidar["ego_pose_token"])["translation"])
        notes = [tables.get("sample_annotation", note) for note in sample["anns"]]
        racks += [(tokens.index(token), n) for n in notes if n["category_name"] == "static_object.bicycle_rack"]
    arrays = {f"truth/{k}": v for k, v in as_arrays(annotations, tokens).items()}
    arrays.update({f"found/{k}": v for k, v in as_arrays(predictions, tokens).items()})
    np.savez(
        out + ".npz",
        ego=np.array(ego),
        rack_samples=np.array([sample for sample, _ in racks], np.int64),
        rack_centers=np.array([note["translation"] for _, note in racks]).reshape(-1, 3),
        rack_sizes=np.array([note["size"] for _, note in racks]).reshape(-1, 3),
        rack_rotations=np.array([note["rotation"] for _, note in racks]).reshape(-1, 4),
        **arrays,
    )
    with tempfile.TemporaryDirectory() as scratch:
        evaluation = DetectionEval(tables, CONFIG, results, split, scratch, verbose=False)
        metrics, curves = evaluation.evaluate()
    save(out, metrics, curves.serialize(), 0.0)


def as_arrays(boxes: EvalBoxes, tokens: list[str]) -> dict[str, np.ndarray]:
    rows: list[DetectionBox] = boxes.all
    return {
        "samples": np.array([tokens.index(box.sample_token) for box in rows], np.int64),
        "names": np.array([box.detection_name for box in rows]),
        "centers": np.array([box.translation for box in rows], float).reshape(-1, 3),
        "sizes": np.array([box.size for box in rows], float).reshape(-1, 3),
        "rotations": np.array([box.rotation for box in rows], float).reshape(-1, 4),
        "velocities": np.array([box.velocity for box in rows], float).reshape(-1, 2),
        "attributes": np.array([box.attribute_name for box in rows]),
        "scores": np.array([box.detection_score for box in rows], float),
        "num_points": np.array([box.num_pts for box in rows], np.int64),
    }


def of_boxes(file: str, out: str) -> None:
    arrays = dict(np.load(file))
    annotations, predictions = (as_boxes(arrays, side) for side in ("truth", "found"))
    start = time.process_time()
    curves = {
        (name, distance): accumulate(annotations, predictions, name, CONFIG.dist_fcn_callable, distance)
        for name in CONFIG.class_names
        for distance in CONFIG.dist_ths
    }
    seconds = time.process_time() - start
    metrics = DetectionMetrics(CONFIG)
    for (name, distance), curve in curves.items():
        metrics.add_label_ap(name, distance, calc_ap(curve, CONFIG.min_recall, CONFIG.min_precision))
    for name in CONFIG.class_names:
        for error in ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err"):
            undefined = name == "traffic_cone" and error not in ("trans_err", "scale_err")
            undefined = undefined or (name == "barrier" and error in ("vel_err", "attr_err"))
            value = np.nan if undefined else calc_tp(curves[name, CONFIG.dist_th_tp], CONFIG.min_recall, error)
            metrics.add_label_tp(name, error, value)
    metrics.add_runtime(seconds)
    details = {f"{name}:{distance}": curve.serialize() for (name, distance), curve in curves.items()}
    save(out, metrics, details, seconds)


def as_boxes(arrays: dict[str, np.ndarray], side: str) -> EvalBoxes:
    own = {key.split("/")[1]: value.tolist() for key, value in arrays.items() if key.startswith(side)}
    boxes = EvalBoxes()
    for sample in range(len(arrays["ego"])):
        boxes.add_boxes(str(sample), [])
    for row, sample in enumerate(own["samples"]):
        box = DetectionBox(
            str(sample),
            *(tuple(own[field][row]) for field in FIELDS),
            num_pts=own["num_points"][row],
            detection_name=own["names"][row],
            detection_score=own["scores"][row],
            attribute_name=own["attributes"][row],
        )
        boxes.boxes[str(sample)].append(box)
    return boxes


def save(out: str, metrics: DetectionMetrics, details: dict[str, Any], seconds: float) -> None:
    with open(out + ".json", "w") as file:
        json.dump({"summary": metrics.serialize(), "details": details, "seconds": seconds}, file)


if __name__ == "__main__":
    {"root": of_root, "boxes": of_boxes}[sys.argv[1]](*sys.argv[2:])
