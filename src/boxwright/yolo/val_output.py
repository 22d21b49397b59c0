"""What runs of YOLO print and leave in their folder: tables, label files, metrics.json, predictions.json, curves."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.cells import set_cell_size

from boxwright.data.files import FreeNames, csv_cell, picture_errors, write_atomically
from boxwright.data.index import DataIndex
from boxwright.data.structures import Batch, Detections
from boxwright.data.yolo_txt import label_row
from boxwright.drawing.canvas import write_image
from boxwright.drawing.sheets import JPEG_QUALITY, LOWEST_SCORE, labels_and_predictions, tile
from boxwright.drawing.text import class_name
from boxwright.engine.evaluate import Speeds
from boxwright.metrics.coco import STAT_NAMES, as_json
from boxwright.metrics.matching import IOU_THRESHOLDS, flatten, match, truth_of
from boxwright.ops.arrays import Floats, Image
from boxwright.reporting.report import Measured, RunLayout, Table
from boxwright.yolo.evaluation import ClassRow, Evaluation
from boxwright.yolo.published import RELEASES
from boxwright.yolo.settings import ValConfig

_PUBLISHED = {"precision": "precision", "recall": "recall", "mAP_0.5": "map50", "mAP_0.5:0.95": "map"}  # attribute
_COCO = dict(
    zip(
        STAT_NAMES,
        (
            "AP at IoU 0.5 to 0.95",
            "AP at IoU 0.5",
            "AP at IoU 0.75",
            "AP of small objects, below 32 x 32 pixels",
            "AP of medium objects",
            "AP of large objects, from 96 x 96 pixels",
            "recall, 1 detection per image",
            "recall, 10 detections per image",
            "recall, 100 detections per image",
            "recall of small objects",
            "recall of medium objects",
            "recall of large objects",
        ),
        strict=True,
    )
)


def read_measured(folder: Path) -> Measured:
    """Read metrics.json of a run folder: classes by the published metric, and the twelve COCO numbers."""
    path = folder / "metrics.json"
    if not path.is_file():
        return Measured()
    metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))

    def words(row: Mapping[str, float | None], names: Sequence[str]) -> list[str]:
        return ["" if row[name] is None else f"{row[name]:.3f}" for name in names]

    columns, coco = tuple(_PUBLISHED), metrics["coco"]
    whole = metrics["yolov5"]
    rows = [
        [
            "all",
            str(metrics["images"]),
            str(metrics["labels"]),
            *words(whole, columns),
            *words(coco or {"AP": None}, ("AP",)),
        ]
    ]
    for row in metrics["classes"]:
        rows.append([row["name"], str(row["images"]), str(row["labels"]), *words(row, (*columns, "coco_AP"))])
    header = ("class", "images", "labels", "P", "R", "mAP50", "mAP50-95", "COCO AP")
    title = "By class: precision, recall and mAP as YOLOv5 measures them, and AP as COCO does"
    tables = [Table(title, header, rows)]
    if coco:
        meanings = [[name, words(coco, (name,))[0], _COCO.get(name, "")] for name in coco]
        tables.append(Table("COCO metric", ("number", "value", "meaning"), meanings))
    return Measured({f"metrics/{name}": whole[name] for name in columns if whole[name] is not None}, tables)


LAYOUT = RunLayout(
    cards={
        "metrics/mAP_0.5": "mAP@0.5",
        "metrics/mAP_0.5:0.95": "mAP@0.5:0.95",
        "metrics/precision": "precision",
        "metrics/recall": "recall",
    },
    panels=(
        ("train/box_loss", "train/obj_loss", "train/cls_loss", "metrics/precision", "metrics/recall"),
        ("val/box_loss", "val/obj_loss", "val/cls_loss", "metrics/mAP_0.5", "metrics/mAP_0.5:0.95"),
    ),
    pictures={
        "Images with the most errors": ("worst_images.jpg",),
        "Labels beside predictions": ("val_batch*.jpg",),
        "Curves": ("PR_curve.png", "F1_curve.png", "P_curve.png", "R_curve.png"),
        "Confusion": ("confusion_matrix.png",),
        "Training data": ("labels.jpg", "train_batch*.jpg"),
    },
    measured=read_measured,
)
_NAME_WIDTH, _WIDTHS = 22, (8, 8, 7, 7, 8, 10, 9)  # of the columns of a printed table, 79 together
_NUM_WORST = 8  # images


def format_metrics(evaluation: Evaluation, annotations: Path | None, config: ValConfig) -> str:
    """Format both metrics as text, if verbose with a line for each class that has labels.

    Args:
        evaluation: what was measured.
        annotations: the COCO ground truth it was measured against; None: the labels.
        config: says which generation of the published metric it is.
    """
    generation = "v6.1; --compat fixed: v7.0" if config.compat == "faithful" else "v7.0; --compat faithful: v6.1"
    if config.release and config.compat == "faithful":
        generation = f"{RELEASES[config.release].validation.metric}, by --release"
    last = "COCO AP" if config.verbose else ""
    lines = [
        f"YOLOv5 metric (as of {generation})",
        _row("class", "images", "labels", "P", "R", "mAP50", "mAP50-95", last),
    ]
    for row in (evaluation, *(evaluation.per_class if config.verbose else ())):
        numbers = (row.precision, row.recall, row.map50, row.map, row.coco_ap)
        lines.append(_row(row.name, row.num_images, row.num_labels, *numbers))
    if evaluation.coco is not None:
        lines += ["", f"COCO metric (against {annotations or 'the labels'})"]
        stats = [f"{value:.3f}" for value in evaluation.coco.tolist()]
        for half in (slice(0, 6), slice(6, 12)):
            lines += ["".join(f"{word:>10}" for word in words[half]) for words in (STAT_NAMES, stats)]
    return "\n".join(lines)


def format_speeds(speeds: Speeds, config: ValConfig) -> str:
    """Format milliseconds per image of each stage as one line."""
    height, width = config.imgsz[0], config.imgsz[-1]
    size = height if height == width else f"{width}x{height}"
    return (
        f"Speed: {speeds.load:.1f} ms loading, {speeds.preprocess:.1f} ms pre-process, {speeds.inference:.1f} ms "
        f"inference, {speeds.nms:.1f} ms NMS, {speeds.metrics:.1f} ms metrics per image at {size}, "
        f"batch {config.batch_size}"
    )


def _row(name: str, *cells: float | str | None) -> str:
    """Format one line of a printed table."""
    words = [f"{cell:.3f}" if isinstance(cell, float) else str("" if cell is None else cell) for cell in cells]
    return (set_cell_size(name, _NAME_WIDTH) + "".join(map(str.rjust, words, _WIDTHS))).rstrip()


class LabelWriter:
    """Writes detections as YOLO label files: class and normalised centre x, centre y, width, height, one box a line.

    Args:
        folder: where they go; made at the first box. As published, an image without boxes has no file.
        with_scores: append the score; that of a label is 1.
        labels: write the labels of these images first, detections after them.
    """

    def __init__(self, folder: Path, *, with_scores: bool, labels: DataIndex | None = None) -> None:
        self.folder = folder
        self.with_scores = with_scores
        self.labels = labels
        self._free_names = FreeNames()

    def write(self, batch: Batch, detections: Sequence[Detections]) -> None:
        """Take the detections, in original pixels, of one batch."""
        images = zip(batch.paths, batch.indices.tolist(), batch.original_sizes.tolist(), detections, strict=True)
        for path, index, (height, width), found in images:
            left, top, right, bottom = (found.boxes.double() / found.boxes.new_tensor([width, height] * 2)).T.numpy()
            rows = np.stack((found.labels, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top), axis=1)
            rows = np.column_stack((rows, found.scores))
            if self.labels is not None:
                classes, boxes = self.labels.labels(index)
                rows = np.concatenate((np.column_stack((classes, boxes, np.ones(len(boxes)))), rows))
            if not len(rows):
                continue
            numbers = rows[:, 1:] if self.with_scores else rows[:, 1:-1]
            text = "".join(label_row(int(label), own, ".6g") for label, own in zip(rows[:, 0], numbers, strict=True))
            # Images of the same name from different folders get a number.
            name = self._free_names.take(path.stem, path)
            write_atomically(self.folder / f"{name}.txt", text, make_folder=True)


class WorstImages:
    """Keeps pictures of the images with the most errors: objects that were missed, and false alarms.

    Detections count from the least score that is drawn on; they are matched at IoU 0.5.
    """

    def __init__(self, index: DataIndex) -> None:
        self.index = index
        self._worst: list[tuple[int, list[Image]]] = []  # number of errors, labels and predictions; worst first

    def take(self, batch: Batch, detections: Sequence[Detections]) -> None:
        """Take the detections, in original pixels, of one batch."""
        keep = [found.scores >= LOWEST_SCORE for found in detections]
        shown = [
            Detections(found.boxes[rows], found.scores[rows], found.labels[rows])
            for found, rows in zip(detections, keep, strict=True)
        ]
        images = batch.indices.tolist()
        found, truth = flatten(shown, images), truth_of(self.index, images)
        correct = match(found, truth, IOU_THRESHOLDS[:1], generation="v7.0")[:, 0]
        for row, image in enumerate(images):
            hits = int(correct[found.images == image].sum())
            missed, false = int((truth.images == image).sum()) - hits, len(shown[row]) - hits
            errors = missed + false
            if errors and (len(self._worst) < _NUM_WORST or errors > self._worst[-1][0]):
                title = f"{missed} missed, {false} false: {batch.paths[row].name}"
                pair = labels_and_predictions(batch, row, 4, self.index.names, shown[row], title)
                self._worst = sorted([*self._worst, (errors, pair)], key=lambda kept: -kept[0])[:_NUM_WORST]

    def write(self, path: Path) -> None:
        """Write a contact sheet; none where there was no error."""
        if self._worst:
            write_image(path, tile([cell for _, pair in self._worst for cell in pair], 4), JPEG_QUALITY)


def next_commands(weights: str) -> list[str]:
    """List what to do with weights that were measured, each command below its reason."""
    return [
        "# find objects in your own photos, videos or a camera",
        f"boxwright predict --weights {weights} --source my_photos/",
        "# write the network for ONNX Runtime and other runtimes",
        f"boxwright export --weights {weights} --include onnx",
    ]


def write_predictions(predictions: Floats, path: Path, files: Mapping[int, str]) -> None:
    """Write detections in COCO results form, one a line, with the file names of images whose ids nobody else knows."""
    named = (
        {**row, "file_name": files[row["image_id"]]} if row["image_id"] in files else row
        for row in as_json(predictions)
    )
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in named)
    write_atomically(path, f"[\n{rows}\n]\n" if rows else "[]\n", make_folder=True)


def write_metrics(evaluation: Evaluation, path: Path) -> None:
    """Write both metrics and the table of classes as json, for the report and for other programs."""

    def finite(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None  # json has no nan and no infinity

    def published(row: ClassRow) -> dict[str, float | None]:
        return {name: finite(getattr(row, attribute)) for name, attribute in _PUBLISHED.items()}

    def counts(row: ClassRow) -> dict[str, int]:
        return {"images": row.num_images, "labels": row.num_labels}

    coco = evaluation.coco
    content = {
        **counts(evaluation),
        "yolov5": published(evaluation),
        "coco": None if coco is None else dict(zip(STAT_NAMES, map(finite, coco.tolist()), strict=True)),
        "classes": [
            {"name": row.name, **counts(row), **published(row), "coco_AP": finite(row.coco_ap)}
            for row in evaluation.per_class
        ],
    }
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n", make_folder=True)


def plot_curves(evaluation: Evaluation, folder: Path) -> None:
    """Write PR_curve.png, F1_curve.png, P_curve.png and R_curve.png into a folder."""
    from boxwright.reporting.plots import plot_curve, short  # loads matplotlib, which a run without plots does not need

    curves = evaluation.yolo.curves
    names = [short(class_name(evaluation.names, i)) for i in evaluation.yolo.class_ids.tolist()]
    with_ap = [f"{name} {ap:.3f}" for name, ap in zip(names, evaluation.yolo.ap[:, 0], strict=True)]
    for prefix, y_name, values in (
        ("PR", "precision", curves.precision_at_recall),
        ("F1", "F1", curves.f1),
        ("P", "precision", curves.precision),
        ("R", "recall", curves.recall),
    ):
        path, summary = folder / f"{prefix}_curve.png", names[0] if len(names) == 1 else "all classes"
        x_name = "recall" if prefix == "PR" else "confidence"
        if prefix == "PR":
            summary += f" {evaluation.map50:.3f} mAP@0.5"
        elif len(values):
            mean = np.mean(values, 0)
            best = int(np.argmax(mean))
            summary += f", best {mean[best]:.2f} at {curves.axis[best]:.3f}"
        legend = with_ap if prefix == "PR" else names
        with picture_errors():
            plot_curve(path, curves.axis, values, legend, x_name=x_name, y_name=y_name, summary=summary)


def write_study(found: Mapping[str, Mapping[int, Evaluation]], path: Path) -> str:
    """Write a row per checkpoint and image size as csv, and return the same as a table to print."""
    names = ("P", "R", "mAP50", "mAP50-95", "COCO AP", "pre ms", "infer ms", "NMS ms")
    rows: list[tuple[str, int, list[float]]] = []
    for weights, sizes in found.items():
        for size, one in sizes.items():
            times = (one.speeds.preprocess, one.speeds.inference, one.speeds.nms)
            coco = math.nan if one.coco is None else float(one.coco[0])
            rows.append((weights, size, [one.precision, one.recall, one.map50, one.map, coco, *times]))
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(("weights", "imgsz", *names))
    table.writerows((csv_cell(weights), size, *(f"{value:.5g}" for value in values)) for weights, size, values in rows)
    write_atomically(path, text.getvalue())
    lines = [f"{'imgsz':>6}" + "".join(f"{name:>9}" for name in names)]
    for weights in found:
        lines += [weights] if len(found) > 1 else []
        for size, values in ((size, values) for name, size, values in rows if name == weights):
            cells = (f"{value:>9.1f}" if i > 4 else f"{value:>9.3f}" for i, value in enumerate(values))
            lines.append(f"{size:>6}" + "".join(cells))
    return "\n".join(lines)


def plot_study(found: Mapping[str, Mapping[int, Evaluation]], path: Path) -> None:
    """Draw mAP against milliseconds of the network per image, a line per checkpoint, its points named by their size."""
    from boxwright.reporting.plots import Figure, save_figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    for weights, sizes in found.items():
        times, scores = [one.speeds.inference for one in sizes.values()], [one.map for one in sizes.values()]
        axes.plot(times, scores, marker="o", label=Path(weights).stem.replace("$", r"\$"))
        for size, time, score in zip(sizes, times, scores, strict=True):
            axes.annotate(str(size), (time, score), textcoords="offset points", xytext=(4, -11), fontsize=8)
    axes.set(xlabel="inference, ms per image", ylabel="mAP@0.5:0.95", title="image sizes in pixels", xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)
