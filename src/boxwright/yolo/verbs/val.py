"""The val verb: a checkpoint measured on a split, by the published YOLOv5 metric and by the COCO metric."""

import logging
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from boxwright.data.dataset import open_dataset
from boxwright.data.files import absolute_path, picture_errors, write_atomically
from boxwright.data.index import DataIndex
from boxwright.data.structures import Batch, Detections
from boxwright.engine.console import with_progress
from boxwright.engine.device import Policy, allow_tf32, resolve, select_device
from boxwright.engine.run_folder import new_run_folder
from boxwright.engine.task import ValWatch
from boxwright.errors import UserError
from boxwright.metrics.coco import truth_for, val_results
from boxwright.ops.nms import CURRENT_RULES
from boxwright.settings.flags import flags_of
from boxwright.settings.load import dump_yaml
from boxwright.yolo.detection import Network
from boxwright.yolo.evaluation import Evaluation, evaluate
from boxwright.yolo.input_size import choose_size
from boxwright.yolo.loader import make_val_loader
from boxwright.yolo.published import RELEASES, V3, fill
from boxwright.yolo.settings import ValConfig
from boxwright.yolo.val_output import (
    LabelWriter,
    WorstImages,
    format_metrics,
    format_speeds,
    plot_study,
    write_metrics,
    write_predictions,
    write_study,
)
from boxwright.yolo.weights import open_networks

_log = logging.getLogger("boxwright.val")
_NUM_BATCH_SHEETS = 3
STUDY_SIZES = range(256, 1537, 128)  # pixels; as published
_SPEED_THRESHOLDS = {"conf_thres": 0.25, "iou_thres": 0.45}  # of daily use, at which speed is published


def val_or_results(config: ValConfig) -> Any:
    """Measure a checkpoint, or with `json_file` a file of COCO results without a network.

    Raises:
        UserError: settings of the one stand beside the other; see also `val` and `val_results`.
    """
    given = {flag.setting: flag.names[0] for flag in flags_of(ValConfig) if flag.setting in config.model_fields_set}
    of_results = [given.pop(setting) for setting in ("json_file", "annotations", "iou_type") if setting in given]
    if config.json_file:
        if given:
            raise UserError(f"val --json measures a file and runs no network: leave out {', '.join(given.values())}")
        return val_results(config.json_file, config.annotations, config.iou_type)
    if of_results:
        raise UserError(f"{of_results[0]} goes with --json: a file of COCO results")
    return study(config) if config.task == "study" else val(config)


def val(config: ValConfig) -> Evaluation:
    """Measure a checkpoint, print both metrics and the speed, and fill a run folder.

    Args:
        config: settings of the verb. Task "speed" only times the stages, at the thresholds of `predict`, and writes
            nothing; the other tasks name the split.

    Raises:
        UserError: weights or data are missing or do not belong together, or the run folder cannot be written.
    """
    device, policy, index = _begin(config)
    only_speed = config.task == "speed"
    network = open_networks(config.weights, device, config.model, half=config.half, augment=config.augment)
    _check_classes(config, network, index)
    folder = None if only_speed else new_run_folder(config.project, config.name, config.exist_ok)
    size = choose_size(config.imgsz, network, _listed(config), max(network.strides))
    config = config.model_copy(update={"imgsz": size})
    outputs = _Outputs(config, index, folder, max(size), policy)
    config = _by_release(config, network)
    if only_speed:
        config = config.model_copy(update=_SPEED_THRESHOLDS)
    evaluation = _measure(config, network, outputs)
    if not only_speed:
        print(format_metrics(evaluation, index.annotations, config))
    print(format_speeds(evaluation.speeds, config))
    outputs.finish(evaluation)
    return evaluation


def study(config: ValConfig) -> dict[str, dict[int, Evaluation]]:
    """Measure each checkpoint at the sizes of `STUDY_SIZES`; print a table, and write it with a plot into a run folder.

    Args:
        config: settings of the verb; its size has no effect, and files of one size cannot be studied.

    Returns:
        by name of the weights, then by size.
    """
    if config.imgsz:
        print(f"--task study measures at {STUDY_SIZES[0]} to {STUDY_SIZES[-1]} px; --imgsz has no effect")
    device, policy, index = _begin(config)
    networks = {
        path: open_networks([path], device, config.model, half=config.half, augment=config.augment)
        for path in config.weights
    }
    for path, network in networks.items():
        _check_classes(config.model_copy(update={"weights": (path,)}), network, index)
        if network.input_size is not None:
            raise UserError(f"--task study: {path} takes images of one size only")
    folder = new_run_folder(config.project, config.name, config.exist_ok)
    found: dict[str, dict[int, Evaluation]] = {path: {} for path in networks}
    for path, network in networks.items():
        ruled = _by_release(config, network)
        for size in STUDY_SIZES:
            at_size = ruled.model_copy(update={"imgsz": (size, size)})
            found[path][size] = _measure(at_size, network, _Outputs(at_size, index, None, size, policy))
    print(write_study(found, folder / "study.csv"))
    if not config.noplots:
        with picture_errors():
            plot_study(found, folder / "study.png")
    print(f"results in {folder}")
    return found


def _begin(config: ValConfig) -> tuple[torch.device, Policy, DataIndex]:
    """Check what can be checked before a network is opened; return the device, its precision and the split."""
    for name in ("weights", "data"):
        if not getattr(config, name):
            raise UserError(f"val needs --{name}")
    if config.save_conf and not (config.save_txt or config.save_hybrid):
        raise UserError("--save-conf writes scores into label files: add --save-txt or --save-hybrid")
    device = select_device(config.device)
    policy = resolve(("bf16" if device.type == "cpu" else "fp16") if config.half else "fp32", device)
    if device.type == "cuda":
        allow_tf32(False)  # fp32 is full precision, as the measurement at the end of a training run is
    split = "val" if config.task in ("speed", "study") else config.task
    return device, policy, open_dataset(config.data, split, single_cls=config.single_cls, compat=config.compat)


def _by_release(config: ValConfig, network: Network) -> ValConfig:
    """Return the settings with what a release validated by, and say which one that is."""
    release = RELEASES[config.release or network.release]
    if release.nms != CURRENT_RULES or release.validation.rounded:
        name = config.release or network.release
        print(f"validating by the rules of {'YOLOv3-SPP' if name == V3 else f'YOLOv5 {name}'}")
    # A threshold that the user set stays, also where it equals the default of the settings.
    return fill(config, release.validation.settings)


def _measure(config: ValConfig, network: Network, outputs: "_Outputs") -> Evaluation:
    """Run a network over the split of the outputs, at the size that the settings have by now."""
    index, policy = outputs.index, outputs.policy
    only_speed, size = config.task == "speed", config.imgsz
    is_rect = network.input_size is None and size[0] == size[1] and not config.no_rect
    loader = make_val_loader(
        index,
        imgsz=size[0] if is_rect else (size[0], size[1]),
        batch_size=config.batch_size,
        stride=max(network.strides),
        workers=config.workers,
        pin_memory=policy.device.type == "cuda",
    )
    try:
        return evaluate(
            network,
            with_progress(loader),
            index,
            config,
            device=policy.device,
            autocast=policy.autocast,
            coco_truth=outputs.truth,
            watch=ValWatch(after=outputs.take),
            on_unlabelled=None if only_speed or not config.save_hybrid else outputs.labels.write,
        )
    finally:
        loader.close()


class _Outputs:
    """What goes into the run folder, as the settings ask; nothing where there is no folder."""

    def __init__(self, config: ValConfig, index: DataIndex, folder: Path | None, imgsz: int, policy: Policy) -> None:
        self.config, self.index, self.folder = config, index, folder
        self.imgsz, self.policy = imgsz, policy  # that were used
        self.truth = None if config.task == "speed" else truth_for(index)
        self.start = time.time()
        self.worst = WorstImages(index)
        # Hybrid files hold the labels, and the boxes that match none of them.
        known = index if config.save_hybrid else None
        self.labels = LabelWriter((folder or Path()) / "labels", with_scores=config.save_conf, labels=known)
        self.num_batches = 0

    def take(self, batch: Batch, detections: Sequence[Detections]) -> None:
        """Draw the first batches, write label files."""
        if self.folder is None:
            return
        if self.config.save_txt and not self.config.save_hybrid:
            self.labels.write(batch, detections)
        if not self.config.noplots and self.num_batches < _NUM_BATCH_SHEETS:
            from boxwright.drawing.sheets import plot_val_batch

            with picture_errors():
                plot_val_batch(batch, detections, self.index.names, self.folder / f"val_batch{self.num_batches}.jpg")
        if not self.config.noplots:
            self.worst.take(batch, detections)
        self.num_batches += 1

    def finish(self, evaluation: Evaluation) -> None:
        """Write metrics.json and predictions.json, draw curves and confusion matrix, say where everything is."""
        if self.folder is None:
            return
        write_metrics(evaluation, self.folder / "metrics.json")
        if self.config.save_json and evaluation.coco_metrics is not None:
            # Ids that are only counted say nothing to other tools: the rows then need the names of their files.
            counted = self.truth is not None and self.truth.from_labels
            ids: list[int] = self.index.image_ids.tolist() if counted else []
            files = {image_id: str(self.index.path(i)) for i, image_id in enumerate(ids)}
            write_predictions(evaluation.coco_metrics.predictions, self.folder / "predictions.json", files)
        if self.config.save_txt:
            names = "".join(f"{name}\n" for name in self.index.names)
            write_atomically(self.folder / "classes.txt", names)
        if not self.config.noplots:
            from boxwright.yolo.val_output import plot_curves

            with picture_errors():
                plot_curves(evaluation, self.folder)
            with picture_errors():
                from boxwright.reporting.plots import plot_confusion

                plot_confusion(evaluation.confusion, evaluation.names, self.folder / "confusion_matrix.png")
            with picture_errors():
                self.worst.write(self.folder / "worst_images.jpg")
            if not (self.folder / "events.jsonl").exists():  # a run that was trained gets the page of its training
                with picture_errors():
                    self._write_report(self.folder)
        print(f"results in {self.folder}")

    def _write_report(self, folder: Path) -> None:
        """Write the page of a measurement."""
        from boxwright.reporting.report import measuring_facts, write_report
        from boxwright.yolo.val_output import LAYOUT, next_commands

        config, index = self.config, self.index
        facts = {
            "weights": ", ".join(str(absolute_path(path)) for path in config.weights),
            "data": f"{absolute_path(config.data)}: {config.task}, {len(index)} images, {index.num_classes} classes",
            "settings": f"{self.imgsz} pixels, scores from {config.conf_thres:g}, NMS overlap {config.iou_thres:g}",
            **measuring_facts(self.start, str(self.policy.device), self.policy.name),
        }
        weights = shlex.join(config.weights)
        page = write_report(
            folder,
            LAYOUT,
            title=f"{', '.join(Path(path).name for path in config.weights)} measured on {Path(config.data).name}",
            facts=facts,
            settings=dump_yaml(config),
            commands=next_commands(weights),
        )
        print(f"report: {page}")


def _check_classes(config: ValConfig, model: Network, index: DataIndex) -> None:
    """Refuse weights and data of different classes; warn of other names, or of no label at all."""
    if not config.single_cls:
        if model.num_classes != index.num_classes:
            raise UserError(
                f"{_listed(config)} predicts {model.num_classes} classes but {config.data} names {index.num_classes}; "
                "measure it on data with the same classes, or add --single-cls to find objects of any class"
            )
        different = [i for i, name in enumerate(model.names) if name != index.names[i]]
        if different and model.names != tuple(map(str, range(model.num_classes))):
            first = different[0]
            _log.warning(
                "%d class names differ: class %d is %r in %s but %r in %s; classes are compared by number",
                *(len(different), first, model.names[first], _listed(config), index.names[first], config.data),
            )
    if not len(index.boxes):
        _log.warning(
            "no label in the %s split of %s: the YOLOv5 metric is 0 and the COCO metric -1", config.task, config.data
        )


def _listed(config: ValConfig) -> str:
    """List the weights for a message."""
    return ", ".join(config.weights)
