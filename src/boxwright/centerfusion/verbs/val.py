"""The val verb for CenterFusion: a checkpoint, or a submission, measured by the nuScenes metric."""

from pathlib import Path

import torch

from boxwright.centerfusion.data import num_sweeps, open_root, open_split, val_split_of
from boxwright.centerfusion.evaluation import DecodeSettings, FusionEvaluation, evaluate_fusion
from boxwright.centerfusion.pictures import write_key_frames
from boxwright.centerfusion.samples import make_val_loader
from boxwright.centerfusion.settings import FusionValConfig
from boxwright.centerfusion.task import sample_settings
from boxwright.centerfusion.weights import TrainedNetwork, open_trained
from boxwright.engine.device import resolve, select_device
from boxwright.engine.evaluate import with_progress
from boxwright.engine.run_folder import new_run_folder
from boxwright.errors import UserError
from boxwright.nuscenes.metric import evaluate
from boxwright.nuscenes.metric_report import format_metrics
from boxwright.nuscenes.split import NuscenesSplit
from boxwright.nuscenes.submission import read_submission, says_radar, write_submission

_OF_NETWORK = ("max_det", "conf_thres", "iou_thres", "flip_test", "no_radar", "half", "compat")
"""Settings that change what a network finds."""


def fusion_val(config: FusionValConfig) -> FusionEvaluation:
    """Measure a checkpoint on a split, print the metric, and fill a run folder.

    The folder gets the submission, metrics_summary.json and metrics_details.json with the keys of the published
    evaluation, curves, and sheets of some key frames. A split without annotations gets the submission alone.

    Args:
        config: settings of the verb; with `json_file` a submission is measured and no network is run.

    Raises:
        UserError: weights, data or submission are missing or do not belong together, or the run folder cannot be
            written.
    """
    if bool(config.json_file) == bool(config.weights):
        raise UserError("val of a nuScenes root needs either --weights or --json, a submission to measure")
    unused = [name for name in _OF_NETWORK if name in config.model_fields_set] if config.json_file else ()
    if unused:
        raise UserError(f"--json measures boxes as they are, no network is run: leave out {unused[0]}")
    if not config.data:
        raise UserError("val needs --data: a nuScenes root")
    index = open_root(config.data, config.version, allow_missing=config.allow_missing)
    name = val_split_of(index, config.split)
    if config.json_file:
        split = open_split(index, name, 0)
        path = Path(config.json_file).expanduser()
        predictions = read_submission(path, split.sample_tokens)
        if not split.has_annotations:
            raise UserError(f"{path} cannot be measured: the split {name} has no annotations")
        metrics = evaluate(split.ground_truth(), predictions, split.ego_positions(), split.bike_racks())
        found = FusionEvaluation(metrics, predictions)
        use_radar = says_radar(path)
    else:
        trained = open_trained(config.weights, no_radar=config.no_radar, compat=config.compat, num_peaks=config.max_det)
        split = open_split(index, name, num_sweeps(trained.config))
        found = _evaluate_network(config, trained, split)
        use_radar = not trained.config.no_radar
    folder = new_run_folder(config.project, config.name, config.exist_ok)
    if not config.json_file:
        path = folder / f"results_nuscenes_det_{name}.json"
        write_submission(path, found.predictions, split.sample_tokens, use_radar=use_radar)
        speeds = found.speeds
        print(
            f"Speed: {speeds.load:.1f} ms loading, {speeds.inference:.1f} ms inference, {speeds.nms:.1f} ms decoding, "
            f"{speeds.metrics:.1f} ms metrics per image"
        )
    if found.metrics is not None:
        found.metrics.write(folder, use_radar=use_radar)
        print(format_metrics(found.metrics, verbose=True))
        if not config.noplots:
            from boxwright.nuscenes.metric_report import plot_nuscenes_curves

            plot_nuscenes_curves(found.metrics, folder / "curves")
    else:
        print(f"{config.data} has no annotations of {name}: the submission is written, nothing is measured")
    if config.plots:
        write_key_frames(split, found.predictions, range(min(config.plots, len(split.sample_tokens))), folder / "plots")
    print(f"results are in {folder}")
    return found


def _evaluate_network(config: FusionValConfig, trained: TrainedNetwork, split: NuscenesSplit) -> FusionEvaluation:
    """Run a network over a split and measure it."""
    device = select_device(config.device)
    policy = resolve(("bf16" if device.type == "cpu" else "fp16") if config.half else "fp32", device)
    loader = make_val_loader(
        split,
        sample_settings(trained.config),
        batch_size=config.batch_size,
        workers=config.workers,
        pin_memory=device.type == "cuda",
    )
    try:
        return evaluate_fusion(
            trained.model.to(device, memory_format=torch.channels_last),  # pyright: ignore[reportCallIssue]
            with_progress(loader),
            split,
            device=device,
            settings=DecodeSettings(
                num_peaks=config.max_det,
                score_threshold=config.conf_thres,
                flip_test=config.flip_test,
                radar=not trained.config.no_radar,
                iou_threshold=config.iou_thres,
                fixed=trained.config.compat == "fixed",
            ),
            autocast=policy.autocast,
        )
    finally:
        loader.close()
