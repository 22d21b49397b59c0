"""The train verb of YOLO: what a training run is made of, its settings filled in, its data, network and plots."""

import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from boxwright.data.check import images_of_train
from boxwright.data.dataset import divide_by, open_dataset
from boxwright.data.files import absolute_path, picture_errors
from boxwright.data.identity import check_same_data, describe_data
from boxwright.data.index import DataIndex
from boxwright.data.letterbox import fit_imgsz
from boxwright.data.source_images import SourceImages, ValidationImages, check_room
from boxwright.data.structures import Batch
from boxwright.engine import run
from boxwright.engine.callbacks import Callback, FirstBatches
from boxwright.engine.device import Policy
from boxwright.engine.distributed import World
from boxwright.engine.loggers import ResultsTxt, default_loggers
from boxwright.engine.optim import EarlierTraining
from boxwright.errors import UserError
from boxwright.reading import parsing
from boxwright.settings.base import TrainingConfig
from boxwright.settings.load import load
from boxwright.terminal import counted, say
from boxwright.yolo.advice import Advice, anchors_do_not_fit, labels_out_of_range, unknown_classes
from boxwright.yolo.anchors import recall_of_anchors, with_fitting_anchors
from boxwright.yolo.auto_batch import with_fitting_batch
from boxwright.yolo.detection import DetectionModel, Weights
from boxwright.yolo.fine_tune import freeze_layers, read_training, with_epochs_done
from boxwright.yolo.head import begin_with_frequencies
from boxwright.yolo.input_size import write_size
from boxwright.yolo.loss import check_criterion
from boxwright.yolo.published import RELEASES, V3, loss_release, starts_in_half, with_release
from boxwright.yolo.settings import RunConfig, ValConfig
from boxwright.yolo.task import Detect2d, batch_unit, loaded_side, multi_scale_sides
from boxwright.yolo.verbs.val import val
from boxwright.yolo.weights import read_weights, transfer
from boxwright.yolo.zoo import build_model, load_spec, read_spec

_log = logging.getLogger("boxwright.train")
TITLES = {"precision": "P", "recall": "R", "mAP_0.5": "mAP50", "mAP_0.5:0.95": "mAP50-95"}  # of metrics on the console


def train(config: RunConfig, callbacks: Sequence[Callback] = ()) -> Path:
    """Train a YOLO from scratch or from weights, see `engine.run.train`; return the run folder."""
    return run.train(config, YoloRun, callbacks)


def resume(path: Path | None, overrides: Mapping[str, object], callbacks: Sequence[Callback] = ()) -> Path:
    """Resume the run of a YOLO, see `engine.run.resume`; return the run folder."""
    return run.resume(path, overrides, YoloRun.of, callbacks)


@dataclass
class YoloRun:
    """A training run of a YOLO, see `engine.run.PreparedRun`."""

    settings: ClassVar[type[TrainingConfig]] = RunConfig
    config: RunConfig
    model: DetectionModel
    train_index: DataIndex
    val_index: DataIndex
    earlier: EarlierTraining | None = None  # that the weights come from, with --fine-tune

    def __post_init__(self) -> None:
        # That of validation, so that `val` gives the same numbers.
        self.model.trained_size = (self.config.val_side, self.config.val_side)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> type[Self]:
        """Return this class, whatever the settings in a checkpoint are."""
        return cls

    @classmethod
    def completed(cls, config: RunConfig) -> RunConfig:
        """Refuse settings without data; count the epochs of the training that is gone on from."""
        if not config.data:
            raise UserError("train needs --data: a data yaml, a Darknet .data file, a COCO json, a csv or a folder")
        if config.cuda_graph and (config.multi_scale or config.compile):
            other = "--multi-scale" if config.multi_scale else "--compile"
            raise UserError(f"--cuda-graph records one step and replays it, which {other} does not go with")
        is_first = os.environ.get("RANK", "0") == "0"  # the others may not have the file, and get what it says
        return with_epochs_done(config) if config.fine_tune and is_first else config

    @classmethod
    def begin(cls, config: RunConfig, policy: Policy, world: World) -> Self:
        """Prepare a new run. User errors, also a cache that does not fit, come before there is a folder."""
        train_index, val_index = _open(config, world)
        config, model, earlier = _agreed_network(config, train_index, world)
        check_result_name(config)
        if starts_in_half(config):
            through_half(model)
        config = with_fitting_batch(config, model, len(train_index), policy, world)
        sources = [SourceImages(train_index, loaded_side(config, max(model.strides)))]
        sources += [] if config.noval else [ValidationImages(val_index, (config.val_side, config.val_side))]
        check_room(sources, config.cache, copies=world.local_size)
        return cls(config, model, train_index, val_index, earlier)

    @classmethod
    def go_on(cls, config: RunConfig, content: Mapping[str, Any], world: World) -> Self:
        """Prepare the run of a checkpoint."""
        check_result_name(config)
        train_index, val_index = _open(config, world)
        with parsing("the checkpoint", "checkpoint of a run"):
            names = tuple(content["model"]["names"])
        if train_index.names != names:
            raise UserError(
                f"the data has the classes {', '.join(train_index.names)}, the run was started with {', '.join(names)}"
            )
        now, moved = describe_data(train_index, val_index), config.data != content["config"]["data"]
        check_same_data(content.get("data", {}), now, config.data, moved=moved)
        # Built from the checkpoint alone: the weights and the yaml that the run began with may be gone by now.
        with parsing("the checkpoint", "checkpoint of a run"):
            model = build_model(read_spec(content["model"]["spec"], "the checkpoint"), names)
            model.load_state_dict(content["state_dict"])  # before the loss takes the anchors
        return cls(config, model, train_index, val_index)

    def freeze(self) -> Sequence[str]:
        """Stop the gradients of what the settings name."""
        return freeze_layers(self.model, self.config.freeze)

    def make_task(self, device: torch.device, world: World) -> Detect2d:
        """Make the task of this run."""
        return Detect2d(self.model, self.train_index, self.val_index, self.config, device, world)

    def logs(self, folder: Path) -> Sequence[Callback]:
        """Make the loggers of every run, and the advice."""
        tags = v3_tags if self.config.optim.release == V3 else dict
        config, data = self.config, self.train_index
        # YOLOv3-SPP never checked its anchors.
        is_v3 = loss_release(config, self.model.release) == V3
        recall = None if is_v3 else recall_of_anchors(self.model, data, config)
        labels = labels_out_of_range(data.problems, len(data.boxes), config.data)
        advice = Advice((labels, anchors_do_not_fit(recall, searched=not config.noautoanchor)))
        results = [ResultsTxt(folder / config.result_name)] if config.result_name else []

        def draw(batch: Batch, number: int) -> None:
            from boxwright.drawing.sheets import plot_batch

            with picture_errors():
                plot_batch(batch, data.names, folder / f"train_batch{number}.jpg")
            if not number:
                with picture_errors():
                    from boxwright.reporting.plots import plot_labels

                    plot_labels(data, folder / "labels.jpg")

        pictures = [] if config.noplots else [FirstBatches(draw)]
        return (*default_loggers(folder, tags, TITLES, self._about()), *results, advice, *pictures)

    def _about(self) -> dict[str, str]:
        """Say what the run is, for its report."""
        config = self.config
        parameters = sum(p.numel() for p in self.model.parameters())
        images = f"{len(self.train_index)} images to train on, {len(self.val_index)} to validate on"
        epochs = counted(config.epochs, "epoch")
        rate = f"{config.optim.optimizer} from a rate of {config.optim.lr0:g}"
        sides = f"{config.train_side} pixels"
        sides += f", {config.val_side} in validation" if config.val_side != config.train_side else ""
        return {
            "model": f"{config.model or f'that of {Path(config.weights).name}'}, {parameters:,} parameters",
            "started from": config.weights or "random weights",
            "data": f"{config.data}: {images}, {self.model.num_classes} classes",
            "settings": f"{epochs}, batches of {config.batch_size}, {sides}, {rate}",
        }

    def log_summary(self, policy: Policy, folder: Path) -> None:
        """Print what is trained on what; warn of settings that have no effect."""
        config = self.config
        if config.summary:
            from boxwright.yolo.verbs.info import summarise

            print(summarise(self.model, config.model or config.weights, (config.train_side, config.train_side)).text())
        parameters = sum(p.numel() for p in self.model.parameters())
        print(
            f"{config.model or config.weights}: {parameters:,} parameters, {counted(self.model.num_classes, 'class')}; "
            f"{counted(len(self.train_index), 'image')} to train on, {len(self.val_index)} to validate on; "
            f"{policy.device}, {policy.name}; {folder}"
        )
        if config.multi_scale:
            stride = max(self.model.strides)
            low, high = multi_scale_sides(config, stride)
            print(f"Using multi-scale training, image range [{low}, {high}] in steps of {stride} pixels")
        batch_size, images = config.batch_size, len(self.train_index)
        if batch_size > images:
            _log.warning("--batch-size %d is larger than the data set of %s", batch_size, counted(images, "image"))
        if config.image_weights and config.noval:
            _log.warning("--image-weights without validation goes by the number of labels alone, not by mAP (--noval)")
        if config.val_side != config.train_side:
            _log.info("imgsz: %d pixels in training, %d in validation", config.train_side, config.val_side)

    def finish(self, folder: Path, policy: Policy) -> None:
        """Measure the best weights once more, in full precision, with both metrics, and write the report."""
        config, best = self.config, folder / "weights" / "best.pt"
        if best.exists():
            # augment: in training it means another thing. Twice the batch: without gradients there is room for it.
            # model: the checkpoint says it.
            own = {"batch_size": config.batch_size * 2, "augment": False, "model": "", "verbose": True}
            own["imgsz"] = config.val_side  # two sides would be a height and a width
            if policy.name != "fp32":
                say(f"{best} measured once more, in full precision (training measures in {policy.name})")
            val(run.settings_of_validation(ValConfig, config, folder, policy, **own))
        if not config.noplots:
            from boxwright.reporting.report import best_epoch, write_report
            from boxwright.yolo.val_output import LAYOUT, next_commands

            number = best_epoch(folder)
            with picture_errors():
                from boxwright.reporting.plots import plot_results

                plot_results(folder / "results.csv", folder / "results.png", LAYOUT.panels, number)
            weights, again = shlex.quote(str(best)), shlex.quote(str(folder))
            commands = [
                *(next_commands(weights) if best.exists() else ()),
                *(
                    (
                        f"# the best epoch, {number}, was one of the last: train longer",
                        f"boxwright train --resume {again} --epochs {2 * config.epochs}",
                    )
                    if number > 0.9 * config.epochs and not config.save_best_only
                    else ()
                ),
                "# train once more with these settings",
                f"boxwright train --config {again}",
            ]
            with picture_errors():
                page = write_report(folder, LAYOUT, title=f"Training run {folder.name}", commands=commands)
                print(f"report: {page}")


def check_result_name(config: RunConfig) -> None:
    """Refuse a results file that would stay empty or lie outside the run folder."""
    name = config.result_name
    if name and config.optim.release != V3:
        raise UserError(
            f"--result-name {name}: its 12 COCO numbers are measured each epoch by YOLOv3-SPP alone (--optim.release "
            "v3); results.csv has the numbers of this model"
        )
    if name and (Path(name).name != name or Path(name).suffix != ".txt"):
        raise UserError(f"--result-name {name}: it is the name of a .txt file, which is written into the run folder")


def v3_tags(row: Mapping[str, float]) -> dict[str, float]:
    """Name the columns of results.csv as YOLOv3-SPP published them in TensorBoard (docs/spec/yolov3-spp.md, A1)."""
    columns = (("giou", "box"), ("obj", "obj"), ("cls", "cls"))  # its box loss is GIoU
    losses = {f"train/{name}_loss": row[f"train/{column}_loss"] for name, column in columns}
    names = {"mAP@[IoU=0.50:0.95]": "AP", "mAP@[IoU=0.5]": "AP50", "mAR@[IoU=0.50:0.95]": "AR100"}
    metrics = {tag: row[f"metrics/COCO_{name}"] for tag, name in names.items() if f"metrics/COCO_{name}" in row}
    return {**losses, "train/loss": sum(losses.values()), "learning_rate": row["x/lr0"], **metrics}


def check_loading(config: RunConfig, world: World) -> None:
    """Raise a UserError where batches cannot be made as the settings say."""
    if config.image_weights and config.rect:
        raise UserError("--rect keeps images sorted by shape, --image-weights draws them at random: leave one out")
    size, unit = config.batch_size, batch_unit(config, world.size)
    if size != -1 and size % unit:
        several = f"shared evenly by {world.size} processes" if world.size > 1 else ""
        quad = "split into groups of four, as --quad takes them" if config.quad else ""
        wish = " and ".join(filter(None, (quad, several)))
        below = size // unit * unit
        fitting = f"{below} or {below + unit}" if below else str(unit)
        raise UserError(f"--batch-size {size} cannot be {wish}; take {fitting}")


def _open(config: RunConfig, world: World) -> tuple[DataIndex, DataIndex]:
    """Open both splits; refuse settings that do not fit, data that differ between ranks, or have no box to train on."""
    check_loading(config, world)
    with world.first_of_each_machine_first():  # it writes the index that the others read
        train_index = open_dataset(config.data, "train", single_cls=config.single_cls, compat=config.compat)
        val_index = open_dataset(config.data, "val", single_cls=config.single_cls, compat=config.compat)
    counts = world.all((len(train_index), len(train_index.boxes), len(val_index), len(val_index.boxes)))
    for rank, other in enumerate(counts):
        if other != counts[0]:
            raise UserError(
                f"{config.data} is another data set for rank {rank} than for rank 0; every machine needs the same files"
                f"\n  train: {other[0]} images with {other[1]} boxes, not {counts[0][0]} with {counts[0][1]}"
                f"\n  val: {other[2]} images with {other[3]} boxes, not {counts[0][2]} with {counts[0][3]}"
            )
    for split, index in (("train", train_index), ("val", val_index)) if config.strict else ():
        if line := unknown_classes(index.problems, index.num_classes):
            raise UserError(f"--strict: the {split} split of {config.data} has {line}")
    if not len(train_index.boxes):
        raise UserError(f"the train split of {config.data} has no box at all; is the labels folder beside images?")
    if not len(val_index.boxes):
        _log.warning("the val split of %s has no box at all: every measure will be 0", config.data)
    if line := images_of_train(train_index, val_index):
        _log.warning("%s; %s", line, divide_by(config.data))
    return train_index, val_index


@torch.no_grad()
def through_half(model: DetectionModel) -> None:
    """Round weights, statistics and anchors to half precision; a number beyond its range stays as it is.

    Deviation: the published average begins with the numbers of before, which its first updates forget.
    """
    for value in model.state_dict().values():
        if value.is_floating_point():
            half = value.half().float()
            value.copy_(torch.where(half.isfinite(), half, value))


def _make_model(config: RunConfig, data: DataIndex) -> tuple[DetectionModel, EarlierTraining | None]:
    """Build the network for the classes of the data and give it what fits of the weights, and of their training."""
    weights, earlier = None, None
    if config.fine_tune:
        weights, earlier = read_training(Path(config.weights))
    elif config.weights:
        weights = read_weights(config.weights, fallback=config.model)
    if config.model:
        spec = load_spec(config.model, data.num_classes)
    elif weights is not None:
        spec = weights.spec.with_classes(data.num_classes)
    else:
        raise UserError("train needs --model (such as yolov5n) or --weights (a checkpoint)")
    if config.anchors:
        spec = spec.with_anchors(config.anchors, "settings")
    torch.manual_seed(config.seed)  # right before the only draw, so that nothing above moves the first weights
    model = build_model(spec, data.names)
    if config.class_frequency:
        _begin_with_frequencies(model, data, weights)
    if weights is not None:
        # A model that was asked for by name keeps its own anchors, as published.
        done, total = transfer(model, weights, exclude=("anchor",) if config.model or config.anchors else ())
        print(f"Transferred {done}/{total} items from {config.weights}")
        if done < total / 2:
            _log.warning("most of %s does not fit this model; is it of another size?", config.weights)
        if earlier is not None:
            own = model.state_dict()
            average = {
                name: value
                for name, value in earlier.average.items()
                if name in own and own[name].shape == value.shape and "anchor" not in name
            }
            earlier = replace(earlier, average=average)
        elif weights.epochs_trained:
            done = counted(weights.epochs_trained, "epoch")
            print(
                f"{config.weights} still has the optimizer and the best fitness of its {done}: they are dropped, this "
                "run begins anew (--fine-tune goes on from them)"
            )
        if weights.trained_size not in (None, (config.val_side, config.val_side)):
            size = write_size(weights.trained_size or ())
            given = (config.val_side, config.weights, weights.size_is, size)
            _log.info("imgsz %d, but %s was %s %s (--imgsz chooses)", *given)
    return model, earlier


def _begin_with_frequencies(model: DetectionModel, data: DataIndex, weights: Weights | None) -> None:
    """Let the class biases stand for how often each class occurs; say so where weights will overwrite them."""
    parameters = dict(model.named_parameters())
    biases = {n: p for n, p in parameters.items() if n.startswith(model.predictor_prefixes) and n.endswith("bias")}
    if weights is not None:
        known = weights.state_dict
        biases = {n: bias for n, bias in biases.items() if n not in known or known[n].shape != bias.shape}
    if not biases:
        _log.warning("--class-frequency has no effect: the head comes from %s", weights.path if weights else "")
    counts = torch.bincount(torch.from_numpy(data.classes.copy()), minlength=data.num_classes)
    begin_with_frequencies(biases.values(), counts, RELEASES[model.release].layers.class_margin)


def _agreed_network(
    config: RunConfig, data: DataIndex, world: World
) -> tuple[RunConfig, DetectionModel, EarlierTraining | None]:
    """Complete the settings by what the network asks for; build the network as the first process makes it.

    The others get its form from there; its weights reach them when the Task is made.
    """
    model, earlier = None, None
    if world.is_first:
        model, earlier = _make_model(config, data)
        config = with_release(config, model.release, has_backbone=model.num_backbone_layers > 0)
        check_criterion(model, config.loss)
        fitting = {side: fit_imgsz(side, max(model.strides), least=2) for side in config.imgsz}
        place = str(absolute_path(config.data))  # a resume may start in another folder
        config = config.model_copy(update={"imgsz": tuple(fitting.values()), "data": place})
        model = with_fitting_anchors(model, data, config)
    given = config.model_dump(mode="json", exclude_unset=True)
    described = model.spec.to_mapping() if model else {}
    given, spec, earlier = world.from_first((given, described, earlier), EarlierTraining)
    if model is None:
        config, model = load(RunConfig, given), build_model(read_spec(spec, "the first process"), data.names)
    return config, model, earlier
