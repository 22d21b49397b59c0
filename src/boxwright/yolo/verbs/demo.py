"""The demo verb: the main job on a data set that it makes itself. Data, training, validation, prediction, report.

The recipe below is for a few minutes on two cores, not for the best model: rectangular batches without mosaic (no pixel
is spent on borders), small batches, and gains that do not shrink with the number of classes and the image size, since
1,600 steps are too few to make up for small gradients. Real data want the defaults of `boxwright train`.
"""

import os
import shlex
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from boxwright.data.images import read_image
from boxwright.drawing.canvas import fit, write_image
from boxwright.drawing.sheets import JPEG_QUALITY, tile
from boxwright.engine.run_folder import new_run_folder
from boxwright.reporting.report import write_report
from boxwright.synthetic.catalog import NAMES
from boxwright.synthetic.yolo_set import YoloSetSettings, write_yolo_set
from boxwright.yolo.settings import AugmentConfig, LossConfig, PredictConfig, RunConfig, YoloDemoConfig, YoloOptimConfig
from boxwright.yolo.val_output import LAYOUT
from boxwright.yolo.verbs.predict import predict
from boxwright.yolo.verbs.train import train

_BATCH_SIZE = 8
_SHEET_COLUMNS, _CELL_SIDE = 3, 640
_ENLARGED = 3  # pictures to look at are so much larger than those of the training


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """How much the demo does; the default ends within five minutes on two cores."""

    drives: YoloSetSettings = field(default_factory=YoloSetSettings)  # `val` holds scenes that no training image shows
    imgsz: int = 320  # network input side
    epochs: int = 8  # passes over the training images
    num_predictions: int = 2  # further scenes that are predicted on and shown, six images each


def demo(config: YoloDemoConfig, settings: DemoSettings = DemoSettings()) -> Path:
    """Make a data set of drives, train yolov5n on it, validate, predict, and write a report; return the run folder."""
    start = time.perf_counter()
    folder = new_run_folder(config.project, "exp").absolute()
    drives = replace(settings.drives, seed=config.seed)

    def show(done: int, total: int) -> None:
        if 4 * done // total > 4 * (done - 1) // total:  # a line each quarter of the way
            print(f"  {done} of {total} scenes", flush=True)

    _say(start, f"rendering drives into {folder / 'drives'}")
    data = write_yolo_set(folder / "drives", drives, processes=min(os.cpu_count() or 1, 8), on_progress=show)
    _say(start, "training yolov5n from scratch")
    train(training_settings(folder, data, config, settings))
    _say(start, "predicting on scenes that the network has not seen")
    # Scenes behind those of all splits, rendered larger so that the names on them can be read.
    unseen = replace(
        drives,
        scenes=(("unseen", settings.num_predictions),),
        width=drives.width * _ENLARGED,
        height=drives.height * _ENLARGED,
        first_scene=drives.first_scene + sum(count for _, count in drives.scenes),
    )
    write_yolo_set(folder / "unseen", unseen)
    predicting = PredictConfig(
        weights=(str(folder / "weights" / "best.pt"),),
        source=str(folder / "unseen" / "images" / "unseen"),
        device=config.device,
        line_thickness=2,
        project=str(folder),
        name="predictions",
    )
    pictures = sorted(predict(predicting).glob("*.jpg"))
    cells = [fit(read_image(path), (_CELL_SIDE, _CELL_SIDE)) for path in pictures]
    write_image(folder / "predictions.jpg", tile(cells, _SHEET_COLUMNS), JPEG_QUALITY)
    commands = (
        "boxwright check my_data.yaml",
        "boxwright train --model yolov5s --data my_data.yaml --imgsz 640 --epochs 100",
        f"boxwright predict --weights {shlex.quote(predicting.weights[0])} --source my_photos/",
    )
    title = "Boxwright demo: synthetic drives"
    page = write_report(folder, LAYOUT, title=title, predictions=pictures, commands=commands)
    _say(start, "done")
    print(f"\nrun folder: {folder}\nreport: {page}\n\nTry next, on your own data:\n  " + "\n  ".join(commands))
    return folder


def training_settings(folder: Path, data: Path, config: YoloDemoConfig, settings: DemoSettings) -> RunConfig:
    """Return the recipe of the demo as settings of `boxwright train`."""
    return RunConfig(
        model="yolov5n",
        data=str(data),
        epochs=config.epochs or settings.epochs,
        batch_size=_BATCH_SIZE,
        imgsz=(settings.imgsz,),
        rect=True,
        cache="ram",
        workers=1,
        device=config.device,
        seed=config.seed,
        project=str(folder.parent),
        name=folder.name,
        exist_ok=True,
        # Shifts and zooms must stay: without grey borders in training, those of validation would be all new.
        augment=AugmentConfig(hsv_h=0.01, hsv_s=0.3, hsv_v=0.3, mosaic=0.0, scale=0.2, translate=0.1),
        # Gains are scaled by classes / 80 and (imgsz / 640)^2; these undo it. Boxes count twice as much as published.
        loss=LossConfig(box=0.1, cls=0.5 * 80 / len(NAMES), obj=(640 / settings.imgsz) ** 2),
        optim=YoloOptimConfig(
            lr0=0.02,
            cos_lr=True,
            warmup_epochs=0.5,
            warmup_bias_lr=0.02,
            nominal_batch_size=_BATCH_SIZE,
            ema_decay=0.99,
            ema_tau=50.0,
        ),
    )


def _say(start: float, text: str) -> None:
    """Print a line with the seconds since the start."""
    print(f"\n[{time.perf_counter() - start:5.0f} s] {text}", flush=True)
