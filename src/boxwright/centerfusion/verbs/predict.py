"""The predict verb for CenterFusion: a scene of a nuScenes root, as a sheet of each key frame and as a video."""

from pathlib import Path

import torch

from boxwright.centerfusion.data import num_sweeps, open_root, open_scene
from boxwright.centerfusion.evaluation import DecodeSettings, evaluate_fusion
from boxwright.centerfusion.pictures import write_key_frames
from boxwright.centerfusion.samples import make_val_loader
from boxwright.centerfusion.settings import FusionPredictConfig
from boxwright.centerfusion.task import sample_settings
from boxwright.centerfusion.weights import open_trained
from boxwright.engine.device import resolve, select_device
from boxwright.engine.run_folder import new_run_folder
from boxwright.errors import UserError
from boxwright.nuscenes.submission import write_submission


def fusion_predict(config: FusionPredictConfig) -> Path:
    """Find objects in all cameras of a scene and draw them.

    Args:
        config: settings of the verb.

    Returns:
        the run folder: SCENE/0001.png ..., SCENE.mp4, and with `save_json` a submission of the scene.

    Raises:
        UserError: weights or data are missing or do not belong together, or there is no such scene.
    """
    for name in ("weights", "data"):
        if not getattr(config, name):
            raise UserError(f"predict on a nuScenes scene needs --{name}")
    device = select_device(config.device)
    policy = resolve(("bf16" if device.type == "cpu" else "fp16") if config.half else "fp32", device)
    trained = open_trained(config.weights, no_radar=config.no_radar, compat=config.compat, num_peaks=config.max_det)
    index = open_root(config.data, config.version, allow_missing=config.allow_missing)
    scene = open_scene(index, config.scene, num_sweeps(trained.config))
    loader = make_val_loader(
        scene, sample_settings(trained.config), batch_size=config.batch_size, workers=0, pin_memory=False
    )
    try:
        found = evaluate_fusion(
            trained.model.to(device, memory_format=torch.channels_last),  # pyright: ignore[reportCallIssue]
            loader,
            scene,
            device=device,
            settings=DecodeSettings(
                num_peaks=config.max_det,
                flip_test=config.flip_test,
                radar=not trained.config.no_radar,
                fixed=trained.config.compat == "fixed",
            ),
            autocast=policy.autocast,
            measures=False,
        )
    finally:
        loader.close()
    predictions, speeds = found.predictions, found.speeds
    folder = new_run_folder(config.project, config.name, config.exist_ok)  # now that every image could be read
    samples = range(len(scene.sample_tokens))
    pictures = write_key_frames(scene, predictions, samples, folder, score_threshold=config.conf_thres, fps=config.fps)
    if config.save_json:
        write_submission(
            folder / "results.json", predictions, scene.sample_tokens, use_radar=not trained.config.no_radar
        )
    shown = int((predictions.scores >= config.conf_thres).sum())
    print(
        f"{shown} objects in {len(samples)} key frames of {scene.scene_names[0]}, {speeds.inference:.0f} ms inference "
        f"an image; {len(pictures)} files are in {folder}"
    )
    return folder
