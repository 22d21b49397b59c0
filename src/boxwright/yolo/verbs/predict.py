"""The predict verb: a source through a network into a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from boxwright.engine.run_folder import new_run_folder
from boxwright.errors import UserError
from boxwright.inference.sources import open_source
from boxwright.yolo.detector import Result, Speed, load
from boxwright.yolo.prediction_writer import PredictionWriter
from boxwright.yolo.settings import PredictConfig


def predict(config: PredictConfig) -> Path:
    """Find objects in everything that a source holds; print what was found and how long it took.

    Args:
        config: settings of the verb.

    Returns:
        the run folder.

    Raises:
        UserError: weights or source are missing, or no image could be read.
    """
    for name in ("weights", "source"):
        if not getattr(config, name):
            raise UserError(f"predict needs --{name}")
    if config.save_conf and not config.save_txt:
        raise UserError("--save-conf writes scores into label files: add --save-txt")
    source = open_source(config.source, video_stride=config.vid_stride)
    detector = load(
        config.weights,
        device=config.device,
        half=config.half,
        augment=config.augment,
        classifier=config.classifier,
        classifier_weights=config.classifier_weights,
        release=config.release,
    )
    postprocess = detector.postprocess(config)
    folder = new_run_folder(config.project, config.name, config.exist_ok)
    speeds: list[Speed] = []
    num_boxes, input_size = 0, (0, 0)
    with PredictionWriter(folder, config) as writer:
        try:
            for frame in source:
                result = detector.run(frame, config.imgsz, postprocess)
                writer.save(frame, result)
                speeds.append(result.speed)
                num_boxes, input_size = num_boxes + len(result), result.input_size
                print(f"{frame.position} {frame.path}: {describe(result)}", flush=True)
        except KeyboardInterrupt:  # the usual end of a camera; what was written stays and is closed
            print("stopped")
    if not speeds:
        raise UserError(f"no image of {config.source} could be read")
    print(summary(speeds, input_size))
    print(f"{num_boxes} boxes in {len(speeds)} images; results are in {folder}")
    return folder


def describe(result: Result) -> str:
    """One line: input size, how many of each class, milliseconds of the network."""
    counts = ", ".join(f"{number} {name}" for name, number in result.counts().items()) or "nothing found"
    height, width = result.input_size
    return f"{width}x{height}, {counts}, {result.speed.inference:.1f} ms"


def summary(speeds: Sequence[Speed], input_size: tuple[int, int]) -> str:
    """The mean time of each stage."""
    means = np.mean([(s.preprocess, s.inference, s.nms, s.classify) for s in speeds], axis=0).tolist()
    pre, infer, nms, classify = means
    second = f", {classify:.1f} ms classifier" if classify >= 0.05 else ""
    height, width = input_size
    return (
        f"Speed: {pre:.1f} ms pre-process, {infer:.1f} ms inference, {nms:.1f} ms NMS{second} "
        f"per image at {width}x{height}"
    )
