"""What is done with a trained CenterFusion on a nuScenes root: val and predict.

Val measures a checkpoint, or a submission, by the nuScenes metric; predict draws a scene as a sheet of each key frame
and as a video.
"""

import difflib
import logging
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from boxwright.centerfusion.evaluation import DecodeSettings, FusionEvaluation, evaluate_fusion, measure
from boxwright.centerfusion.network import CenterFusion
from boxwright.centerfusion.pictures import write_key_frames
from boxwright.centerfusion.samples import make_val_loader
from boxwright.centerfusion.settings import FusionConfig, FusionInferenceConfig, FusionPredictConfig, FusionValConfig
from boxwright.centerfusion.verbs.data import choose_split, open_root
from boxwright.centerfusion.weights import open_trained
from boxwright.data.files import absolute_path, picture_errors
from boxwright.engine.console import with_progress
from boxwright.engine.device import allow_tf32, resolve, select_device
from boxwright.engine.run_folder import new_run_folder
from boxwright.errors import UserError
from boxwright.nuscenes.metric_report import format_metrics, read_measured
from boxwright.nuscenes.split import EVERYTHING, NuscenesSplit
from boxwright.nuscenes.submission import read_submission, says_radar, write_submission
from boxwright.reporting.report import RunLayout, measuring_facts, write_report
from boxwright.settings.load import dump_yaml
from boxwright.terminal import counted

_log = logging.getLogger("boxwright.val")
_OF_NETWORK = ("max_det", "conf_thres", "iou_thres", "flip_test", "no_radar", "half", "compat")
"""Settings that change what a network finds."""
LAYOUT = RunLayout(
    cards={"metrics/NDS": "NDS", "metrics/mAP": "mAP", "metrics/mAVE": "velocity error, m/s"},
    panels=(
        ("train/tot", "train/hm", "train/dep_sec", "train/velocity", "metrics/mAP", "metrics/NDS"),
        ("val/tot", "val/hm", "metrics/mATE", "metrics/mASE", "metrics/mAOE", "metrics/mAVE"),
    ),
    pictures={
        "Curves": ("curves/PR_curves.png", "curves/TP_errors.png"),
        "Training data": ("train_batch*.jpg",),
    },
    measured=read_measured,
)


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
    start = time.time()
    index = open_root(config)
    name = choose_split(index, config.split, ("mini_val", "val", "test"))
    if config.json_file:
        split = NuscenesSplit(index, name, num_sweeps=0)
        path = Path(config.json_file).expanduser()
        predictions = read_submission(path, split.sample_tokens)
        if not split.has_annotations:
            raise UserError(f"{path} cannot be measured: the split {name} has no annotations")
        found = FusionEvaluation(measure(split, predictions), predictions)
        use_radar = says_radar(path)
    else:
        model, trained = open_trained(
            config.weights, no_radar=config.no_radar, compat=config.compat, num_peaks=config.max_det
        )
        split = NuscenesSplit(index, name, trained.num_sweeps, reading=trained.radar)
        found = _evaluate_network(config, model, trained, split)
        use_radar = not trained.no_radar
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

            with picture_errors():
                plot_nuscenes_curves(found.metrics, folder / "curves")
            if not (folder / "events.jsonl").exists():  # a run that was trained gets the page of its training
                what = config.weights or config.json_file
                facts = {"weights" if config.weights else "submission": str(absolute_path(what))}
                facts["data"] = f"{absolute_path(config.data)}, {index.version}: {name}, {len(split)} images"
                facts |= measuring_facts(start, config.device, "bf16 or fp16" if config.half else "fp32")
                title = f"{Path(what).name} measured on {name}"
                with picture_errors():
                    write_report(folder, LAYOUT, title=title, facts=facts, settings=dump_yaml(config))
    else:
        print(f"{config.data} has no annotations of {name}: the submission is written, nothing is measured")
    if config.plots:
        write_key_frames(split, found.predictions, range(min(config.plots, len(split.sample_tokens))), folder / "plots")
    print(f"results are in {folder}")
    return found


def fusion_predict(config: FusionPredictConfig) -> Path:
    """Find objects in all cameras of a scene and draw them; with `source`, see `verbs.source`.

    Args:
        config: settings of the verb.

    Returns:
        the run folder: SCENE/0001.png ..., SCENE.mp4, and with `save_json` a submission of the scene.

    Raises:
        UserError: weights or data are missing or do not belong together, or there is no such scene.
    """
    if config.source:
        from boxwright.centerfusion.verbs.source import predict_source

        return predict_source(config)
    for name in ("calib", "vid_stride"):
        if name in config.model_fields_set:
            raise UserError(f"--{name.replace('_', '-')} goes with --source, images or videos without a nuScenes root")
    model, trained = open_trained(
        config.weights, no_radar=config.no_radar, compat=config.compat, num_peaks=config.max_det
    )
    index = open_root(config)
    name = config.scene or index.scenes[0]
    if name not in index.scenes:
        near = difflib.get_close_matches(name, index.scenes, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(index.scenes[:10])}"
        raise UserError(f"--scene {name}: {index.folder} has no such scene{hint}")
    scene = NuscenesSplit(index, EVERYTHING, trained.num_sweeps, (name,), trained.radar)
    found = _evaluate_network(config, model, trained, scene)
    predictions, speeds = found.predictions, found.speeds
    folder = new_run_folder(config.project, config.name, config.exist_ok)  # now that every image could be read
    samples = range(len(scene.sample_tokens))
    pictures: list[Path] = []
    if not config.nosave:
        pictures = write_key_frames(
            scene, predictions, samples, folder, score_threshold=config.conf_thres, fps=config.fps
        )
    if config.save_json:
        write_submission(folder / "results.json", predictions, scene.sample_tokens, use_radar=not trained.no_radar)
    shown = int((predictions.scores >= config.conf_thres).sum())
    print(
        f"{counted(shown, 'object')} in {counted(len(samples), 'key frame')} of {scene.scene_names[0]}, "
        f"{speeds.inference:.0f} ms inference "
        f"per image; {counted(len(pictures), 'file')} in {folder}"
    )
    return folder


def _evaluate_network(
    config: FusionInferenceConfig, model: CenterFusion, trained: FusionConfig, split: NuscenesSplit
) -> FusionEvaluation:
    """Run a network over a split, and measure it for val.

    Predict decodes all scores, and a submission keeps them; the pictures alone leave out low ones.
    """
    _log.info("imgsz %d %d, which %s was trained at", *trained.imgsz, config.weights)
    device = select_device(config.device)
    policy = resolve(("bf16" if device.type == "cpu" else "fp16") if config.half else "fp32", device)
    if device.type == "cuda":
        allow_tf32(False)
    settings = DecodeSettings(
        num_peaks=config.max_det,
        flip_test=config.flip_test,
        radar=not trained.no_radar,
        fixed=trained.fixed,
        iou_threshold=config.iou_thres,
    )
    workers = 0
    if isinstance(config, FusionValConfig):
        workers = config.workers
        settings = replace(settings, score_threshold=config.conf_thres)
    loader = make_val_loader(
        split, trained, batch_size=config.batch_size, workers=workers, pin_memory=device.type == "cuda"
    )
    with closing(loader):
        return evaluate_fusion(
            model.to(device, memory_format=torch.channels_last),  # pyright: ignore[reportCallIssue]
            with_progress(loader) if isinstance(config, FusionValConfig) else loader,
            split,
            device=device,
            settings=settings,
            autocast=policy.autocast,
            measures=isinstance(config, FusionValConfig),
        )
