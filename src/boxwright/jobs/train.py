"""The train verb: settings to a trained model in a run folder; and going on with a run that was stopped."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import torch

from boxwright.checkpoints.reader import Weights, read_weights, transfer
from boxwright.config.load import dump_yaml, load
from boxwright.config.recipe import V3, with_recipe
from boxwright.config.schema import RunConfig, ValConfig
from boxwright.data.dataset import open_dataset
from boxwright.data.index import DataIndex
from boxwright.data.source_images import open_source_images
from boxwright.engine.advice import Advice, anchors_do_not_fit, labels_out_of_range
from boxwright.engine.callbacks import Callback, Hooks, RunReport
from boxwright.engine.checkpointing import load_run, restore
from boxwright.engine.decay import check_course
from boxwright.engine.detect2d import Detect2d, batch_unit, loaded_side
from boxwright.engine.device import count_processes, device_of_rank
from boxwright.engine.distributed import World
from boxwright.engine.job_board import folder_before_restart, remember_folder
from boxwright.engine.loggers import logs_of_run
from boxwright.engine.named_callbacks import checked_callbacks, named_callbacks
from boxwright.engine.optim import freeze_layers
from boxwright.engine.precision import Policy, resolve
from boxwright.engine.run_folder import drop_checkpoints, drop_if_not_begun, new_run_folder, only_run_in
from boxwright.engine.threads import one_core_left
from boxwright.engine.trainer import Trainer
from boxwright.errors import UserError
from boxwright.jobs.launch import is_launched, run_job
from boxwright.jobs.val import val
from boxwright.losses.recipe import check_criterion
from boxwright.models.build import build_model, read_spec
from boxwright.models.detection import DetectionModel
from boxwright.models.zoo import load_spec
from boxwright.tuning.auto_anchor import recall_of_anchors, with_fitting_anchors
from boxwright.tuning.auto_batch import with_fitting_batch

_log = logging.getLogger("boxwright.train")
_NUM_BATCH_SHEETS = 3


def train(config: RunConfig, callbacks: Sequence[Callback] = ()) -> Path:
    """Train a detector from scratch or from weights.

    Args:
        config: settings of the run.
        callbacks: told how it goes, after the logs, in the first process. Where this starts several processes they are
            pickled, so that what they gather stays there.

    Returns:
        the run folder.

    Raises:
        UserError: something in the settings, the data or the weights is wrong; says what.
    """
    if not config.data:
        raise UserError("train needs --data: a data yaml, a Darknet .data file, a VOC root or a COCO json")
    check_course(config.optim, config.epochs, validates=not config.noval)
    num_processes = count_processes(config.device, config.nproc)
    return run_job(_train, num_processes, config, checked_callbacks(callbacks, num_processes))


def resume(path: Path | None, overrides: Mapping[str, object], callbacks: Sequence[Callback] = ()) -> Path:
    """Go on with a run; the result equals that of a run that was never stopped.

    Args:
        path: its last.pt or its folder; None takes the newest run below runs/train.
        overrides: settings that may differ: workers, device, nproc, epochs (which changes the rates).
        callbacks: as in `train`; a run does not remember those that were objects.

    Returns:
        the run folder.
    """
    if is_launched():
        return run_job(_resume, 1, path, overrides, checked_callbacks(callbacks, 1))
    checkpoint = _find_checkpoint(path)
    config = load(RunConfig, {**load_run(checkpoint)["config"], **overrides})
    num_processes = count_processes(config.device, config.nproc)
    return run_job(_resume, num_processes, checkpoint, dict(overrides), checked_callbacks(callbacks, num_processes))


def _train(world: World, config: RunConfig, callbacks: Sequence[Callback] = ()) -> Path:
    before = world.from_first(folder_before_restart() if world.is_first else None)
    if before is not None and world.from_first((before / "weights" / "last.pt").is_file()):
        return _resume(world, before, {}, callbacks)
    policy = _policy(config, world)
    callbacks = (*callbacks, *named_callbacks(config.callbacks)) if world.is_first else ()
    train_index, val_index = _open(config, world)
    config, model = _agreed_network(config, train_index, world)
    config = with_fitting_batch(config, model, len(train_index), policy, world)
    side = loaded_side(config, max(model.strides))  # a cache that does not fit is told before there is a folder
    open_source_images(train_index, side, config.cache, copies=world.local_size)
    folder = before or Path()
    is_new = before is None and not (config.exist_ok and Path(config.project, config.name).exists())
    if world.is_first:
        folder = before or new_run_folder(config.project, config.name, config.exist_ok)
    with _claimed(folder, world):
        if world.is_first:
            if before is None:
                drop_checkpoints(folder)
            (folder / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
        try:
            return _run(config, model, train_index, val_index, policy, world.from_first(folder), world, callbacks)
        except UserError:
            if world.is_first and is_new:  # what was there before is not ours to remove
                drop_if_not_begun(folder)
            raise


def _resume(
    world: World, path: Path | None, overrides: Mapping[str, object], callbacks: Sequence[Callback] = ()
) -> Path:
    checkpoint = world.from_first(_find_checkpoint(path) if world.is_first else Path())
    with _claimed(checkpoint.parent.parent, world):
        return _go_on(world, checkpoint, overrides, callbacks)


def _claimed(folder: Path, world: World) -> AbstractContextManager[None]:
    return only_run_in(folder) if world.is_first else nullcontext()


def _go_on(world: World, checkpoint: Path, overrides: Mapping[str, object], callbacks: Sequence[Callback]) -> Path:
    folder, content = checkpoint.parent.parent, world.from_first(load_run(checkpoint) if world.is_first else {})
    config = load(RunConfig, {**content["config"], **overrides})
    policy = _policy(config, world)
    callbacks = (*callbacks, *named_callbacks(config.callbacks)) if world.is_first else ()
    train_index, val_index = _open(config, world)
    model = _saved_model(content, train_index)
    print(f"going on with {folder} after epoch {content['epoch']} of {config.epochs}")
    return _run(config, model, train_index, val_index, policy, folder, world, callbacks, content)


def fitting_imgsz(imgsz: int, stride: int) -> int:
    """The side rounded up to a multiple of the largest stride, at least two of them, as published."""
    fitting = max(-(-imgsz // stride) * stride, 2 * stride)
    if fitting != imgsz:
        _log.warning("--imgsz %d is not a multiple of the largest stride %d; using %d", imgsz, stride, fitting)
    return fitting


def _policy(config: RunConfig, world: World) -> Policy:
    """Device and precision of this process."""
    _check_loading(config, world)
    policy = resolve(config.precision, device_of_rank(config.device, world))
    return Policy(world.from_first(policy.name), policy.device)


def _check_loading(config: RunConfig, world: World) -> None:
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
    with world.first_of_each_machine_first():  # it writes the index that the others read
        train_index = open_dataset(config.data, "train", single_cls=config.single_cls, compat=config.compat)
        val_index = open_dataset(config.data, "val", single_cls=config.single_cls, compat=config.compat)
    counts = world.all((len(train_index), len(train_index.boxes), len(val_index), len(val_index.boxes)))
    for rank, other in enumerate(counts):
        if other != counts[0]:
            raise UserError(
                f"{config.data} is another data set for rank {rank} than for rank 0: {other[0]} training images with "
                f"{other[1]} boxes, not {counts[0][0]} with {counts[0][1]}, {other[2]} validation images with "
                f"{other[3]}, not {counts[0][2]} with {counts[0][3]}; every machine needs the same files"
            )
    if not len(train_index.boxes):
        raise UserError(f"the train split of {config.data} has no box at all; is the labels folder beside images?")
    return train_index, val_index


def _make_model(config: RunConfig, data: DataIndex) -> DetectionModel:
    """Build the network for the classes of the data and give it what fits of the weights."""
    weights: Weights | None = read_weights(config.weights) if config.weights else None
    if config.model:
        spec = load_spec(config.model, data.num_classes)
    elif weights is not None:
        spec = weights.spec.with_classes(data.num_classes)
    else:
        raise UserError("train needs --model (such as yolov5n) or --weights (a checkpoint)")
    if config.anchors:
        spec = spec.with_anchors(config.anchors, "settings")
    torch.manual_seed(config.seed)
    model = build_model(spec, data.names)
    if weights is not None:
        # A model that was asked for by name keeps its own anchors, as published.
        done, total = transfer(model, weights, exclude=("anchor",) if config.model or config.anchors else ())
        print(f"Transferred {done}/{total} items from {config.weights}")
        if done < total / 2:
            _log.warning("most of %s does not fit this model; is it of another size?", config.weights)
    return model


def _agreed_network(config: RunConfig, data: DataIndex, world: World) -> tuple[RunConfig, DetectionModel]:
    """The settings that the network asks for, and the network as the first process makes it.

    The others get its form from there; its weights reach them when the Task is made.
    """
    model = None
    if world.is_first:
        model = _make_model(config, data)
        config = with_recipe(config, model.recipe, has_backbone=model.num_backbone_layers > 0)
        check_criterion(model, config.loss)
        fitting = fitting_imgsz(config.imgsz, max(model.strides))
        place = str(Path(config.data).expanduser().absolute())  # a resume may start in another folder
        config = config.model_copy(update={"imgsz": fitting, "data": place})
        model = with_fitting_anchors(model, data, config)
    config, spec = world.from_first((config, model and model.spec.to_mapping()))
    return config, model or build_model(read_spec(spec or {}, "the first process"), data.names)


def _saved_model(content: Mapping[str, Any], data: DataIndex) -> DetectionModel:
    """The network of a checkpoint; the weights that its run began with may be gone by now."""
    names = tuple(content["model"]["names"])
    if data.names != names:
        raise UserError(
            f"the data has the classes {', '.join(data.names)}, the run was started with {', '.join(names)}"
        )
    model = build_model(read_spec(content["model"]["spec"], "the checkpoint"), names)
    model.load_state_dict(content["state_dict"])  # before the loss takes the anchors
    return model


def _run(
    config: RunConfig,
    model: DetectionModel,
    train_index: DataIndex,
    val_index: DataIndex,
    policy: Policy,
    folder: Path,
    world: World,
    callbacks: Sequence[Callback],
    content: dict[str, Any] | None = None,
) -> Path:
    if world.is_first:
        remember_folder(folder)
    if policy.device.type == "cuda":  # an exact resume needs the same kernels to give the same bits
        torch.use_deterministic_algorithms(True, warn_only=True)
    model.to(policy.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    frozen = freeze_layers(model, config.freeze)
    if frozen:
        print(f"{len(frozen)} parameters of {len(list(model.parameters()))} are frozen")
    logs = logs_of_run(folder, as_v3=config.optim.release == V3)
    told = (*logs, _advice(config, model, train_index), *callbacks) if world.is_first else ()
    with Hooks(told) as hooks:
        hooks.tell(Callback.on_pretrain_routine_start, RunReport(folder, config))
        task = Detect2d(model, train_index, val_index, config, policy.device, world)
        with closing(task):
            trainer = Trainer(task, config, folder, policy, hooks, world)
            _introduce(config, model, train_index, val_index, policy, folder)
            if content is not None:
                restore(trainer, content)
            elif world.is_first and not config.noplots:
                _plot_data(task, train_index, folder)
            hooks.tell(Callback.on_pretrain_routine_end, trainer.start_report)
            if trainer.finished:  # perhaps killed while it was measured: that is done again
                _log.warning("%s has finished its %d epochs; train longer with --epochs", folder, trainer.state.epoch)
            else:
                with one_core_left(policy.device):
                    trainer.fit()
    if world.is_first:
        _finish(config, folder, policy)
    world.wait()
    return folder


def _advice(config: RunConfig, model: DetectionModel, data: DataIndex) -> Advice:
    recall = None if (config.loss.recipe or model.recipe) == V3 else recall_of_anchors(model, data, config)
    labels = labels_out_of_range(data.problems, len(data.boxes), config.data)
    return Advice((labels, anchors_do_not_fit(recall, searched=not config.noautoanchor)))


def _introduce(
    config: RunConfig, model: DetectionModel, train: DataIndex, val: DataIndex, policy: Policy, folder: Path
) -> None:
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{config.model or config.weights}: {parameters:,} parameters, {model.num_classes} classes; "
        f"{len(train)} images to train on, {len(val)} to validate on; {policy.device}, {policy.name}; {folder}"
    )
    if config.batch_size > len(train):
        _log.warning("--batch-size %d is larger than the data set of %d images", config.batch_size, len(train))
    if config.image_weights and config.noval:
        _log.warning("--image-weights without validation goes by the number of labels alone, not by mAP (--noval)")


def _plot_data(task: Detect2d, index: DataIndex, folder: Path) -> None:
    from boxwright.reporting.plots import plot_labels
    from boxwright.reporting.sheets import plot_batch

    plot_labels(index, folder / "labels.jpg")
    for number, batch in zip(range(_NUM_BATCH_SHEETS), task.train_batches(0, 0), strict=False):
        plot_batch(batch, index.names, folder / f"train_batch{number}.jpg")


def _finish(config: RunConfig, folder: Path, policy: Policy) -> None:
    """Measure the best weights once more, in full precision, with both metrics, and write the report."""
    best = folder / "weights" / "best.pt"
    if best.exists():
        val(
            ValConfig(
                weights=(str(best),),
                data=config.data,
                imgsz=config.imgsz,
                batch_size=config.batch_size * 2,
                conf_thres=config.conf_thres,
                iou_thres=config.iou_thres,
                max_det=config.max_det,
                device=str(policy.device),
                workers=config.workers,
                single_cls=config.single_cls,
                compat=config.compat,
                noplots=config.noplots,
                project=str(folder.parent),
                name=folder.name,
                exist_ok=True,
            )
        )
    if not config.noplots:
        from boxwright.reporting.plots import plot_results
        from boxwright.reporting.report import write_report

        plot_results(folder / "results.csv", folder / "results.png")
        write_report(folder)


def _find_checkpoint(path: Path | None) -> Path:
    if path is None:
        found = sorted(Path("runs/train").glob("*/weights/last.pt"), key=lambda file: file.stat().st_mtime)
        if not found:
            raise UserError("there is no runs/train/*/weights/last.pt to go on with; name one: --resume PATH")
        return found[-1]
    if path.is_dir():
        path = path / "weights" / "last.pt"
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path} to go on with")
    path = path.absolute()
    if path.parent.name != "weights":
        raise UserError(f"{path} does not lie in a run folder: a run goes on from its RUN/weights/last.pt")
    return path
